"""A policy for vector observations and discrete actions: small tanh networks, one that acts and one that values.

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

from .common import Acted, Evaluated, Memory, acted, evaluated, greedy, log_distribution, to_float64


class MLPPolicy(nn.Module):
    """Actor and critic with orthogonal weights (Huang et al. 2022, "The 37 implementation details", 2 and 3).

    They are separate networks unless `shared`: then both read one trunk of the hidden layers, and the value loss moves it too.
    """

    sequential = False
    continuous = False

    def __init__(self, num_features: int, num_actions: int, hidden: Sequence[int] = (64, 64), *, shared: bool = False) -> None:
        super().__init__()
        self.trunk, self.actor, self.critic = trunk_and_heads(num_features, hidden, num_actions, shared)

    @classmethod
    def for_env(cls, env: gym.vector.VectorEnv[Any, Any, Any], hidden: Sequence[int] = (64, 64), *, shared: bool = False) -> MLPPolicy:
        """Return a policy of the right sizes for a vector environment with a flat Box and a Discrete space."""
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(observations, gym.spaces.Box) or not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
            instead = " GaussianPolicy is for actions in a Box." if isinstance(actions, gym.spaces.Box) else ""
            raise TypeError(f"MLPPolicy needs Box observations and Discrete actions that start at 0, got {observations} and {actions}.{instead}")
        return cls(int(np.prod(observations.shape)), int(actions.n), hidden, shared=shared)

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

    def distributions(self, observations: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None) -> Tensor:
        """Return the log-probabilities [T, B, A] of all actions, with gradients where they are enabled."""
        return log_distribution(self.actor(self._features(observations, 2)), action_masks, temperature)

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
        return self.trunk(flat_features(self, observations, batch_dims))


def flat_features(policy: nn.Module, observations: Tensor, batch_dims: int) -> Tensor:
    """Return observations [..., D] flattened behind their batch dimensions, where the weights are and as precise as they are."""
    weight = next(policy.parameters())
    return observations.to(weight.device, weight.dtype).flatten(batch_dims)


def trunk_and_heads(num_features: int, hidden: Sequence[int], num_outputs: int, shared: bool) -> tuple[nn.Module, nn.Sequential, nn.Sequential]:
    """Return what actor and critic both read, the actor and the critic; without `shared` the hidden layers are each one's own."""
    trunk: nn.Module = nn.Identity()
    if shared:
        if not hidden:
            raise ValueError("A shared trunk needs at least one hidden layer: pass hidden=(64,), say, or shared=False.")
        trunk = nn.Sequential(tanh_network(num_features, hidden[:-1], hidden[-1], output_gain=2**0.5), nn.Tanh())
        num_features, hidden = hidden[-1], ()
    return trunk, tanh_network(num_features, hidden, num_outputs, output_gain=0.01), tanh_network(num_features, hidden, 1, output_gain=1.0)


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
