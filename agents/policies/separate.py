"""Two policies as one: the first acts, the second values, and they share no weight.

Axis legend: T steps, N environments, B rows, C tokens of a chunk, H numbers that a recurrent policy remembers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .common import Acted, Evaluated, Memory


class States(NamedTuple):
    """What the two remember, each in its own way."""

    actor: Any
    critic: Any


class SeparateCritic(nn.Module):
    """Actions, log-probabilities and entropies of `actor`, values of `critic`: each has its own weights and its own state of play.

    Any two policies for the same observations and actions fit together; the critic's own choices are thrown away, and what is not for
    its eyes (the mask, the temperature) does not reach it. It reads prefixes only: beside an actor with chunks it is built without.
    What recurrent policies remember must stay an array: beside one of those a language model acts or values without its cache.
    """

    actor: Any
    critic: Any

    def __init__(self, actor: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        if wrong := [type(member).__name__ for member in (actor, critic) if not isinstance(member, nn.Module)]:
            raise TypeError(f"{wrong[0]} is no torch module, so its weights would not be trained: make it one.")
        if getattr(critic, "chunk", 1) != 1:
            raise ValueError(f"A critic values prefixes, it needs no chunks of tokens: build it with chunk=1, not {critic.chunk}.")
        self.actor, self.critic = actor, critic
        self.sequential = bool(actor.sequential or critic.sequential)
        # What `check_fit` looks at.
        self.vocab_size, self.chunk, self.continuous = getattr(actor, "vocab_size", None), getattr(actor, "chunk", 1), getattr(actor, "continuous", None)
        # A language model reads whole texts faster than token by token: what it says of a rollout's states is then asked for when it is complete.
        self.values_later = hasattr(critic, "evaluate_values")
        remembered = self.actor.initial_state(1)
        self._width = remembered.shape[-1] if isinstance(remembered, np.ndarray) else 0  # of a state [N, H], the actor's part

    def initial_state(self, num_envs: int) -> Any:
        """Return what both remember before their first step: one array [N, H] if one of them is recurrent."""
        return _joined(self.actor.initial_state(num_envs), self.critic.initial_state(num_envs))

    def act(
        self,
        observations: NDArray[Any],
        state: Any,
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return the actor's actions and log-probabilities and the critic's values [N]: NaN where they are found later, at once."""
        states = self._apart(state)
        step = self.actor.act(observations, states.actor, starts, generator, action_masks, temperature)
        if self.values_later:
            return step._replace(values=np.full(len(observations), np.nan), state=_joined(step.state, None))
        judged = self.critic.act(observations, states.critic, starts, np.random.default_rng(0))  # `act`, and not `value`, goes on from its own state
        return Acted(step.actions, step.log_probs, judged.values, _joined(step.state, judged.state), step.action_masks)

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return the actor's log-probabilities and entropies and the critic's values [T, B]."""
        remembered = self._memories(memory)
        ours = self.actor.evaluate(observations, actions, action_masks, temperature, remembered[0])
        if self.values_later:
            return Evaluated(ours.log_probs, self.critic.evaluate_values(observations), ours.entropy)
        judged = self.critic.evaluate(observations, actions[..., 0] if self.chunk > 1 else actions, memory=remembered[1])
        return Evaluated(ours.log_probs, judged.values, ours.entropy)

    def evaluate_values(self, observations: Tensor) -> Tensor:
        """Return the critic's values [T, B]; only where `values_later`."""
        values: Tensor = self.critic.evaluate_values(observations)
        return values

    def distributions(self, observations: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None) -> Tensor:
        """Return the log-probabilities [T, B, A] of all actions of the actor."""
        log_probs: Tensor = self.actor.distributions(observations, action_masks, temperature, self._memories(memory)[0])
        return log_probs

    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return the critic's V [B]."""
        values: NDArray[np.float64] = self.critic.value(observations, self._apart(state).critic)
        return values

    def predict(
        self, obs: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[Any], Any]:
        """Return the actor's most likely action of each row, as other libraries' evaluators ask for it; `deterministic` must be True."""
        actions, after = self.actor.predict(obs, self._apart(state).actor, episode_start, deterministic)
        return actions, _joined(after, None)

    def _memories(self, memory: Memory | None) -> list[Memory | None]:
        """Return what the actor remembered and what the critic did; None where that is nothing."""
        states = self._apart(None if memory is None else memory.state)
        return [None if memory is None or state is None else Memory(state, memory.starts) for state in states]

    def _apart(self, state: Any) -> States:
        """Return both parts of a state; None where one of two recurrent policies' rows [.., H] are nobody's."""
        if isinstance(state, np.ndarray | torch.Tensor):
            actor, critic = state[..., : self._width], state[..., self._width :]
            return States(actor if actor.shape[-1] else None, critic if critic.shape[-1] else None)
        return States(None, None) if state is None else state


def _joined(actor: Any, critic: Any) -> Any:
    """Return one state of two: arrays [N, H] side by side if there are any, for play to record and to index by row."""
    arrays = [state for state in (actor, critic) if isinstance(state, np.ndarray)]
    return np.concatenate(arrays, axis=-1) if arrays else States(actor, critic)
