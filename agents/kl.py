"""Staying near a reference policy: how far it is, a KL penalty in the reward, and a price that is fixed, adapts or waits.

Axis legend: T steps, N environments, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from . import choices
from .rollout import BoolArray, FloatArray


def k1(log_probs: FloatArray, ref_log_probs: FloatArray) -> FloatArray:
    """Return log pi - log ref of sampled actions [...], in nats: no bias, either sign, the most variance.

    Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html), whose r is ref / pi and whose samples come from pi:
    all three estimate KL(pi || ref) of a state by one action drawn there.
    """
    return np.subtract(log_probs, ref_log_probs, dtype=np.float64)


def k2(log_probs: FloatArray, ref_log_probs: FloatArray) -> FloatArray:
    """Return (log pi - log ref)^2 / 2 of sampled actions [...], in nats: never negative, biased, little variance. Schulman 2020, as `k1`."""
    return k1(log_probs, ref_log_probs) ** 2 / 2


def k3(log_probs: FloatArray, ref_log_probs: FloatArray) -> FloatArray:
    """Return ref / pi - 1 - log(ref / pi) of sampled actions [...], in nats: never negative and without bias. Schulman 2020, as `k1`.

    Without bias where pi > 0 wherever ref > 0: what a mask forbids pi but not ref is missing from the mean of ref / pi.
    """
    log_ratio = -k1(log_probs, ref_log_probs)
    return np.expm1(log_ratio) - log_ratio


def exact_kl(log_probs: NDArray[Any], ref_log_probs: NDArray[Any]) -> FloatArray:
    """Return KL(pi || ref) over the whole vocabulary [...], in nats, from normalised log-probabilities [..., V].

        sum_v pi_v (log pi_v - log ref_v)

    What pi never does costs nothing; it is infinite where pi may do what ref never does. Raises `ValueError` if the shapes differ.
    """
    if log_probs.shape != ref_log_probs.shape:
        raise ValueError(f"Both tables must be [..., V]; got {log_probs.shape} and {ref_log_probs.shape}.")
    ours, theirs = np.asarray(log_probs, dtype=np.float64), np.asarray(ref_log_probs, dtype=np.float64)
    chances = np.exp(ours)
    with np.errstate(invalid="ignore"):  # 0 (-inf - x)
        terms = np.where(chances > 0, chances * (ours - theirs), 0.0)
    return np.asarray(terms.sum(axis=-1))


def kl_panel(log_probs: FloatArray, ref_log_probs: FloatArray, valid: BoolArray, exact: FloatArray | None = None) -> dict[str, float]:
    """Return the mean per valid step of each estimate of KL(pi || ref), in nats: "k1", "k2", "k3", and "exact" where it is given.

    Args:
        log_probs: [T, N] of the actions played, when they were played.
        ref_log_probs: [T, N] of the same actions under the reference.
        valid: [T, N] the steps that count; NaN where there are none.
        exact: [T, N] `exact_kl` of the visited prefixes.
    """
    if not valid.any():
        return dict.fromkeys(("k1", "k2", "k3", *(() if exact is None else ("exact",))), float("nan"))
    ours, theirs = log_probs[valid], ref_log_probs[valid]
    means = {"k1": k1(ours, theirs), "k2": k2(ours, theirs), "k3": k3(ours, theirs)} | ({} if exact is None else {"exact": exact[valid]})
    return {name: float(np.mean(values)) for name, values in means.items()}


def kl_penalised(rewards: FloatArray, log_probs: FloatArray, ref_log_probs: FloatArray, coef: float, valid: BoolArray) -> FloatArray:
    """Return rewards [T, N] with a price on leaving the reference policy, in units of reward; 0 where not valid.

        r_t - coef (log pi(a_t | s_t) - log ref(a_t | s_t))

    Summed over an episode this is Ziegler et al. 2019, "Fine-tuning language models from human preferences", equation 2.
    `coef` is in units of reward per nat. Raises `ValueError` if the shapes differ.
    """
    if not rewards.shape == log_probs.shape == ref_log_probs.shape == valid.shape:
        raise ValueError(
            f"All arrays must be [T, N]; got rewards {rewards.shape}, log_probs {log_probs.shape}, ref_log_probs {ref_log_probs.shape}, valid {valid.shape}."
        )
    with np.errstate(invalid="ignore"):  # what is not valid may be inf - inf
        return np.where(valid, rewards - coef * (log_probs - ref_log_probs), 0.0)


def adapt_kl_coef(coef: float, kl: float, target: float, num_episodes: int, horizon: int) -> float:
    """Return the coefficient for the next iteration: up if the policy has gone too far, down if it stays too near.

        e = clip(kl / target - 1, -0.2, 0.2),  coef (1 + e num_episodes / horizon)

    Ziegler et al. 2019, section 2.2, whose K_beta is `num_episodes / horizon` (their code's horizon is 10000 episodes).

    Args:
        coef: the present coefficient.
        kl: measured KL of the policy from the reference, in nats, summed over an episode (mean over episodes).
        target: the KL wanted, in nats per episode; positive.
        num_episodes: episodes seen since the last call.
        horizon: episodes over which the coefficient may change by about 20 %; positive.

    Raises:
        ValueError: if `target` or `horizon` is not positive, or `kl` is not finite.
    """
    if target <= 0 or horizon <= 0 or not np.isfinite(kl):
        raise ValueError(f"target and horizon must be positive and kl finite; got target={target}, horizon={horizon}, kl={kl}.")
    error = float(np.clip(kl / target - 1.0, -0.2, 0.2))
    return coef * (1.0 + error * num_episodes / horizon)


class KLPrice(Protocol):
    """Anything that sets the price of a nat, one iteration after the other; the present price is the caller's to keep."""

    def first(self) -> float:
        """Return the price of the first iteration, in units of reward per nat."""

    def after(self, price: float, kl: float, num_episodes: int) -> float:
        """Return the next price, from the present one and the KL measured under it, in nats per episode, over `num_episodes` episodes."""


@dataclass(frozen=True)
class FixedKL:
    """The same price always."""

    coef: float = choices.number(0.05, 0)

    def __post_init__(self) -> None:
        choices.check(self)

    def first(self) -> float:
        """Return `coef`."""
        return self.coef

    def after(self, price: float, kl: float, num_episodes: int) -> float:
        """Return `coef`."""
        return self.coef


@dataclass(frozen=True)
class AdaptiveKL:
    """A price that is driven until an episode's KL is `target` nats: see `adapt_kl_coef` (Ziegler et al. 2019, section 2.2)."""

    coef: float = choices.number(0.05, 1e-12)
    target: float = choices.number(6.0, 1e-12)
    horizon: int = choices.count(10_000)

    def __post_init__(self) -> None:
        choices.check(self)

    def first(self) -> float:
        """Return `coef`."""
        return self.coef

    def after(self, price: float, kl: float, num_episodes: int) -> float:
        """Return the adapted price."""
        return adapt_kl_coef(price, kl, self.target, num_episodes, self.horizon)


@dataclass(frozen=True)
class ThresholdKL:
    """A price that is paid only while an episode's KL is above `threshold` nats: what is nearer is free.

    It is the gradient of the penalty coef max(0, KL - threshold) on the mean KL: coef times that of the KL above the threshold, and 0 below.
    """

    coef: float = choices.number(0.05, 0)
    threshold: float = choices.number(6.0, 0)

    def __post_init__(self) -> None:
        choices.check(self)

    def first(self) -> float:
        """Return 0: training starts at the reference, or has not been measured."""
        return 0.0

    def after(self, price: float, kl: float, num_episodes: int) -> float:
        """Return `coef` above the threshold, 0 at it or below; raises `ValueError` if `kl` is not finite."""
        if not np.isfinite(kl):
            raise ValueError(f"kl must be finite, got {kl}: does the reference forbid what the policy does?")
        return self.coef if kl > self.threshold else 0.0


KL_PRICES: dict[str, type[Any]] = {"fixed": FixedKL, "adaptive": AdaptiveKL, "threshold": ThresholdKL}


def parse_kl_price(text: str) -> KLPrice:
    """Return the price spelled "adaptive(coef=0.05, target=6.0)" or "module:attribute"; raises `ValueError` saying what is allowed."""
    return cast(KLPrice, choices.parse(text, KL_PRICES, "KL price"))


def spell_kl_price(price: KLPrice) -> str:
    """Return the text that `parse_kl_price` reads; raises `ValueError` for what has no importable name."""
    return choices.spell(price, KL_PRICES)


def kl_price_to_json(price: KLPrice) -> dict[str, Any]:
    """Return `{"name": "fixed", "coef": ...}`, which `kl_price_from_json` reads."""
    return choices.to_json(price, KL_PRICES)


def kl_price_from_json(data: Mapping[str, Any]) -> KLPrice:
    """Return the price that `kl_price_to_json` described; raises `ValueError` as `parse_kl_price` does."""
    return cast(KLPrice, choices.from_json(data, KL_PRICES, "KL price"))
