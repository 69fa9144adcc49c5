"""What the present weights of a decoder say about tokens that were played: one forward per episode segment.

The last prefix of a segment, with its chunk behind it, holds all earlier ones, and token j of action t stands j tokens behind the end of
prefix t. Where observations do not extend one another every step is a segment of its own.
Axis legend: T steps, B rows, C tokens of a chunk, L observation columns, S segments, W compacted tokens, K kept positions, M tokens that
count, H hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .common import Evaluated, entropy_of, log_distribution, picked
from .prefixes import compact, counted_tokens, grown, room_left, segments


class Reader(Protocol):
    """A policy that reads prefixes."""

    vocab_size: int
    chunk: int

    @property
    def stops(self) -> NDArray[np.bool_]:
        """Return which ids end a text or a turn, bool [V]."""

    def forward_tokens(self, ids: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Return logits [S, K, V] and hidden states [S, K, H] of the last `keep` positions of right-padded ids [S, W]."""

    def values_of(self, hidden: Tensor) -> Tensor:
        """Return values [...] of hidden states [..., H]."""


def evaluate_segments(policy: Reader, prefixes: NDArray[np.int64], actions: NDArray[np.int64], action_masks: Tensor | None, temperature: float) -> Evaluated:
    """Return log-probabilities, values and entropies [T, B] of actions [T, B], or of chunks [T, B, C], after prefixes [T, B, L].

    The entropy of a chunk is the sum of those of the distributions that its counted tokens were drawn from: its mean over chunks is theirs.
    """
    chunks, room = actions.reshape(*prefixes.shape[:2], policy.chunk), room_left(prefixes, policy.vocab_size)
    counted = counted_tokens(chunks, room, policy.stops)
    longer = grown(prefixes, chunks, counted, room)
    last, segment = segments(prefixes, policy.vocab_size, longer)
    lengths = (prefixes != policy.vocab_size).sum(-1)  # [T, B]
    tokens, _ = compact(longer.reshape(-1, prefixes.shape[-1])[last], policy.vocab_size)
    keep = tokens.shape[1] - int(lengths.min()) + 1
    logits, hidden = policy.forward_tokens(torch.from_numpy(tokens), keep)
    t, b, j = np.nonzero(counted)  # [M] each
    ends = lengths - 1 - (tokens.shape[1] - keep)  # [T, B] the kept position where a prefix ends
    at, where, step = (torch.from_numpy(index).to(logits.device) for index in (segment[t, b], ends[t, b] + j, t * prefixes.shape[1] + b))
    masks = None if action_masks is None else action_masks.reshape(*chunks.shape, -1)[t, b, j]
    log_probs = log_distribution(logits[at, where], masks, temperature)  # [M, V]
    chosen = torch.from_numpy(chunks[t, b, j]).to(logits.device)
    sums = [values.new_zeros(lengths.size).index_add(0, step, values).view(lengths.shape) for values in (picked(log_probs, chosen), entropy_of(log_probs))]
    values = policy.values_of(hidden[torch.from_numpy(segment).to(logits.device), torch.from_numpy(ends).to(logits.device)])
    return Evaluated(sums[0], values, sums[1])


def segment_distributions(policy: Reader, prefixes: NDArray[np.int64], action_masks: Tensor | None, temperature: float) -> Tensor:
    """Return the log-probabilities [T, B, V] of all next tokens after prefixes [T, B, L]; raises `ValueError` for a policy of chunks."""
    if policy.chunk > 1:
        raise ValueError(
            f"There are {policy.vocab_size} ** {policy.chunk} chunks, too many to tell the chance of each: build the policy with chunk=1, "
            "the same weights also play single tokens."
        )
    last, segment = segments(prefixes, policy.vocab_size)
    lengths = (prefixes != policy.vocab_size).sum(-1)  # [T, B]
    tokens, _ = compact(prefixes.reshape(-1, prefixes.shape[-1])[last], policy.vocab_size)
    keep = tokens.shape[1] - int(lengths.min()) + 1
    logits, _ = policy.forward_tokens(torch.from_numpy(tokens), keep)
    at, where = (torch.from_numpy(index).to(logits.device) for index in (segment, lengths - 1 - (tokens.shape[1] - keep)))
    return log_distribution(logits[at, where], action_masks, temperature)
