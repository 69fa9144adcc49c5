"""Keys and values by slots: rows of one batch that grow independently, under any `transformers` decoder.

Each row owns a slot of a preallocated cache; new keys and values are written at that row's own positions, and explicit
`position_ids` and a 4-D mask make the logits those of the uncached forward. So a row that begins anew is encoded while the
others go on, and no row waits for another.
Axis legend: N slots, B rows of one call, Q new tokens a row, U cached positions in use, H heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


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
        self.keys[cache.rows[:, None], :, cache.positions] = key_states.transpose(1, 2)
        self.values[cache.rows[:, None], :, cache.positions] = value_states.transpose(1, 2)
        rows = slice(None) if len(cache.rows) == cache.num_slots else cache.rows
        return self.keys[rows, :, : cache.upto], self.values[rows, :, : cache.upto]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.upto, 0

    def get_seq_length(self) -> int:
        return 0  # the library would derive positions from it; they are given instead

    def get_max_length(self) -> int:
        return self.cache.width


class SlotCache(Cache):
    """N slots of `width` positions for a decoder of `num_layers` layers."""

    def __init__(self, num_slots: int, width: int, num_layers: int) -> None:
        self.num_slots, self.width = num_slots, width
        super().__init__(layers=[_SlotLayer(self) for _ in range(num_layers)])

    def place(self, rows: Tensor, starts: Tensor, num_new: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Aim the next forward: slots `rows` [B] in ascending order, first positions `starts` [B], Q = `num_new` tokens each.

        Returns position ids [B, Q] and the additive attention mask [B, 1, Q, U]. A row with fewer than Q new tokens is
        padded on the right: what its pads write lies beyond its end and is overwritten before anything may attend to it.
        """
        self.rows = rows
        self.positions = (starts[:, None] + torch.arange(num_new, device=starts.device)).clamp_(max=self.width)
        self.upto = int(self.positions.max()) + 1
        hidden = torch.arange(self.upto, device=starts.device) > self.positions[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=starts.device).masked_fill_(hidden, torch.finfo(dtype).min)
        return self.positions.clamp(max=self.width - 1), mask
