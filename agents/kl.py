"""Staying near a reference policy: a KL penalty in the reward, and a coefficient that adapts.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

import numpy as np

from .rollout import BoolArray, FloatArray


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
