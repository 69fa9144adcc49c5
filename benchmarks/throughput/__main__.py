"""How fast everything is beside its peers: `python -m benchmarks.throughput`.

Environment, roll-out, training, memory and estimators, ours and theirs in one run on one torch thread, taking turns; medians, and the
ratio beside its bar. The allocator is told alike for all sides to keep freed memory in the process (the command starts itself anew with
MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ set; `--no-malloc` leaves them as they are). docs/throughput.md says what each side does.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MALLOC = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
SECTIONS = ("environment", "rollout", "training", "memory", "estimators")


@dataclass(frozen=True)
class Args:
    """Measure how fast everything is beside its peers."""

    only: str = ",".join(SECTIONS)
    """the sections to run, with commas between them"""
    shapes: str = "tiny,mid,small"
    """the models of the roll-out, with commas between them"""
    quick: bool = False
    """small models and few peers: a short run"""
    seconds: float = 6.0
    """how long each side of a comparison is measured, in all"""
    rounds: int = 7
    """slices that this time is cut into, in turn with the other sides; the median counts"""
    activation: str = "gelu_pytorch_tanh"
    """of the models' MLPs: GPT-2's own formula in one kernel; "gelu_new" is the same in seven"""
    trl: Path | None = None
    """the Python of an environment with trl 1.16, for GRPO and RLOO"""
    trl_ppo: Path | None = None
    """the Python of an environment with trl 1.12, for its PPO"""
    malloc: bool = True
    """set the allocator's thresholds, for all sides alike"""
    json: Path | None = None
    """also write the figures to this file"""


def begin_anew() -> None:
    """Start this command again with one thread and the allocator's thresholds set: both are read when a process starts."""
    wanted = {"OMP_NUM_THREADS": "1", **({} if "--no-malloc" in sys.argv else MALLOC)}
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.throughput", *sys.argv[1:]], {**os.environ, **wanted})


def main(args: Args) -> dict[str, Any]:
    """Measure, print, write and return the figures."""
    import torch

    from agents.files import write_json

    from ..machine import describe

    chosen = args.only.split(",")
    if wrong := sorted(set(chosen) - set(SECTIONS)):
        raise SystemExit(f"There is no section {wrong[0]!r}; --only takes some of {','.join(SECTIONS)}.")
    torch.set_num_threads(1)
    machine = describe("torch", "transformers", "gymnasium", "numpy", "stable-baselines3")
    print(machine, flush=True)
    shapes = ["tiny"] if args.quick else args.shapes.split(",")
    seconds, rounds = (min(args.seconds, 2.0), min(args.rounds, 5)) if args.quick else (args.seconds, args.rounds)
    report: dict[str, Any] = {"machine": machine, "args": {name: str(value) for name, value in vars(args).items()}}
    if "environment" in chosen:
        from . import environment

        report["environment"] = environment.measure(seconds=seconds, rounds=rounds)
    if "rollout" in chosen:
        from . import rollout

        report["rollout"] = rollout.measure(activation=args.activation, shapes=shapes, seconds=seconds, rounds=rounds)
        if torch.cuda.is_available():
            report["rollout on cuda"] = rollout.measure(activation=args.activation, shapes=shapes, seconds=seconds, rounds=rounds, device="cuda")
        else:
            print("\nCUDA: not run (no GPU on this machine)")
    if "training" in chosen:
        from . import training

        report["training"] = training.measure(activation=args.activation, quick=args.quick, trl=args.trl, trl_ppo=args.trl_ppo, seconds=seconds, rounds=rounds)
    if "memory" in chosen and not args.quick:
        from . import memory

        report["memory"] = memory.measure(activation=args.activation)
    if "estimators" in chosen:
        from . import estimators

        report["estimators"] = estimators.measure(rounds=20 if args.quick else 50)
    if args.quick:
        print("\nquick: without the shapes mid and small, the PPO of SB3, and memory")
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    args = tyro.cli(Args)
    begin_anew()
    main(args)
