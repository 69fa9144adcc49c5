"""Do our agents learn other people's environments? `python -m benchmarks.third_party.other_environments`; `--environment Taxi-v4` for one of them.

Gymnasium's toy text and classic control as they come, and a text adventure of TextWorld where that is installed. Trained agents are judged greedily on fresh
episodes, beside random actions on the same and the best that is known.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agents.files import write_json
from agents.play import AnyVectorEnv, evaluate
from agents.policies import seeded

from ..machine import describe, print_table
from .other_cases import CASES, Case

JUDGE_SEED = 1_000_000


@dataclass(frozen=True)
class Args:
    """Train our agents on other people's environments and compare them with random actions and with the best that is known."""

    environment: str = ""
    """only this one, such as FrozenLake-v1; without it, all"""
    seeds: int = 3
    """trains with the seeds 0, 1, ..."""
    first_seed: int = 0
    """counts the seeds from here"""
    json: Path | None = None
    """also write the figures to this file"""


class Result(NamedTuple):
    """What one case came to; lists go by seed."""

    environment: str
    agent: str
    steps: int
    random: float
    reached: list[float]
    best: float | None
    source: str
    seconds: list[float]


def random_return(env: AnyVectorEnv, seed: int = JUDGE_SEED) -> float:
    """Return what random allowed actions earn, the mean of one episode a row."""
    env.single_action_space.seed(seed)
    _, infos = env.reset(seed=seed)
    total, over = np.zeros(env.num_envs), np.zeros(env.num_envs, np.bool_)
    while not over.all():
        masks = infos.get("action_mask", [None] * env.num_envs)  # all zeros where a row only resets: then its action counts for nothing
        actions = [env.single_action_space.sample(mask) if mask is None or mask.any() else 0 for mask in masks]
        _, rewards, terminated, truncated, infos = env.step(np.array(actions))
        total += np.where(over, 0.0, rewards)
        over |= terminated | truncated
    return float(total.mean())


def learn(case: Case, seed: int) -> tuple[float, int, float]:
    """Train one policy and return its greedy mean return on fresh episodes, the environment steps and the seconds of training."""
    env, judge = case.make(case.num_envs), case.make(case.episodes)
    with seeded(seed):
        policy = case.policy(env)
    began = time.perf_counter()
    run = case.algorithm.train(env, policy, case.config, seed=seed, quiet=True)
    seconds = time.perf_counter() - began
    returns = evaluate(judge, policy, np.random.default_rng(0), temperature=0.0, seed=JUDGE_SEED).returns
    env.close()
    judge.close()
    return float(returns.mean()), run.steps, seconds


def measure(case: Case, seeds: range) -> Result:
    """Train with each seed and return the figures."""
    reached, steps, seconds = zip(*(learn(case, seed) for seed in seeds), strict=True)
    random, best = random_return(case.make(case.episodes)), None if case.best is None else case.best()
    return Result(case.environment, case.agent, max(steps), random, list(reached), best, case.source, list(seconds))


def row(result: Result) -> list[str]:
    """Return a line of the table."""
    best = "unknown" if result.best is None else f"{result.best:.3f} ({result.source})"
    reached = [f"{statistics.mean(result.reached):.3f}", " ".join(f"{one:.3f}" for one in result.reached)]
    return [result.environment, result.agent, f"{result.steps:,}", f"{result.random:.3f}", *reached, best, f"{statistics.median(result.seconds):.1f}"]


def main(args: Args) -> dict[str, Any]:
    """Train, print, write and return the results."""
    torch.set_num_threads(1)
    cases = [case for case in CASES if args.environment in ("", case.environment)]
    if not cases:
        raise SystemExit(f"error: no environment {args.environment!r} here.\nGive one of {', '.join(dict.fromkeys(case.environment for case in CASES))}.")
    if find_spec("textworld") is None and any(case.environment == "TextWorld" for case in cases):
        if args.environment:
            raise SystemExit("error: TextWorld is not installed.\nInstall it: pip install textworld (Linux and macOS).")
        print("TextWorld is not installed (pip install textworld): its game is left out")
        cases = [case for case in cases if case.environment != "TextWorld"]
    machine = describe("torch", "gymnasium", "numpy", "textworld")
    print(machine, flush=True)
    results = [measure(case, range(args.first_seed, args.first_seed + args.seeds)) for case in cases]
    columns = ["environment", "agent", "steps", "random", "reached", "by seed", "best known", "seconds"]
    print_table("our agents, greedy on fresh episodes", columns, [row(result) for result in results])
    report = {"machine": machine, "results": [result._asdict() for result in results]}
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
