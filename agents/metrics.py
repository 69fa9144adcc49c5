"""What every algorithm logs of an iteration, under the same names.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

import numpy as np

from .advantages import Estimate, explained_variance
from .play import Played
from .rollout import Rollout


def episode_metrics(played: Played) -> dict[str, float]:
    """Return how many episodes ended, and the means of their returns, their lengths and what the environment told of them ("info/...")."""
    means = {name: float(np.nanmean(values)) for name, values in played.ends.items() if not np.isnan(values).all()}
    named = {name if name in ("return", "length") else f"info/{name}": value for name, value in means.items()}
    return {"episodes": float(np.isfinite(played.ends["return"]).sum())} | named


def critic_metrics(rollout: Rollout, judged: Estimate) -> dict[str, float]:
    """Return the root mean squared error of the critic against its targets, and the share of their variance that it explains (where they vary)."""
    valid = rollout.valid
    error = float(np.sqrt(np.mean((rollout.values - judged.value_targets)[valid] ** 2)))
    explained = explained_variance(rollout.values, judged.value_targets, valid)
    return {"value_error": error} | ({"explained_variance": explained} if np.isfinite(explained) else {})


def mean_of(seen: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each number over the optimiser steps, but `ratio_error` of the first.

    Before the first step what acted and what is evaluated are the same weights: anything but 0 there is a bug (or bfloat16).
    """
    return {name: float(np.mean([one[name] for one in seen])) for name in seen[0]} | {"ratio_error": seen[0]["ratio_error"]}
