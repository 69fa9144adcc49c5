"""What forks of an environment tell: how a greedy episode from here ends, and what a state is worth, measured instead of learned.

Axis legend: N rows, K continuations of each.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from .advantages import MonteCarlo
from .play import AnyVectorEnv, Position, collect
from .policies import Policy
from .rollout import BoolArray, FloatArray, IntArray


@runtime_checkable
class Forkable(Protocol):
    """A vector environment that can be copied in mid-episode; textgym's can."""

    def fork(self, rows: Any, n: int, seed: int | None = None) -> AnyVectorEnv:
        """Return a new environment in which copy j of rows[i] is row i * n + j; an int seeds the copies afresh."""


@runtime_checkable
class Remembering(Protocol):
    """A policy whose state of play can be copied, so that forks need not read again what was read; `CausalLMPolicy` is one."""

    def fork_state(self, state: Any, rows: IntArray) -> Any:
        """Return a state for copies of `rows` [B] of the rows that `state` is of."""


def forkable(env: AnyVectorEnv, policy: Policy, wanted_by: str) -> Forkable:
    """Return the environment as one that can be forked; raises `TypeError` that says who needs that, and what to do."""
    if not isinstance(env, Forkable):
        raise TypeError(
            f"{wanted_by} plays on from copies of the environment, and {env} cannot be forked. Use one of textgym's (gym.make_vec), or an estimator "
            "that needs no forks, such as gae or monte_carlo."
        )
    if isinstance(policy.initial_state(1), np.ndarray):
        raise TypeError(
            f"{wanted_by} plays on from the present observations, which is not all that {type(policy).__name__} remembers; use a policy without memory."
        )
    return env


def continued(
    env: Forkable,
    policy: Policy,
    position: Position,
    rows: BoolArray,
    generator: np.random.Generator,
    *,
    num: int,
    gamma: float,
    temperature: float = 1.0,
    fresh: bool = True,
) -> FloatArray:
    """Return the mean discounted return [N] of `num` continuations of each of `rows` [N] bool, played to the end by `policy`; 0 elsewhere.

    Args:
        env: where the rows stand in mid-episode.
        policy: who plays on.
        position: observations and masks of the present states.
        rows: which rows are continued; their episodes must not be over.
        generator: samples actions, and seeds the chances of the copies.
        num: K, continuations of each row.
        gamma: discount.
        temperature: of sampling; 0 is greedy.
        fresh: give each copy chances of its own; False copies the row's (what comes is what would have come).
    """
    found = np.zeros(len(rows))
    index = np.flatnonzero(rows)
    if not len(index):
        return found
    copies = env.fork(index, num, int(generator.integers(2**31)) if fresh else None)
    each = np.repeat(index, num)
    masks = None if position.action_masks is None else position.action_masks[each]
    ones, zeros = np.ones(len(each), np.bool_), np.zeros(len(each), np.bool_)
    state = policy.fork_state(position.policy_state, each) if isinstance(policy, Remembering) else policy.initial_state(len(each))
    begun = Position(position.observations[each], ones, zeros, np.zeros(len(each)), np.zeros(len(each), np.int64), masks, state)
    rollout = collect(copies, policy, begun, generator, episodes_per_row=1, temperature=temperature).rollout
    found[index] = MonteCarlo(gamma, baseline="none")(rollout).value_targets[0].reshape(len(index), num).mean(axis=1)
    return found
