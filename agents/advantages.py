"""Advantage estimators: formulas on plain arrays, and the frozen choices that apply them to a rollout.

The formulas take arrays [T, N] and never see autoreset. Two facts about ends are all they know: a `terminated` step has no future
(its `next_values` are not read, they may be NaN), and nothing is carried back over a step that is `terminated | truncated`.
The last step of the arrays is a cut like a truncation: what lies beyond it is worth `next_values`.

An advantage is any callable `rollout -> (advantages, value_targets)`; `estimate` calls it and checks what it gives back.

Large arrays are made sparingly and then written in place: where T x N is large, the time goes into fresh memory and not into arithmetic.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from . import choices
from .rollout import BoolArray, FloatArray, Rollout


class Estimate(NamedTuple):
    """What a policy and a critic learn from."""

    advantages: FloatArray  # [T, N] in units of reward
    value_targets: FloatArray  # [T, N] what V(observations) should have been


class Advantage(Protocol):
    """Anything that estimates advantages from a rollout."""

    def __call__(self, rollout: Rollout, /) -> tuple[FloatArray, FloatArray]:
        """Return advantages and value targets, both [T, N]; what they say of steps that are not valid is dropped."""


def monte_carlo_returns(rewards: FloatArray, next_values: FloatArray, terminated: BoolArray, truncated: BoolArray, gamma: float) -> FloatArray:
    """Return the discounted sum of rewards to the end of each episode [T, N], in units of reward.

        G_t = r_t + gamma G_{t+1},  and at an end  G_t = r_t + gamma V(s_{t+1}) [not terminated]

    Sutton & Barto 2018, equation 3.9. A truncated episode would have gone on, so the sum of what was seen is not its return:
    it is bootstrapped (Pardo et al. 2018, "Time limits in reinforcement learning"), and so is the last step of the arrays.
    Raises `ValueError` if the shapes differ.
    """
    _same_shape(rewards, next_values, terminated, truncated)
    ends = terminated | truncated
    ends[-1:] = True
    returns = np.where(ends & ~terminated, np.asarray(next_values, dtype=np.float64), 0.0)
    returns *= gamma
    returns += rewards
    return _accumulate(returns, np.multiply(~ends, gamma))


def td_errors(rewards: FloatArray, values: FloatArray, next_values: FloatArray, terminated: BoolArray, gamma: float) -> FloatArray:
    """Return the one-step errors of the critic [T, N], in units of reward.

        delta_t = r_t + gamma V(s_{t+1}) [not terminated] - V(s_t)

    Sutton & Barto 2018, equation 6.5. Raises `ValueError` if the shapes differ.
    """
    _same_shape(rewards, values, next_values, terminated)
    deltas = np.where(terminated, 0.0, np.asarray(next_values, dtype=np.float64))
    deltas *= gamma
    deltas += rewards
    deltas -= values
    return deltas


def n_step_returns(rewards: FloatArray, next_values: FloatArray, terminated: BoolArray, truncated: BoolArray, gamma: float, n: int) -> FloatArray:
    """Return n rewards and then the critic [T, N], in units of reward.

        G_t = r_t + gamma r_{t+1} + ... + gamma^(n-1) r_{t+n-1} + gamma^n V(s_{t+n}),  cut short at an end

    Sutton & Barto 2018, equation 7.1. The sum is the difference of two full returns, so that the time hardly grows with n.
    Raises `ValueError` if the shapes differ or n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}.")
    returns = monte_carlo_returns(rewards, next_values, terminated, truncated, gamma)
    cut, width = terminated | truncated, 1  # [T-width+1, N] an end among t .. t+width-1
    while width < n:
        step = min(width, n - width)
        cut, width = cut[:-step] | cut[step:], width + step
    beyond = np.where(cut[:-1], 0.0, next_values[n - 1 : -1] - returns[n:])  # [T-n, N] where t+n is the same episode
    beyond *= gamma**n
    returns[:-n] += beyond
    return returns


def gae(
    rewards: FloatArray, values: FloatArray, next_values: FloatArray, terminated: BoolArray, truncated: BoolArray, gamma: float, gae_lambda: float
) -> FloatArray:
    """Return generalised advantage estimates [T, N], in units of reward.

        A_t = delta_t + gamma lambda A_{t+1} [not terminated and not truncated]

    Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", equation 16.
    lambda = 0 is the TD error, lambda = 1 is the return minus V. Raises `ValueError` if the shapes differ.
    """
    _same_shape(rewards, truncated)
    deltas = td_errors(rewards, values, next_values, terminated, gamma)
    return _accumulate(deltas, np.multiply(~(terminated | truncated), gamma * gae_lambda))


@dataclass(frozen=True)
class MonteCarlo:
    """The return of the whole episode, minus V: no bias from the critic, the most variance.

    It needs whole episodes (`collect(..., episodes_per_row=k)`) and raises `ValueError` where one is cut by the rollout's borders.
    An episode that the environment truncated is whole, and bootstrapped at its end with `next_values`: see `monte_carlo_returns`.
    """

    gamma: float = choices.number(0.99, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the returns."""
        _require_whole_episodes(rollout)
        p = _pieces(rollout)
        returns = monte_carlo_returns(p.rewards, p.next_values, p.terminated, p.truncated, self.gamma)
        return Estimate(returns - p.values, returns)


@dataclass(frozen=True)
class TD:
    """The one-step error of the critic: the least variance, and all of the critic's bias."""

    gamma: float = choices.number(0.99, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are r + gamma V'."""
        p = _pieces(rollout)
        deltas = td_errors(p.rewards, p.values, p.next_values, p.terminated, self.gamma)
        return Estimate(deltas, deltas + p.values)


@dataclass(frozen=True)
class NStep:
    """The n-step return minus V (n = 5 as in A3C, Mnih et al. 2016)."""

    gamma: float = choices.number(0.99, 0, 1)
    n: int = choices.count(5)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the n-step returns."""
        p = _pieces(rollout)
        returns = n_step_returns(p.rewards, p.next_values, p.terminated, p.truncated, self.gamma, self.n)
        return Estimate(returns - p.values, returns)


@dataclass(frozen=True)
class GAE:
    """Generalised advantage estimation: `gae_lambda` trades the critic's bias (0) for the returns' variance (1)."""

    gamma: float = choices.number(0.99, 0, 1)
    gae_lambda: float = choices.number(0.95, 0, 1)

    def __post_init__(self) -> None:
        choices.check(self)

    def __call__(self, rollout: Rollout, /) -> Estimate:
        """Return the estimate [T, N]; the value targets are the lambda-returns, A + V."""
        p = _pieces(rollout)
        advantages = gae(*p, self.gamma, self.gae_lambda)
        return Estimate(advantages, advantages + p.values)


ADVANTAGES: dict[str, type[Any]] = {"monte_carlo": MonteCarlo, "td": TD, "n_step": NStep, "gae": GAE}  # add your own class here to name it


def estimate(advantage: Advantage, rollout: Rollout) -> Estimate:
    """Call `advantage` and return a checked estimate [T, N], 0 where the rollout is not valid (its own arrays where all is).

    Raises `TypeError` if it does not give two arrays, `ValueError` if their shape is not [T, N] or a valid step is not finite.
    """
    result = advantage(rollout)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"{_title(advantage)} must return (advantages, value_targets), two arrays [T, N]; it returned {type(result).__name__}.")
    return Estimate(*(_checked(advantage, name, array, rollout) for name, array in zip(Estimate._fields, result, strict=True)))


def parse(text: str) -> Advantage:
    """Return the advantage spelled "gae(gamma=0.99, gae_lambda=0.95)" or "module:function"; raises `ValueError` saying what is allowed."""
    return cast(Advantage, choices.parse(text, ADVANTAGES, "advantage"))


def spell(advantage: Advantage) -> str:
    """Return the text that `parse` reads; raises `ValueError` for what has no importable name (a lambda)."""
    return choices.spell(advantage, ADVANTAGES)


def to_json(advantage: Advantage) -> dict[str, Any]:
    """Return `{"name": "gae", "gamma": ...}`, which `from_json` reads; a lambda is only described."""
    return choices.to_json(advantage, ADVANTAGES)


def from_json(data: Mapping[str, Any]) -> Advantage:
    """Return the advantage that `to_json` described; raises `ValueError` as `parse` does."""
    return cast(Advantage, choices.from_json(data, ADVANTAGES, "advantage"))


def normalise(advantages: FloatArray, valid: BoolArray, eps: float = 1e-8) -> FloatArray:
    """Return advantages [T, N] with mean 0 and standard deviation 1 over the valid steps, no unit, and 0 elsewhere."""
    if not valid.any():
        return np.zeros_like(advantages)
    seen = advantages[valid]
    return np.where(valid, (advantages - seen.mean()) / (seen.std() + eps), 0.0)


def explained_variance(values: FloatArray, targets: FloatArray, valid: BoolArray) -> float:
    """Return 1 - Var[targets - values] / Var[targets] over the valid steps of [T, N]; NaN if the targets do not vary.

    1 is a perfect critic, 0 is no better than a constant, below 0 is worse.
    """
    seen = targets[valid]
    variance = float(seen.var()) if seen.size else 0.0
    return 1.0 - float((seen - values[valid]).var()) / variance if variance > 0 else float("nan")


class _Pieces(NamedTuple):
    """What the formulas take, all [T, N]."""

    rewards: FloatArray
    values: FloatArray
    next_values: FloatArray
    terminated: BoolArray
    truncated: BoolArray


def _pieces(rollout: Rollout) -> _Pieces:
    """Return a rollout in which each invalid step is an episode of its own, worth nothing."""
    truncated = rollout.truncated | _lasts(rollout)  # never bootstrap across a gap, or from another episode's rewards
    if rollout.valid.all():
        return _Pieces(rollout.rewards, rollout.values, rollout.next_values, rollout.terminated, truncated)
    rewards, values = np.where(rollout.valid, rollout.rewards, 0.0), np.where(rollout.valid, rollout.values, 0.0)
    return _Pieces(rewards, values, rollout.next_values, rollout.terminated | ~rollout.valid, truncated)


def _lasts(rollout: Rollout) -> BoolArray:
    """Return where a row's run of steps breaks off [T, N]: no next step, an invalid one, or one that starts another episode."""
    lasts = np.ones_like(rollout.valid)
    lasts[:-1] = ~rollout.valid[1:] | rollout.starts[1:]
    return lasts


def _require_whole_episodes(rollout: Rollout) -> None:
    """Raise `ValueError` unless every run of valid steps begins at a start and finishes with an end, and holds nothing else of the kind."""
    lasts, ends = _lasts(rollout), rollout.ends
    firsts = np.ones_like(lasts)
    firsts[1:] = lasts[:-1] | ends[:-1] | ~rollout.valid[:-1]
    cut = rollout.valid & ((firsts & ~rollout.starts) | (lasts & ~ends))
    if cut.any():
        step, row = np.argwhere(cut)[0]
        raise ValueError(
            f"Monte Carlo returns need whole episodes; {int(cut.any(axis=0).sum())} rows hold a cut one (first at step {step}, row {row}). "
            "Collect with collect(..., episodes_per_row=k), or choose an estimator that bootstraps, such as gae."
        )


def _accumulate(x: FloatArray, carry: FloatArray) -> FloatArray:
    """Return x_t + carry_t x_{t+1} + carry_t carry_{t+1} x_{t+2} + ..., written over `x` [T, N]."""
    scratch = np.empty_like(x[0]) if len(x) else x
    for row, following, factor in zip(x[-2::-1], x[:0:-1], carry[-2::-1], strict=True):
        np.multiply(factor, following, out=scratch)
        np.add(row, scratch, out=row)
    return x


def _same_shape(*arrays: np.ndarray[Any, Any]) -> None:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or len(arrays[0].shape) != 2:
        raise ValueError(f"The arrays of an estimator are all [T, N]; got {', '.join(map(str, sorted(shapes)))}.")


def _checked(advantage: Advantage, name: str, array: FloatArray, rollout: Rollout) -> FloatArray:
    array = np.asarray(array, dtype=np.float64)
    if array.shape != rollout.valid.shape:
        raise ValueError(f"{_title(advantage)} returned {name} of shape {array.shape}; [T, N] is {rollout.valid.shape} here.")
    all_valid = bool(rollout.valid.all())
    fine = np.isfinite(array) if all_valid else np.isfinite(array) | ~rollout.valid
    if not fine.all():
        t, i = np.argwhere(~fine)[-1]  # recursions run backwards: the last one is where it began
        seen = ", ".join(f"{key} {getattr(rollout, key)[t, i]}" for key in ("rewards", "values", "next_values"))
        raise ValueError(
            f"{_title(advantage)} returned {name} that are {array[t, i]} at step {t}, row {i}, a valid step ({seen}, terminated {rollout.terminated[t, i]})."
        )
    return array if all_valid else np.where(rollout.valid, array, 0.0)


def _title(advantage: Advantage) -> str:
    return getattr(advantage, "__name__", repr(advantage))
