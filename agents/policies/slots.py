"""What the slots of a cache hold, and so which tokens of the present prefixes still have to be read.

Axis legend: N slots, B rows of one part, L observation columns, Q new tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .common import WeightsWatch
from .decoders import Decoder
from .prefixes import agreement, room_left
from .steady import promise

IntArray = NDArray[np.int64]


class Part(NamedTuple):
    """New tokens of some rows, to be read together."""

    rows: IntArray | None  # [B] slots in ascending order; None: all of them
    ids: IntArray  # [B, Q] right-padded with 0
    first: IntArray  # [B] how many tokens their slots hold already
    new: IntArray | None  # [B] how many of the Q count; None: the one


def read(decoder: Decoder, part: Part) -> tuple[Tensor, Tensor]:
    """Return the logits [B, V] and hidden states [B, H] at the ends of a part's rows; of rows that begin with the same tokens, one is read and copied."""
    which = _alike(part)
    if which is None:
        return _extended(decoder, part)
    first_of = np.unique(which, return_index=True)[1]  # in ascending order, since rows are numbered as they come
    slots = np.arange(len(part.ids)) if part.rows is None else part.rows
    some = Part(slots[first_of], part.ids[first_of], part.first[first_of], None if part.new is None else part.new[first_of])
    logits, hidden = _extended(decoder, some)
    copies = np.setdiff1d(np.arange(len(slots)), first_of)
    decoder.copy_slots(torch.from_numpy(slots[first_of[which[copies]]]), torch.from_numpy(slots[copies]))
    where = torch.from_numpy(which).to(logits.device)
    return logits.index_select(0, where), hidden.index_select(0, where)


def _alike(part: Part) -> IntArray | None:
    """Return a number for each row [B] of a part, the same for rows that are alike, from 0 in the order of the rows; None where a copy is not worth it."""
    num_rows, num_new = part.ids.shape
    if num_new == 1 or num_rows == 1 or part.first.any():
        return None
    ids = part.ids if part.new is None else np.column_stack([part.ids, part.new])
    order: dict[bytes, int] = {}
    which = np.array([order.setdefault(row.tobytes(), len(order)) for row in ids])
    return None if 2 * len(order) > num_rows else which


def _extended(decoder: Decoder, part: Part) -> tuple[Tensor, Tensor]:
    told = [None if values is None else torch.from_numpy(values) for values in (part.new, part.rows)]
    return decoder.extend(torch.from_numpy(part.ids), torch.from_numpy(part.first), *told)


class Cache:
    """A decoder's keys and values, lent to one `Slots` at a time: laying them out anew for every rollout would take longer than many a step."""

    def __init__(self, model: nn.Module, kind: object, make: Callable[[], Decoder]) -> None:
        self.model, self.kind, self._make = model, kind, make
        self.holder: Slots | None = None
        self._checked: object | None = None  # the promise of steady weights under which they were last looked at
        self.renew()

    def renew(self) -> None:
        """Make the decoder, for the model as it stands."""
        self.decoder, self.watch = self._make(), WeightsWatch(self.model)
        self.version, self.built, self._weights = self.watch(), built(self.model), list(self.model.parameters())
        self.holder = None

    def lend(self, to: Slots) -> bool:
        """Return whether what the slots hold is still what `to` filled them with: no weight has changed since, and nobody else has played."""
        if self.holder is to and self._checked is not None and self._checked is promise():
            return True
        self._checked = None
        if (version := self.watch()) != self.version:
            self.holder = None
            if built(self.model) == self.built:
                self.decoder.rebind()
                self.version = version
            else:
                self.renew()
        before, self.holder, self._checked = self.holder, to, promise()
        return before is to


def built(model: nn.Module) -> list[tuple[object, ...]]:
    """Return the modules of a model, how many hooks each has, and its weights: adapters and their like change it, optimisers do not."""
    found: list[tuple[object, ...]] = []
    open_ones: list[nn.Module] = [model]  # `model.modules()` would take twice as long, and this is asked at every rollout
    while open_ones:
        one = open_ones.pop()
        weights = [(id(w), w.dtype, w.device) for w in one._parameters.values() if w is not None]
        found.append((one, len(one._forward_hooks) + len(one._forward_pre_hooks), *weights))
        open_ones.extend(child for child in one._modules.values() if child is not None)
    return found


@dataclass(eq=False)
class Slots:
    """What a cache holds of some rows of play: the prefix that each slot has read.

    It is changed in place: whoever still holds an older position of play learns from it what the slots hold by now.
    """

    cache: Cache
    seen: IntArray  # [N, L] the prefix that each slot has read, and behind it the token drawn since
    cached: IntArray = field(init=False)  # [N] tokens of it that are in the slot
    ends: IntArray = field(init=False)  # [N] the column behind them
    pending: NDArray[np.bool_] = field(init=False)  # [N] that column holds a token that was drawn and is not in the slot

    def __post_init__(self) -> None:
        self._every = np.arange(len(self.seen))

    def of_rows(self, rows: NDArray[np.bool_]) -> SomeSlots:
        """Return those of the rows [N] bool."""
        return SomeSlots(self, np.flatnonzero(rows))

    def fork(self, rows: IntArray, cache: Cache) -> Slots:
        """Return slots in another cache that hold what those of `rows` [B] hold: of what cannot be trusted here, nothing is copied."""
        copies = Slots(cache, self.seen[rows])
        decoder = copies.hold()
        if self.cache.holder is self and self.cache.watch() == self.cache.version and type(decoder) is type(self.cache.decoder):
            decoder.copy_slots(torch.from_numpy(rows), torch.arange(len(rows)), self.cache.decoder)
            copies.cached, copies.ends, copies.pending = self.cached[rows], self.ends[rows], self.pending[rows]
        return copies

    def hold(self) -> Decoder:
        """Return the decoder; what its slots held before is forgotten unless it was read for these rows, under these weights."""
        if not self.cache.lend(self):
            num_slots = len(self.seen)
            self.cached, self.ends, self.pending = np.zeros(num_slots, np.int64), np.zeros(num_slots, np.int64), np.zeros(num_slots, np.bool_)
        return self.cache.decoder

    def unread(self, prefixes: IntArray, pad: int, rows: IntArray | None = None) -> list[Part]:
        """Return the tokens of the prefixes [N, L] of `rows` (None: all) that are not in their slots, and take them for read.

        Most rows have grown by the token that was drawn for them. The others (begun anew, answered, or played by somebody else) are compared
        with what their slots hold: what a prefix shares with that (the prompt, if it was played before) need not be read again. If they are all,
        they are read at once; if not, they are first read up to their last token, which is then read together with those of the others: what the
        last part returns is of all `rows`, and large keys and values are never cut into rows.
        """
        same = prefixes == self.seen
        if rows is None and np.count_nonzero(same) == same.size and np.count_nonzero(self.pending) == len(same):
            return [self._grown()]
        grown = same.all(1) & self.pending
        every = self._every if rows is None else rows
        told = grown if rows is None else grown[rows]
        self.ends[every] += told
        self.pending[every] = False
        lengths = self.cached[every] + 1
        parts, new = [], np.ones(len(every), np.int64)
        if not told.all():
            others = every[~told]
            lengths[~told] = self._compare(others, prefixes[others], pad)
            new[~told] = lengths[~told] - self.cached[others]
        if told.any() and int(new.max()) > 1:
            more = new > 1
            parts, new = [self._part(every[more], every[more], lengths[more] - 1, new[more] - 1, behind=1)], np.ones_like(new)
        parts.append(self._part(rows, every, lengths, new))
        self.cached[every] = lengths
        return parts

    def _grown(self) -> Part:
        """Return the tokens that were drawn for all rows, and take them for read."""
        part = Part(None, self.seen[self._every, self.ends, None], self.cached.copy(), None)
        self.cached += 1
        self.ends += 1
        self.pending[:] = False
        return part

    def _compare(self, rows: IntArray, prefixes: IntArray, pad: int) -> IntArray:
        """Keep the prefixes [B, L] of rows, trust no more of their slots than agrees with them, and return their lengths [B]."""
        lengths = (prefixes != pad).sum(1)
        if not lengths.all():
            raise ValueError("An observation holds no token at all: it is the pad id everywhere.")
        if prefixes.min(initial=0) < 0:
            raise ValueError(f"An observation holds the token id {prefixes.min()}; ids begin at 0, and {pad} pads.")
        shared = np.minimum(self.cached[rows], agreement(self.seen[rows], prefixes, pad))
        self.seen[rows], self.ends[rows] = prefixes, prefixes.shape[1] - room_left(prefixes, pad)
        self.cached[rows] = np.minimum(shared, lengths - 1)  # the last token is read again if need be: what follows it is asked for
        return lengths

    def _part(self, rows: IntArray | None, every: IntArray, upto: IntArray, new: IntArray, behind: int = 0) -> Part:
        """Return the last `new` [B] of the first `upto` [B] tokens of rows; `behind` them stand so many more."""
        width, ends = int(new.max()), self.ends[every] - behind
        if width == 1:
            return Part(rows, self.seen[every, ends - 1][:, None], upto - 1, None)
        columns = (ends - new)[:, None] + np.arange(width)
        ids = np.take_along_axis(self.seen[every], np.minimum(columns, self.seen.shape[1] - 1), 1)
        return Part(rows, np.where(columns < ends[:, None], ids, 0), upto - new, new)

    def drawn(self, tokens: IntArray, rows: IntArray | None = None) -> None:
        """Write the tokens [B] drawn for `rows` behind what they have read, where there is room: the next prefixes should hold them."""
        rows = self._every if rows is None else rows
        ends = self.ends[rows]
        room = ends < self.seen.shape[1]
        if np.count_nonzero(room) < len(room):
            rows, ends, tokens = rows[room], ends[room], tokens[room]
        self.seen[rows, ends], self.pending[rows] = tokens, True


class SomeSlots(NamedTuple):
    """The slots of some rows."""

    slots: Slots
    rows: IntArray  # [B] in ascending order

    def with_prefixes(self, prefixes: IntArray) -> IntArray:
        """Return prefixes [N, L] of all slots: `prefixes` [B, L] in these rows, what was read in the others."""
        every = self.slots.seen.copy()
        every[self.rows] = prefixes
        return every
