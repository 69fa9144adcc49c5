"""Sequences that begin alike: what they share is read once, with gradients, and its keys and values are lent to all of them.

The texts of a group (GRPO, RLOO) answer one prompt; without this a model reads it as often as it was answered.
Axis legend: S sequences, W their tokens, B of them that are read together, Q tokens of one, G beginnings, P tokens of the longest beginning,
M places that are asked for.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from .output_layer import device_of, forward
from .prefixes import CALL

IntArray = NDArray[np.int64]

WORTH = 0.9  # of the tokens, at most, must be left to read: keys and values are copied for each sequence, and that takes time as well


class Beginnings(NamedTuple):
    """What sequences share."""

    tokens: IntArray  # [G, P] right-padded with 0
    sizes: IntArray  # [G]
    of: IntArray  # [S] the one that each sequence begins with


class Rests(NamedTuple):
    """Sequences behind their beginnings, or whole where there are none."""

    tokens: IntArray  # [S, Q] right-padded
    sizes: IntArray  # [S]
    starts: IntArray  # [S] how many tokens of each are cut off
    beginnings: Beginnings | None = None


def rests(tokens: IntArray, sizes: IntArray, rows: IntArray, places: IntArray) -> Rests:
    """Return sequences [S, W] of `sizes` [S], of which `rows` and `places` [M] are asked for, cut where that leaves less to read.

    A sequence is cut in front of the first place that is asked for: what the model says there need not be one thing for all who share it.
    """
    num, width = tokens.shape
    starts = np.full(num, width)
    np.minimum.at(starts, rows, places)
    numbers: dict[bytes, int] = {}
    of = np.array([numbers.setdefault(row[:start].tobytes(), len(numbers)) for row, start in zip(tokens, starts, strict=True)])
    starts[np.bincount(of)[of] == 1] = 0  # what nobody shares is not cut: those go on from a beginning of no tokens
    _, member, of = np.unique(np.where(starts == 0, -1, of), return_index=True, return_inverse=True)
    begun, left = starts[member], sizes - starts
    longest = int(begun.max())
    if len(member) * longest + left.sum() + CALL > WORTH * sizes.sum():
        return Rests(tokens, sizes, np.zeros_like(sizes))
    shared = np.where(np.arange(longest) < begun[:, None], tokens[member, :longest], 0)
    behind = np.take_along_axis(tokens, np.minimum(starts[:, None] + np.arange(left.max()), width - 1), 1)
    return Rests(behind, left, starts, Beginnings(shared, begun, of))


def lends(model: nn.Module) -> bool:
    """Return whether what a model keeps of a sequence is keys and values of all its tokens, and it can be told where the next ones stand."""
    config = getattr(model, "config", None)
    own = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    known = inspect.signature(own.forward).parameters
    if config is None or not {"past_key_values", "position_ids", "attention_mask"} <= known.keys():
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


class Lender:
    """What a model is called with to read sequences, or their rests behind beginnings that it has read."""

    def __init__(self, model: nn.Module, cut: Rests) -> None:
        self.cut, self.device = cut, device_of(model)
        self.layers: list[tuple[Tensor, Tensor]] = []  # keys and values [G, heads, P, head size]
        if cut.beginnings is not None:
            cache, ids = DynamicCache(config=model.config), torch.from_numpy(cut.beginnings.tokens).to(self.device)
            forward(model, lambda states: states[:1, :1].detach(), input_ids=ids, past_key_values=cache, use_cache=True)
            self.layers = [(layer.keys, layer.values) for layer in cache.layers]

    def inputs(self, rows: IntArray, width: int) -> dict[str, Any]:
        """Return what to call the model with for `rows` [B] of the sequences, of `width` Q tokens at most."""
        ids = torch.from_numpy(self.cut.tokens[rows, :width]).to(self.device)
        if self.cut.beginnings is None:
            return {"input_ids": ids, "use_cache": False}  # right-padded ids need no mask: under causal attention no token looks to its right
        which, starts = (torch.from_numpy(each[rows]).to(self.device) for each in (self.cut.beginnings.of, self.cut.starts))
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            cache.update(keys.index_select(0, which), values.index_select(0, which), number)
        begun = torch.arange(self.cut.beginnings.tokens.shape[1], device=self.device) < starts[:, None]
        known = torch.cat([begun, torch.ones_like(ids, dtype=torch.bool)], 1)
        last = int((self.cut.starts + self.cut.sizes)[rows].max()) - 1  # pads may stand behind it, where the model perhaps knows no position
        positions = (starts[:, None] + torch.arange(width, device=self.device)).clamp_(max=last)
        return {"input_ids": ids, "attention_mask": known, "position_ids": positions, "past_key_values": cache, "use_cache": True}
