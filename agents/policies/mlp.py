"""A policy for vector observations and discrete actions: two small tanh networks, one that acts and one that values.

Axis legend: T steps, B rows, D observation features, A actions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .common import Acted, Evaluated, Memory, acted, evaluated, greedy, to_float64


class MLPPolicy(nn.Module):
    """Separate actor and critic with orthogonal weights (Huang et al. 2022, "The 37 implementation details", 2 and 3)."""

    sequential = False

    def __init__(self, num_features: int, num_actions: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.actor = tanh_network(num_features, hidden, num_actions, output_gain=0.01)
        self.critic = tanh_network(num_features, hidden, 1, output_gain=1.0)

    @classmethod
    def for_env(cls, env: gym.vector.VectorEnv[Any, Any, Any], hidden: Sequence[int] = (64, 64)) -> MLPPolicy:
        """Return a policy of the right sizes for a vector environment with a flat Box and a Discrete space."""
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(observations, gym.spaces.Box) or not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
            raise TypeError(f"MLPPolicy needs Box observations and Discrete actions that start at 0, got {observations} and {actions}.")
        return cls(int(np.prod(observations.shape)), int(actions.n), hidden)

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
        features = self._features(torch.from_numpy(observations), 1)
        return acted(self.actor(features), self.critic(features)[:, 0], None, generator, action_masks, temperature)

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-probabilities, values and entropies [T, B]."""
        features = self._features(observations, 2)
        return evaluated(self.actor(features), self.critic(features)[..., 0], actions, action_masks, temperature)

    @torch.no_grad()
    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return V [B]."""
        return to_float64(self.critic(self._features(torch.from_numpy(observations), 1))[:, 0])

    def predict(
        self, obs: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the most likely action of each row, as other libraries' evaluators ask for it; `deterministic` must be True."""
        return greedy(self, obs, state, episode_start, deterministic, obs_ndim=1)

    def _features(self, observations: Tensor, batch_dims: int) -> Tensor:
        weight = next(self.parameters())
        return observations.to(weight.device, weight.dtype).flatten(batch_dims)


def tanh_network(num_inputs: int, hidden: Sequence[int], num_outputs: int, output_gain: float) -> nn.Sequential:
    """Return linear layers with tanh between them, orthogonal weights and zero biases."""
    sizes = [num_inputs, *hidden, num_outputs]
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        last = i == len(sizes) - 2
        linear = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(linear.weight, output_gain if last else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)
