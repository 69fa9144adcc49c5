"""Any `transformers` decoder over a cache of slots, through the library's own forward.

Each row owns a slot of a preallocated cache; new keys and values are written at that row's own positions, and explicit
`position_ids` and a 4-D mask make the logits those of the uncached forward. So a row that begins anew is encoded while the
others go on, and no row waits for another.
Axis legend: N slots, B rows of one call, Q new tokens a row, U cached positions in use, H heads, D head size.
"""

from __future__ import annotations

from contextlib import nullcontext
from threading import get_ident
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from ..output_layer import close, device_of, forward, layer_of
from .checks import check_fits
from .plain import short_window


class _SlotLayer(CacheLayerMixin):
    """One layer's keys and values [N, H, width, D]."""

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        n, width = self.cache.num_slots, self.cache.width + 1  # the last column catches what pads write beyond the end
        self.keys = key_states.new_zeros(n, key_states.shape[1], width, key_states.shape[3])
        self.values = value_states.new_zeros(n, value_states.shape[1], width, value_states.shape[3])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write [B, H, Q, D] at the rows' own positions; return what they may attend to, [B, H, U, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        if cache.together is not None:
            self.keys[:, :, cache.together : cache.upto] = key_states
            self.values[:, :, cache.together : cache.upto] = value_states
            return self.keys[:, :, : cache.upto], self.values[:, :, : cache.upto]
        self.keys[cache.rows[:, None], :, cache.positions] = key_states.transpose(1, 2)
        self.values[cache.rows[:, None], :, cache.positions] = value_states.transpose(1, 2)
        rows = slice(None) if len(cache.rows) == cache.num_slots else cache.rows
        return self.keys[rows, :, : cache.upto], self.values[rows, :, : cache.upto]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.upto, 0

    def get_seq_length(self) -> int:
        return self.cache.together or 0  # where rows stand apart, the library would derive positions from it: they are given instead

    def get_max_length(self) -> int:
        return self.cache.width


class SlotCache(Cache):
    """N slots of `width` positions for a decoder of `num_layers` layers."""

    def __init__(self, num_slots: int, width: int, num_layers: int) -> None:
        self.num_slots, self.width = num_slots, width
        self.together: int | None = None
        super().__init__(layers=[_SlotLayer(self) for _ in range(num_layers)])

    def place(self, rows: Tensor, starts: Tensor, num_new: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Aim the next forward: slots `rows` [B] in ascending order, first positions `starts` [B], Q = `num_new` tokens each.

        Returns position ids [B, Q] and the additive attention mask [B, 1, Q, U]. A row with fewer than Q new tokens is
        padded on the right: what its pads write lies beyond its end and is overwritten before anything may attend to it.
        """
        self.rows, self.together = rows, None
        self.positions = (starts[:, None] + torch.arange(num_new, device=starts.device)).clamp_(max=self.width)
        self.upto = int(self.positions.max()) + 1
        hidden = torch.arange(self.upto, device=starts.device) > self.positions[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=starts.device).masked_fill_(hidden, torch.finfo(dtype).min)
        return self.positions.clamp(max=self.width - 1), mask

    def place_together(self, start: int, num_new: int, device: torch.device) -> Tensor:
        """Aim the next forward at all slots, Q = `num_new` tokens from one position on; return the position ids [1, Q]: causality says the rest."""
        self.together, self.upto = start, start + num_new
        return torch.arange(start, self.upto, device=device)[None]


def check_decodes(model: nn.Module) -> None:
    """Raise `ValueError` where rows that stand apart do not get what the uncached forward says; it is tried once for each model.

    Some models count positions of their own, keep something else than keys and values, or take no mask of four dimensions.
    """
    if model in _TRIED:
        return
    advice = f"{type(model).__name__} cannot be played over a cache of slots: pass use_cache=False to the policy"
    num_ids = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids, starts, both = torch.tensor([[1, 2, 0], [2, 1, 3]]) % num_ids, torch.tensor([1, 2]), torch.arange(2)
    decoder = LibraryDecoder(model, 2, 3)
    try:
        decoder.extend(ids[:, :2], torch.zeros(2, dtype=torch.int64), starts)
        found = decoder.extend(ids[both, starts][:, None], starts)[0]
        with torch.no_grad():
            logits = forward(model, input_ids=ids.to(device_of(model)), use_cache=False)[0]
        expected = logits[both, starts.to(logits.device)]
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise ValueError(f"{advice}. It failed with {type(error).__name__}: {error}.") from error
    if not close(found, expected.to(found.dtype)):
        raise ValueError(f"{advice}. What it says of rows that are not of one length differs from what it says of each alone.")
    _TRIED.add(model)


_TRIED: WeakSet[nn.Module] = WeakSet()


class LibraryDecoder:
    """A decoder over the library's forward: any causal model that takes position ids, a 4-D mask and a cache of layers."""

    name = "any (library)"

    def __init__(self, model: nn.Module, num_slots: int, width: int, dtype: torch.dtype | None = None) -> None:
        config = model.config.get_text_config()  # type: ignore[operator, union-attr]
        if (window := short_window(config, width)) is not None:
            raise ValueError(f"This model attends to {window} tokens at a time, observations hold up to {width}; pass use_cache=False to the policy.")
        from ..attention import attending  # the library's models come with it: two seconds, which whoever has one has spent

        self.model, self.num_slots, self.width, self._attending = model, num_slots, width, attending
        self.own: torch.dtype = model.dtype  # type: ignore[assignment]
        self.dtype = dtype or self.own
        self.cache = SlotCache(num_slots, width, config.num_hidden_layers)
        self._read: list[Tensor] = []  # what the output layer was last given

    @torch.no_grad()
    def extend(self, ids: Tensor, starts: Tensor, new: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Do what `Decoder.extend` promises."""
        lowest, highest = check_fits(ids, starts, new, rows, self.num_slots, self.width)
        num_new, ids = ids.shape[1], ids.to(device_of(self.model))
        if new is None and len(ids) == self.num_slots and lowest + num_new == highest + 1:
            logits, hidden = self._forward(ids, self.cache.place_together(lowest, num_new, ids.device), None, 1)
            return _at_least_float32(logits[:, 0]), hidden[:, 0]
        starts = starts.to(ids.device)
        slots = torch.arange(self.num_slots, device=ids.device) if rows is None else rows.to(ids.device)
        lengths = torch.full_like(starts, num_new) if new is None else new.to(ids.device)
        keep = num_new - int(lengths.min()) + 1
        at, last = torch.arange(len(ids), device=ids.device), lengths - 1 - (num_new - keep)
        logits, hidden = self._forward(ids, *self.cache.place(slots, starts, num_new, self.dtype), keep)
        return _at_least_float32(logits[at, last]), hidden[at, last]

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, keep: int) -> tuple[Tensor, Tensor]:
        # The one place where every decoder shows its final hidden states at just the kept positions; other threads' are none of ours.
        ours = get_ident()
        hook = layer_of(self.model).register_forward_pre_hook(lambda module, inputs: self._read.append(inputs[0]) if get_ident() == ours else None)
        try:
            coarse = torch.autocast(ids.device.type, dtype=self.dtype) if self.dtype != self.own else nullcontext()
            with coarse, self._attending(self.model) if ids.shape[1] == 1 and ids.device.type == "cpu" else nullcontext():
                logits: Tensor = self.model(
                    input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=self.cache, use_cache=True, logits_to_keep=keep
                ).logits
        finally:
            hook.remove()
        if not self._read:
            raise TypeError(f"{type(self.model).__name__} did not call its output embeddings; a causal language model is needed.")
        return logits, self._read.pop()

    def copy_slots(self, source: Tensor, target: Tensor, of: LibraryDecoder | None = None) -> None:
        """Do what `Decoder.copy_slots` promises."""
        for layer, other in zip(self.cache.layers, (of or self).cache.layers, strict=True):
            if other.is_initialized:
                if not layer.is_initialized:
                    layer.lazy_initialization(other.keys, other.values)
                for kept, theirs in ((layer.keys, other.keys), (layer.values, other.values)):
                    kept[target.to(kept.device)] = theirs[source.to(kept.device)]

    def rebind(self) -> None:
        """Empty the slots: nan left by weights of before would come through every mask. The library reads its own weights."""
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.keys.zero_()
                layer.values.zero_()


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
