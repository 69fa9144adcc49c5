"""The formulas on plain arrays: what an action brought, seen one step, n steps or an episode ahead.

They take arrays [T, N] and never see autoreset. Two facts about ends are all they know: a `terminated` step has no future
(its `next_values` are not read, they may be NaN), and nothing is carried back over a step that is `terminated | truncated`.
The last step of the arrays is a cut like a truncation: what lies beyond it is worth `next_values`.
All return fresh float64 arrays; where there is an `out` they write into it and return that. `then` is called with each slice of steps once it is
done and while it is still in the processor's cache: the place for what else is made of it.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..rollout import BoolArray, FloatArray
from .scan import blocks, close, float64, open_bits, same_shape, scan, workspace

Then = Callable[[slice], object] | None


def lambda_returns(
    rewards: FloatArray,
    next_values: FloatArray,
    terminated: BoolArray,
    truncated: BoolArray,
    gamma: float,
    trace_lambda: float,
    *,
    out: FloatArray | None = None,
    then: Then = None,
    scratch: FloatArray | None = None,
) -> FloatArray:
    """Return what is paid from each step on, by the rewards and, ever more so, by the critic [T, N], in units of reward.

        G_t = r_t + gamma [(1 - lambda) V(s_{t+1}) + lambda G_{t+1}],  and at an end  G_t = r_t + gamma V(s_{t+1}) [not terminated]

    Sutton & Barto 2018, equation 12.2 and section 12.2: the mean of the n-step returns with weights (1 - lambda) lambda^(n-1), whole returns where lambda
    is 1, one reward and the critic where it is 0. Raises `ValueError` if the shapes differ.
    """
    same_shape(rewards, next_values, terminated, truncated)
    rewards, next_values = float64(rewards, next_values)
    seen, carried = gamma * (1.0 - trace_lambda), np.float64(gamma * trace_lambda)
    cut = truncated > terminated  # the one and not the other
    cut[-1:] = False  # carried on as if it were none: what stands behind the last step is what the critic says
    behind = np.where(terminated[-1:] | (carried == 0.0), 0.0, next_values[-1:]).ravel()

    def fill(part: slice, x: FloatArray, carry: FloatArray) -> None:
        goes_on = open_bits(terminated[part], carry)
        close(_discounted(next_values[part], seen, x), goes_on)
        np.bitwise_and(goes_on, carried.view(np.int64), out=goes_on)  # the factor, or 0
        if cut[part].any():
            ends = np.flatnonzero(cut[part])
            beyond = np.take(next_values[part], ends)
            np.put(x, ends, _discounted(beyond, gamma, beyond))
            np.put(carry, ends, 0.0)
        x += rewards[part]

    return scan(fill, behind, _fresh(rewards, out), then, scratch)


def monte_carlo_returns(
    rewards: FloatArray,
    next_values: FloatArray,
    terminated: BoolArray,
    truncated: BoolArray,
    gamma: float,
    *,
    out: FloatArray | None = None,
) -> FloatArray:
    """Return the discounted sum of rewards to the end of each episode [T, N], in units of reward.

        G_t = r_t + gamma G_{t+1},  and at an end  G_t = r_t + gamma V(s_{t+1}) [not terminated]

    Sutton & Barto 2018, equation 3.9. A truncated episode would have gone on, so the sum of what was seen is not its return:
    it is bootstrapped (Pardo et al. 2018, "Time limits in reinforcement learning"), and so is the last step of the arrays.
    Raises `ValueError` if the shapes differ.
    """
    return lambda_returns(rewards, next_values, terminated, truncated, gamma, 1.0, out=out)


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


def lambda_advantages(
    rewards: FloatArray, values: FloatArray, next_values: FloatArray, terminated: BoolArray, truncated: BoolArray, gamma: float, trace_lambda: float
) -> tuple[FloatArray, FloatArray]:
    """Return G_t - V(s_t) and the `lambda_returns` G_t themselves [T, N], in units of reward; raises `ValueError` if the shapes differ."""
    same_shape(rewards, values, next_values, terminated, truncated)
    advantages, returns = np.empty((2, *rewards.shape))  # one fresh block of memory, which the system hands out faster than two

    def less_values(part: slice) -> None:
        np.subtract(returns[part], values[part], out=advantages[part])

    lambda_returns(rewards, next_values, terminated, truncated, gamma, trace_lambda, out=returns, then=less_values, scratch=advantages)
    return advantages, returns


def gae(
    rewards: FloatArray, values: FloatArray, next_values: FloatArray, terminated: BoolArray, truncated: BoolArray, gamma: float, gae_lambda: float
) -> FloatArray:
    """Return generalised advantage estimates [T, N], in units of reward.

        A_t = delta_t + gamma lambda A_{t+1} [not terminated and not truncated]

    Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", equation 16.
    lambda = 0 is the TD error, lambda = 1 is the return minus V. A_t is the lambda-return minus V(s_t), and computed as such, with one pass over
    memory less. Raises `ValueError` if the shapes differ.
    """
    same_shape(rewards, values, next_values, terminated, truncated)
    found = np.empty(rewards.shape)

    def less_values(part: slice) -> None:
        found[part] -= values[part]

    return lambda_returns(rewards, next_values, terminated, truncated, gamma, gae_lambda, out=found, then=less_values)


def errors(rewards: FloatArray, values: FloatArray, next_values: FloatArray, terminated: BoolArray, gamma: float, out: FloatArray) -> None:
    """Write the `td_errors` of a block [K, N] into `out`."""
    _discounted(next_values, gamma, out)
    np.copyto(out, 0.0, where=terminated)  # there V may be anything, NaN and infinity included
    out += rewards
    out -= values


def _discounted(values: FloatArray, factor: float, out: FloatArray) -> FloatArray:
    """Write factor times values into `out` and return it: 0 where the factor is 0, since infinity times 0 would warn."""
    if factor == 0.0:
        out.fill(0.0)
        return out
    return np.multiply(values, factor, out=out)


def _fresh(like: FloatArray, out: FloatArray | None) -> FloatArray:
    return np.empty(like.shape) if out is None else out
