"""Advantages brought to one scale, which is a choice of its own beside the estimator; and how good the critic was.

Axis legend: T steps, N environments, M numbers, P groups.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

from ..rollout import BoolArray, FloatArray, IntArray

Normalisation = Literal["batch", "minibatch", "group", "none"]


def normalise(advantages: FloatArray, valid: BoolArray, how: Normalisation = "batch", groups: IntArray | None = None, eps: float = 1e-8) -> FloatArray:
    """Return advantages [T, N] with mean 0 and standard deviation 1 over the valid steps, no unit, and 0 elsewhere.

        (A - mean(A)) / (std(A) + eps)

    Args:
        advantages: [T, N], in units of reward.
        valid: [T, N] the steps that count.
        how: over which steps: "batch" over all of `valid`, "group" over those of each group, "none" over none: advantages as they are.
            "minibatch" leaves them as they are too: the training loop then calls `normalise(batch.advantages, batch.valid)` on each minibatch
            (Andrychowicz et al. 2021, "What matters for on-policy deep actor-critic methods?", choice C67, finds little difference).
        groups: [T, N] equal for the steps that are compared; for "group" only.
        eps: in units of the advantages: where they hardly vary they are not blown up.

    Raises:
        ValueError: if `how` is unknown, or it is "group" and there are no groups.
    """
    if how not in get_args(Normalisation):
        raise ValueError(f"Advantages are normalised by {', '.join(map(repr, get_args(Normalisation)))}, not {how!r}.")
    if how == "group" and groups is None:
        raise ValueError('Normalising by "group" needs groups [T, N], and this rollout has none (rollout.groups is None); normalise by "batch".')
    if how in ("none", "minibatch") or not valid.any():
        return np.where(valid, advantages, 0.0)
    seen = advantages[valid]
    if how == "group" and groups is not None:
        scaled = np.zeros(advantages.shape)
        scaled[valid] = group_standardised(seen, groups[valid], eps)
        return scaled
    scaled = advantages - seen.mean()
    scaled /= seen.std() + eps
    np.copyto(scaled, 0.0, where=~valid)
    return scaled


class Groups(NamedTuple):
    """How numbers compare within their groups: P of them, numbered from 0."""

    deviations: FloatArray  # [M] x_i - mean of its group
    numbers: IntArray  # [M] of which group x_i is
    sizes: IntArray  # [P]


def compared(x: FloatArray, groups: IntArray) -> Groups:
    """Return x_i - mean of its group [M], in the unit of `x` [M], exactly 0 where a group's numbers are equal; and what the groups are.

    They are measured from one of the group first: the mean of equal numbers need not be that number in floating point.
    """
    _, one, numbers, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    offsets = x - x[one][numbers]
    return Groups(offsets - (np.bincount(numbers, offsets) / sizes)[numbers], numbers, sizes)


def group_deviations(x: FloatArray, groups: IntArray) -> FloatArray:
    """Return x_i - mean of its group [M], in the unit of `x` [M], exactly 0 where a group's numbers are equal."""
    return compared(x, groups).deviations


def group_standardised(x: FloatArray, groups: IntArray, eps: float = 1e-8) -> FloatArray:
    """Return (x_i - mean) / (std + eps) within each group [M], no unit, 0 where a group's numbers are equal."""
    deviations, numbers, sizes = compared(x, groups)
    return deviations / (np.sqrt(np.bincount(numbers, deviations**2) / sizes) + eps)[numbers]


def explained_variance(values: FloatArray, targets: FloatArray, valid: BoolArray) -> float:
    """Return 1 - Var[targets - values] / Var[targets] over the valid steps of [T, N]; NaN if the targets do not vary.

    1 is a perfect critic, 0 is no better than a constant, below 0 is worse.
    """
    seen = targets[valid]
    variance = float(seen.var()) if seen.size else 0.0
    return 1.0 - float((seen - values[valid]).var()) / variance if variance > 0 else float("nan")
