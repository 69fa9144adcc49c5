"""Figures with their intervals as CSV and Markdown.

Axis legend: R replications, K seeds, M problems, U updates.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..statistics import Interval, interquartile_mean, mean, stratified_bootstrap
from .facts import Fact
from .measures import ADVANTAGE, GRADIENT
from .problems import FloatArray
from .sweeps import Cell

Curves = Mapping[str, tuple[FloatArray, FloatArray]]  # of each learner: scores [K, M, U + 1] and steps [K, M]


class Row(NamedTuple):
    """One figure."""

    sweep: str
    problem: str
    policy: str
    critic: str
    estimator: str
    variable: str
    value: float | None
    measure: str
    interval: Interval


def rows_of(cells: Iterable[Cell], generator: np.random.Generator, num_resamples: int) -> list[Row]:
    """Return the mean over replications of every figure (the interquartile mean of seconds, which others may disturb), with its 95 % bootstrap interval."""
    return [
        Row(*cell[:-1], measure, stratified_bootstrap(samples, interquartile_mean if cell.sweep == "cost" else mean, generator, num_resamples))
        for cell in cells
        for measure, samples in cell.measures.items()
    ]


def learning_rows(curves: Curves, problems: Sequence[str], generator: np.random.Generator, num_resamples: int) -> list[Row]:
    """Return interquartile means over seeds (and over all problems), stratified by problem: of the last score, of the mean one, and of the steps."""
    rows = []
    for name, (scores, steps) in curves.items():
        summed = {"score at the end": scores[..., -1], "mean score": scores[..., 1:].mean(axis=-1), "steps": steps}
        for measure, table in summed.items():
            columns = {"all": table} | {problem: table[:, i : i + 1] for i, problem in enumerate(problems)}
            for problem, runs in columns.items():
                interval = stratified_bootstrap(runs, interquartile_mean, generator, num_resamples)
                rows.append(Row("learning", problem, "learned", "", name, "", None, measure, interval))
    return rows


def csv_text(rows: Iterable[Row]) -> str:
    """Return one line for each figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*Row._fields[:-1], *Interval._fields])
    writer.writerows([*row[:6], "" if row.value is None else row.value, row.measure, *(f"{number:.6g}" for number in row.interval)] for row in rows)
    return out.getvalue()


def spelled(interval: Interval) -> str:
    """Return a figure and its interval with three digits."""
    return f"{_number(interval.estimate)} [{_number(interval.low)}, {_number(interval.high)}]"


def _number(x: float) -> str:
    size = abs(x)
    return f"{x:,.0f}" if size >= 100 else f"{x:.1f}" if size >= 10 else f"{x:.2f}" if size >= 1 else f"{x + 0.0:.3f}".replace("-0.000", "0.000")


def markdown_table(columns: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a table, its first `left` columns flush left."""
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *lines)) + "\n"


def sweep_table(rows: Sequence[Row], measures: Sequence[str]) -> str:
    """Return the figures of a sweep, one line for each situation and estimator, one column for each of `measures` that there is."""
    keyed: dict[tuple[str, ...], dict[str, Interval]] = {}
    for row in rows:
        value = "" if row.value is None else f"{row.value:g}"
        keyed.setdefault((row.problem, row.policy, row.critic, row.estimator, value), {})[row.measure] = row.interval
    found = [measure for measure in measures if any(measure in figures for figures in keyed.values())]
    names = ["problem", "policy", "critic", "estimator", rows[0].variable or "value"]
    kept = [i for i, _ in enumerate(names) if any(key[i] for key in keyed)]
    lines = [[*(key[i] for i in kept), *(spelled(figures[m]) if m in figures else "" for m in found)] for key, figures in keyed.items()]
    return markdown_table([*(names[i] for i in kept), *found], lines, len(kept))


def facts_table(facts: Sequence[Fact]) -> str:
    """Return the claims and what became of them."""
    lines = [[fact.kind, fact.claim, fact.problem, fact.figure, spelled(fact.interval), fact.verdict] for fact in facts]
    return markdown_table(["kind", "claim", "problem", "figure", "95 % interval", "borne out"], lines, 4)


def report(machine: str, facts: Sequence[Fact], rows: Sequence[Row]) -> str:
    """Return all of it as a page."""
    parts = ["# Estimators against the exact advantage", machine, "Every figure stands before its 95 % bootstrap interval."]
    parts += ["## Claims", facts_table(facts)] if facts else []
    other = ("score at the end", "mean score", "steps", "microseconds", "times GAE")
    for sweep in dict.fromkeys(row.sweep for row in rows):
        own = [row for row in rows if row.sweep == sweep]
        parts.append(f"## {sweep}")
        for measures in (ADVANTAGE, GRADIENT, other):
            if any(row.measure in measures for row in own):
                parts.append(sweep_table([row for row in own if row.measure in measures], measures))
    return "\n\n".join(parts)
