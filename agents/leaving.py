"""Leaving a reference policy: measured for each rollout, and priced.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from .kl import FixedKL, KLPrice, kl_panel, kl_penalised
from .play import log_probs_under
from .policies import Policy
from .rollout import Rollout

KLPlace = Literal["reward", "loss"]


class Pricing(Protocol):
    """The choices of an algorithm that say what leaving costs."""

    @property
    def kl(self) -> KLPrice:
        """Return how the price of a nat goes on."""

    @property
    def kl_in(self) -> KLPlace:
        """Return whether the reward or the loss pays."""

    @property
    def temperature(self) -> float:
        """Return that of sampling."""


def priced(rollout: Rollout, reference: Policy, config: Pricing, coefficients: dict[str, float], episodes: float) -> tuple[Rollout, dict[str, float]]:
    """Return the rollout with `ref_log_probs` and, if the price is paid in the reward, with what is left of the rewards; and what to log.

    Logged are "kl", nats by which an episode leaves the reference (sampled log ratios, summed over the rollout, per finished episode),
    "kl_price" of such a nat, and the three estimates of the KL divergence of a step, "kl_step/k1", "k2", "k3" (Schulman 2020).

    Args:
        rollout: what was played.
        reference: a frozen policy.
        config: the price and where it is paid.
        coefficients: of the learner; "kl_price" in it is the present price, and moves on.
        episodes: how many ended in this rollout; in the long run as many begin as end, so the cut ones need no care.
    """
    rollout = rollout._replace(ref_log_probs=log_probs_under(reference, rollout, config.temperature))
    ref_log_probs, valid, price = rollout.require("ref_log_probs"), rollout.valid, coefficients.setdefault("kl_price", config.kl.first())
    nats = float((rollout.log_probs - ref_log_probs)[valid].sum()) / max(1.0, episodes)
    coefficients["kl_price"] = config.kl.after(price, nats, max(1, int(episodes)))
    told = {"kl": nats, "kl_price": price} | {f"kl_step/{name}": value for name, value in kl_panel(rollout.log_probs, ref_log_probs, valid).items()}
    if config.kl_in == "reward":
        rollout = rollout._replace(rewards=kl_penalised(rollout.rewards, rollout.log_probs, ref_log_probs, price, valid))
    return rollout, told


def check_reference(config: Pricing, reference: Policy | None) -> None:
    """Raise `ValueError` where leaving has a price and there is no reference to leave, or nobody to pay it."""
    if config.kl_in not in get_args(KLPlace):
        raise ValueError(f"kl_in must be one of {get_args(KLPlace)}, not {config.kl_in!r}: elsewhere the price would never be paid.")
    if reference is None and config.kl != FixedKL(0.0):
        raise ValueError("kl= prices the distance from a reference policy: pass reference=, a frozen copy of the policy, say.")
