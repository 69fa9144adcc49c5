"""One table of all that is known, for the screen and for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.statistics import Interval, interquartile_mean, stratified_bootstrap

from .entrants import ALGORITHMS
from .running import Figure
from .tasks import TASKS

DASH = "-"
COLUMNS = ("task", "estimator", *ALGORITHMS)


class Cell(NamedTuple):
    """One algorithm with one estimator on one task, judged by one figure."""

    task: str
    figure: str
    estimator: str
    algorithm: str
    scores: tuple[float, ...]  # of the seeds, in their order
    interval: Interval | None  # None: fewer than two seeds
    refused: str | None  # why there are none
    diverged: int
    steps: float  # mean of a run
    seconds: float


def cells_of(figures: Sequence[Figure], refusals: Mapping[tuple[str, str, str], str], generator: np.random.Generator, resamples: int = 10_000) -> list[Cell]:
    """Return the cells of the tasks that were run, in the order of the table; a run that diverged counts as 0, the score of who plays at random."""
    ran = {figure.key.task for figure in figures}
    found: list[Cell] = []
    for name, task in TASKS.items():
        wanted = [(judged, estimator, algorithm) for judged in task.figures for estimator in task.estimators for algorithm in ALGORITHMS]
        for judged, estimator, algorithm in wanted if name in ran else ():
            runs = sorted((f for f in figures if f.key[:3] == (name, algorithm, estimator)), key=lambda f: f.key.seed)
            scores = tuple(f.measured.get(judged, 0.0) for f in runs)
            interval = stratified_bootstrap(scores, interquartile_mean, generator, resamples) if len(scores) > 1 else None
            steps, seconds = (float(np.mean(values)) if runs else 0.0 for values in ([f.steps for f in runs], [f.seconds for f in runs]))
            lost = sum(not f.measured for f in runs)
            found.append(Cell(name, judged, estimator, algorithm, scores, interval, refusals.get((name, algorithm, estimator)), lost, steps, seconds))
    return found


def rows_of(cells: Sequence[Cell], notes: list[str]) -> list[tuple[str, ...]]:
    """Return the rows of the table that hold anything; why a cell has no figure is added to `notes`, and the cell names the note."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for cell in cells:
        rows.setdefault((cell.task, cell.figure, cell.estimator), {})[cell.algorithm] = _spelled(cell, notes)
    return [(_heading(task, figure), estimator, *(row[name] for name in ALGORITHMS)) for (task, figure, estimator), row in rows.items() if any(row.values())]


def _heading(task: str, figure: str) -> str:
    return TASKS[task].name if figure == "score" else f"{TASKS[task].name}, {figure}"


def _spelled(cell: Cell, notes: list[str]) -> str:
    if cell.refused is not None:
        return f"{DASH} [{_number(cell.refused, notes)}]"
    if not cell.scores:
        return ""
    text = str(cell.interval) if cell.interval is not None else f"{cell.scores[0]:.3f}, one run"
    return text if not cell.diverged else f"{text} [{_number(f'{cell.diverged} of {len(cell.scores)} runs diverged, and count as 0', notes)}]"


def _number(note: str, notes: list[str]) -> int:
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def title_of(cells: Sequence[Cell]) -> str:
    """Return what the table shows."""
    counts = sorted({len(cell.scores) for cell in cells if cell.scores})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else "no"
    return f"Interquartile mean of {seeds} seed{'' if seeds == '1' else 's'}, with 95 % stratified bootstrap interval"


def explained(notes: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Return the lines below the table: what is measured, and the notes."""
    return [f"{TASKS[name].name}: {TASKS[name].measured}" for name in tasks] + [f"[{i}] {note}" for i, note in enumerate(notes, 1)]


def markdown(title: str, rows: Sequence[tuple[str, ...]], lines: Sequence[str]) -> str:
    """Return the table and the lines below it as Markdown."""
    head = [f"**{title}**", "", f"| {' | '.join(COLUMNS)} |", "| --- | --- | ---: | ---: | ---: |"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows), "", *(f"* {line}" for line in lines)]) + "\n"


def json_of(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the cells as JSON values."""
    return [cell._asdict() | {"interval": None if cell.interval is None else cell.interval._asdict()} for cell in cells]
