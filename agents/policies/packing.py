"""Sequences of many lengths in one call of a model: behind one another in one row, and what they begin with in common only once.

What a model does to tokens one by one it does to all of them at once; attention is computed part by part (see `attention`), each sequence's tokens
attending to its own and to the beginning that it goes on from.
Axis legend: S sequences, B of them in a part, Q tokens of one, G beginnings, P tokens of the longest beginning, M places that are asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from .beginnings import Beginnings, Rests
from .output_layer import close, device_of, forward, logits_at
from .prefixes import alike

IntArray = NDArray[np.int64]

NAME = "textgym"  # of our attention functions in the register of `transformers`
MOST = 1 << 13  # tokens of a stream of several parts: with so many a call does not matter, and memory does
EVEN = 16  # lengths of a stream between one power of two and the next: oneDNN makes a program for each that it meets, in the time of a product or two
PADDING = 0.1 - 1 / EVEN  # of the tokens of a stream in its parts, so that there is a tenth in all


class Part(NamedTuple):
    """Sequences of like length in a stream of tokens, padded on the right to one width; what stands behind the last part is nobody's."""

    num: int  # B
    width: int  # Q
    of: Tensor | None = None  # int64 [B] the sequence of the first part that each goes on from; None: from nothing
    seen: Tensor | None = None  # bool [B, 1, Q, P + Q] what its tokens attend to, of that sequence and of its own; None: causality says it


class Stream(NamedTuple):
    """What a model is called with once, and where in it something is asked for."""

    inputs: dict[str, Any]
    parts: Sequence[Part]  # that stand behind one another; none: the inputs are rows, as usual
    which: IntArray  # [M] of the places that are asked for
    where: IntArray  # [M] of all tokens that go in, one after the other


class Reading(NamedTuple):
    """Sequences of like length that are read together."""

    rows: IntArray  # [B] of the sequences
    width: int  # Q
    which: IntArray  # [M] which places stand in them
    where: IntArray  # [M] row * Q + place


def readings(sizes: IntArray, sequence: IntArray, place: IntArray, padding: float = 0.1) -> list[Reading]:
    """Return how sequences of `sizes` [S] are read, with about that share of `padding`, and where places of them, both [M], are then found."""
    found: list[Reading] = []
    row = np.empty_like(sizes)
    for rows in alike(sizes, padding):
        row[:] = -1
        row[rows] = np.arange(len(rows))
        which = np.flatnonzero(row[sequence] >= 0)
        width = int(sizes[rows].max())
        found.append(Reading(rows, width, which, row[sequence[which]] * width + place[which]))
    return found


def streams(cut: Rests, sequence: IntArray, place: IntArray, device: torch.device, *, together: bool) -> Iterator[Stream]:
    """Yield what to call a model with to read sequences behind their beginnings, if they have any: `together` only if it `packs`.

    Places [M] that are asked for are told by their sequence and the place in it, beginning included.
    """
    read = readings(cut.sizes, sequence, place - cut.starts[sequence], PADDING if together else 0.1)
    for some in _bundles(read) if together else [[one] for one in read]:
        if len(some) > 1 or cut.beginnings is not None:
            yield _packed(cut, some, device)
        else:  # right-padded ids need no mask: under causal attention no token looks to its right
            ids = torch.from_numpy(cut.tokens[some[0].rows, : some[0].width]).to(device)
            yield Stream({"input_ids": ids, "use_cache": False}, (), some[0].which, some[0].where)


def calling(model: nn.Module, stream: Stream) -> AbstractContextManager[None]:
    """Return a context in which a model is to be called with a stream."""
    if not stream.parts:
        return nullcontext()
    from .attention import attending  # the library's models come with it: two seconds, which whoever has one has spent

    return attending(model, stream.parts)


def _bundles(read: Sequence[Reading]) -> list[list[Reading]]:
    """Return readings in bundles of `MOST` tokens, or of one reading."""
    found: list[list[Reading]] = []
    left = 0
    for one in read:
        left -= len(one.rows) * one.width
        if left < 0 or not found:
            found.append([])
            left = MOST - len(one.rows) * one.width
        found[-1].append(one)
    return found


def _packed(cut: Rests, read: Sequence[Reading], device: torch.device) -> Stream:
    """Return readings behind one another, and behind the beginnings."""
    begun, parts, where = cut.beginnings, [], []
    ids, positions = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    if begun is not None:
        parts.append(Part(*begun.tokens.shape))
        ids.append(begun.tokens.reshape(-1))
        positions.append(np.tile(np.arange(begun.tokens.shape[1]), len(begun.tokens)))
    for one in read:
        starts = cut.starts[one.rows]
        where.append(sum(map(len, ids)) + one.where)
        parts.append(_part(begun, one, starts, device))
        ids.append(cut.tokens[one.rows, : one.width].reshape(-1))
        last = (starts + cut.sizes[one.rows]).max() - 1  # pads may stand behind it, where the model perhaps knows no position
        positions.append(np.minimum(starts[:, None] + np.arange(one.width), last).reshape(-1))
    spare = np.zeros(-sum(map(len, ids)) % _step(sum(map(len, ids))), np.int64)
    ids.append(spare)
    positions.append(spare)
    told = {name: torch.from_numpy(np.concatenate(each)[None]).to(device) for name, each in (("input_ids", ids), ("position_ids", positions))}
    nothing = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device)  # a mask that is made already: the library makes none, and none but ours can use it
    inputs = {**told, "attention_mask": nothing, "use_cache": False}
    return Stream(inputs, parts, np.concatenate([one.which for one in read]), np.concatenate(where))


def _step(num_tokens: int) -> int:
    """Return what the length of a stream is a multiple of."""
    return max(1, (1 << num_tokens.bit_length() - 1) // EVEN)


def _part(begun: Beginnings | None, one: Reading, starts: IntArray, device: torch.device) -> Part:
    if begun is None:
        return Part(len(one.rows), one.width)
    known = np.arange(begun.tokens.shape[1]) < starts[:, None, None]
    own = np.tri(one.width, dtype=np.bool_)
    seen = np.concatenate([np.broadcast_to(each, (len(starts), one.width, each.shape[-1])) for each in (known, own)], -1)
    return Part(len(one.rows), one.width, torch.from_numpy(begun.of[one.rows]).to(device), torch.from_numpy(seen[:, None]).to(device))


def attends_by_name(model: nn.Module) -> bool:
    """Return whether a model looks up by name what computes its attention, and is told to call PyTorch's, so that it can be told to call ours."""
    if not getattr(model, "_supports_attention_backend", False):
        return False
    return model.config.get_text_config()._attn_implementation in ("sdpa", NAME)  # type: ignore[operator, union-attr]


def packs(model: nn.Module) -> bool:
    """Return whether a model says of sequences behind one another, and behind what it reads once, what it says of each alone.

    What can be known of a model is asked, and then it is tried, once for each model.
    """
    if model.training or not attends_by_name(model):
        return False
    adapters = getattr(model, "peft_config", {}).values()
    if any(one.is_prompt_learning or getattr(one, "alora_invocation_tokens", None) for one in adapters):  # tokens of its own, or a rule for some
        return False
    if model not in _TRIED:
        _TRIED[model] = _may_pack(model) and _same(model)
    return _TRIED[model]


_TRIED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _may_pack(model: nn.Module) -> bool:
    own, config = model.get_base_model() if hasattr(model, "get_base_model") else model, model.config  # type: ignore[operator]
    if not {"position_ids", "attention_mask"} <= inspect.signature(own.forward).parameters.keys():
        return False
    if (getattr(config.get_text_config(), "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope"):  # type: ignore[operator, union-attr]
        return False  # other angles for longer sequences
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)  # others look back to some tokens only, or remember them otherwise


@torch.no_grad()
def _same(model: nn.Module) -> bool:
    """Compare two whole sequences with their rests behind beginnings of one and two tokens."""
    whole = np.array([[1, 2, 3], [2, 1, 3]]) % model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    starts, of, places = np.array([1, 2]), np.array([0, 1]), np.array([1, 2, 5])
    cut = Rests(np.stack([whole[0, 1:], np.roll(whole[1], 1)[:2]]), 3 - starts, starts, Beginnings(whole[:, :2], starts, of))
    stream = _packed(cut, readings(cut.sizes, places // 3, places % 3 - starts[places // 3]), device_of(model))
    expected = forward(model, input_ids=torch.from_numpy(whole).to(device_of(model)), use_cache=False)[0]
    try:
        with calling(model, stream):
            found = logits_at(model, stream.inputs, torch.from_numpy(stream.where).to(device_of(model)))[0]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):  # whatever it is, sequences can be read as they are
        return False
    return close(found, expected.flatten(0, 1)[torch.from_numpy(places[stream.which])])
