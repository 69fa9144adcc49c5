"""Does our PPO learn CartPole-v1? `python -m benchmarks.cartpole`: greedy return of fresh episodes after at most 200,000 steps, seed by seed."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from agents.advantages import GAE
from agents.files import write_json
from agents.play import evaluate
from agents.policies import MLPPolicy, seeded
from agents.ppo import Config, train
from agents.seeds import generators

from .machine import describe, print_table

ID = "CartPole-v1"
BAR = 475.0  # the return at which Gymnasium calls it solved
BUDGET = 200_000  # environment steps
EPISODES = 100
NUM_ENVS = 8
CONFIG = Config(
    total_timesteps=100_000,
    num_steps=128,
    learning_rate=1e-3,
    advantage=GAE(gamma=0.98, gae_lambda=0.8),
    num_epochs=10,
    num_minibatches=4,
)


@dataclass(frozen=True)
class Args:
    """Train PPO on CartPole-v1 and evaluate it greedily."""

    seeds: int = 5
    """trains with the seeds 0, 1, ..."""
    total_timesteps: int = CONFIG.total_timesteps
    """environment steps of each training"""
    json: Path | None = None
    """also write the figures to this file"""


class Result(NamedTuple):
    """One trained policy."""

    seed: int
    steps: int
    seconds: float
    mean: float  # greedy return over EPISODES fresh episodes
    worst: float


def learn(seed: int, config: Config = CONFIG) -> Result:
    """Train one policy and play one greedy episode on each of EPISODES rows."""
    env = gym.make_vec(ID, num_envs=NUM_ENVS)
    with seeded(seed):
        policy = MLPPolicy.for_env(env)
    began = time.perf_counter()
    run = train(env, policy, config, seed=seed, quiet=True)
    seconds = time.perf_counter() - began
    generator = generators(seed).evaluation
    fresh = int(generator.integers(2**31 - EPISODES))
    returns = evaluate(gym.make_vec(ID, num_envs=EPISODES), policy, generator, temperature=0.0, seed=fresh).returns
    return Result(seed, run.steps, seconds, float(returns.mean()), float(returns.min()))


def main(args: Args) -> dict[str, Any]:
    """Train, print, write and return the results."""
    torch.set_num_threads(1)  # networks this small only wait for a second one
    config = replace(CONFIG, total_timesteps=args.total_timesteps)
    machine = describe("torch", "numpy", "gymnasium")
    print(machine, flush=True)
    results = [learn(seed, config) for seed in range(args.seeds)]
    solved = sum(result.mean >= BAR and result.steps <= BUDGET for result in results)
    rows = [[str(r.seed), f"{r.steps:,}", f"{r.seconds:.1f}", f"{r.mean:.1f}", f"{r.worst:.0f}", "yes" if r.mean >= BAR else "NO"] for r in results]
    print_table(f"PPO on {ID}, greedy, {EPISODES} episodes", ["seed", "steps", "seconds", "mean return", "worst", f">= {BAR:.0f}"], rows)
    print(f"{solved} of {len(results)} seeds solved within {BUDGET:,} steps; median {np.median([r.seconds for r in results]):.1f} s")
    report = {"machine": machine, "bar": BAR, "solved": solved, "results": [r._asdict() for r in results]}
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
