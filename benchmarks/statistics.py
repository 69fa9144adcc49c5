"""What benchmark tables report over seeds: the interquartile mean, and bootstrap intervals that know what was repeated.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (arXiv 2108.13264). A table of K runs of M tasks
is resampled run by run, anew in each task ("stratified"): tasks are chosen, not sampled, so that only the runs are uncertain.
With one task this is the ordinary bootstrap. Intervals are percentile intervals (Efron & Tibshirani 1993, "An introduction to the
bootstrap", section 13.3); of few runs they are somewhat too narrow, see `Interval`.

Axis legend: K runs (seeds), M tasks, R resamples, * any leading axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Statistic = Callable[[FloatArray], Any]  # [*, K, M] -> [*]: over the last two axes

CHUNK = 1 << 21  # resampled scores at a time: 16 MiB of float64


class Interval(NamedTuple):
    """An estimate and the percentile interval around it, in the unit of the scores.

    Of normal scores of one task, a nominal 95 % interval covered the truth in 73 % of 3000 simulated experiments with 3 runs, 90 % with 10
    (the interquartile mean: 94 %) and 93 % with 50; 10 runs of 6 tasks gave 93 %. Read one of few runs as a lower bound on the uncertainty.
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interquartile_mean(scores: ArrayLike) -> Any:
    """Return the mean of the middle half of all runs and tasks [*, K, M] -> [*], in the unit of the scores.

    A fourth of the values, rounded down, is dropped at each end: `scipy.stats.trim_mean(proportiontocut=0.25)`, as in Agarwal et al. 2021,
    section 4.3. Scores of one task may come as [K]. Raises `ValueError` if there are none, or one is not finite.
    """
    pooled = np.sort(_pooled(scores), axis=-1)
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)


def mean(scores: ArrayLike) -> Any:
    """Return the mean over runs and tasks [*, K, M] -> [*]; raises as `interquartile_mean` does."""
    return _pooled(scores).mean(axis=-1)


def median(scores: ArrayLike) -> Any:
    """Return the median of all runs and tasks [*, K, M] -> [*]; raises as `interquartile_mean` does.

    (The median that Agarwal et al. 2021 argue against is another: that of the tasks' means.)
    """
    return np.median(_pooled(scores), axis=-1)


def stratified_bootstrap(
    scores: ArrayLike, statistic: Statistic, generator: np.random.Generator, num_resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Return `statistic` of the scores and its percentile interval; each task's runs are drawn with replacement, on their own.

    Args:
        scores: [K, M], or [K] for one task.
        statistic: such as `interquartile_mean`; it takes [*, K, M] and reduces the last two axes.
        generator: draws the resamples.
        num_resamples: R; more of them steady the ends of the interval.
        confidence: the share of resamples between its ends, in (0, 1).

    Raises:
        ValueError: if a setting is out of range, there are fewer than 2 runs, or a score is not finite.
    """
    table = _table(scores)
    _check_settings(num_resamples, confidence)
    resampled = np.concatenate([statistic(part) for part in _resamples(table, generator, num_resamples)])
    return _interval(float(statistic(table)), resampled, confidence)


def paired_difference(
    ours: ArrayLike, theirs: ArrayLike, statistic: Statistic, generator: np.random.Generator, num_resamples: int = 10_000, confidence: float = 0.95
) -> Interval:
    """Return the difference of a statistic, ours minus theirs, and its percentile interval; run k of both shares a seed and is drawn together.

    What the seed does to both cancels, so that the interval is narrower than those of the two tables suggest. Where it excludes 0, the
    difference is not the seeds'. Arguments and errors are those of `stratified_bootstrap`, with both tables [K, M] or [K];
    raises `ValueError` also if their shapes differ.
    """
    a, b = _table(ours), _table(theirs)
    if a.shape != b.shape:
        raise ValueError(f"Paired scores have one shape, the same seeds in the same rows; got {a.shape} and {b.shape}.")
    _check_settings(num_resamples, confidence)
    both = np.stack([a, b])
    parts = [statistic(part[0]) - statistic(part[1]) for part in _resamples(both, generator, num_resamples)]
    return _interval(float(statistic(a) - statistic(b)), np.concatenate(parts), confidence)


def _resamples(table: FloatArray, generator: np.random.Generator, num_resamples: int) -> Iterator[FloatArray]:
    """Yield resamples [*, r, K, M] of a table [*, K, M], R in all: the same runs on the leading axes, others in each task."""
    runs, tasks = table.shape[-2:]
    at_a_time = max(1, CHUNK // table.size)
    for begin in range(0, num_resamples, at_a_time):
        chosen = generator.integers(runs, size=(min(at_a_time, num_resamples - begin), runs, tasks))
        yield table[..., chosen, np.arange(tasks)]


def _interval(estimate: float, resampled: FloatArray, confidence: float) -> Interval:
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high))


def _checked(scores: ArrayLike) -> FloatArray:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim < 1 or not table.size:
        raise ValueError(f"Statistics need scores [K] or [K, M]; got shape {table.shape}.")
    if not np.isfinite(table).all():
        first = np.argwhere(~np.isfinite(table))[0].tolist()
        raise ValueError(f"The score at {first} is not finite; give a failed run the score that it deserves, or say that it was left out.")
    return table


def _pooled(scores: ArrayLike) -> FloatArray:
    table = _checked(scores)
    return table if table.ndim == 1 else table.reshape(*table.shape[:-2], -1)


def _table(scores: ArrayLike) -> FloatArray:
    table = _checked(scores)
    if table.ndim > 2:
        raise ValueError(f"Scores are [K, M], runs by tasks, or [K]; got shape {table.shape}.")
    if len(table) < 2:
        raise ValueError("One run says nothing about the next one: an interval needs at least 2 runs.")
    return table[:, None] if table.ndim == 1 else table


def _check_settings(num_resamples: int, confidence: float) -> None:
    if num_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"num_resamples is at least 1 and confidence in (0, 1), as 0.95; got {num_resamples} and {confidence}.")
