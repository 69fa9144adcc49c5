"""What logits say of the tokens that were chosen, without a table of log-probabilities that waits for the backward pass.

Axis legend: M chosen tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from .common import NOTHING_ALLOWED, entropy_of, log_distribution, picked, tempered

BLOCK = 1 << 18  # numbers that are worked on at once: they fit into a processor's cache
LEAST_LOG = -1e3  # what is less likely has a probability of 0 in double precision; it stays finite where autocast takes it to half


class Told(NamedTuple):
    """What was chosen and how open the choice was."""

    log_probs: Tensor  # [M]
    entropies: Tensor  # [M] nats


class _Tell(torch.autograd.Function):
    """From scores [M, V] to log softmax at the chosen tokens [M] and to entropies [M]; one table [M, V] of probabilities waits for the backward pass.

    d log p_a / d z_v = [v = a] - p_v,   d H / d z_v = -p_v (log p_v + H)
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # entropies that are only logged have no gradient, and cost nothing on the way back
        needed = ctx.needs_input_grad[0]
        chances = torch.empty_like(scores) if needed else None
        rows = len(scores) if scores.is_cuda else max(1, BLOCK // scores.shape[1])
        log_probs, entropies = scores.new_empty(2, len(scores))
        for first in range(0, len(scores), rows):
            part = slice(first, first + rows)
            table = torch.log_softmax(scores[part], -1)
            log_probs[part] = picked(table, chosen[part])
            likely = table.exp() if chances is None else torch.exp(table, out=chances[part])
            entropies[part] = -torch.linalg.vecdot(likely, table.clamp_(min=LEAST_LOG))  # 0 log 0 is 0
        if chances is not None:
            ctx.save_for_backward(chances, chosen, entropies)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_log_probs: Tensor | None, of_entropies: Tensor | None) -> tuple[Tensor | None, None]:
        chances, chosen, entropies = ctx.saved_tensors
        gradient: Tensor | None = None
        if of_log_probs is not None:
            gradient = (chances * -of_log_probs[:, None]).scatter_add_(1, chosen[:, None], of_log_probs[:, None])
        if of_entropies is not None and bool(of_entropies.any()):  # a bonus of 0 is none
            by_entropy = torch.xlogy(chances, chances).addcmul_(chances, entropies[:, None]).mul_(-of_entropies[:, None])
            gradient = by_entropy if gradient is None else gradient.add_(by_entropy)
        return gradient, None


class Allowed(NamedTuple):
    """Which tokens may be chosen; the masks of other choices may stand between those of these."""

    masks: Tensor  # [*, V] bool
    rows: Tensor  # [M] of the masks, on their device


def tell(logits: Tensor, chosen: Tensor, allowed: Allowed | None, temperature: float) -> Told:
    """Return what logits [M, V] say of tokens [M], under masks and a temperature; 0 leaves the best token only.

    It is what `log_distribution` says of them, to rounding. Half precision becomes float32. Raises `ValueError` if a mask allows nothing at all.
    """
    masks = None if allowed is None else allowed.masks[allowed.rows].to(logits.device)
    if temperature == 0.0:
        table = log_distribution(logits, masks, temperature)
        return Told(picked(table, chosen), entropy_of(table))
    if masks is not None and not bool(masks.any(-1).all()):
        raise ValueError(NOTHING_ALLOWED)
    return Told(*_Tell.apply(tempered(logits, masks, temperature), chosen))


def tell_by_parts(layer: Callable[[Tensor], Tensor], hidden: Tensor, chosen: Tensor, allowed: Allowed | None, temperature: float, rows: int) -> Told:
    """Return what the logits [M, V] that `layer` makes of hidden states [M, H] say of tokens [M], `rows` of them at a time.

    The whole of the logits is never there: they are made once more on the way back, a third more work for `layer`.
    """

    def part(states: Tensor, tokens: Tensor, masks: Allowed | None) -> Told:
        return tell(layer(states), tokens, masks, temperature)

    told = []
    for i, (states, tokens) in enumerate(zip(hidden.split(rows), chosen.split(rows), strict=True)):  # one split: its backward pass joins once
        masks = None if allowed is None else Allowed(allowed.masks, allowed.rows[i * rows : (i + 1) * rows])
        again = torch.is_grad_enabled()
        told.append(checkpoint(part, states, tokens, masks, use_reentrant=False, preserve_rng_state=False) if again else part(states, tokens, masks))
    return Told(*(torch.cat(numbers) for numbers in zip(*told, strict=True)))
