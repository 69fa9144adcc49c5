"""Losses in pure torch; every one takes `valid`, and what is not valid cannot leak, not even NaN.

`valid` is bool or a float weight >= 0. It is applied to the *inputs*, before any arithmetic: multiplying a NaN by 0 gives NaN,
and so does the gradient of `where(valid, f(x), 0)` if f(x) is NaN. If nothing is valid a loss is 0, with zero gradients.

Axis legend: * any shape ([T, B] steps of minibatch columns, [B] steps), B texts, L tokens, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class SurrogateLoss(NamedTuple):
    """PPO's policy loss, and how far the policy has moved from the one that acted."""

    loss: Tensor  # scalar, to be minimised, in units of the advantages
    clip_fraction: Tensor  # scalar in [0, 1], detached: steps whose ratio has left [1 - clip_coef, 1 + clip_coef]
    approx_kl: Tensor  # scalar >= 0 in nats, detached: KL(old, new)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of `values` [*] weighted by `valid` [*], a scalar in their unit; 0 if all weights are 0.

    Raises `ValueError` if the shapes differ (broadcasting [B] against [B, 1] is a silent bug).
    """
    _same_shape("values, valid", values, valid)
    values = _at_least_float32(values)
    weights = valid.to(values.dtype)
    return (_keep(values, valid) * weights).sum() / _total(weights)


def clipped_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, valid: Tensor, clip_coef: float, clip_high: float | None = None
) -> SurrogateLoss:
    """Return PPO's clipped policy loss and its diagnostics; all inputs [*].

        loss = -mean min(ratio A, clip(ratio, 1 - clip_coef, 1 + clip_high) A),  ratio = exp(log_probs - old_log_probs)

    Schulman et al. 2017, "Proximal policy optimization algorithms", equation 7. `approx_kl` is the estimator k3 = ratio - 1 - log ratio of
    Schulman 2020, "Approximating KL divergence": unbiased for KL(old, new) where the actions come from the old policy, never negative.

    Args:
        log_probs: log pi(a | s) now, with gradient.
        old_log_probs: the same when the action was drawn.
        advantages: in units of reward, or normalised.
        valid: bool or weight.
        clip_coef: epsilon, > 0.
        clip_high: the epsilon above 1 where it is another one; None: `clip_coef`.

    Raises:
        ValueError: if the shapes differ.
    """
    moved = _moved(log_probs, old_log_probs, advantages, valid)
    low, high = 1 - clip_coef, 1 + (clip_coef if clip_high is None else clip_high)
    gains = torch.minimum(moved.ratio * moved.advantages, moved.ratio.clamp(low, high) * moved.advantages)
    return SurrogateLoss(-masked_mean(gains, valid), moved.outside(low, high, valid), masked_mean(moved.kl.detach(), valid))


def penalised_surrogate(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, valid: Tensor, beta: float) -> SurrogateLoss:
    """Return PPO's policy loss with a penalty on KL(old, new), and its diagnostics; arguments and errors as for `clipped_surrogate`.

        loss = -mean (ratio A - beta k3),  k3 = ratio - 1 - log ratio

    Schulman et al. 2017, equation 8, with the sampled estimate of the divergence. `beta` is in units of the advantages per nat. There is no clip;
    `clip_fraction` tells how many ratios have left [0.8, 1.2] all the same.
    """
    moved = _moved(log_probs, old_log_probs, advantages, valid)
    gains = moved.ratio * moved.advantages - beta * moved.kl
    return SurrogateLoss(-masked_mean(gains, valid), moved.outside(0.8, 1.2, valid), masked_mean(moved.kl.detach(), valid))


class _Moved(NamedTuple):
    """How far the policy has moved at each step [*]."""

    ratio: Tensor  # pi now / pi when the action was drawn
    advantages: Tensor
    kl: Tensor  # k3

    def outside(self, low: float, high: float, valid: Tensor) -> Tensor:
        """Return the share of steps whose ratio has left [low, high]."""
        ratio = self.ratio.detach()
        return masked_mean(((ratio < low) | (ratio > high)).to(ratio.dtype), valid)


def _moved(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, valid: Tensor) -> _Moved:
    _same_shape("log_probs, old_log_probs, advantages, valid", log_probs, old_log_probs, advantages, valid)
    log_ratio = _keep(log_probs, valid) - _keep(old_log_probs, valid)
    return _Moved(log_ratio.exp(), _keep(advantages, valid), torch.expm1(log_ratio) - log_ratio)  # expm1: exact where the policy has hardly moved


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor, valid: Tensor) -> Tensor:
    """Return a loss whose gradient is minus the policy gradient, a scalar in units of the advantages; all inputs [*].

        -mean A log pi(a | s)

    Williams 1992; Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation", theorem 1. It is a mean over
    steps: the gradient of an episode's return is its sum, longer by the mean length of an episode. The value itself means nothing.

    Args:
        log_probs: log pi(a | s) now, with gradient.
        advantages: in units of reward, or normalised; constants.
        valid: bool or weight.

    Raises:
        ValueError: if the shapes differ.
    """
    _same_shape("log_probs, advantages, valid", log_probs, advantages, valid)
    return -masked_mean(_keep(log_probs, valid) * _keep(advantages, valid).detach(), valid)


def kl_loss(log_probs: Tensor, ref_log_probs: Tensor, valid: Tensor) -> Tensor:
    """Return the mean KL(pi || ref) of a step by its estimator k3, a scalar >= 0 in nats; all inputs [*].

        mean (ref / pi - 1 - log(ref / pi))

    Schulman 2020, "Approximating KL divergence", for actions drawn from pi; as a loss it is GRPO's (Shao et al. 2024, equation 4).
    Raises `ValueError` if the shapes differ.
    """
    _same_shape("log_probs, ref_log_probs, valid", log_probs, ref_log_probs, valid)
    log_ratio = _keep(ref_log_probs, valid) - _keep(log_probs, valid)
    return masked_mean(torch.expm1(log_ratio) - log_ratio, valid)


def value_loss(values: Tensor, targets: Tensor, valid: Tensor, old_values: Tensor | None = None, clip_coef: float | None = None) -> Tensor:
    """Return half the mean squared error of the critic, a scalar in squared units of reward; all inputs [*].

        0.5 mean (V - target)^2,  with clipping  0.5 mean max((V - target)^2, (V_old + clip(V - V_old, -c, c) - target)^2)

    The clipped form is that of OpenAI Baselines' ppo2; it is in no paper's equation, and Engstrom et al. 2020,
    "Implementation matters in deep policy gradients", section 3, is where it is described. SB3 and TRL differ in the factor 0.5.
    Raises `ValueError` if the shapes differ, or if only one of `old_values` and `clip_coef` is given.
    """
    _same_shape("values, targets, valid", values, targets, valid)
    if (old_values is None) != (clip_coef is None):
        raise ValueError("Clipping the value loss needs both old_values and clip_coef; give both or neither.")
    values, targets = _keep(values, valid), _keep(targets, valid)
    errors = (values - targets).square()
    if old_values is not None and clip_coef is not None:
        _same_shape("old_values, valid", old_values, valid)
        old_values = _keep(old_values, valid)
        clipped = old_values + (values - old_values).clamp(-clip_coef, clip_coef)
        errors = torch.maximum(errors, (clipped - targets).square())
    return 0.5 * masked_mean(errors, valid)


def mean_entropy(entropy: Tensor, valid: Tensor) -> Tensor:
    """Return the mean entropy of the policy over valid steps [*], a scalar in nats: the bonus is `ent_coef` times this.

    Williams & Peng 1991; Mnih et al. 2016, section 4. Raises `ValueError` if the shapes differ.
    """
    return masked_mean(entropy, valid)


def next_token_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Return the mean cross-entropy of the next token, a scalar in nats per valid token.

    Only the valid positions are computed, so that prompts and padding cost nothing and pad ids outside [0, V) are harmless.

    Args:
        logits: [B, L, V]; position t predicts `targets[:, t]` (the caller has shifted them).
        targets: [B, L] ids, any integer type.
        valid: [B, L] bool or weight.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _same_shape("targets, valid", targets, valid)
    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"logits must be [B, L, V] for targets [B, L]; got {tuple(logits.shape)} and {tuple(targets.shape)}.")
    chosen = valid > 0
    scores = _at_least_float32(logits[chosen])  # [M, V]
    weights = valid[chosen].to(scores.dtype)
    return (F.cross_entropy(scores, targets[chosen].long(), reduction="none") * weights).sum() / _total(weights)


def _at_least_float32(values: Tensor) -> Tensor:
    """Return half precision as float32: a bfloat16 sum cannot count beyond 256."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _keep(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid > 0, values, 0.0)


def _total(weights: Tensor) -> Tensor:
    total = weights.sum()
    return torch.where(total > 0, total, 1.0)  # without a branch on the value, which would wait for a GPU


def _same_shape(names: str, *tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors}) > 1:
        raise ValueError(f"These must have one shape ({names}); got {', '.join(str(tuple(tensor.shape)) for tensor in tensors)}.")
