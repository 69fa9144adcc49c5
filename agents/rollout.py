"""What was played, as plain arrays, time first; and how it is cut into minibatches.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Rollout(NamedTuple):
    """T steps of N environments. Nobody writes into it: `rollout._replace(rewards=...)` is the way to change it."""

    observations: NDArray[Any]  # [T, N, *] what the policy saw
    actions: NDArray[Any]  # [T, N, *]
    log_probs: FloatArray  # [T, N] of the distribution sampled from, mask and temperature included
    values: FloatArray  # [T, N] V(observations)
    next_values: FloatArray  # [T, N] V of the state reached, before any reset; not used where `terminated`
    rewards: FloatArray  # [T, N]
    terminated: BoolArray  # [T, N] the task ended: no future to bootstrap from
    truncated: BoolArray  # [T, N] somebody stopped looking: the future is worth `next_values`
    starts: BoolArray  # [T, N] the observation is the first of its episode
    valid: BoolArray  # [T, N] false where an environment only reset, or a row had finished its quota
    episode_ids: IntArray  # [T, N] equal within an episode, distinct between episodes of this rollout
    groups: IntArray | None = None  # [T, N] equal for episodes that share a prompt on purpose
    ref_log_probs: FloatArray | None = None  # [T, N] the same actions under the reference policy
    baselines: FloatArray | None = None  # [T, N]
    action_masks: BoolArray | None = None  # [T, N, A] true where an action was allowed
    memory: NDArray[Any] | None = None  # [1, N, H] what a recurrent policy remembered before step 0
    target_log_probs: FloatArray | None = None  # [T, N] the same actions under the present policy, where an older one played
    action_values: FloatArray | None = None  # [T, N] Q(observations, actions) of the present policy
    own_masks: BoolArray | None = None  # [T, N, A] what the policy allowed itself of that, where it played under a mask of its own

    def require(self, field: str) -> NDArray[Any]:
        """Return the named field; raises `ValueError` that names it if it was not collected."""
        value: NDArray[Any] | None = getattr(self, field)
        if value is None:
            raise ValueError(f"This needs rollout.{field}, which was not collected (it is None).")
        return value

    @property
    def ends(self) -> BoolArray:
        """Return where an episode stops, for whatever reason, bool [T, N]."""
        return self.terminated | self.truncated


class Batch(NamedTuple):
    """A part of a rollout that one optimiser step sees: T steps of B rows, or 1 step of B where rows are not sequences."""

    observations: NDArray[Any]  # [T, B, *]
    actions: NDArray[Any]  # [T, B, *]
    log_probs: FloatArray  # [T, B] before the first optimiser step: where the policy that learns did not play alone, its own (`target_log_probs`)
    values: FloatArray  # [T, B]
    advantages: FloatArray  # [T, B]
    value_targets: FloatArray  # [T, B]
    valid: BoolArray  # [T, B]
    starts: BoolArray  # [T, B]
    action_masks: BoolArray | None  # [T, B, A]
    memory: NDArray[Any] | None  # [1, B, H]
    ref_log_probs: FloatArray | None  # [T, B]


def minibatches(
    rollout: Rollout, advantages: FloatArray, value_targets: FloatArray, num: int, generator: np.random.Generator, *, by_column: bool
) -> Iterator[Batch]:
    """Yield `num` disjoint batches that cover the rollout once, in random order.

    By column, each environment's steps stay together (policies that read sequences); otherwise single valid steps are shuffled.
    """
    whole = Batch(
        observations=rollout.observations,
        actions=rollout.actions,
        log_probs=rollout.log_probs if rollout.target_log_probs is None else rollout.target_log_probs,
        values=rollout.values,
        advantages=advantages,
        value_targets=value_targets,
        valid=rollout.valid,
        starts=rollout.starts,
        action_masks=rollout.action_masks if rollout.own_masks is None else rollout.own_masks,
        memory=rollout.memory,
        ref_log_probs=rollout.ref_log_probs,
    )
    if by_column:
        pool = generator.permutation(rollout.valid.shape[1])
    else:
        pool = generator.permutation(np.flatnonzero(rollout.valid))
        whole = Batch._make(None if field is None else field.reshape(1, -1, *field.shape[2:]) for field in whole)
    if len(pool) < num:
        raise ValueError(f"{num} minibatches cannot be cut from {len(pool)} {'columns' if by_column else 'valid steps'}; use fewer.")
    for part in np.array_split(pool, num):
        yield Batch._make(None if field is None else field[:, part] for field in whole)
