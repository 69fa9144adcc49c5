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

from agents.advantages import ADVANTAGES, GAE, Advantage, estimate, gae
from agents.files import write_json
from agents.rollout import Rollout

from .machine import describe, median_seconds, print_table

CHOICES: dict[str, Advantage] = {kind.__name__: kind() for kind in sorted(ADVANTAGES.values(), key=lambda kind: kind is not GAE)}  # GAE first
THEIRS = "SB3 buffer"
BAR = {(128, 8): 0.5, (128, 1024): 0.5, (2048, 64): 0.5, (32, 4096): 1.0}  # estimate(GAE) should take at most this much of their time


@dataclass(frozen=True)
class Args:
    """Measure the advantage estimators beside Stable-Baselines3's."""

    rounds: int = 50
    """how often each is timed; the median counts"""
    json: Path | None = None
    """also write the figures to this file"""


def rollout(num_steps: int, num_envs: int) -> Rollout:
    """Return noise [T, N] in whole episodes of about 20 steps, with all that any estimator reads; neighbours share a group."""
    rng, shape = np.random.default_rng(0), (num_steps, num_envs)
    rewards, values, zeros = rng.normal(size=shape), rng.normal(size=shape), np.zeros(shape)
    terminated = rng.random(shape) < 0.05
    terminated[-1] = True
    starts = np.vstack([np.ones((1, num_envs), np.bool_), terminated[:-1]])
    next_values = np.vstack([values[1:], zeros[:1]])
    nowhere = np.zeros(shape, np.bool_)
    ids = starts.T.cumsum().reshape(shape[::-1]).T - 1
    played = Rollout(zeros, zeros, zeros, values, next_values, rewards, terminated, nowhere, starts, ~nowhere, ids)
    groups = np.minimum(ids // 2, (ids.max() + 1) // 2 - 1)  # a last one without a neighbour joins those before it
    return played._replace(groups=groups, baselines=zeros, target_log_probs=0.1 * values, action_values=values)


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
    others: dict[str, Callable[[], object]] = {}
    for name, advantage in CHOICES.items():
        turn = functions if name == "GAE" else others  # what evicts theirs and ours from the caches takes its turns by itself
        turn[f"estimate({name})"] = lambda advantage=advantage: estimate(advantage, ours)  # type: ignore[misc]
    return median_seconds(functions, rounds) | median_seconds(others, rounds)


def main(args: Args) -> dict[str, Any]:
    """Measure, print, write and return the figures."""
    torch.set_num_threads(1)
    machine = describe("numpy", "stable-baselines3", "torch")
    found = {shape: measure(*shape, args.rounds) for shape in BAR}
    print(machine)
    columns = ["", *(str(list(shape)) for shape in found)]
    names = list(next(iter(found.values())))
    rows = [[name, *(f"{1e6 * seconds[name]:,.0f}" for seconds in found.values())] for name in names]
    print_table("microseconds, median", columns, rows)
    rows = [[name, *(f"{seconds[name] / seconds[THEIRS]:.2f}" for seconds in found.values())] for name in names]
    print_table("time as a multiple of Stable-Baselines3's GAE", columns, [*rows, ["bar for estimate(GAE)", *(f"{bar:.2f}" for bar in BAR.values())]])
    report = {"machine": machine, "rounds": args.rounds, "figures": [{"shape": list(shape), "seconds": seconds} for shape, seconds in found.items()]}
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
