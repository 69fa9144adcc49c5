"""What the present weights of a decoder say about tokens that were played: one reading of each episode segment.

The last prefix of a segment, with its chunk behind it, holds all earlier ones, and token j of action t stands j tokens behind the end of
prefix t. Where observations do not extend one another every step is a segment of its own. Segments are read behind one another in one call, what they
begin with in common once, and the output layer reads only where a token was chosen.
Axis legend: T steps, B rows, C tokens of a chunk, L observation columns, S segments, W compacted tokens, M tokens that count, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .beginnings import Rests, rests
from .common import Evaluated, log_distribution
from .output_layer import device_of, hidden_at, is_alone, layer_of, logits_at
from .packing import Stream, calling, packs, streams
from .prefixes import compact, counted_tokens, grown, repeated, room_left, segments, unmoved
from .telling import Allowed, tell, tell_by_parts

HELD = 1 << 24  # logits that may wait for the backward pass; where there are more of them, and the output layer stands alone, they are made twice


IntArray = NDArray[np.int64]


class Reader(Protocol):
    """A policy that reads prefixes."""

    model: nn.Module
    vocab_size: int
    chunk: int
    use_cache: bool

    @property
    def stops(self) -> NDArray[np.bool_]:
        """Return which ids end a text or a turn, bool [V]."""

    def values_of(self, hidden: Tensor) -> Tensor:
        """Return values [...] of hidden states [..., H]."""


class Asked(NamedTuple):
    """The chosen tokens that something is to be said of, one after the other: int64 [M] each."""

    segment: IntArray
    place: IntArray  # in the segment, of the token before the chosen one
    token: IntArray
    step: IntArray  # t * B + b
    order: IntArray  # in its chunk


def evaluate_segments(policy: Reader, prefixes: IntArray, actions: IntArray, action_masks: Tensor | None, temperature: float) -> Evaluated:
    """Return log-probabilities, values and entropies [T, B] of actions [T, B], or of chunks [T, B, C], after prefixes [T, B, L].

    The entropy of a chunk is the sum of those of the distributions that its counted tokens were drawn from: its mean over chunks is theirs.
    A step that repeats the one before it, its mask included, is not computed again.
    """
    shape, pad = prefixes.shape[:2], policy.vocab_size
    chunks, lengths, room = actions.reshape(*shape, policy.chunk), (prefixes != pad).sum(-1), room_left(prefixes, pad)
    masks = None if action_masks is None else action_masks.reshape(chunks.size, -1)
    again = repeated(prefixes, lengths, chunks, masks)
    counted = counted_tokens(chunks, room, policy.stops)
    longer = grown(prefixes, chunks, counted, room)
    last, segment = segments(prefixes, pad, longer, again)
    t, b, j = np.nonzero(counted & ~again[..., None])
    asked = Asked(segment[t, b], lengths[t, b] - 1 + j, chunks[t, b, j], t * shape[1] + b, j)
    tokens, sizes = compact(longer.reshape(-1, prefixes.shape[-1])[last], pad)
    read = _streams(policy, tokens, sizes, asked.segment, asked.place)
    told = [_read(policy, stream, asked, masks, temperature) for stream in read]
    which = np.concatenate([stream.which for stream in read])
    steps, first = asked.step[which], asked.order[which] == 0
    computed = np.maximum.accumulate(np.where(again, 0, np.arange(shape[0])[:, None]))  # [T, B] the step that each repeats

    def by_step(numbers: Sequence[Tensor], at: IntArray) -> Tensor:
        flat = torch.cat(list(numbers))
        sums = flat.new_zeros(lengths.size).index_add(0, _there(at, flat.device), flat).view(shape)
        return sums.gather(0, _there(computed, flat.device)) if again.any() else sums

    log_probs, entropies, values = zip(*told, strict=True)
    return Evaluated(by_step(log_probs, steps), by_step(values, steps[first]), by_step(entropies, steps))


def _streams(policy: Reader, tokens: IntArray, sizes: IntArray, segment: IntArray, place: IntArray) -> list[Stream]:
    """Return what to call the model with for segments [S, W] of `sizes` [S], of which places [M] are asked for."""
    together = policy.use_cache and packs(policy.model)
    cut = rests(tokens, sizes, segment, place) if together else Rests(tokens, sizes, np.zeros_like(sizes))
    return [*streams(cut, segment, place, device_of(policy.model), together=together)]


def _read(policy: Reader, stream: Stream, asked: Asked, masks: Tensor | None, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities and entropies [M] of the chosen tokens of a stream, and values of the states in which chunks of them begin."""
    layer, which, device = layer_of(policy.model), stream.which, device_of(policy.model)
    where, chosen = _there(stream.where, device), _there(asked.token[which], device)
    allowed = None if masks is None else Allowed(masks, torch.from_numpy(asked.step[which] * policy.chunk + asked.order[which]))
    if len(asked.token) * policy.vocab_size > HELD and is_alone(policy.model, chosen[:1, None]):
        with calling(policy.model, stream):
            hidden = hidden_at(policy.model, stream.inputs, where)
        told = tell_by_parts(lambda states: layer(states)[..., : policy.vocab_size], hidden, chosen, allowed, temperature, HELD // policy.vocab_size)
    else:
        with calling(policy.model, stream):
            logits, hidden = logits_at(policy.model, stream.inputs, where)
        told = tell(logits[..., : policy.vocab_size], chosen, allowed, temperature)
    first = asked.order[which] == 0
    return (*told, policy.values_of(hidden if first.all() else hidden[_there(np.flatnonzero(first), hidden.device)]))


def segment_values(policy: Reader, prefixes: IntArray) -> Tensor:
    """Return the values [T, B] of prefixes [T, B, L], without a logit."""
    shape, lengths = prefixes.shape[:2], (prefixes != policy.vocab_size).sum(-1)
    last, segment = segments(prefixes, policy.vocab_size, again=unmoved(prefixes))
    tokens, sizes = compact(prefixes.reshape(-1, prefixes.shape[-1])[last], policy.vocab_size)
    nothing, steps = np.zeros(lengths.size, np.int64), np.arange(lengths.size)
    asked = Asked(segment.reshape(-1), lengths.reshape(-1) - 1, nothing, steps, nothing)
    device, values = device_of(policy.model), []
    read = _streams(policy, tokens, sizes, asked.segment, asked.place)
    for stream in read:
        with calling(policy.model, stream):
            values.append(policy.values_of(hidden_at(policy.model, stream.inputs, _there(stream.where, device))))
    flat = torch.cat(values)
    return flat.new_zeros(lengths.size).index_add(0, _there(np.concatenate([stream.which for stream in read]), device), flat).view(shape)


def logits_where(policy: Reader, tokens: IntArray, asked: NDArray[np.bool_]) -> Tensor:
    """Return the logits [M, V] at the places of sequences [S, W] that are `asked` for, row after row."""
    sizes = np.where(asked, np.arange(1, tokens.shape[1] + 1), 0).max(1, initial=0)  # what stands behind the last of them is not read
    rows = np.flatnonzero(sizes)
    segment, place = np.nonzero(asked[rows])
    read, found = _streams(policy, tokens[rows], sizes[rows], segment, place), []
    for stream in read:
        with calling(policy.model, stream):
            found.append(logits_at(policy.model, stream.inputs, _there(stream.where, device_of(policy.model)))[0])
    order = np.argsort(np.concatenate([stream.which for stream in read]))
    return torch.cat(found)[..., : policy.vocab_size].index_select(0, _there(order, found[0].device))


def _there(index: IntArray, device: torch.device) -> Tensor:
    return torch.from_numpy(index).to(device)


def segment_distributions(policy: Reader, prefixes: IntArray, action_masks: Tensor | None, temperature: float) -> Tensor:
    """Return the log-probabilities [T, B, V] of all next tokens after prefixes [T, B, L]; raises `ValueError` for a policy of chunks."""
    if policy.chunk > 1:
        raise ValueError(
            f"There are {policy.vocab_size} ** {policy.chunk} chunks, too many to tell the chance of each: build the policy with chunk=1, "
            "the same weights also play single tokens."
        )
    last, segment = segments(prefixes, policy.vocab_size)
    lengths = (prefixes != policy.vocab_size).sum(-1)  # [T, B]
    tokens, _ = compact(prefixes.reshape(-1, prefixes.shape[-1])[last], policy.vocab_size)
    ids, where = (_there(index, device_of(policy.model)) for index in (tokens, (segment * tokens.shape[1] + lengths - 1).reshape(-1)))
    logits, _ = logits_at(policy.model, {"input_ids": ids, "use_cache": False}, where)
    return log_distribution(logits[:, : policy.vocab_size].view(*lengths.shape, -1), action_masks, temperature)
