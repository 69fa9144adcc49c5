"""`python -m textgym list`: the registered tasks, with what each of them tells of itself."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from .usage import EQUAL


def list_tasks(chosen: argparse.Namespace) -> int:
    """Print the registered tasks, as a table or with `chosen.json` as JSON."""
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
