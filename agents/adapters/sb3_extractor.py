"""A features extractor of Stable-Baselines3 that reads token ids as ids: `MlpPolicy` sees them as sizes, and hardly learns.

Axis legend: B rows, L observation columns, E width.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from .networks import Kind, TokenNetwork

NORMALISED = "Observations hold numbers that are no token ids: something has scaled them. VecNormalize needs norm_obs=False."


class TokenExtractor(BaseFeaturesExtractor):
    """Turns token observations [B, L] into features [B, E] by `TokenNetwork`.

        PPO("MlpPolicy", env, policy_kwargs={"features_extractor_class": TokenExtractor, "features_extractor_kwargs": {"kind": "gru"}})

    Stable-Baselines3 hands ids over as float32, which holds them exactly up to 2**24.

    Args:
        observation_space: the environment's, `Box(0, V, (L,), int64)`; the pad id is its highest number.
        width: E, the number of features.
        kind: "mean", "gru" or "transformer", see `TokenNetwork`.

    Raises:
        ValueError: if the observations are no token ids; one that VecNormalize has scaled shows when it is read.
    """

    def __init__(self, observation_space: gym.Space, width: int = 64, kind: Kind = "gru") -> None:
        pad, length = token_shape(observation_space, "TokenExtractor")
        super().__init__(observation_space, features_dim=width)
        self.network = TokenNetwork(pad, length, width, kind)

    def forward(self, observations: Tensor) -> Tensor:
        """Return features [B, E] of observations [B, L]; raises `ValueError` for numbers that are no ids."""
        if (observations % 1 != 0).any():
            raise ValueError(NORMALISED)
        features: Tensor = self.network(observations)
        return features


def token_shape(space: gym.Space, who: str) -> tuple[int, int]:
    """Return the pad id V and the columns L of token observations; raises `ValueError`, naming `who`, if they are none."""
    ids = isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.integer) and (space.low == 0).all()
    if not ids or (space.high != space.high.max()).any():  # type: ignore[attr-defined]
        raise ValueError(f"{who} reads token ids, Box(0, V, (L,), int64), and this space is {space}: take a text task, without wrappers that hide its ids.")
    return int(space.high.max()), int(space.shape[0])  # type: ignore[attr-defined,index]
