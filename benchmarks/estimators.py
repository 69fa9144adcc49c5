"""Every estimator against the exact advantage and the exact gradient: `python -m benchmarks.estimators`.

On four problems with an exact oracle, for fixed policies and policies along training: bias, variance, mean squared error, signs and ranks of
advantages; cosine and signal-to-noise of gradients; over lambda, n, batch and group size, the critic's quality, horizon, reward noise and window; and learning
curves and seconds. Tables (CSV and Markdown), pictures and the claims that the figures bear out go into a folder. `docs/estimators.md` says what came out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.files import write_json, write_text

from .laboratory import cost, facts, learning, off_policy, plots, sweeps, tables
from .laboratory.problems import PROBLEMS
from .machine import describe, print_table


@dataclass(frozen=True)
class Args:
    """Measure the advantage estimators against the truth."""

    out: Path = Path("runs/estimators")
    """folder for tables and pictures"""
    replications: int = 40
    """independent repetitions behind each interval"""
    updates: int = 60
    """of a learning run"""
    seeds: int = 10
    """learning runs of each estimator on each problem"""
    resamples: int = 2000
    """of a bootstrap interval"""
    seed: int = 0
    """of all draws"""
    quick: bool = False
    """a smoke test: two problems, 20 replications of a fourth of the episodes, fewer values, 10 updates of 3 seeds, 200 resamples"""
    json: Path | None = None
    """also write the claims to this file"""


def scale_of(args: Args) -> sweeps.Scale:
    """Return how much is sampled."""
    if args.quick:
        return sweeps.Scale(20, batches=8, problems=("TwoState", "Recall"))
    return sweeps.Scale(args.replications)


def cells_of(args: Args, draws: np.random.Generator) -> Iterator[sweeps.Cell]:
    """Yield the cells of all sweeps."""
    scale, small = scale_of(args), args.quick
    parts: tuple[Callable[[np.random.Generator], Iterator[sweeps.Cell]], ...] = (
        lambda own: sweeps.overview(scale, own, training=not small),
        lambda own: sweeps.over_lambda(scale, own),
        lambda own: sweeps.over_samples(scale, own, (8, 32) if small else (8, 32, 128, 512)),
        lambda own: sweeps.over_groups(scale, own, (4, 8) if small else (2, 4, 8, 16)),
        lambda own: sweeps.over_quality(scale, own, (0.25, 1.0) if small else (0.0, 0.125, 0.25, 0.5, 1.0, 2.0)),
        lambda own: sweeps.over_horizon(scale, own, (2, 8) if small else (2, 4, 8, 16, 32)),
        lambda own: sweeps.over_noise(scale, own, (0.0, 1.0) if small else (0.0, 0.25, 0.5, 1.0)),
        lambda own: sweeps.over_windows(scale, own, (4, 16) if small else (2, 4, 8, 16, 32)),
        lambda own: off_policy.over_distance(scale, own, (0.0, 0.5) if small else (0.0, 0.25, 0.5, 1.0)),
        lambda own: cost.costs(3 if small else args.replications, own),
    )
    for part, own in zip(parts, draws.spawn(len(parts)), strict=True):
        yield from part(own)


def pictures(out: Path, rows: list[tables.Row], curves: tables.Curves, draws: np.random.Generator, resamples: int) -> None:
    """Draw everything."""
    for critic in ("wrong", "exact", "untrained"):
        plots.of_lambda(rows, out / f"lambda_{critic}.png", critic)
    gradient = {"gradient error": "mean squared error of the gradient,\nin parts of |gradient|²"}
    both = {"error": "mean squared error of advantages,\nin parts of E[A²]"} | gradient
    plots.of_sweep(rows, out / "samples.png", "batch", "Error of the gradient against the episodes of a batch, critic wrong by 0.5", gradient)
    plots.of_sweep(rows, out / "critic.png", "critic", "What a critic's error does", both, log=(False, True))
    plots.of_sweep(rows, out / "horizon.png", "horizon", "Longer episodes, TwoState, critic wrong by 0.5", both)
    plots.of_sweep(rows, out / "noise.png", "noise", "Noise on each reward, critic wrong by 0.5", both, log=(False, True))
    plots.of_learning(curves, out / "learning.png", draws, resamples)


def main(args: Args) -> dict[str, Any]:
    """Measure, print the claims, write tables and pictures, and return what was written as JSON."""
    began, machine = time.perf_counter(), describe("numpy", "scipy")
    sampling, drawing, resampling = np.random.default_rng(args.seed).spawn(3)
    problems = [PROBLEMS[name]() for name in scale_of(args).problems]
    cells = list(cells_of(args, sampling))
    updates, seeds, resamples = (10, 3, 200) if args.quick else (args.updates, args.seeds, args.resamples)
    curves = learning.curves(problems, updates, seeds, drawing)
    claims = facts.facts(cells, resampling, 10 * resamples)
    rows = tables.rows_of(cells, resampling, resamples) + tables.learning_rows(curves, [problem.name for problem in problems], resampling, resamples)
    for sweep in dict.fromkeys(row.sweep for row in rows):
        write_text(_made(args.out) / f"{sweep}.csv", tables.csv_text(row for row in rows if row.sweep == sweep))
    write_text(args.out / "estimators.md", tables.report(machine, claims, rows))
    pictures(args.out, rows, curves, resampling, resamples)
    print(machine)
    lines = [(fact.claim, fact.problem, fact.figure, tables.spelled(fact.interval), fact.verdict) for fact in claims]
    print_table("claims, with 95 % intervals", ("claim", "problem", "figure", "", "borne out"), lines)
    print(f"{len(rows):,} figures in {args.out}, {time.perf_counter() - began:.0f} s")
    told = [fact._asdict() | {"interval": fact.interval._asdict()} for fact in claims]
    report = {"machine": machine, "replications": scale_of(args).replications, "quick": args.quick, "facts": told}
    for path in (args.out / "estimators.json", args.json):
        if path is not None:
            write_json(path, report)
    return report


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args, description=__doc__))
