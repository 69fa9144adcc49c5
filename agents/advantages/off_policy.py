"""Estimators for rollouts that an older policy mu played: what it did is weighed by the ratios pi / mu of the present policy pi.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import choices
from ..rollout import BoolArray, FloatArray, Rollout
from .estimating import Estimate
from .formulas import errors
from .reading import pieces, ratios, where_valid
from .scan import accumulate, blocks, float64, same_shape, scan, workspace

SHARE = 4  # of a block, for V-trace: glibc gives memory back after each call where more than twice the largest piece is free, and ratios are many


def v_trace(
    rewards: FloatArray,
    values: FloatArray,
    next_values: FloatArray,
    terminated: BoolArray,
    truncated: BoolArray,
    ratios: FloatArray,
    gamma: float,
    trace_lambda: float,
    rho_bar: float,
    c_bar: float,
) -> tuple[FloatArray, FloatArray]:
    """Return V-trace advantages and value targets v_t [T, N], in units of reward.

        v_t - V(s_t) = rho_t delta_t + gamma c_t (v_{t+1} - V(s_{t+1})),  delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
        A_t = rho_t (r_t + gamma v_{t+1} - V(s_t)),  rho_t = min(rho_bar, ratio_t),  c_t = lambda min(c_bar, ratio_t)

    Espeholt et al. 2018, "IMPALA" (arXiv 1802.01561), equation 1, remarks 1 and 2 and section 4.2. Over an end nothing is carried back:
    v_{t+1} is V(s_{t+1}) where truncated, and 0 where terminated. `ratios` are pi / mu, not clipped. Raises `ValueError` if the shapes differ.
    """
    same_shape(rewards, values, next_values, terminated, truncated, ratios)
    rewards, values, next_values, ratios = float64(rewards, values, next_values, ratios)
    advantages, targets = np.empty((2, *rewards.shape))
    ends, carries, after = terminated | truncated, workspace(rewards.shape, SHARE), np.zeros(rewards.shape[1])
    for part in reversed(blocks(rewards.shape, SHARE)):
        deltas, excess = advantages[part], targets[part]
        errors(rewards[part], values[part], next_values[part], terminated[part], gamma, deltas)
        carry = carries[: len(excess)]
        np.multiply(np.minimum(ratios[part], rho_bar, out=carry), deltas, out=excess)
        np.minimum(ratios[part], c_bar, out=carry)
        carry *= gamma * trace_lambda
        np.copyto(carry, 0.0, where=ends[part])
        first = accumulate(excess, carry, after)
        following = carry  # done with: v_{t+1} - V(s_{t+1}) takes its place
        following[:-1], following[-1] = excess[1:], after
        following *= gamma
        np.copyto(following, 0.0, where=ends[part])
        deltas += following
        deltas *= np.minimum(ratios[part], rho_bar, out=carry)  # once more: a pass costs less than an array
        after = first.copy()
        excess += values[part]
    return advantages, targets


def retrace(
    rewards: FloatArray,
    action_values: FloatArray,
    next_values: FloatArray,
    terminated: BoolArray,
    truncated: BoolArray,
    ratios: FloatArray,
    gamma: float,
    trace_lambda: float,
) -> FloatArray:
    """Return the Retrace targets of the action values [T, N], in units of reward.

        Q_ret(s_t, a_t) = Q(s_t, a_t) + e_t,  e_t = delta_t + gamma c_{t+1} e_{t+1},  c_t = lambda min(1, ratio_t)
        delta_t = r_t + gamma E_pi Q(s_{t+1}, .) - Q(s_t, a_t)

    Munos et al. 2016, "Safe and efficient off-policy reinforcement learning" (arXiv 1606.02647), equation 3 and section 3. `action_values`
    are Q(s_t, a_t) of the actions played, `next_values` E_pi Q(s_{t+1}, .) under the present policy. Raises `ValueError` if the shapes differ.
    """
    same_shape(rewards, action_values, next_values, terminated, truncated, ratios)
    rewards, action_values, next_values, ratios = float64(rewards, action_values, next_values, ratios)
    targets, ends = np.empty(rewards.shape), terminated | truncated

    def fill(part: slice, excess: FloatArray, carry: FloatArray) -> None:
        errors(rewards[part], action_values[part], next_values[part], terminated[part], gamma, excess)
        later = ratios[1:][part]
        carry[len(later) :] = 0.0  # behind the last step
        np.minimum(later, 1.0, out=carry[: len(later)])
        carry *= gamma * trace_lambda
        np.copyto(carry, 0.0, where=ends[part])

    def more_than(part: slice) -> None:
        targets[part] += action_values[part]

    return scan(fill, np.zeros(rewards.shape[1]), targets, more_than)


@dataclass(frozen=True)
class VTrace:
    """V-trace: n-step targets of the present policy's V from an older policy's steps, with the ratios clipped.

    See `v_trace` for the equations. Where the two policies are one and the clips are at least 1, the targets are the lambda-returns of GAE, and with
    `trace_lambda=1` the advantages are GAE(1) too; with a smaller lambda they are not, since A_t = r_t + gamma v_{t+1} - V(s_t) looks one
    step further than delta_t + gamma lambda (...) does. The critic it converges to is that of a policy between mu and pi unless `rho_bar` is large;
    `c_bar` only trades variance for speed. The advantage holds the factor rho_t already: it belongs into the loss -A log pi. A loss that multiplies
    by pi / mu itself, as PPO's does, would count the ratio twice.
    It works on windows, with V of the present policy in `values` and `next_values`; it needs `rollout.target_log_probs`.
    """

    bootstraps: ClassVar[bool] = True
    needs_target_log_probs: ClassVar[bool] = True

    gamma: float = choices.number(0.99, 0, 1)
    trace_lambda: float = choices.number(1.0, 0, 1)
    rho_bar: float = choices.number(1.0, 0)
    c_bar: float = choices.number(1.0, 0)

    def __post_init__(self) -> None:
        choices.check(self)
        if self.c_bar > self.rho_bar:
            raise ValueError(f"VTrace: c_bar must be at most rho_bar (Espeholt et al. 2018, section 4.1), got {self.c_bar} and {self.rho_bar}.")

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are v_t. Raises `ValueError` without `target_log_probs`."""
        return Estimate(*v_trace(*pieces(rollout), ratios(rollout), self.gamma, self.trace_lambda, self.rho_bar, self.c_bar))


@dataclass(frozen=True)
class Retrace:
    """Retrace(lambda): safe targets of the present policy's action values from any other policy's steps.

        A_t = Q_ret(s_t, a_t) - V(s_t),  V = E_pi Q,  and the value targets are Q_ret(s_t, a_t)

    See `retrace` for the equations. The targets are what the critic of *action* values should have said of the actions played; they are no targets of
    V, except where the rollout is on-policy. With Q = V and one policy the advantages are those of GAE(lambda).
    It works on windows, with E_pi Q of the present policy in `values` and `next_values`; it needs `rollout.target_log_probs` and `rollout.action_values`.
    """

    bootstraps: ClassVar[bool] = True
    needs_target_log_probs: ClassVar[bool] = True
    needs_action_values: ClassVar[bool] = True

    gamma: float = choices.number(0.99, 0, 1)
    trace_lambda: float = choices.number(1.0, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; raises `ValueError` without `target_log_probs` or `action_values`."""
        p, action_values = pieces(rollout), where_valid(rollout, rollout.require("action_values"))
        targets = retrace(p.rewards, action_values, p.next_values, p.terminated, p.truncated, ratios(rollout), self.gamma, self.trace_lambda)
        return Estimate(targets - p.values, targets)
