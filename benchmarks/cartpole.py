"""Do our agents learn CartPole-v1? `python -m benchmarks.cartpole`, `--algorithm a2c`: greedy return of fresh episodes, seed by seed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from agents import a2c, ppo
from agents.advantages import GAE
from agents.files import write_json
from agents.play import evaluate
from agents.policies import MLPPolicy, seeded
from agents.seeds import generators

from .machine import describe, print_table

ID = "CartPole-v1"
BAR = 475.0  # the return at which Gymnasium calls it solved
Algorithm = Literal["ppo", "a2c"]
ALGORITHMS: dict[Algorithm, ModuleType] = {"ppo": ppo, "a2c": a2c}
BUDGETS: dict[Algorithm, int] = {"ppo": 200_000, "a2c": 500_000}  # environment steps
EPISODES = 100
NUM_ENVS = 8
CONFIGS: dict[Algorithm, Any] = {
    "ppo": ppo.Config(total_timesteps=100_000, num_steps=128, learning_rate=1e-3, advantage=GAE(gamma=0.98, gae_lambda=0.8), num_epochs=10, num_minibatches=4),
    "a2c": a2c.Config(),
}


@dataclass(frozen=True)
class Args:
    """Train PPO or A2C on CartPole-v1 and evaluate it greedily."""

    algorithm: Algorithm = "ppo"
    """who learns"""

    seeds: int = 5
    """trains with the seeds 0, 1, ..."""
    total_timesteps: int | None = None
    """environment steps of each training; without it, 100,000 of PPO's and 500,000 of A2C's"""
    json: Path | None = None
    """also write the figures to this file"""


class Result(NamedTuple):
    """One trained policy."""

    seed: int
    steps: int
    seconds: float
    mean: float  # greedy return over EPISODES fresh episodes
    worst: float


def learn(seed: int, algorithm: Algorithm = "ppo", total_timesteps: int | None = None) -> Result:
    """Train one policy and play one greedy episode on each of EPISODES rows."""
    env = gym.make_vec(ID, num_envs=NUM_ENVS)
    with seeded(seed):
        policy = MLPPolicy.for_env(env)
    began = time.perf_counter()
    config = CONFIGS[algorithm]
    run = ALGORITHMS[algorithm].train(env, policy, replace(config, total_timesteps=total_timesteps or config.total_timesteps), seed=seed, quiet=True)
    seconds = time.perf_counter() - began
    generator = generators(seed).evaluation
    fresh = int(generator.integers(2**31 - EPISODES))
    returns = evaluate(gym.make_vec(ID, num_envs=EPISODES), policy, generator, temperature=0.0, seed=fresh).returns
    return Result(seed, run.steps, seconds, float(returns.mean()), float(returns.min()))


def main(args: Args) -> dict[str, Any]:
    """Train, print, write and return the results."""
    torch.set_num_threads(1)  # networks this small only wait for a second one
    budget = BUDGETS[args.algorithm]
    machine = describe("torch", "numpy", "gymnasium")
    print(machine, flush=True)
    results = [learn(seed, args.algorithm, args.total_timesteps) for seed in range(args.seeds)]
    solved = sum(result.mean >= BAR and result.steps <= budget for result in results)
    rows = [[str(r.seed), f"{r.steps:,}", f"{r.seconds:.1f}", f"{r.mean:.1f}", f"{r.worst:.0f}", "yes" if r.mean >= BAR else "NO"] for r in results]
    print_table(f"{args.algorithm.upper()} on {ID}, greedy, {EPISODES} episodes", ["seed", "steps", "seconds", "mean return", "worst", f">= {BAR:.0f}"], rows)
    print(f"{solved} of {len(results)} seeds solved within {budget:,} steps; median {np.median([r.seconds for r in results]):.1f} s")
    report = {"machine": machine, "algorithm": args.algorithm, "bar": BAR, "solved": solved, "results": [r._asdict() for r in results]}
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
