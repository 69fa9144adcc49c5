"""The recording wrapper of the single form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from ..env import GymEnv
from .spelling import checksums, facts_of, plain, powers
from .watching import Lines, checked_space, episode_of, head_of, line_of, watched


class RecordEpisode(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Append one JSON line to `path` for every episode that ends, or that a reset or `close` cuts.

    It records what passes through it: actions, rewards and flags with the wrappers below, but not those above. Those below must tell their arguments
    (as Gymnasium's do), or the line cannot be replayed. An episode that was running when recording began is left out. An episode cut before its
    first step leaves no line; one that never ends leaves it at `close`. `set_state` of the unwrapped environment passes unseen: reset after it.
    """

    def __init__(self, env: gym.Env[Any, Any], path: str | Path) -> None:
        RecordConstructorArgs.__init__(self, path=str(path))
        super().__init__(env)
        if not isinstance(env.unwrapped, GymEnv):
            raise TypeError(f"RecordEpisode records environments of textgym, whose random streams it knows, not {type(env.unwrapped).__name__}.")
        checked_space(env.observation_space)
        checked_space(env.action_space)
        self._head = head_of(env.spec, None if env.spec is None else env.spec.max_episode_steps)
        self._watch, self._lines = watched(env.unwrapped), Lines(path)
        words, rest = divmod(int(np.prod(env.observation_space.shape or (), dtype=np.int64)) * np.dtype(env.observation_space.dtype).itemsize, 8)
        self._powers = None if rest else powers(words)
        self._begun = 0  # episodes
        self._seed: int | None = None
        self._live = False
        self._episode: dict[str, Any] = {}
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._sums: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; one that was running is recorded as cut."""
        chosen = plain(options or {})
        observation, info = self.env.reset(seed=seed, options=options)
        self._cut()
        self._seed = self._seed if seed is None else int(seed)
        self._begin(observation, chosen)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Pass the action on, and note what came of it."""
        step = self.env.step(action)
        if self._live:
            observation, reward, terminated, truncated, info = step
            self._actions.append(action.copy() if isinstance(action, np.ndarray) else action)
            self._rewards.append(float(reward))
            self._sums.append(self._checksum(observation))
            if terminated or truncated:
                self._write((bool(terminated), bool(truncated)), facts_of(info))
        elif self._watch.started:  # an autoreset below begins within a step, which ignores its action
            self._begin(step[0], {})
        return step

    def close(self) -> None:
        """Record a running episode as cut, close the file, and take the watch off."""
        self._cut()
        self._lines.close()
        if isinstance(self.unwrapped, GymEnv):
            self.unwrapped.core = self._watch.core
        super().close()

    def _begin(self, observation: Any, options: dict[str, Any]) -> None:
        self._episode = episode_of(0, self._begun, self._seed, self._watch.take()[0], options)
        self._begun += 1
        self._actions, self._rewards, self._sums, self._live = [], [], [self._checksum(observation)], True

    def _checksum(self, observation: Any) -> Any:
        array = np.asarray(observation)
        if self._powers is None:
            return checksums(array[None])[0]
        return array.reshape(-1).view(np.uint64) @ self._powers  # the same number, in half the time

    def _cut(self) -> None:
        if self._live and self._actions:
            self._write((False, False), {})
        self._live = False

    def _write(self, ended: tuple[bool, bool], info: dict[str, Any]) -> None:
        self._live = False
        steps = {"actions": np.asarray(self._actions).tolist(), "rewards": self._rewards}
        self._lines.append(line_of(self._head, self._episode, steps, ended, info, np.array(self._sums, dtype=np.uint64)))
