"""From a rollout to what the formulas take: gaps closed, cut episodes refused, episodes and their groups numbered.

Axis legend: T steps, N environments, E episodes.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..rollout import BoolArray, FloatArray, IntArray, Rollout
from .formulas import monte_carlo_returns


class Pieces(NamedTuple):
    """What the formulas take, all [T, N]."""

    rewards: FloatArray
    values: FloatArray
    next_values: FloatArray
    terminated: BoolArray
    truncated: BoolArray


class Episodes(NamedTuple):
    """Whole episodes, one after the other: row after row and, within a row, in time."""

    returns: FloatArray  # [E] sum_t gamma^t r_t from the episode's first step, in units of reward
    returns_to_go: FloatArray  # [T, N] sum_{k >= t} gamma^(k-t) r_k, from each step on
    numbers: IntArray  # [T, N] the number of the episode that a step belongs to; of no meaning where not valid
    firsts: IntArray  # [E] where each begins in a flat array [T * N]

    def at_starts(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return what an array [T, N] holds at the first step of each episode, [E]."""
        return np.take(array, self.firsts)

    def at_steps(self, array: FloatArray) -> FloatArray:
        """Return what an array [E] holds of each episode at each of its steps, [T, N]; of no meaning where not valid."""
        return array[self.numbers] if len(array) else np.zeros(self.numbers.shape)


def pieces(rollout: Rollout) -> Pieces:
    """Return a rollout in which each invalid step is an episode of its own, worth nothing."""
    truncated = _lasts(rollout)  # never bootstrap across a gap, or from another episode's rewards
    truncated |= rollout.truncated
    if rollout.valid.all():
        return Pieces(rollout.rewards, rollout.values, rollout.next_values, rollout.terminated, truncated)
    rewards, values = where_valid(rollout, rollout.rewards), where_valid(rollout, rollout.values)
    return Pieces(rewards, values, rollout.next_values, rollout.terminated | ~rollout.valid, truncated)


def where_valid(rollout: Rollout, array: FloatArray) -> FloatArray:
    """Return an array [T, N] with 0 where the rollout is not valid: itself where all is."""
    return array if rollout.valid.all() else np.where(rollout.valid, array, 0.0)


def ratios(rollout: Rollout) -> FloatArray:
    """Return pi(a | s) / mu(a | s) [T, N] of the present policy pi over the one that played, 1 where not valid.

    Raises `ValueError` if `target_log_probs` was not collected: nobody guesses that a rollout is on-policy.
    """
    target = rollout.require("target_log_probs")
    found: FloatArray = np.subtract(where_valid(rollout, target), where_valid(rollout, rollout.log_probs), dtype=np.float64)
    with np.errstate(over="ignore"):  # an infinite ratio is clipped by who asks
        return np.exp(found, out=found)


def episodes(rollout: Rollout, gamma: float, who: str) -> Episodes:
    """Return the episodes of a rollout that holds whole ones only; raises `ValueError`, naming the estimator `who`, where one is cut.

    An episode that the environment truncated is whole, and bootstrapped at its end with `next_values`: see `monte_carlo_returns`.
    """
    require_whole_episodes(rollout, who)
    p = pieces(rollout)
    returns = monte_carlo_returns(p.rewards, p.next_values, p.terminated, p.truncated, gamma)
    begins = rollout.starts & rollout.valid
    numbers = begins.astype(np.int64)
    for before, row in itertools.pairwise(numbers):  # a cumulative sum over time, many times faster than cumsum(axis=0)
        row += before
    numbers += numbers[-1:].cumsum() - numbers[-1:] - 1  # the episodes of the rows before
    np.maximum(numbers, 0, out=numbers)
    by_time = np.flatnonzero(begins)
    firsts = np.empty_like(by_time)
    firsts[np.take(numbers, by_time)] = by_time
    return Episodes(np.take(returns, firsts), returns, numbers, firsts)


def groups_of(rollout: Rollout, found: Episodes, who: str) -> IntArray:
    """Return each episode's group, numbered from 0, int64 [E].

    Raises `ValueError` if no groups were collected, an episode belongs to several, or a group has fewer than two episodes.
    """
    if rollout.groups is None:
        raise ValueError(
            f"{who} compares episodes that share a prompt, and this rollout has no groups (rollout.groups is None). "
            "Play each prompt several times and say so with rollout._replace(groups=...), or choose an estimator without groups, such as monte_carlo."
        )
    own = found.at_starts(rollout.groups)
    if (rollout.valid[1:] & ~rollout.starts[1:] & (rollout.groups[1:] != rollout.groups[:-1])).any():
        raise ValueError(f"{who}: rollout.groups changes within an episode; it must be the same at all of its steps.")
    names, numbers, sizes = np.unique(own, return_inverse=True, return_counts=True)
    if (sizes < 2).any():
        lonely = names[sizes < 2]
        raise ValueError(
            f"{who} needs at least 2 episodes a group to compare; {len(lonely)} of {len(names)} groups hold one (group {lonely[0]}, for one). "
            "Play each prompt more often."
        )
    return np.asarray(numbers, dtype=np.int64)


def require_whole_episodes(rollout: Rollout, who: str) -> None:
    """Raise `ValueError` unless every run of valid steps begins at a start and finishes with an end, and holds nothing else of the kind."""
    lasts, ends = _lasts(rollout), rollout.ends
    firsts = np.ones_like(lasts)
    firsts[1:] = lasts[:-1] | ends[:-1] | ~rollout.valid[:-1]
    cut = rollout.valid & ((firsts & ~rollout.starts) | (lasts & ~ends))
    if cut.any():
        step, row = np.argwhere(cut)[0]
        raise ValueError(
            f"{who} needs whole episodes; {int(cut.any(axis=0).sum())} rows hold a cut one (first at step {step}, row {row}). "
            "Collect with collect(..., episodes_per_row=k), or choose an estimator that bootstraps, such as gae."
        )


def _lasts(rollout: Rollout) -> BoolArray:
    """Return where a row's run of steps breaks off [T, N]: no next step, an invalid one, or one that starts another episode."""
    lasts = np.empty_like(rollout.valid)
    np.greater_equal(rollout.starts[1:], rollout.valid[1:], out=lasts[:-1])  # a start, or not valid, in one pass
    lasts[-1:] = True
    return lasts
