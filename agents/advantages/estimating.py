"""What an advantage estimator is, what it may need, and the one call that all of them go through.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from ..rollout import FloatArray, Rollout


class Estimate(NamedTuple):
    """What a policy and a critic learn from."""

    advantages: FloatArray  # [T, N] in units of reward
    value_targets: FloatArray  # [T, N] what V(observations) should have been


class Advantage(Protocol):
    """Anything that estimates advantages from a rollout."""

    def __call__(self, rollout: Rollout, /) -> tuple[FloatArray, FloatArray]:
        """Return advantages and value targets, both [T, N]; what they say of steps that are not valid is dropped."""


class Needs(NamedTuple):
    """What an estimator says of itself in attributes of these names, so that a training loop can refuse before it plays."""

    bootstraps: bool = False  # what lies beyond a few steps is the critic's opinion: without a trained critic it is wrong, not only noisy
    needs_whole_episodes: bool = False  # collect(..., episodes_per_row=k)
    needs_groups: bool = False  # rollout.groups, with at least two episodes each
    needs_forks: bool = False  # values and next_values that fresh continuations of each prefix have measured
    needs_baselines: bool = False  # rollout.baselines
    needs_greedy: bool = False  # ... and these shall be what a greedy episode from the same start earns
    needs_target_log_probs: bool = False  # rollout.target_log_probs
    needs_action_values: bool = False  # rollout.action_values


def needs(advantage: Advantage) -> Needs:
    """Return what an estimator declares to need; a callable that declares nothing is taken to need nothing."""
    return Needs(*(bool(getattr(advantage, name, False)) for name in Needs._fields))


def empty_estimate(rollout: Rollout) -> Estimate:
    """Return an estimate to be written into: one fresh block of memory, which the system hands out faster than two."""
    return Estimate(*np.empty((2, *rollout.valid.shape)))


def targets_from(values: FloatArray, found: Estimate) -> Callable[[slice], object]:
    """Return what writes A + V into the value targets of a slice of steps."""
    return lambda part: np.add(found.advantages[part], values[part], out=found.value_targets[part])


def advantages_from(values: FloatArray, found: Estimate) -> Callable[[slice], object]:
    """Return what writes targets - V into the advantages of a slice of steps."""
    return lambda part: np.subtract(found.value_targets[part], values[part], out=found.advantages[part])


def estimate(advantage: Advantage, rollout: Rollout) -> Estimate:
    """Call `advantage` and return a checked estimate [T, N], 0 where the rollout is not valid (its own arrays where all is).

    Raises `TypeError` if it does not give two arrays, `ValueError` if their shape is not [T, N] or a valid step is not finite.
    """
    result = advantage(rollout)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"{_title(advantage)} must return (advantages, value_targets), two arrays [T, N]; it returned {type(result).__name__}.")
    found = Estimate(*(np.asarray(array, dtype=np.float64) for array in result))
    for name, array in zip(found._fields, found, strict=True):
        if array.shape != rollout.valid.shape:
            raise ValueError(f"{_title(advantage)} returned {name} of shape {array.shape}; [T, N] is {rollout.valid.shape} here.")
    if not rollout.valid.all():
        found = Estimate(*(np.where(rollout.valid, array, 0.0) for array in found))
    if not math.isfinite(np.vdot(*found)):  # read once, and nothing written: inf * 0 is NaN; or the products are too large, and all is well
        for name, array in zip(found._fields, found, strict=True):
            _check_finite(advantage, name, array, rollout)
    return found


def _check_finite(advantage: Advantage, name: str, array: FloatArray, rollout: Rollout) -> None:
    if not np.isfinite(array).all():
        t, i = np.argwhere(~np.isfinite(array))[-1]  # recursions run backwards: the last one is where it began
        seen = ", ".join(f"{key} {getattr(rollout, key)[t, i]}" for key in ("rewards", "values", "next_values"))
        raise ValueError(
            f"{_title(advantage)} returned {name} that are {array[t, i]} at step {t}, row {i}, a valid step ({seen}, terminated {rollout.terminated[t, i]})."
        )


def _title(advantage: Advantage) -> str:
    return getattr(advantage, "__name__", repr(advantage))
