"""One judge for all: what an agent earns in whole episodes of an environment, and what random actions do.

Axis legend: N rows, one episode each.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import textgym  # noqa: F401 (registers the suite)

from .contract import Actor, Task

JUDGE_SEED = 1_000_000  # far from the seeds of training


def returns(task: Task, actor: Actor, episodes: int = 256, seed: int = JUDGE_SEED) -> NDArray[np.float64]:
    """Return the undiscounted returns [N] of one episode a row, the same starts for every actor."""
    env = gym.make_vec(task.id, num_envs=episodes, autoreset_mode="SameStep", **{**task.options, **task.held_out})
    observations, infos = env.reset(seed=seed)
    starts, over, total = np.ones(episodes, np.bool_), np.zeros(episodes, np.bool_), np.zeros(episodes)
    while not over.all():
        actions = np.asarray(actor(observations, starts, _masks(infos))).reshape(episodes)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        total += np.where(over, 0.0, rewards)
        starts = terminated | truncated
        over |= starts
    env.close()
    return total


def _masks(infos: dict[str, Any]) -> NDArray[np.bool_] | None:
    return np.asarray(infos["action_mask"], np.bool_) if "action_mask" in infos else None


class Random:
    """Draws every allowed action alike."""

    def __init__(self, num_actions: int, seed: int = 0) -> None:
        self._num_actions, self._generator = num_actions, np.random.default_rng(seed)

    def __call__(self, observations: NDArray[Any], starts: NDArray[Any], masks: NDArray[Any] | None) -> NDArray[np.int64]:
        """Return an action for each row."""
        lots = self._generator.random((len(observations), self._num_actions))
        chosen: NDArray[np.int64] = (lots if masks is None else np.where(masks, lots, -1.0)).argmax(1)
        return chosen


def random_returns(task: Task, episodes: int = 256) -> NDArray[np.float64]:
    """Return what random allowed actions earn [N]."""
    env = gym.make(task.id, **task.options)
    assert isinstance(env.action_space, gym.spaces.Discrete)
    return returns(task, Random(int(env.action_space.n)), episodes)
