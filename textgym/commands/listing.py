"""`python -m textgym list`: the registered tasks, with what each of them tells of itself."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from ..suite.returns import known_returns
from .usage import EQUAL

ENTRY_POINT = "textgym.env:GymEnv"  # of what textgym.register registered
COLUMNS = ("id", "best", "random", "actions", "scorer", "observation")  # before the question; a narrow terminal loses the last ones first
BOX = re.compile(r"Box\(.*, (\(.*\)), (\w+)\)")
LEAST_QUESTION = 24  # columns


def list_tasks(chosen: argparse.Namespace) -> int:
    """Print the registered tasks, as a table or with `chosen.json` as JSON."""
    rows = [_described(spec) for _, spec in sorted(gym.registry.items()) if spec.entry_point == ENTRY_POINT]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(json.dumps(rows, indent=2) if chosen.json else "\n".join(_table(rows, width)))
    return EQUAL


def _described(spec: EnvSpec) -> dict[str, Any]:
    """Return what one task tells of itself, with its default options; a task that cannot be made here tells why."""
    row: dict[str, Any] = dict.fromkeys(("question", "observation", "actions", "scorer", "best", "random", "error"))
    try:
        core = _factory(spec)(num_rows=1, **_options(spec))
        known = known_returns(core)
    except Exception as error:  # whatever stands in the way of one task (an extra is missing, say) must not hide the others
        return {"id": spec.id, **row, "error": f"{type(error).__name__}: {error}"}
    scorer = getattr(getattr(core, "task", None), "scorer", None)
    row.update(question=question(spec), observation=str(core.observation_space), actions=str(core.action_space))
    row.update(scorer=scorer and getattr(scorer, "__name__", type(scorer).__name__), **known._asdict())
    return {"id": spec.id, **row}


def _options(spec: EnvSpec) -> dict[str, Any]:
    return {key: value for key, value in spec.kwargs.items() if key != "core"}


def _factory(spec: EnvSpec) -> Any:
    core = spec.kwargs["core"]
    module, _, name = core.partition(":") if isinstance(core, str) else ("", "", "")
    return getattr(importlib.import_module(module), name) if module else core


def question(spec: EnvSpec) -> str:
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


def _table(rows: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    """Return the table; of at most `width` columns if that is not None, where the question is cut, and columns are left out that leave it no room."""
    kept = list(COLUMNS)
    while width is not None and len(kept) > 1 and width - _room(rows, kept) < LEAST_QUESTION:
        kept.pop()
    room = None if width is None else max(width - _room(rows, kept), 1)
    cells = zip(*(_aligned(rows, column) for column in kept), ["question", *map(_asked, rows)], strict=True)
    return ["  ".join([*line[:-1], _cut(line[-1], room)]).rstrip() for line in cells]


def _room(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> int:
    return sum(len(_aligned(rows, column)[0]) + 2 for column in columns)


def _aligned(rows: Sequence[Mapping[str, Any]], column: str) -> list[str]:
    cells = [column, *(_cell(row[column]) for row in rows)]
    if column == "actions":
        cells = [cell.removeprefix("Discrete(").removesuffix(")") if cell.startswith("Discrete(") else cell for cell in cells]
    width = max(map(len, cells))
    return [cell.rjust(width) if column in ("best", "random", "actions") else cell.ljust(width) for cell in cells]


def _cell(value: Any) -> str:
    """Return a value in few letters: numbers by four digits, and of a space what cannot be told from the others (--json has it all)."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else BOX.sub(r"\2 \1", str(value))


def _asked(row: Mapping[str, Any]) -> str:
    return " ".join(str(row["question"] if row["error"] is None else row["error"]).split())


def _cut(text: str, room: int | None) -> str:
    return text if room is None or len(text) <= room else f"{text[: room - 1]}…"
