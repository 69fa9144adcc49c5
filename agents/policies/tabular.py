"""A table for each state: the policy whose exact gradient an oracle knows.

Axis legend: T steps, B rows, S states, A actions; [...] is [T, B] or [B].
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .common import Acted, Evaluated, Memory, acted, evaluated, greedy, log_distribution, to_float64


class TabularPolicy(nn.Module):
    """Softmax over logits [S, A], and values [S], both 0 at first: a uniform policy that expects nothing."""

    sequential = False
    continuous = False

    def __init__(self, num_states: int, num_actions: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_states, num_actions, dtype=torch.float64))
        self.values = nn.Parameter(torch.zeros(num_states, dtype=torch.float64))

    @classmethod
    def for_env(cls, env: gym.vector.VectorEnv[Any, Any, Any]) -> TabularPolicy:
        """Return a policy of the right sizes for a vector environment with Discrete observations and actions."""
        states, actions = env.single_observation_space, env.single_action_space
        if not (isinstance(states, gym.spaces.Discrete) and isinstance(actions, gym.spaces.Discrete)) or states.start != 0 or actions.start != 0:
            raise TypeError(f"TabularPolicy needs Discrete observations and actions that start at 0, got {states} and {actions}.")
        return cls(int(states.n), int(actions.n))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [..., A] and values [...] of states [...]."""
        states = observations.to(self.logits.device).long()
        return self.logits[states], self.values[states]

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
        return greedy(self, obs, state, episode_start, deterministic, obs_ndim=0)
