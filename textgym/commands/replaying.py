"""`python -m textgym replay` and `diff`: what `RecordEpisode` wrote, played again and compared."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from ..recording import NotReplayableError, Parting, Record, Unusable, Verdict, first_difference, make_env, verify
from .usage import DIFFERENT, EQUAL, UNUSABLE, UsageError

RECORDED = "Name a file that textgym.recording.RecordEpisode wrote."


def replay(chosen: argparse.Namespace) -> int:
    """Play the episodes of `chosen.file` again and print them; with `chosen.verify` return 1 if one does not come out the same."""
    good = bad = unusable = 0
    for found in _read_all(chosen.file):
        if isinstance(found, Verdict):
            good, bad = good + (found.difference is None), bad + (found.difference is not None)
            print(_shown(found, chosen.verify))
        elif found.record is None or chosen.verify:
            unusable += 1
            print(f"error: {_unusable(chosen.file, found)}", file=sys.stderr)
        else:
            good += 1
            print(f"{found.record.name}: {_plainly(found.record)}  (not replayed: {found.reason})")
    if not good + bad + unusable:
        raise UsageError(f"{chosen.file} holds no episode.", RECORDED)
    if chosen.verify:
        print(f"{good + bad} episodes replayed: {good} equal, {bad} different" + (f"; {unusable} unusable lines" if unusable else ""))
    return DIFFERENT if chosen.verify and bad else UNUSABLE if unusable else EQUAL


def _read_all(path: str) -> Iterator[Verdict | Unusable]:
    try:
        yield from verify(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {error.strerror or error}.", RECORDED)


def _unusable(path: str, found: Unusable) -> UsageError:
    own = "Register its task with --import MODULE, or hand its environment to textgym.recording.verify in Python."
    return UsageError(f"{path}, line {found.line}: {found.reason}", "Remove that line, or record again." if found.record is None else own)


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


def diff(chosen: argparse.Namespace) -> int:
    """Print the first step at which the recordings `chosen.one` and `chosen.other` differ; return 1 if there is one."""
    try:
        found = first_difference(chosen.one, chosen.other)
    except OSError as error:
        raise _unreadable(str(error.filename), error) from error
    except ValueError as error:
        raise UsageError(str(error), "Remove that line, or record again.") from error
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
