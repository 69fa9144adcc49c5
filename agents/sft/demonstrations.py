"""Demonstrations: what was seen and what was done then, from files or from play, and held out by whole episodes.

    position = begin(env, expert := Scripted(lambda seen: (seen[:, 2] > 0).astype(np.int64)), seed=0)
    played = collect(env, expert, position, generator, episodes_per_row=1)
    shown, heldout = split_episodes(demonstrations_of(played.rollout), 0.1, generator)

Axis legend: T steps, N environments, M demonstrated steps, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..policies import Acted, Evaluated, Memory
from ..rollout import Rollout


class Demonstrations(NamedTuple):
    """What was seen, and what was done then."""

    observations: NDArray[Any]  # [M, *]
    actions: NDArray[Any]  # [M] choices, or real numbers [M, *]
    action_masks: NDArray[np.bool_] | None = None  # [M, A] true where an action was allowed
    episode_ids: NDArray[np.int64] | None = None  # [M] equal within an episode

    def take(self, steps: Any) -> Demonstrations:
        """Return the steps that `steps` (a slice, indices or bool [M]) picks."""
        return Demonstrations._make(None if field is None else field[steps] for field in self)


def demonstrations_of(rollout: Rollout) -> Demonstrations:
    """Return the valid steps of a rollout, row after row and in time, with what was allowed and which episode each belongs to."""
    valid = rollout.valid.T
    fields = (rollout.observations, rollout.actions, rollout.action_masks, rollout.episode_ids)
    return Demonstrations._make(None if field is None else field.swapaxes(0, 1)[valid] for field in fields)


def split_episodes(demonstrations: Demonstrations, share: float, generator: np.random.Generator) -> tuple[Demonstrations, Demonstrations]:
    """Return demonstrations to learn from, and those of about a `share` of the episodes, drawn by `generator`, to hold out.

    Steps of one episode resemble one another: were they on both sides, the held-out figures would be too good.
    Raises `ValueError` if it is not known which episode a step belongs to, or there are fewer than two.
    """
    if demonstrations.episode_ids is None:
        raise ValueError("These demonstrations do not say which steps make an episode: give episode_ids [M] (`demonstrations_of` a rollout has them).")
    episodes = np.unique(demonstrations.episode_ids)
    if len(episodes) < 2 or not 0 < share < 1:
        raise ValueError(f"{len(episodes)} episodes cannot be split with a share of {share}: give two or more episodes, and a share between 0 and 1.")
    num = min(max(1, round(share * len(episodes))), len(episodes) - 1)
    held = np.isin(demonstrations.episode_ids, generator.choice(episodes, num, replace=False))
    return demonstrations.take(~held), demonstrations.take(held)


@dataclass(frozen=True)
class Scripted:
    """A demonstrator: a function from observations [N, *] to actions [N, *], in the clothes of a policy, so that it can be collected.

    It has no weights, its values are 0, and its actions are certain: at no temperature does it draw.
    """

    function: Callable[[NDArray[Any]], NDArray[Any]]
    sequential = False

    def initial_state(self, num_envs: int) -> None:
        """Return nothing: all that it knows it sees."""

    def act(
        self,
        observations: NDArray[Any],
        state: Any,
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return what the function says, with log-probabilities and values of 0 [N]."""
        return Acted(self.function(observations), np.zeros(len(observations)), np.zeros(len(observations)), None)

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Raise `TypeError`: a function is no distribution."""
        raise TypeError("A scripted policy is no distribution and cannot be trained: collect its demonstrations and clone them.")

    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return zeros [B]."""
        return np.zeros(len(observations))

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Return nothing."""
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing."""
