"""The command line of every library's script: train on one task with one seed, and say what was reached beside random."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.files import write_json

from ..machine import describe, installed, print_table
from .contract import Entrant
from .judge import random_returns, returns
from .tasks import TASKS


@dataclass(frozen=True)
class Args:
    """Train another library's agent on one of textgym's environments and judge it on held-out episodes."""

    algorithm: str = ""
    """which of the script's algorithms; without it, the first"""
    task: str = "even"
    """the environment: textgen, textgen_constrained, even or path"""
    steps: int | None = None
    """environment steps of the training; without it, the number that the table is made with"""
    seed: int = 0
    """of the library's agent and of its environments"""
    episodes: int = 256
    """of the judgement"""
    json: Path | None = None
    """also write the figures to this file"""
    list: bool = False
    """only print the script's algorithms and the tasks that each enters, as JSON"""


def measure(entrant: Entrant, args: Args) -> dict[str, Any]:
    """Train, judge, and return the figures; raises `ValueError` for a task that the entrant does not enter."""
    if args.task not in entrant.tasks:
        raise ValueError(f"{entrant.name} does not enter {args.task!r}; it enters {', '.join(entrant.tasks)}.")
    task = TASKS[args.task]
    steps = entrant.steps.get(task.name, task.steps) if args.steps is None else args.steps
    began = time.perf_counter()
    trained = entrant.train(task, steps, args.seed)
    seconds = time.perf_counter() - began
    reached, random = returns(task, trained.actor, args.episodes), random_returns(task, args.episodes)
    return {
        "library": entrant.library,
        "version": installed(entrant.library),
        "algorithm": entrant.algorithm,
        "task": task.name,
        "steps": trained.steps,
        "seed": args.seed,
        "random": float(np.mean(random)),
        "reached": float(np.mean(reached)),
        "seconds": seconds,
    }


def run(entrants: Mapping[str, Entrant], args: Args) -> dict[str, Any]:
    """Do what a script's command line says; print, write and return the figures."""
    if args.list:
        print(json.dumps({name: entrant.tasks for name, entrant in entrants.items()}))
        return {}
    torch.set_num_threads(1)
    entrant = entrants.get(args.algorithm or next(iter(entrants)))
    if entrant is None:
        raise SystemExit(f"error: --algorithm {args.algorithm} is not one of this script's.\nGive one of {', '.join(entrants)}.")
    try:
        figures = measure(entrant, args)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    report = {"machine": describe(entrant.library, "torch", "gymnasium", "numpy"), "results": [figures]}
    row = [entrant.name, figures["version"], args.task, f"{figures['steps']:,}"]
    row += [f"{figures['random']:.3f}", f"{figures['reached']:.3f}", f"{figures['seconds']:.1f}"]
    print(report["machine"])
    print_table(f"{args.episodes} episodes, seed {args.seed}", ["agent", "version", "task", "steps", "random", "reached", "seconds"], [row])
    if args.json is not None:
        write_json(args.json, report)
    return report
