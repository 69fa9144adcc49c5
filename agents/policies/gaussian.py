"""A policy for vector observations and actions in a Box: a normal distribution whose mean a small tanh network says.

Its draws are unbounded, and they are what a rollout holds; a bounded environment clips them at its own door:

    env = gymnasium.wrappers.vector.ClipAction(gymnasium.make_vec("Pendulum-v1", num_envs=16))
    policy = GaussianPolicy.for_env(env)

The log-probability is that of the draw, not of what the clip makes of it: the clip is a part of the environment, which may do with
an action what it likes, and the policy gradient asks for the density of what was drawn. What is clipped has none: its bounds are atoms.
Where bounds are far from 1 rescale first: `ClipAction(RescaleAction(env, -1.0, 1.0))`.
Axis legend: T steps, N environments, B rows, D observation features, A numbers of an action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .common import Acted, Evaluated, Memory, greedy, to_float64
from .mlp import flat_features, trunk_and_heads


class GaussianPolicy(nn.Module):
    """Independent normal distributions, one a number; the means are a network's, `log_std` [A] is the same in every state.

    So in Schulman et al. 2017, "Proximal policy optimization algorithms", section 6.1; Huang et al. 2022, details 2 to 4 of continuous actions.
    The temperature multiplies the standard deviation; 0 is the mean. `shared` is as in `MLPPolicy`.
    """

    sequential = False
    continuous = True

    def __init__(self, num_features: int, action_shape: Sequence[int], hidden: Sequence[int] = (64, 64), *, log_std: float = 0.0, shared: bool = False) -> None:
        super().__init__()
        self.action_shape = tuple(action_shape)
        num_actions = math.prod(self.action_shape)
        self.trunk, self.actor, self.critic = trunk_and_heads(num_features, hidden, num_actions, shared)
        self.log_std = nn.Parameter(torch.full((num_actions,), log_std))

    @classmethod
    def for_env(
        cls, env: gym.vector.VectorEnv[Any, Any, Any], hidden: Sequence[int] = (64, 64), *, log_std: float = 0.0, shared: bool = False
    ) -> GaussianPolicy:
        """Return a policy of the right sizes for a vector environment with a flat Box of observations and an unbounded Box of actions.

        Raises `TypeError` for other spaces, `ValueError` for bounded actions: see the top of this file for how to wrap the environment.
        """
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(observations, gym.spaces.Box) or not isinstance(actions, gym.spaces.Box) or actions.dtype.kind != "f":
            instead = " MLPPolicy is for Discrete actions." if isinstance(actions, gym.spaces.Discrete) else ""
            raise TypeError(f"GaussianPolicy needs Box observations and a Box of real actions, got {observations} and {actions}.{instead}")
        if np.isfinite(actions.low).any() or np.isfinite(actions.high).any():
            raise ValueError(
                f"A normal distribution knows no bounds, the actions are {actions}: wrap the environment, env = gymnasium.wrappers.vector.ClipAction(env), "
                "or ClipAction(RescaleAction(env, -1.0, 1.0)) where the bounds are far from 1, and pass that one to the policy and to training."
            )
        return cls(math.prod(observations.shape), actions.shape, hidden, log_std=log_std, shared=shared)

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
        """Return draws [N, *] of the weights' precision, their log-densities (0 at temperature 0, where nothing is drawn) and values [N]."""
        _no_masks(action_masks)
        means, values = self._heads(torch.from_numpy(observations), 1)
        noise = torch.from_numpy(generator.standard_normal(tuple(means.shape))).to(means)
        draws = means + temperature * self.log_std.exp() * noise
        log_probs = self._log_density(draws, means, temperature) if temperature > 0 else torch.zeros_like(values)
        return Acted(draws.view(-1, *self.action_shape).cpu().numpy(), to_float64(log_probs), to_float64(values), None)

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-densities of draws [T, B, *], values and entropies [T, B]; raises `ValueError` at temperature 0, which has no density."""
        _no_masks(action_masks)
        if not temperature > 0:
            raise ValueError(f"A normal distribution of temperature {temperature} has no density: evaluate at a positive one.")
        means, values = self._heads(observations, 2)
        log_probs = self._log_density(actions.to(means).flatten(2), means, temperature)
        entropy = (self.log_std + math.log(temperature) + 0.5 * math.log(2 * math.pi * math.e)).sum()
        return Evaluated(log_probs, values, entropy.expand_as(values))

    @torch.no_grad()
    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return V [B]."""
        return to_float64(self._heads(torch.from_numpy(observations), 1)[1])

    def predict(
        self, obs: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[Any], Any]:
        """Return the mean action of each row, unclipped, as other libraries' evaluators ask for it; `deterministic` must be True."""
        return greedy(self, obs, state, episode_start, deterministic, obs_ndim=1)

    def _heads(self, observations: Tensor, batch_dims: int) -> tuple[Tensor, Tensor]:
        """Return means [..., A] and values [...]."""
        features = self.trunk(flat_features(self, observations, batch_dims))
        return self.actor(features), self.critic(features)[..., 0]

    def _log_density(self, draws: Tensor, means: Tensor, temperature: float) -> Tensor:
        """Return the log-density [...] of draws [..., A], in nats: sum_a -((x_a - mean_a) / std_a)^2 / 2 - log std_a - log(2 pi) / 2."""
        log_std = self.log_std + math.log(temperature)
        return (-0.5 * ((draws - means) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def _no_masks(action_masks: Any) -> None:
    if action_masks is not None:
        raise ValueError("Real numbers have no action masks; constrain them in the environment, or use a policy for Discrete actions.")
