"""Sequences that begin alike: what they share is read once, with gradients, and its keys and values are lent to all of them.

The texts of a group (GRPO, RLOO) answer one prompt; without this a model reads it as often as it was answered.
Axis legend: S sequences, W their tokens, B of them that are read together, Q tokens of one, G beginnings, P tokens of the longest beginning,
M places that are asked for.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from .output_layer import close, device_of, forward
from .prefixes import CALL

IntArray = NDArray[np.int64]

WIDER = 1.25  # times as many keys, at most, may be attended to: whoever lends gives each sequence as many as the longest beginning has
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
    if len(member) * longest + left.sum() + CALL > WORTH * sizes.sum() or num * longest + left.sum() > WIDER * sizes.sum():
        return Rests(tokens, sizes, np.zeros_like(sizes))
    shared = np.where(np.arange(longest) < begun[:, None], tokens[member, :longest], 0)
    behind = np.take_along_axis(tokens, np.minimum(starts[:, None] + np.arange(left.max()), width - 1), 1)
    return Rests(behind, left, starts, Beginnings(shared, begun, of))


def lends(model: nn.Module) -> bool:
    """Return whether rests behind what a model has read once say what whole sequences say: it keeps keys and values of all tokens, and takes positions.

    What can be known of a model is asked, and then it is tried, once for each model.
    """
    if model.training or not _may_lend(model):
        return False
    if model not in _TRIED:
        _TRIED[model] = _same(model)
    return _TRIED[model]


_TRIED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _may_lend(model: nn.Module) -> bool:
    config = getattr(model, "config", None)
    own = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    known = inspect.signature(own.forward).parameters
    if config is None or not {"past_key_values", "position_ids", "attention_mask"} <= known.keys():
        return False
    if not getattr(own, "_supports_attention_backend", False):  # it makes masks in a way of its own
        return False
    if (getattr(config.get_text_config(), "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope"):  # other angles for longer sequences
        return False
    adapters = getattr(model, "peft_config", {}).values()
    if any(one.is_prompt_learning or getattr(one, "alora_invocation_tokens", None) for one in adapters):  # tokens of its own, or a rule for some
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@torch.no_grad()
def _same(model: nn.Module) -> bool:
    """Compare two whole sequences with their rests behind beginnings of one and two tokens."""
    whole = np.array([[1, 2, 3], [2, 1, 3]]) % model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    starts, of = np.array([1, 2]), np.array([0, 1])
    cut = Rests(np.stack([whole[0, 1:], np.roll(whole[1], 1)[:2]]), 3 - starts, starts, Beginnings(whole[:, :2], starts, of))
    expected = forward(model, input_ids=torch.from_numpy(whole).to(device_of(model)), use_cache=False)[0]
    try:
        found = forward(model, **Lender(model, cut).inputs(of, 2))[0]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):  # whatever it is, whole sequences can be read
        return False
    return close(torch.stack([found[0, 0], found[0, 1], found[1, 0]]), torch.stack([expected[0, 1], expected[0, 2], expected[1, 2]]))


class _Lent(DynamicLayer):
    """Beginnings' keys and values [G, heads, P, D] of one layer, for the sequences [B] that go on from them; it keeps nothing of what it is given."""

    def __init__(self, keys: Tensor, values: Tensor, which: Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.which, self.is_initialized = keys, values, which, True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return what the new tokens [B, heads, Q, D] may attend to, [B, heads, P + Q, D]."""
        told = ((self.keys, key_states), (self.values, value_states))
        keys, values = (torch.cat([lent.index_select(0, self.which), new], -2) for lent, new in told)
        return keys, values


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
        cache = Cache(layers=[_Lent(*layer, which) for layer in self.layers])
        begun = torch.arange(self.cut.beginnings.tokens.shape[1], device=self.device) < starts[:, None]
        known = torch.cat([begun, torch.ones_like(ids, dtype=torch.bool)], 1)
        last = int((self.cut.starts + self.cut.sizes)[rows].max()) - 1  # pads may stand behind it, where the model perhaps knows no position
        positions = (starts[:, None] + torch.arange(width, device=self.device)).clamp_(max=last)
        return {"input_ids": ids, "attention_mask": known, "position_ids": positions, "past_key_values": cache, "use_cache": True}
