"""The formulas on plain arrays: what an action brought, seen one step, n steps or an episode ahead.

They take arrays [T, N] and never see autoreset. Two facts about ends are all they know: a `terminated` step has no future
(its `next_values` are not read, they may be NaN), and nothing is carried back over a step that is `terminated | truncated`.
The last step of the arrays is a cut like a truncation: what lies beyond it is worth `next_values`.
All return fresh float64 arrays, or write into `out` and return that. `then` is called with each slice of steps once it is done and while it is
still in the processor's cache: the place for what else is made of it.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..rollout import BoolArray, FloatArray
from .scan import blocks, float64, same_shape, scan, workspace

Then = Callable[[slice], object] | None


def monte_carlo_returns(
    rewards: FloatArray,
    next_values: FloatArray,
    terminated: BoolArray,
    truncated: BoolArray,
    gamma: float,
    *,
    out: FloatArray | None = None,
    then: Then = None,
) -> FloatArray:
    """Return the discounted sum of rewards to the end of each episode [T, N], in units of reward.

        G_t = r_t + gamma G_{t+1},  and at an end  G_t = r_t + gamma V(s_{t+1}) [not terminated]

    Sutton & Barto 2018, equation 3.9. A truncated episode would have gone on, so the sum of what was seen is not its return:
    it is bootstrapped (Pardo et al. 2018, "Time limits in reinforcement learning"), and so is the last step of the arrays.
    Raises `ValueError` if the shapes differ.
    """
    same_shape(rewards, next_values, terminated, truncated)
    rewards, next_values = float64(rewards, next_values)
    ends = terminated | truncated
    ends[-1:] = True
    cut = ends & ~terminated

    def fill(part: slice, x: FloatArray) -> None:
        np.copyto(x, rewards[part])
        where = np.nonzero(cut[part])
        x[where] += gamma * next_values[part][where]

    return scan(fill, ends, gamma, _fresh(rewards, out), then)


def td_errors(
    rewards: FloatArray,
    values: FloatArray,
    next_values: FloatArray,
    terminated: BoolArray,
    gamma: float,
    *,
    out: FloatArray | None = None,
    then: Then = None,
) -> FloatArray:
    """Return the one-step errors of the critic [T, N], in units of reward.

        delta_t = r_t + gamma V(s_{t+1}) [not terminated] - V(s_t)

    Sutton & Barto 2018, equation 6.5. Raises `ValueError` if the shapes differ.
    """
    same_shape(rewards, values, next_values, terminated)
    rewards, values, next_values = float64(rewards, values, next_values)
    out = _fresh(rewards, out)
    for part in blocks(out.shape):
        errors(rewards[part], values[part], next_values[part], terminated[part], gamma, out[part])
        if then is not None:
            then(part)
    return out


def n_step_returns(
    rewards: FloatArray,
    next_values: FloatArray,
    terminated: BoolArray,
    truncated: BoolArray,
    gamma: float,
    n: int,
    *,
    out: FloatArray | None = None,
    then: Then = None,
) -> FloatArray:
    """Return n rewards and then the critic [T, N], in units of reward.

        G_t = r_t + gamma r_{t+1} + ... + gamma^(n-1) r_{t+n-1} + gamma^n V(s_{t+n}),  cut short at an end

    Sutton & Barto 2018, equation 7.1. The sum is the difference of two full returns, so that the time hardly grows with n.
    Raises `ValueError` if the shapes differ or n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    returns = monte_carlo_returns(rewards, next_values, terminated, truncated, gamma, out=out)
    cut, width = terminated | truncated, 1  # [T-width+1, N] an end among t .. t+width-1
    while width < n:
        step = min(width, n - width)
        cut, width = cut[:-step] | cut[step:], width + step
    scratch = workspace(returns.shape)
    for part in blocks(returns.shape):  # first to last: what is read lies ahead of what is written
        later = returns[n:][part]
        beyond = np.subtract(next_values[n - 1 : -1][part], later, out=scratch[: len(later)])
        np.copyto(beyond, 0.0, where=cut[part][: len(later)])  # t+n is another episode
        beyond *= gamma**n
        returns[part][: len(later)] += beyond
        if then is not None:
            then(part)
    return returns


def gae(
    rewards: FloatArray,
    values: FloatArray,
    next_values: FloatArray,
    terminated: BoolArray,
    truncated: BoolArray,
    gamma: float,
    gae_lambda: float,
    *,
    out: FloatArray | None = None,
    then: Then = None,
) -> FloatArray:
    """Return generalised advantage estimates [T, N], in units of reward.

        A_t = delta_t + gamma lambda A_{t+1} [not terminated and not truncated]

    Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", equation 16.
    lambda = 0 is the TD error, lambda = 1 is the return minus V. A_t + V(s_t) is the lambda-return of TD(lambda), the mean of the
    n-step returns with weights (1 - lambda) lambda^(n-1) (Sutton & Barto 2018, equation 12.2). Raises `ValueError` if the shapes differ.
    """
    same_shape(rewards, values, next_values, terminated, truncated)
    rewards, values, next_values = float64(rewards, values, next_values)

    def fill(part: slice, x: FloatArray) -> None:
        errors(rewards[part], values[part], next_values[part], terminated[part], gamma, x)

    return scan(fill, terminated | truncated, gamma * gae_lambda, _fresh(rewards, out), then)


def errors(rewards: FloatArray, values: FloatArray, next_values: FloatArray, terminated: BoolArray, gamma: float, out: FloatArray) -> None:
    """Write the `td_errors` of a block [K, N] into `out`."""
    _future(next_values, terminated, gamma, out)
    out += rewards
    out -= values


def _future(next_values: FloatArray, closed: BoolArray, gamma: float, out: FloatArray) -> None:
    """Write gamma V(s') into `out`, 0 where `closed`: there V may be anything, NaN and infinity included."""
    if gamma == 0.0:  # infinity times 0 would warn
        out.fill(0.0)
        return
    np.multiply(next_values, gamma, out=out)
    np.copyto(out, 0.0, where=closed)


def _fresh(like: FloatArray, out: FloatArray | None) -> FloatArray:
    return np.empty(like.shape) if out is None else out
