"""Leaving a reference policy: measured for each rollout, and priced.

Axis legend: T steps, N environments, B of their columns, A actions.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeGuard, get_args

import numpy as np
import torch
from torch import Tensor

from .kl import FixedKL, KLPrice, exact_kl, kl_panel, kl_penalised
from .play import log_probs_under
from .policies import Enumerable, Memory, Policy, SeparateCritic
from .rollout import FloatArray, Rollout
from .timing import stage

KLPlace = Literal["reward", "loss"]
HELD = 1 << 24  # numbers that two policies' tables of log-probabilities may hold at once


class Pricing(Protocol):
    """The choices of an algorithm that say what leaving costs, and how closely it is watched."""

    @property
    def kl(self) -> KLPrice:
        """Return how the price of a nat goes on."""

    @property
    def kl_in(self) -> KLPlace:
        """Return whether the reward or the loss pays."""

    @property
    def kl_exact_every(self) -> int:
        """Return after how many iterations the KL over all actions is measured again; 0 is never."""

    @property
    def temperature(self) -> float:
        """Return that of sampling."""


def priced(
    rollout: Rollout, policy: Policy, reference: Policy, config: Pricing, coefficients: dict[str, float], iteration: int, episodes: float
) -> tuple[Rollout, dict[str, float]]:
    """Return the rollout with `ref_log_probs` and, if the price is paid in the reward, with what is left of the rewards; and what to log.

    Logged are "kl", nats by which an episode leaves the reference (sampled log ratios, summed over the rollout, per finished episode),
    "kl_price" of such a nat, and the three estimates of the KL divergence of a step, "kl_step/k1", "k2", "k3" (Schulman 2020). Where it is
    due and both policies can tell the chance of every action, "kl_step/exact" is that divergence itself, by all actions and not by the one
    played, in the same states.

    Args:
        rollout: what was played.
        policy: who played it, as it still is.
        reference: a frozen policy.
        config: the price, where it is paid, and how often the exact divergence is measured.
        coefficients: of the learner; "kl_price" in it is the present price, and moves on.
        iteration: counted from 0; the exact divergence is due in every `config.kl_exact_every`-th.
        episodes: how many ended in this rollout; in the long run as many begin as end, so the cut ones need no care.
    """
    exact: FloatArray | None = None
    with stage("reference"):
        if config.kl_exact_every and iteration % config.kl_exact_every == 0 and tells_all(policy) and tells_all(reference):
            exact, ref_log_probs = kl_of_states(policy, reference, rollout, config.temperature)
        else:
            ref_log_probs = log_probs_under(reference, rollout, config.temperature)
    rollout, valid, price = rollout._replace(ref_log_probs=ref_log_probs), rollout.valid, coefficients.setdefault("kl_price", config.kl.first())
    nats = float((rollout.log_probs - ref_log_probs)[valid].sum()) / max(1.0, episodes)
    coefficients["kl_price"] = config.kl.after(price, nats, max(1, int(episodes)))
    told = {"kl": nats, "kl_price": price} | {f"kl_step/{name}": value for name, value in kl_panel(rollout.log_probs, ref_log_probs, valid, exact).items()}
    if config.kl_in == "reward":
        ours = rollout.log_probs if rollout.target_log_probs is None else rollout.target_log_probs  # where noise played too, the policy pays for itself alone
        rollout = rollout._replace(rewards=kl_penalised(rollout.rewards, ours, ref_log_probs, price, valid))
    return rollout, told


def tells_all(policy: Policy) -> TypeGuard[Enumerable]:
    """Return whether a policy can tell the chance of every action: not of real numbers, and not of chunks of tokens."""
    acting = policy.actor if isinstance(policy, SeparateCritic) else policy
    return isinstance(acting, Enumerable) and getattr(acting, "chunk", 1) == 1


def kl_of_states(policy: Enumerable, reference: Enumerable, rollout: Rollout, temperature: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Return KL(pi || ref) over all actions in each state of a rollout, in nats, and log ref(a | s) of the actions played, both [T, N].

    A few columns at a time: the two tables [T, B, A] hold no more than `HELD` numbers, or one column of the rollout.
    """
    num_steps, num_envs = rollout.valid.shape
    divergence, ref_log_probs = np.zeros((2, num_steps, num_envs))
    with torch.no_grad():
        num_actions = _table(reference, rollout, temperature, slice(1), slice(1)).shape[-1]
        columns = min(256, max(1, HELD // (2 * num_steps * num_actions)))
        for first in range(0, num_envs, columns):
            part = slice(first, first + columns)
            ours, theirs = (_table(who, rollout, temperature, slice(None), part).cpu().numpy() for who in (policy, reference))
            divergence[:, part] = [exact_kl(*step) for step in zip(ours, theirs, strict=True)]  # step by step: their float64 copies stay small
            ref_log_probs[:, part] = np.take_along_axis(theirs, rollout.actions[:, part, None], -1)[..., 0]
    return divergence, ref_log_probs


def _table(policy: Enumerable, rollout: Rollout, temperature: float, steps: slice, part: slice) -> Tensor:
    """Return a policy's log-probabilities [T, B, A] of all actions in some steps, from the first on, of some columns."""
    masks = None if rollout.action_masks is None else torch.from_numpy(rollout.action_masks[steps, part])
    memory = None if rollout.memory is None else Memory(torch.from_numpy(rollout.memory[0, part]), torch.from_numpy(rollout.starts[steps, part]))
    return policy.distributions(torch.from_numpy(rollout.observations[steps, part]), masks, temperature, memory)


def check_reference(config: Pricing, reference: Policy | None) -> None:
    """Raise `ValueError` where leaving has a price and there is no reference to leave, or nobody to pay it."""
    if config.kl_in not in get_args(KLPlace):
        raise ValueError(f"kl_in must be one of {get_args(KLPlace)}, not {config.kl_in!r}: elsewhere the price would never be paid.")
    if config.kl_exact_every < 0:
        raise ValueError(f"kl_exact_every must be at least 0 iterations, got {config.kl_exact_every}; 0 never measures the exact divergence.")
    if reference is None and config.kl != FixedKL(0.0):
        raise ValueError("kl= prices the distance from a reference policy: pass reference=, a frozen copy of the policy, say.")
