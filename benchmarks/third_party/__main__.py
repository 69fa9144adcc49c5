"""The table of other people's agents: `python -m benchmarks.third_party`.

Every script of this folder trains each of its algorithms on each of its tasks, once a seed, in a process of its own; one judge says what was reached.
What is measured is kept in `--folder`, a file a run, so that a table that was stopped goes on where it was. RLlib needs an environment of its own
(`--rllib PYTHON`); a library that is not installed is named, and left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from agents.files import write_json

from ..machine import print_table, processor
from .tasks import TASKS, best_return

ROOT = Path(__file__).parents[2]
SCRIPTS = ("sb3", "tianshou_agents", "torchrl_ppo", "skrl_ppo", "cleanrl_entrant", "trl_grpo", "rllib_ppo")


@dataclass(frozen=True)
class Args:
    """Train other people's agents on textgym's environments, and show what they reach beside random play and the best that is known."""

    only: tuple[str, ...] = ()
    """the scripts to run; without it, all"""
    seeds: int = 3
    """trains with the seeds 0, 1, ..."""
    steps: int | None = None
    """environment steps of each training; without it, what each script says"""
    jobs: int = 1
    """trainings that run side by side, a thread each"""
    rllib: Path | None = None
    """the Python of an environment with ray[rllib] and textgym"""
    folder: Path = Path("runs/third_party")
    """where each run's figures are kept; runs that are there already are not made again"""
    json: Path | None = None
    """also write the table to this file"""


class Job(NamedTuple):
    """One training."""

    python: str
    script: str
    algorithm: str
    task: str
    seed: int

    def kept_in(self, folder: Path) -> Path:
        """Return the file of its figures."""
        return folder / f"{self.script}-{self.algorithm}-{self.task}-{self.seed}.json"


def entered(script: str, python: str) -> dict[str, list[str]] | str:
    """Return a script's algorithms and the tasks that each enters, or why it cannot be run."""
    command = [python, "-m", f"benchmarks.third_party.{script}", "--list"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    found: dict[str, list[str]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def train(job: Job, args: Args) -> dict[str, Any]:
    """Return what a training came to, from its file if it was made before; raises `RuntimeError` with what it said if it failed."""
    kept = job.kept_in(args.folder)
    if not kept.exists():
        command = [job.python, "-m", f"benchmarks.third_party.{job.script}", "--algorithm", job.algorithm, "--task", job.task, "--seed", str(job.seed)]
        command += ["--json", str(kept.resolve()), *(["--steps", str(args.steps)] if args.steps else [])]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode or not kept.exists():
            raise RuntimeError(f"{' '.join(command[1:])} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))["results"][0]
    print(f"{found['library']} {found['algorithm']}, {job.task}, seed {job.seed}: {found['reached']:.3f} in {found['seconds']:.0f} s", flush=True)
    return found


def summed_up(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one line of the table for the seeds of one algorithm on one task: the mean, its 95 % interval (Student's t), and whether it passes.

    On Even the mean must lie at least half of the way from random to the best; elsewhere the whole interval must lie above random.
    """
    first, reached = results[0], [result["reached"] for result in results]
    mean, best, low, high = float(np.mean(reached)), best_return(TASKS[first["task"]]), None, None  # one run has no interval
    if len(reached) > 1:
        margin = float(stats.t.ppf(0.975, len(reached) - 1) * np.std(reached, ddof=1) / len(reached) ** 0.5)
        low, high = mean - margin, mean + margin
    passes = mean >= (first["random"] + best) / 2 if first["task"] == "even" else low is not None and low > first["random"]
    seconds = sorted(result["seconds"] for result in results)[len(results) // 2]
    named = {name: first[name] for name in ("library", "version", "algorithm", "task", "steps", "random")}
    return {**named, "reached": mean, "low": low, "high": high, "best": best, "seconds": seconds, "seeds": len(results), "passes": bool(passes)}


def table(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print the lines."""
    columns = ["library", "version", "algorithm", "environment", "steps", "random", "reached [95 %]", "best", "seconds", "passes"]
    rows = [
        [
            *(str(line[name]) for name in ("library", "version", "algorithm", "task")),
            f"{line['steps']:,}",
            f"{line['random']:.2f}",
            f"{line['reached']:.2f}" + ("" if line["low"] is None else f" [{line['low']:.2f}, {line['high']:.2f}]"),
            f"{line['best']:.2f}",
            f"{line['seconds']:.0f}",
            "yes" if line["passes"] else "NO",
        ]
        for line in lines
    ]
    print_table(f"Other people's agents, medians of seconds, one thread of {processor()}", columns, rows)


def jobs_of(args: Args) -> Iterator[Job]:
    """Yield every training that the arguments ask for; say what is left out, and why."""
    unknown = set(args.only) - set(SCRIPTS)
    if unknown:
        raise SystemExit(f"error: there is no script {sorted(unknown)[0]!r}.\nGive some of {', '.join(SCRIPTS)}.")
    for script in args.only or SCRIPTS:
        python = str(args.rllib) if script.startswith("rllib") and args.rllib is not None else sys.executable
        found = entered(script, python)
        if isinstance(found, str):
            print(f"not run: {script} ({found})", flush=True)
            continue
        yield from (Job(python, script, algorithm, task, seed) for algorithm, tasks in found.items() for task in tasks for seed in range(args.seeds))


def main(args: Args) -> list[dict[str, Any]]:
    """Train what is not trained yet, print the table, and return its lines."""
    args.folder.mkdir(parents=True, exist_ok=True)
    jobs = list(jobs_of(args))
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda job: train(job, args), jobs))
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for job, result in zip(jobs, found, strict=True):
        groups.setdefault((job.script, job.algorithm, job.task), []).append(result)
    lines = [summed_up(results) for results in groups.values()]
    table(lines)
    if args.json is not None:
        write_json(args.json, {"processor": processor(), "lines": lines})
    return lines


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
