"""Estimators that ask the critic what lies beyond some steps: they work on windows that cut episodes, and inherit the critic's error.

Axis legend: T steps, N environments, K continuations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import choices
from ..rollout import Rollout
from .estimating import Estimate, advantages_from, empty_estimate, targets_from
from .formulas import lambda_advantages, lambda_returns, n_step_returns, td_errors
from .reading import pieces


@dataclass(frozen=True)
class TD:
    """The one-step error of the critic, TD(0): the least variance, and all of the critic's bias."""

    bootstraps: ClassVar[bool] = True

    gamma: float = choices.number(0.99, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are r + gamma V'."""
        p, found = pieces(rollout), empty_estimate(rollout)
        td_errors(p.rewards, p.values, p.next_values, p.terminated, self.gamma, out=found.advantages, then=targets_from(p.values, found))
        return found


@dataclass(frozen=True)
class NStep:
    """The n-step return minus V (n = 5 as in A3C, Mnih et al. 2016)."""

    bootstraps: ClassVar[bool] = True

    gamma: float = choices.number(0.99, 0, 1)
    n: int = choices.count(5)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the n-step returns."""
        p, found = pieces(rollout), empty_estimate(rollout)
        then = advantages_from(p.values, found)
        n_step_returns(p.rewards, p.next_values, p.terminated, p.truncated, self.gamma, self.n, out=found.value_targets, then=then)
        return found


@dataclass(frozen=True)
class GAE:
    """Generalised advantage estimation: `gae_lambda` trades the critic's bias (0) for the returns' variance (1)."""

    bootstraps: ClassVar[bool] = True

    gamma: float = choices.number(0.99, 0, 1)
    gae_lambda: float = choices.number(0.95, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the lambda-returns, A + V."""
        return Estimate(*lambda_advantages(*pieces(rollout), self.gamma, self.gae_lambda))


@dataclass(frozen=True)
class TDLambda:
    """TD(lambda) with a lambda for the actor and another for the critic.

        A_t = G_t(advantage_lambda) - V(s_t),  value target G_t(target_lambda)
        G_t(lambda) = r_t + gamma [(1 - lambda) V(s_{t+1}) + lambda G_{t+1}(lambda)],  the lambda-return

    Sutton & Barto 2018, section 12.1. A lambda-return minus V is the GAE of that lambda, so with two equal lambdas this *is* `GAE` under its older
    name. Two of them make it more: `target_lambda=1` teaches the critic whole returns while the actor's advantages keep less variance
    (decoupled GAE, Yuan et al. 2025, "What's behind PPO's collapse in long-CoT?", arXiv 2503.01491).
    """

    bootstraps: ClassVar[bool] = True

    gamma: float = choices.number(0.99, 0, 1)
    advantage_lambda: float = choices.number(0.95, 0, 1)
    target_lambda: float = choices.number(0.95, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the lambda-returns of `target_lambda`."""
        p = pieces(rollout)
        found = Estimate(*lambda_advantages(*p, self.gamma, self.advantage_lambda))
        if self.target_lambda != self.advantage_lambda:
            lambda_returns(p.rewards, p.next_values, p.terminated, p.truncated, self.gamma, self.target_lambda, out=found.value_targets)
        return found


@dataclass(frozen=True)
class Vine:
    """The one-step error of values that were measured and not learned: VinePPO.

        A_t = r_t + gamma V_mc(s_{t+1}) [not terminated] - V_mc(s_t),  V_mc(s) = mean return of K fresh continuations of s

    Kazemnejad et al. 2024, "VinePPO" (arXiv 2410.01679), section 4. The formula is that of `TD`; what differs is who fills `values` and
    `next_values`: environments forked at each prefix, played on by the present policy and discounted by the same gamma. So there is no bias
    for any K, and V_mc of a step and of the one before it must be the same number, or independent ones. It works on windows and on whole episodes.
    What was measured is the environment's own reward: a KL price in the reward is seen at its own step and not ahead, so pay it in the loss.
    """

    needs_forks: ClassVar[bool] = True

    gamma: float = choices.number(1.0, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are V_mc(s_t), of which a critic may learn."""
        p, found = pieces(rollout), empty_estimate(rollout)
        td_errors(p.rewards, p.values, p.next_values, p.terminated, self.gamma, out=found.advantages)
        np.copyto(found.value_targets, p.values)
        return found
