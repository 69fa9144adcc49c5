"""What is subtracted from a return: anything that does not depend on the action leaves the policy gradient's mean alone.

    E[b(s) grad log pi(a | s)] = b(s) grad sum_a pi(a | s) = 0

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning", theorem 1.

Axis legend: T steps, N environments, E episodes.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from ..rollout import FloatArray, Rollout

Baseline = Literal["none", "value", "batch_mean", "given"]


def check_baseline(who: object, baseline: str) -> None:
    """Raise `ValueError` unless `baseline` names one, saying what is allowed."""
    if baseline not in get_args(Baseline):
        raise ValueError(f"{type(who).__name__}: baseline must be one of {', '.join(map(repr, get_args(Baseline)))}, not {baseline!r}.")


def baseline_of(rollout: Rollout, baseline: Baseline, values: FloatArray, returns: FloatArray) -> FloatArray | float:
    """Return what is subtracted from returns, in units of reward: [T, N], or one number for all.

    Args:
        rollout: what was played.
        baseline: "none" is 0; "value" the critic's `values`; "batch_mean" the mean of `returns`, which each return is a part of itself, so that
            the gradient shrinks by a factor 1 - 1/E where one number stands for each episode; "given" is `rollout.baselines`, whoever
            filled them: a greedy roll-out, a running mean.
        values: [T, N] what the critic expected of these returns; of no meaning where not valid.
        returns: [E] or those of all valid steps.

    Raises:
        ValueError: for "given", if no baselines were collected.
    """
    if baseline == "given":
        return rollout.require("baselines")
    if baseline == "value":
        return values
    return float(np.mean(returns)) if baseline == "batch_mean" and len(returns) else 0.0


def running_mean(mean: float | None, returns: FloatArray, decay: float = 0.9) -> float:
    """Return the running mean of returns [E] after a batch, in units of reward; None begins it.

        b <- decay b + (1 - decay) mean(returns)

    The baseline of a batch is the mean *before* it, `rollout._replace(baselines=np.full(rollout.rewards.shape, b))`: a return that is part of its own baseline
    is a bias. "Reinforcement comparison" in Williams 1992. Raises `ValueError` if `decay` is not in [0, 1] or there are no returns.
    """
    if not 0 <= decay <= 1 or len(returns) == 0:
        raise ValueError(f"A running mean takes decay in [0, 1] and at least one return; got decay={decay} and {len(returns)} returns.")
    batch = float(np.mean(returns))
    return batch if mean is None else decay * mean + (1 - decay) * batch
