"""A recurrent policy, for what cannot be seen all at once.

Axis legend: T steps, N environments, B rows, H hidden size, A actions.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .common import Acted, Evaluated, Memory, acted, evaluated, greedy, log_distribution, to_float64
from .mlp import tanh_network


class GRUPolicy(nn.Module):
    """A tanh layer, a gated recurrent unit (Cho et al. 2014), and a head each for acting and valuing.

    Its state is the hidden vector [N, H] after the last observation, an array; it is forgotten where an episode starts.
    """

    sequential = True
    continuous = False

    def __init__(self, num_features: int, num_actions: int, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = hidden
        self.encoder = nn.Sequential(tanh_network(num_features, (), hidden, output_gain=2**0.5), nn.Tanh())
        self.cell = nn.GRUCell(hidden, hidden)
        self.actor, self.critic = tanh_network(hidden, (), num_actions, output_gain=0.01), tanh_network(hidden, (), 1, output_gain=1.0)

    @classmethod
    def for_env(cls, env: gym.vector.VectorEnv[Any, Any, Any], hidden: int = 64) -> GRUPolicy:
        """Return a policy of the right sizes for a vector environment with a Box and a Discrete space."""
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(observations, gym.spaces.Box) or not isinstance(actions, gym.spaces.Discrete) or actions.start != 0:
            raise TypeError(f"GRUPolicy needs Box observations and Discrete actions that start at 0, got {observations} and {actions}.")
        return cls(int(np.prod(observations.shape)), int(actions.n), hidden)

    def initial_state(self, num_envs: int) -> NDArray[Any]:
        """Return a memory [N, H] of nothing."""
        return torch.zeros(num_envs, self.hidden, dtype=self._weight.dtype).numpy()

    @torch.no_grad()
    def act(
        self,
        observations: NDArray[Any],
        state: NDArray[Any],
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return actions, log-probabilities and values [N], and the memory after these observations."""
        memory = Memory(torch.from_numpy(state), torch.from_numpy(starts)[None])
        remembered = self._remembered(torch.from_numpy(observations)[None], memory)[0]
        return acted(self.actor(remembered), self.critic(remembered)[:, 0], remembered.cpu().numpy(), generator, action_masks, temperature)

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-probabilities, values and entropies [T, B], going through the steps once more from where they began."""
        remembered = self._remembered(observations, memory)
        return evaluated(self.actor(remembered), self.critic(remembered)[..., 0], actions, action_masks, temperature)

    def distributions(self, observations: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None) -> Tensor:
        """Return the log-probabilities [T, B, A] of all actions, going through the steps as `evaluate` does."""
        return log_distribution(self.actor(self._remembered(observations, memory)), action_masks, temperature)

    @torch.no_grad()
    def value(self, observations: NDArray[Any], state: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Return V [B] of observations that follow on what `state` [B, H] remembers; None remembers nothing."""
        before = self.initial_state(len(observations)) if state is None else state
        memory = Memory(torch.from_numpy(before), torch.zeros(1, len(observations), dtype=torch.bool))
        return to_float64(self.critic(self._remembered(torch.from_numpy(observations)[None], memory)[0])[:, 0])

    def predict(
        self, obs: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the most likely action of each row and the memory after it; `deterministic` must be True."""
        return greedy(self, obs, state, episode_start, deterministic, obs_ndim=1)

    @property
    def _weight(self) -> Tensor:
        return self.cell.weight_hh

    def _remembered(self, observations: Tensor, memory: Memory | None) -> Tensor:
        """Return the hidden vector [T, B, H] after each observation [T, B, *]."""
        if memory is None:
            raise ValueError("A recurrent policy must know what it remembered before the first step: pass memory=, from rollout.memory and rollout.starts.")
        seen = self.encoder(observations.to(self._weight.device, self._weight.dtype).flatten(2))
        state, forget = memory.state.to(seen), memory.starts.to(seen.device)
        states: list[Tensor] = []
        for t in range(len(seen)):
            state = self.cell(seen[t], torch.where(forget[t][:, None], 0.0, state))
            states.append(state)
        return torch.stack(states)
