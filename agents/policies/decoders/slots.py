"""Keys and values by slot for the quick decoders, and attention over them.

A layer's store is one array of lines of D numbers: the keys of slot n, head k at positions 0 to W, then the values likewise, then one query of
each. So one `index_copy_` writes what all rows add, wherever they stand, and what the batched products read are views.
Axis legend: N slots, B rows of one call, Q new tokens a row, W width, U positions in use, K heads of keys, G query heads for each, D head size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_fits

DENSE = 2 / 3  # of the slots between the first and the last: from there on all of them are computed, because fetching some copies what they hold
VIEWS = 4096  # that are remembered: cutting stores to the positions in use costs a twentieth of a small model's step


class Place(NamedTuple):
    """Where new tokens stand, and what they may attend to."""

    positions: Tensor  # [B * Q] of each token; W for pads beyond the end, and in slots that are computed to no purpose
    first: int  # the rows' slots are this one and those behind it,
    slots: Tensor | None  # [B] or these
    num_new: int  # Q
    upto: int  # U
    mask: Tensor | None  # Q = 1: [B * K, 1, U], otherwise [B, 1, Q, U]; None where causality alone says it
    last: Tensor | None  # which of the B * Q tokens are the last ones of the rows that were asked for; None: all


class Slots:
    """N slots of W positions for each of `num_layers` layers."""

    def __init__(self, num_layers: int, num_slots: int, width: int, num_heads: int, head_size: int, like: Tensor) -> None:
        self.num_slots, self.width, self.num_heads, self.head_size = num_slots, width, num_heads, head_size
        span = width + 1  # the last column catches what pads write beyond the end
        self.num_lines = num_slots * num_heads * span  # of the keys; as many of values follow
        self.stores = [like.new_zeros(2 * self.num_lines + num_slots * num_heads, head_size) for _ in range(num_layers)]
        keys = [store[: self.num_lines].view(num_slots * num_heads, span, head_size) for store in self.stores]
        self.keys = [each.transpose(1, 2) for each in keys]  # [N * K, D, W + 1]
        self.values = [store[self.num_lines : 2 * self.num_lines].view(num_slots * num_heads, span, head_size) for store in self.stores]
        self.queries = [store[2 * self.num_lines :].unsqueeze(1) for store in self.stores]  # [N * K, 1, D] for those who write them along
        self.origin = torch.arange(0, self.num_lines, span, device=like.device).view(num_slots, num_heads)  # [N, K] the line of position 0
        ramp = torch.cat([like.new_zeros(span), like.new_full((width,), -torch.inf)])
        self.masks = ramp.unfold(0, span, 1)  # [W + 1, W + 1] a view: row W - p shows columns 0 to p and hides the rest
        self._zero = like.new_zeros(1)
        self._views: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def place(self, ids: Tensor, starts: Tensor, new: Tensor | None, rows: Tensor | None) -> tuple[Tensor, Place]:
        """Return the ids [B * Q] to compute and where they stand, for ids [B, Q] that begin at `starts` [B] (see `Decoder.extend`).

        Where the rows lie dense among the slots, the slots between them are computed too; what those write goes to the spare column.
        """
        lowest, highest = check_fits(ids, starts, new, rows, self.num_slots, self.width)
        device, num_new = self._zero.device, ids.shape[1]
        ids, starts, slots, first, asked = ids.to(device), starts.to(device), None, 0, None
        if rows is not None and len(rows) < self.num_slots:
            listed = rows.tolist()
            first, span = listed[0], listed[-1] - listed[0] + 1
            if num_new == 1 and DENSE * span <= len(listed) < span:
                asked = rows.to(device) - first
                ids = ids.new_zeros(span, 1).index_copy_(0, asked, ids)
                starts = starts.new_full((span,), self.width).index_copy_(0, asked, starts)
            elif len(listed) < span:
                first, slots = 0, rows.to(device)
        if num_new > 1:
            return ids.reshape(-1), self._many(starts, None if new is None else new.to(device), first, slots, num_new, highest)
        mask = None if lowest == highest else self._mask(starts, highest + 1)
        return ids.view(-1), Place(starts, first, slots, 1, highest + 1, mask, asked)

    def _mask(self, positions: Tensor, upto: int) -> Tensor:
        """Return which of the first U = `upto` positions one token a row at `positions` [B] attends to, [B * K, 1, U]."""
        return self.masks.narrow(1, 0, upto).index_select(0, self.width - positions).unsqueeze(1).expand(-1, self.num_heads, -1).reshape(-1, 1, upto)

    def _many(self, starts: Tensor, new: Tensor | None, first: int, slots: Tensor | None, num_new: int, highest: int) -> Place:
        """Place Q > 1 tokens a row; pads behind a row's end write behind it, or to the spare column, and nobody reads that."""
        positions = (starts.unsqueeze(1) + torch.arange(num_new, device=starts.device)).clamp_(max=self.width).view(-1)
        upto = highest + 1
        fresh = upto == num_new and not bool(starts.any())
        mask = None if fresh else self.masks.narrow(1, 0, upto).index_select(0, self.width - positions).view(-1, 1, num_new, upto)
        ends = torch.arange(len(starts), device=starts.device) * num_new + (num_new if new is None else new) - 1
        return Place(positions, first, slots, num_new, upto, mask, ends)

    def at_ends(self, place: Place, x: Tensor, query: Tensor) -> tuple[Place, Tensor, Tensor]:
        """Return, of Q > 1 tokens a row, where the last ones stand, and their share of x [B * Q, E] and of queries [B * Q, K * G * D].

        It is all that a last layer need say something of, once it has written keys and values of all: a third of the work of two layers on a prompt is spared.
        """
        assert place.last is not None
        positions = place.positions.index_select(0, place.last)
        ends = Place(positions, place.first, place.slots, 1, place.upto, self._mask(positions, place.upto), None)
        return ends, x.index_select(0, place.last), query.index_select(0, place.last)

    def lines(self, table: Tensor, moves: Tensor, place: Place) -> Tensor:
        """Return the lines [B * Q * X] that tokens are written to: those of position 0, in `table` [N, X], and `moves` [X] further for each position."""
        num_rows = len(place.positions) // place.num_new
        if place.slots is not None:
            table = table.index_select(0, place.slots)
        elif num_rows < self.num_slots:
            table = table.narrow(0, place.first, num_rows)
        if place.num_new > 1:
            table = table.repeat_interleave(place.num_new, 0)
        return torch.addcmul(table, place.positions.unsqueeze(1), moves).view(-1)

    def attend(self, layer: int, query: Tensor | None, place: Place, scale: float) -> Tensor:
        """Return what queries [B * Q, K * G * D] find in their slots, of the same shape. None, with Q = 1: those written to `queries`."""
        keys, values = self._held(layer, place)
        if place.num_new > 1 and query is not None:
            return self._attend_many(keys, values, query, place, scale)
        query = self._of(self.queries[layer], place) if query is None else query.reshape(len(keys), -1, self.head_size)
        mask, beta = (self._zero, 0) if place.mask is None else (place.mask, 1)
        scores = torch.baddbmm(mask, query, keys, beta=beta, alpha=scale)
        return torch.bmm(torch.softmax(scores, -1), values).view(len(place.positions), -1)

    def _attend_many(self, keys: Tensor, values: Tensor, query: Tensor, place: Place, scale: float) -> Tensor:
        num_rows = len(query) // place.num_new
        held = (num_rows, self.num_heads, place.upto, self.head_size)
        found = F.scaled_dot_product_attention(
            query.view(num_rows, place.num_new, -1, self.head_size).transpose(1, 2),  # [B, K * G, Q, D]
            keys.transpose(1, 2).view(held),
            values.view(held),
            place.mask,
            is_causal=place.mask is None,
            scale=scale,
            enable_gqa=True,
        )
        return found.transpose(1, 2).reshape(len(place.positions), -1)

    def _held(self, layer: int, place: Place) -> tuple[Tensor, Tensor]:
        """Return the keys [B * K, D, U] and values [B * K, U, D] in use of the rows' slots."""
        if place.upto not in self._views:
            if len(self._views) * len(self.stores) > VIEWS:
                self._views.clear()
            pairs = zip(self.keys, self.values, strict=True)
            self._views[place.upto] = [(keys.narrow(2, 0, place.upto), values.narrow(1, 0, place.upto)) for keys, values in pairs]
        keys, values = self._views[place.upto][layer]
        return self._of(keys, place), self._of(values, place)

    def _of(self, kept: Tensor, place: Place) -> Tensor:
        """Return of what is kept for each slot and head, [N * K, ...], the rows' share [B * K, ...]."""
        if place.slots is not None:
            return kept.view(self.num_slots, self.num_heads, *kept.shape[1:]).index_select(0, place.slots).flatten(0, 1)
        num_rows = len(place.positions) // place.num_new
        return kept if num_rows == self.num_slots else kept.narrow(0, place.first * self.num_heads, num_rows * self.num_heads)

    def copy(self, source: Tensor, target: Tensor, of: Slots) -> None:
        """Make slots `target` [B] hold what the slots `source` [B] of `of` hold."""
        where = self._zero.device
        for kept, theirs in zip((*self.keys, *self.values), (*of.keys, *of.values), strict=True):
            by_slot, from_slot = (some.view(-1, self.num_heads, *some.shape[1:]) for some in (kept, theirs))
            by_slot[target.to(where)] = from_slot[source.to(where)]
