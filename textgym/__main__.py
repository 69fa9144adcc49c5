"""The command line of the environments: list them, hold one to the laws, replay what was recorded, and compare two recordings."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from . import __version__, laws
from .recording import NotReplayableError, Parting, Record, Unusable, Verdict, first_difference, make_env, verify

EQUAL, DIFFERENT, UNUSABLE = 0, 1, 2
CHECK = "Hold one environment to the laws of textgym.laws; exit 0 if all hold, 1 if some fail, 2 if it cannot be made."


class UsageError(ValueError):
    """Something that the caller gave cannot be used: its message has a first line that says what, and a second that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name; return 0 if all is equal and well, 1 if recordings differ, 2 if a file or an argument is unusable."""
    chosen = _parser().parse_args(arguments)
    try:
        for module in chosen.modules:
            _import(module)
        code: int = chosen.run(chosen)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again on leaving
        return EQUAL
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m textgym", description=__doc__)
    parser.add_argument("--version", action="version", version=f"textgym {__version__}")
    commands = parser.add_subparsers(required=True, metavar="list | check | replay | diff")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--import", dest="modules", metavar="MODULE", action="append", default=[], help="import MODULE first, which registers your own tasks")

    listing = commands.add_parser("list", parents=[common], help="show the registered tasks", description="Show the registered tasks.")
    listing.add_argument("--json", action="store_true", help="print a JSON array of objects")
    listing.set_defaults(run=_list)

    checking = commands.add_parser("check", parents=[common], help="hold an environment to the laws", description=CHECK)
    checking.add_argument("target", metavar="ID|MODULE:NAME", help="a registered id, or a class or function without arguments that makes the environment")
    checking.add_argument("--json", action="store_true", help="print a JSON array of objects")
    checking.set_defaults(run=_check)

    replaying = commands.add_parser("replay", parents=[common], help="run recorded episodes again", description="Run recorded episodes again and show them.")
    replaying.add_argument("file", metavar="FILE", help="what RecordEpisode wrote")
    replaying.add_argument("--verify", action="store_true", help="say where an episode does not come out the same, bit for bit; exit 1 if one does not")
    replaying.set_defaults(run=_replay)

    comparing = commands.add_parser("diff", parents=[common], help="compare two recordings", description="Name the first step at which two recordings differ.")
    comparing.add_argument("one", metavar="A")
    comparing.add_argument("other", metavar="B")
    comparing.set_defaults(run=_diff)
    return parser


def _import(module: str) -> None:
    sys.path.insert(0, os.getcwd())  # as `python -m` has it; the console script does not
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} cannot be imported: {error}.\nName a module that Python finds from here.") from error


# --- list


def _list(chosen: argparse.Namespace) -> int:
    rows = [_described(spec) for _, spec in sorted(gym.registry.items()) if spec.entry_point == "textgym.env:GymEnv"]
    print(json.dumps(rows, indent=2) if chosen.json else "\n".join(_table(rows)))
    return EQUAL


def _described(spec: EnvSpec) -> dict[str, Any]:
    """Return what one task tells of itself, with its default options; a task that cannot be made here tells why."""
    row: dict[str, Any] = dict.fromkeys(("question", "observation", "actions", "scorer", "best", "random", "error"))
    try:
        core = _factory(spec)(num_rows=1, **_options(spec))
    except Exception as error:  # whatever stands in the way of one task (an extra is missing, say) must not hide the others
        return {"id": spec.id, **row, "error": f"{type(error).__name__}: {error}"}
    scorer = getattr(getattr(core, "task", None), "scorer", None)
    row.update(question=_question(spec), observation=str(core.observation_space), actions=str(core.action_space))
    row.update(scorer=scorer and getattr(scorer, "__name__", type(scorer).__name__))
    row.update(best=_known(core, scorer, "best_return"), random=_known(core, scorer, "random_return"))
    return {"id": spec.id, **row}


def _options(spec: EnvSpec) -> dict[str, Any]:
    return {key: value for key, value in spec.kwargs.items() if key != "core"}


def _factory(spec: EnvSpec) -> Any:
    core = spec.kwargs["core"]
    module, _, name = core.partition(":") if isinstance(core, str) else ("", "", "")
    return getattr(importlib.import_module(module), name) if module else core


def _question(spec: EnvSpec) -> str:
    """Return the question that a task asks: the one in the first line of its factory's docstring, or of its module's; else the factory's line."""
    factory = _factory(spec)
    lines = [_first_line(factory), _first_line(sys.modules.get(getattr(factory, "__module__", "")))]
    asked = next((line for line in lines if "?" in line), None)
    if asked is None:
        return lines[0]
    question = asked.partition("?")[0].removeprefix(f"{spec.name}-v{spec.version}: ")
    return f"{question[:1].upper()}{question[1:]}?"


def _first_line(thing: Any) -> str:
    return ((getattr(thing, "__doc__", None) or "").strip().splitlines() or [""])[0]


def _known(core: Any, scorer: Any, name: str) -> float | None:
    """Return a return that a core or its scorer knows, as a number or as a method without arguments; None if they know none."""
    value = getattr(core, name, getattr(scorer, name, None))
    value = value() if callable(value) else value
    return None if value is None else float(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = {"id": 0, "best": 1, "random": 1, "actions": 0, "observation": 0, "question": 0}  # 1: to the right
    cells = [list(columns), *([_cell(row[column] if row["error"] is None or column != "question" else row["error"]) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = [[cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, columns.values(), strict=True)] for row in cells]
    return ["  ".join(row).rstrip() for row in aligned]


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


# --- check


def _check(chosen: argparse.Namespace) -> int:
    make = _maker(chosen.target)
    try:
        make()
    except Exception as error:  # a stranger's constructor may raise anything
        advice = "Name a registered id (python -m textgym list), or MODULE:NAME of a class or function without arguments."
        raise UsageError(f"{chosen.target} cannot be made: {type(error).__name__}: {error}\n{advice}") from error
    verdicts = laws.judge(make)
    print(json.dumps([verdict._asdict() for verdict in verdicts], indent=2) if chosen.json else "\n".join(map(_judged, verdicts)))
    return DIFFERENT if any(verdict.holds is False for verdict in verdicts) else EQUAL


def _maker(target: str) -> Callable[[], Any]:
    """Return what makes the environment of a registered id, or of MODULE:NAME where no id is called so."""
    module, _, name = target.partition(":")
    if not name or target in gym.registry:
        return lambda: gym.make(target).unwrapped
    _import(module)
    factory = getattr(sys.modules[module], name, None)
    if not callable(factory):
        raise UsageError(f"{module} has no {name} that can be called.\nName a class or function without arguments that makes the environment.")
    return lambda: factory()


def _judged(verdict: laws.Verdict) -> str:
    said = {True: "ok", False: f"FAILS: {verdict.reason}\n    {verdict.remedy}", None: f"does not apply ({verdict.reason})"}
    return f"{verdict.law}: {said[verdict.holds]}"


# --- replay


def _replay(chosen: argparse.Namespace) -> int:
    good = bad = unusable = 0
    for found in _read_all(chosen.file):
        if isinstance(found, Verdict):
            good, bad = good + (found.difference is None), bad + (found.difference is not None)
            print(_shown(found, chosen.verify))
        elif found.record is None or chosen.verify:
            unusable += 1
            print(f"error: {chosen.file}, line {found.line}: {found.reason}", file=sys.stderr)
        else:
            good += 1
            print(f"{found.record.name}: {_plainly(found.record)}  (not replayed: {found.reason})")
    if not good + bad + unusable:
        raise UsageError(f"{chosen.file} holds no episode.\nName a file that textgym.recording.RecordEpisode wrote.")
    if chosen.verify:
        print(f"{good + bad} episodes replayed: {good} equal, {bad} different" + (f"; {unusable} unusable lines" if unusable else ""))
    return DIFFERENT if chosen.verify and bad else UNUSABLE if unusable else EQUAL


def _read_all(path: str) -> Iterator[Verdict | Unusable]:
    try:
        yield from verify(path)
    except OSError as error:
        raise UsageError(_unreadable(path, error)) from error


def _unreadable(path: str, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror or error}.\nName a file that textgym.recording.RecordEpisode wrote."


def _shown(found: Verdict, verifying: bool) -> str:
    """Return one episode as it was replayed, and with `verifying` what differs from the record."""
    record = found.record
    if found.difference is not None and verifying:
        return f"{record.name}: DIFFERS {found.difference.told('in the record', 'on replay')}"
    drawn = found.drawing or _plainly(record)
    if "\n" in drawn:  # a map: many of them would hide what --verify found
        drawn = drawn.splitlines()[-1] if verifying else f"\n{drawn}\n"
    note = "" if found.difference is None else "  (it does not replay as it was recorded: --verify says where)"
    return f"{record.name}: {drawn}  return {_return(record):.6g}{', cut' if record.cut else ''}{note}{'  equal' if verifying else ''}"


def _plainly(record: Record) -> str:
    return f"actions {' '.join(map(str, record.actions))}"


def _return(record: Record) -> float:
    return sum(record.rewards)


# --- diff


def _diff(chosen: argparse.Namespace) -> int:
    try:
        found = first_difference(chosen.one, chosen.other)
    except OSError as error:
        raise UsageError(_unreadable(str(error.filename), error)) from error
    except ValueError as error:
        raise UsageError(f"{error}\nRemove that line, or record again.") from error
    print(f"{chosen.one} and {chosen.other} hold the same episodes" if found is None else _parting(found, chosen))
    return EQUAL if found is None else DIFFERENT


def _parting(found: Parting, chosen: argparse.Namespace) -> str:
    if found.difference is None:
        has, lacks, record = (chosen.one, chosen.other, found.one) if found.one else (chosen.other, chosen.one, found.other)
        return f"{lacks} lacks an episode: {record.name if record else ''} of {has}"
    record, other, found_difference = found.one, found.other, found.difference
    assert record is not None
    assert other is not None
    if found_difference.what == "action":
        found_difference = found_difference._replace(one=_word(record, found_difference.one), other=_word(other, found_difference.other))
    place = f"row {record.row}, episode {record.episode} (line {record.line} of {chosen.one}, line {other.line} of {chosen.other})"
    return f"{place} differs {found_difference.told(f'in {chosen.one}', f'in {chosen.other}')}"


def _word(record: Record, action: Any) -> str:
    """Return an action, and beside it the token that it is, where the task can be made and has a tokenizer."""
    try:
        return f"{action} ({make_env(record).unwrapped.core.task.tokenizer.decode([action])!r})"  # type: ignore[attr-defined]
    except (NotReplayableError, AttributeError, TypeError, ValueError, IndexError):
        return str(action)


if __name__ == "__main__":
    sys.exit(main())
