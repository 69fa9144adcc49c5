"""PPO, A2C and the policy gradient with every estimator, in one table: `python -m benchmarks.algorithms`.

TwoState and Even (32 ids) with all estimators, CartPole-v1 and the default text task with four. Every finished run's figure is written to
FOLDER/figures.jsonl at once: stopped by Ctrl-C or killed, the same command goes on where it was, and with all figures there it prints the table in a second.
`docs/algorithms.md` says what came out.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.files import write_json, write_text
from benchmarks.machine import describe, print_table

from . import plots, tables, text
from .entrants import ALGORITHMS, ESTIMATORS
from .running import Key, all_of, read, refusal, write
from .tasks import TASKS

MADE_BY = "made_by.json"


@dataclass(frozen=True)
class Choices:
    """Train every algorithm with every estimator and compare them."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Which tasks: TextGen, CartPole, TwoState, Even."""
    seeds: int = 5
    """How many seeds."""
    first_seed: int = 0
    """The first of them."""
    estimators: tuple[str, ...] = ()
    """Only these estimators, by name; none named: all."""
    workers: int = 1
    """Processes; each learns on one thread."""
    folder: Path = Path("runs/algorithms")
    """Where figures and language models are kept."""
    quick: bool = False
    """A smoke test: a fiftieth of the steps, and language models that have learned next to nothing."""
    resamples: int = 10_000
    """Of a bootstrap interval."""
    json: Path | None = None
    """Also write the figures to this file."""
    markdown: Path | None = None
    """Also write the table to this file, as Markdown."""
    picture: Path | None = None
    """Also draw the intervals into this PNG file."""


def estimators_of(choices: Choices, task: str) -> list[str]:
    """Return the estimators of a task that were asked for."""
    return [name for name in TASKS[task].estimators if not choices.estimators or name in choices.estimators]


def keys_of(choices: Choices, refusals: dict[tuple[str, str, str], str]) -> list[Key]:
    """Return the runs that were asked for, seed by seed, so that what is there after an interruption is whole."""
    found: list[Key] = []
    for task in choices.tasks:
        for seed in range(choices.first_seed, choices.first_seed + choices.seeds):
            found += [
                Key(task, algorithm, name, seed) for name in estimators_of(choices, task) for algorithm in ALGORITHMS if (task, algorithm, name) not in refusals
            ]
    return found


def refusals_of(choices: Choices) -> dict[tuple[str, str, str], str]:
    """Return why an algorithm does not take an estimator, where it does not."""
    wanted = [(task, algorithm, name) for task in choices.tasks for name in estimators_of(choices, task) for algorithm in ALGORITHMS]
    return {one: reason for one in wanted if (reason := refusal(*one, choices.folder)) is not None}


def open_folder(choices: Choices) -> None:
    """Make the folder, or see that it is of runs like these; raises `SystemExit` if it is not."""
    steps = {task: {name: entry.config.total_timesteps for name, entry in TASKS[task].entries.items()} for task in choices.tasks}
    made_by = {f"{task}{', quick' if choices.quick else ''}": steps[task] for task in choices.tasks}
    choices.folder.mkdir(parents=True, exist_ok=True)
    path = choices.folder / MADE_BY
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else made_by
    if any(before.get(task, mine) != mine for task, mine in made_by.items()) or any(("quick" in task) != choices.quick for task in before):
        sys.exit(f"{choices.folder} holds figures of runs with other budgets (see {path}): give another --folder.")
    write_json(path, before | made_by)


def run_all(keys: list[Key], choices: Choices) -> bool:
    """Do the runs that are not done, and write their figures down; return whether all are done."""
    done = {figure.key for figure in read(choices.folder)}
    left = [key for key in keys if key not in done]
    print(f"{len(keys)} runs, {len(keys) - len(left)} of them done before; figures in {choices.folder}", flush=True)
    began = time.perf_counter()
    try:
        for seed in dict.fromkeys(key.seed for key in left if key.task == "TextGen"):
            print(f"language model of seed {seed}: {text.warm_up(seed, choices.folder, choices.quick)}", flush=True)
        for count, figure in enumerate(all_of(left, choices.folder, choices.quick, choices.workers), 1):
            write(choices.folder, figure)
            told = " ".join(f"{name} {value:.3f}" for name, value in figure.measured.items()) or "diverged"
            minutes = (time.perf_counter() - began) / count * (len(left) - count) / 60
            print(f"[{count}/{len(left)}] {figure.key}: {told}, {figure.steps:,} steps, {figure.seconds:.1f} s; {minutes:.0f} min left", flush=True)
    except KeyboardInterrupt:
        print("Interrupted; what is done is kept, and the same command goes on.", flush=True)
        return False
    return True


def main(choices: Choices) -> dict[str, Any]:
    """Run what is not done, print the table, write it and return what was written as JSON."""
    for kind, given, known in (("task", choices.tasks, TASKS), ("estimator", choices.estimators, ESTIMATORS)):
        if unknown := [name for name in given if name not in known]:
            sys.exit(f"There is no {kind} {unknown[0]!r}; choose among {', '.join(known)}.")
    machine = describe("torch", "numpy", "gymnasium", "transformers")
    print(machine, flush=True)
    open_folder(choices)
    refusals = refusals_of(choices)
    keys = keys_of(choices, refusals)
    complete = run_all(keys, choices)
    figures = [figure for figure in read(choices.folder) if figure.key in set(keys)]
    cells = tables.cells_of(figures, refusals, np.random.default_rng(0), choices.resamples)
    notes: list[str] = []
    rows, title = tables.rows_of(cells, notes), tables.title_of(cells)
    lines = tables.explained(notes, choices.tasks)
    if rows:
        print_table(title, tables.COLUMNS, rows)
        print("\n".join(lines), flush=True)
    report = {"machine": machine, "complete": complete, "notes": notes, "cells": tables.json_of(cells)}
    if choices.json is not None:
        write_json(choices.json, report)
    if choices.markdown is not None:
        write_text(choices.markdown, tables.markdown(title, rows, lines))
    if choices.picture is not None and rows:
        plots.draw(cells, choices.picture)
    if not complete:
        sys.exit(1)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Choices, description=__doc__))
