"""Estimators that compare episodes of one prompt with one another: no critic, the group is the baseline.

Each needs whole episodes and `rollout.groups`, with at least two episodes a group, and gives all steps of an episode the same advantage. With R_i the
discounted return of episode i, sum_t gamma^t r_t, and n the size of its group, RLOO is n / (n - 1) times Dr. GRPO, and GRPO is Dr. GRPO
divided by the group's standard deviation. Value targets are the returns from each step on, so that a critic can be trained beside them.

Axis legend: T steps, N environments, E episodes, P groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .. import choices
from ..rollout import FloatArray, IntArray, Rollout
from .estimating import Estimate
from .normalising import compared, group_deviations, group_standardised
from .reading import episodes, groups_of


def leave_one_out(returns: FloatArray, groups: IntArray) -> FloatArray:
    """Return R_i minus the mean of the group's other episodes [E], in units of reward.

        R_i - 1/(n-1) sum_{j != i} R_j  =  n/(n-1) (R_i - mean(R))

    Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!". Every group must have at least two episodes.
    """
    deviations, numbers, sizes = compared(returns, groups)
    return deviations * (sizes / (sizes - 1))[numbers]


@dataclass(frozen=True)
class RLOO:
    """The return minus the mean return of the *other* episodes of the group: a baseline that is independent of the own return.

        A_i = R_i - 1/(n-1) sum_{j != i} R_j

    Ahmadian et al. 2024, "Back to basics" (arXiv 2402.14740), section 3.2; Kool et al. 2019. Its mean is that of `TotalReturn`, without bias.
    """

    needs_groups: ClassVar[bool] = True
    needs_whole_episodes: ClassVar[bool] = True

    gamma: float = choices.number(1.0, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the returns from each step on."""
        found = episodes(rollout, self.gamma, "RLOO")
        return Estimate(found.at_steps(leave_one_out(found.returns, groups_of(rollout, found, "RLOO"))), found.returns_to_go)


@dataclass(frozen=True)
class GRPO:
    """The return, standardised within its group: no unit, and 0 where all of a group fared alike.

        A_i = (R_i - mean(R)) / (std(R) + 1e-8)

    Shao et al. 2024, "DeepSeekMath" (arXiv 2402.03300), section 4.1.2 (outcome supervision). The standard deviation divides by n; torch's `std` divides by
    n - 1, and so do some trainers, which makes all advantages smaller by sqrt((n - 1) / n). Prompts whose returns hardly differ weigh as
    much as others: that is the bias `DrGRPO` removes. How a loss averages over long and short episodes is the loss's matter.
    """

    needs_groups: ClassVar[bool] = True
    needs_whole_episodes: ClassVar[bool] = True

    gamma: float = choices.number(1.0, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the returns from each step on."""
        found = episodes(rollout, self.gamma, "GRPO")
        return Estimate(found.at_steps(group_standardised(found.returns, groups_of(rollout, found, "GRPO"))), found.returns_to_go)


@dataclass(frozen=True)
class DrGRPO:
    """The return minus the mean of its group: GRPO done right.

        A_i = R_i - mean(R)

    Liu et al. 2025, "Understanding R1-Zero-like training" (arXiv 2503.20783), section 3.2. That paper takes out two biases of GRPO: the division by the
    standard deviation, here; and the division by the episode's length, which is in the loss and not in the advantage: sum over steps, divide by a constant.
    """

    needs_groups: ClassVar[bool] = True
    needs_whole_episodes: ClassVar[bool] = True

    gamma: float = choices.number(1.0, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the returns from each step on."""
        found = episodes(rollout, self.gamma, "DrGRPO")
        return Estimate(found.at_steps(group_deviations(found.returns, groups_of(rollout, found, "DrGRPO"))), found.returns_to_go)
