"""Estimators without a critic's opinion on the future: they play whole episodes and add up what was paid.

Their value targets are the returns from each step on, so that a critic can be trained beside them all the same.

Axis legend: T steps, N environments, E episodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .. import choices
from ..rollout import Rollout
from .baselines import Baseline, baseline_of, check_baseline
from .estimating import Estimate
from .formulas import lambda_advantages, monte_carlo_returns
from .normalising import normalise
from .reading import episodes, pieces, require_whole_episodes


@dataclass(frozen=True)
class MonteCarlo:
    """The return of the rest of the episode (reward-to-go), minus a baseline: no bias from the critic, the most variance.

        A_t = G_t - b_t,  G_t = r_t + gamma r_{t+1} + ... to the end of the episode

    Sutton & Barto 2018, section 13.4 (REINFORCE with baseline); `baseline` is one of `baselines.Baseline`, V by default.
    It needs whole episodes (`collect(..., episodes_per_row=k)`) and raises `ValueError` where one is cut by the rollout's borders.
    An episode that the environment truncated is whole, and bootstrapped at its end with `next_values`: see `monte_carlo_returns`.
    """

    needs_whole_episodes: ClassVar[bool] = True

    gamma: float = choices.number(0.99, 0, 1)
    baseline: Baseline = "value"

    def __post_init__(self) -> None:
        choices.check(self)
        check_baseline(self, self.baseline)

    @property
    def needs_baselines(self) -> bool:
        """Return whether `rollout.baselines` is read."""
        return self.baseline == "given"

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the returns."""
        require_whole_episodes(rollout, "MonteCarlo")
        p = pieces(rollout)
        if self.baseline == "value":
            return Estimate(*lambda_advantages(*p, self.gamma, 1.0))
        returns = monte_carlo_returns(p.rewards, p.next_values, p.terminated, p.truncated, self.gamma)
        seen = returns[rollout.valid] if self.baseline == "batch_mean" else returns
        return Estimate(returns - baseline_of(rollout, self.baseline, p.values, seen), returns)


@dataclass(frozen=True)
class TotalReturn:
    """The return of the whole episode at each of its steps, minus a baseline: REINFORCE as it was first written.

        A_t = R - b,  R = sum_k gamma^k r_k  over all steps of the episode, those before t included

    Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning" (episodic REINFORCE).
    What was paid before an action adds variance and no information: `MonteCarlo` leaves it out. With gamma < 1 this is the gradient
    of the discounted return itself, gamma^t G_t and a constant, where `MonteCarlo` drops the factor gamma^t. Where only the last step
    pays and gamma is 1 the two are the same. `baseline` "value" is V of the episode's first state, "batch_mean" the mean of the episodes.
    It needs whole episodes, as `MonteCarlo` does.
    """

    needs_whole_episodes: ClassVar[bool] = True

    gamma: float = choices.number(1.0, 0, 1)
    baseline: Baseline = "none"

    def __post_init__(self) -> None:
        choices.check(self)
        check_baseline(self, self.baseline)

    @property
    def needs_baselines(self) -> bool:
        """Return whether `rollout.baselines` is read."""
        return self.baseline == "given"

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the returns from each step on."""
        found = episodes(rollout, self.gamma, "TotalReturn")
        expected = found.at_steps(found.at_starts(rollout.values)) if self.baseline == "value" else rollout.values
        advantages = found.at_steps(found.returns)
        advantages -= baseline_of(rollout, self.baseline, expected, found.returns)
        return Estimate(advantages, found.returns_to_go)


@dataclass(frozen=True)
class SelfCritical:
    """The return of the episode minus that of a greedy one from the same prompt: ReMax.

        A_t = R - R_greedy,  at every step of the episode

    Rennie et al. 2017, "Self-critical sequence training for image captioning" (arXiv 1612.00563); Li et al. 2023, "ReMax"
    (arXiv 2310.10505), algorithm 1. It is `TotalReturn(gamma, baseline="given")` by the name people know, and tells the training loop to
    play the greedy roll-outs that fill `rollout.baselines` [T, N], in units of the same discounted return. It needs whole episodes, as `MonteCarlo` does.
    """

    needs_whole_episodes: ClassVar[bool] = True
    needs_baselines: ClassVar[bool] = True
    needs_greedy: ClassVar[bool] = True

    gamma: float = choices.number(1.0, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the returns from each step on."""
        found = episodes(rollout, self.gamma, "SelfCritical")
        advantages = found.at_steps(found.returns)
        advantages -= rollout.require("baselines")
        return Estimate(advantages, found.returns_to_go)


@dataclass(frozen=True)
class ReBN:
    """Return batch normalisation: reward-to-go with mean 0 and standard deviation 1 over all steps of the batch, no unit.

        A_t = (G_t - mean(G)) / (std(G) + 1e-8)

    Liu et al. 2025, "GEM: A gym for agentic LLMs" (arXiv 2510.01051), REINFORCE with ReBN. It is `MonteCarlo(gamma, baseline="none")` under
    `normalise`, by the name people know; the standard deviation divides by the number of steps (theirs by one less).
    It needs whole episodes, as `MonteCarlo` does.
    """

    needs_whole_episodes: ClassVar[bool] = True

    gamma: float = choices.number(0.99, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the returns, not normalised."""
        returns = episodes(rollout, self.gamma, "ReBN").returns_to_go
        return Estimate(normalise(returns, rollout.valid), returns)
