"""Masks where Tianshou looks for them: in the observation.

Axis legend: A actions.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

Seen = dict[str, Any]


class MaskInObservation(gym.Wrapper[Seen, Any, Any, Any]):
    """Turns observations into {"obs": observation, "mask": bool [A]}, the mask from `info["action_mask"]`: Tianshou's convention.

        DummyVectorEnv([lambda: MaskInObservation(gym.make("TextGen-v0", constraint="film_grammar"))] * 8)

    Tianshou's Q-learning (DQN, C51, QR-DQN, ...) keeps to such masks, in its targets too; its PPO and its other actor-critics take no notice of them.

    Args:
        env: a single environment with `Discrete` actions that tells "action_mask" in its info.

    Raises:
        TypeError: if its actions are not `Discrete`.
        ValueError: at a reset or a step that tells no mask.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        if not isinstance(env.action_space, gym.spaces.Discrete):
            raise TypeError(f"Masks are of Discrete actions, and this environment has {env.action_space}.")
        masks = gym.spaces.Box(0, 1, (int(env.action_space.n),), np.bool_)  # type: ignore[arg-type]
        self.observation_space = gym.spaces.Dict({"obs": env.observation_space, "mask": masks})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return _with_mask(observation, info), info

    def step(self, action: Any) -> tuple[Seen, Any, bool, bool, dict[str, Any]]:
        """Apply one action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return _with_mask(observation, info), reward, terminated, truncated, info


def _with_mask(observation: Any, info: dict[str, Any]) -> Seen:
    if "action_mask" not in info:
        raise ValueError('info has no "action_mask": make the environment with a constraint, such as constraint="film_grammar", or leave this wrapper out.')
    return {"obs": observation, "mask": np.array(info["action_mask"], np.bool_)}
