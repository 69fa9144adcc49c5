"""How fast the advantage estimators are beside Stable-Baselines3's: `python -m benchmarks.estimators_speed`.

Theirs computes GAE in float32 into arrays that it owns; ours computes in float64 into fresh ones, and `estimate` also checks every number.
All take turns on the same numbers, and the median counts. On large arrays much of the time is the system handing out memory:
`MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000` before the command keeps it in the process (Linux, glibc).
Axis legend: T steps, N environments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer

from agents.advantages import GAE, TD, Advantage, MonteCarlo, NStep, estimate, gae
from agents.files import write_json
from agents.rollout import Rollout

from .machine import describe, median_seconds, print_table

SHAPES = ((128, 8), (128, 1024), (2048, 64), (32, 4096))  # [T, N]
CHOICES: dict[str, Advantage] = {"GAE": GAE(), "TD": TD(), "NStep": NStep(), "MonteCarlo": MonteCarlo()}
THEIRS = "SB3 buffer"


@dataclass(frozen=True)
class Args:
    """Measure the advantage estimators beside Stable-Baselines3's."""

    rounds: int = 50
    """how often each is timed; the median counts"""
    json: Path | None = None
    """also write the figures to this file"""


def rollout(num_steps: int, num_envs: int) -> Rollout:
    """Return noise [T, N] in whole episodes of about 20 steps."""
    rng, shape = np.random.default_rng(0), (num_steps, num_envs)
    rewards, values, zeros = rng.normal(size=shape), rng.normal(size=shape), np.zeros(shape)
    terminated = rng.random(shape) < 0.05
    terminated[-1] = True
    starts = np.vstack([np.ones((1, num_envs), np.bool_), terminated[:-1]])
    next_values = np.vstack([values[1:], zeros[:1]])
    nowhere = np.zeros(shape, np.bool_)
    return Rollout(zeros, zeros, zeros, values, next_values, rewards, terminated, nowhere, starts, ~nowhere, np.cumsum(starts, axis=0))


def their_buffer(ours: Rollout, choice: GAE) -> tuple[RolloutBuffer, Callable[[], object]]:
    """Return Stable-Baselines3's buffer filled with the same numbers, and the call that computes its advantages."""
    num_steps, num_envs = ours.rewards.shape
    space = gym.spaces.Discrete(2)
    buffer = RolloutBuffer(num_steps, space, space, "cpu", gae_lambda=choice.gae_lambda, gamma=choice.gamma, n_envs=num_envs)
    buffer.rewards[:], buffer.values[:], buffer.episode_starts[:] = ours.rewards, ours.values, ours.starts
    last_values, dones = torch.as_tensor(ours.next_values[-1], dtype=torch.float32), ours.terminated[-1]
    return buffer, lambda: buffer.compute_returns_and_advantage(last_values, dones)


def measure(num_steps: int, num_envs: int, rounds: int) -> dict[str, float]:
    """Return the median seconds of Stable-Baselines3 and of ours at one size; raises `AssertionError` if the two disagree."""
    ours, choice = rollout(num_steps, num_envs), GAE()
    buffer, theirs = their_buffer(ours, choice)
    theirs()
    np.testing.assert_allclose(estimate(choice, ours).advantages, buffer.advantages, rtol=1e-4, atol=1e-4)
    arrays = (ours.rewards, ours.values, ours.next_values, ours.terminated, ours.truncated)
    functions: dict[str, Callable[[], object]] = {THEIRS: theirs, "gae()": lambda: gae(*arrays, choice.gamma, choice.gae_lambda)}
    for name, advantage in CHOICES.items():
        functions[f"estimate({name})"] = lambda advantage=advantage: estimate(advantage, ours)  # type: ignore[misc]
    return median_seconds(functions, rounds)


def main(args: Args) -> dict[str, Any]:
    """Measure, print, write and return the figures."""
    torch.set_num_threads(1)
    machine = describe("numpy", "stable-baselines3", "torch")
    found = {shape: measure(*shape, args.rounds) for shape in SHAPES}
    names = list(next(iter(found.values())))
    print(machine)
    rows = [[str(list(shape)), *(f"{1e6 * seconds[name]:,.0f}" for name in names)] for shape, seconds in found.items()]
    print_table("microseconds, median", ["[T, N]", *names], rows)
    rows = [[str(list(shape)), *(f"{seconds[name] / seconds[THEIRS]:.2f}" for name in names)] for shape, seconds in found.items()]
    print_table("time as a multiple of Stable-Baselines3's GAE", ["[T, N]", *names], rows)
    report = {"machine": machine, "rounds": args.rounds, "figures": [{"shape": list(shape), "seconds": seconds} for shape, seconds in found.items()]}
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
