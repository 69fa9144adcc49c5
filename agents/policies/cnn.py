"""A small convolutional policy for maps and pictures.

Axis legend: T steps, B rows, C channels, H height, W width, A actions; [...] is [T, B] or [B].
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .common import Acted, Evaluated, Memory, acted, evaluated, greedy, log_distribution, to_float64


class CNNPolicy(nn.Module):
    """Three 3x3 convolutions that keep the size of the map, one dense layer, and a head each for acting and valuing."""

    sequential = False
    continuous = False

    def __init__(self, shape: tuple[int, int, int], num_actions: int, channels: int = 32, hidden: int = 128) -> None:
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        for fan_in in (shape[0], channels, channels):
            layers += [nn.Conv2d(fan_in, channels, 3, padding=1), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * shape[1] * shape[2], hidden), nn.ReLU())
        self.actor, self.critic = nn.Linear(hidden, num_actions), nn.Linear(hidden, 1)
        nn.init.orthogonal_(self.actor.weight, 0.01)
        nn.init.orthogonal_(self.critic.weight, 1.0)
        for head in (self.actor, self.critic):
            nn.init.zeros_(head.bias)

    @classmethod
    def for_env(cls, env: gym.vector.VectorEnv[Any, Any, Any], channels: int = 32, hidden: int = 128) -> CNNPolicy:
        """Return a policy of the right sizes for a vector environment with a Box [C, H, W] and Discrete actions."""
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(observations, gym.spaces.Box) or len(observations.shape) != 3 or not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
            raise TypeError(f"CNNPolicy needs Box observations [C, H, W] and Discrete actions that start at 0, got {observations} and {actions}.")
        return cls((observations.shape[0], observations.shape[1], observations.shape[2]), int(actions.n), channels, hidden)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [..., A] and values [...] of maps [..., C, H, W]."""
        weight = self.actor.weight
        batch = observations.shape[: -len(self.shape)]
        features = self.trunk(observations.to(weight.device, weight.dtype).reshape(-1, *self.shape)).reshape(*batch, -1)
        return self.actor(features), self.critic(features).squeeze(-1)

    def initial_state(self, num_envs: int) -> None:
        """Return nothing: all that it knows it sees."""

    @torch.no_grad()
    def act(
        self,
        observations: NDArray[Any],
        state: Any,
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return actions, log-probabilities and values [N]."""
        return acted(*self.forward(torch.from_numpy(observations)), None, generator, action_masks, temperature)

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-probabilities, values and entropies [T, B]."""
        return evaluated(*self.forward(observations), actions, action_masks, temperature)

    def distributions(self, observations: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None) -> Tensor:
        """Return the log-probabilities [T, B, A] of all actions, with gradients where they are enabled."""
        return log_distribution(self.forward(observations)[0], action_masks, temperature)

    @torch.no_grad()
    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return V [B]."""
        return to_float64(self.forward(torch.from_numpy(observations))[1])

    def predict(
        self, obs: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the most likely action of each row, as other libraries' evaluators ask for it; `deterministic` must be True."""
        return greedy(self, obs, state, episode_start, deterministic, obs_ndim=3)
