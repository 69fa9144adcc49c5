"""Which ids may come next: kept sparse where it is sparse, so that a vocabulary of 50,000 costs no 50,000 flags a row and step.

Axis legend: B rows, V vocabulary (V itself fills up a row of ids that is short), K ids a row, M masks that rows share.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .core import BoolArray, IntArray, Rows

Ids = NDArray[np.integer[Any]]  # the smaller the faster: see `small`


class Allowed(NamedTuple):
    """What B rows may take next: those of `ids`, if they are given, that `mask` lets pass, less those that are `banned`.

    Each part is absent where it says nothing. Between two calls of the same rules the parts and their widths stay the same. A part
    that has B rows is fresh memory; one that rows share is never written to, and row m of [M, V] means the same in later calls.
    """

    ids: Ids | None = None  # [B, K] nothing but these; V where a row has fewer
    mask: BoolArray | None = None  # [B, V]; [V] for all rows alike; [M, V] if `which` says which of them each row has
    banned: Ids | None = None  # [B, K] none of these; V where a row has fewer
    which: IntArray | None = None  # [B] in [0, M)
    least: int = 0  # so many ids at least do `ids` (where given, without a mask) or the mask leave each row; 0 where nobody counted

    def has(self, tokens: IntArray) -> BoolArray:
        """Return whether each row [B] may take its token [B]."""
        found = np.ones(len(tokens), dtype=np.bool_) if self.ids is None else _among(self.ids, tokens)
        if self.mask is not None:
            found &= self._passes(tokens)
        if self.banned is not None:
            found &= ~_among(self.banned, tokens)
        return found

    def _passes(self, tokens: IntArray) -> BoolArray:
        """Return whether each row's mask lets its token [B], or its tokens [B, K], pass."""
        assert self.mask is not None
        if self.mask.ndim == 1:
            return self.mask[tokens]
        rows = np.arange(len(tokens)) if self.which is None else self.which
        return self.mask[rows if tokens.ndim == 1 else rows[:, None], tokens]

    def dense(self, num_rows: int, vocab_size: int) -> BoolArray:
        """Return it as one flag an id, fresh bool [B, V]."""
        flags: BoolArray
        if self.ids is not None:
            flags = np.zeros((num_rows, vocab_size + 1), dtype=np.bool_)  # a column more, for the ids that fill up
            _mark(flags, self.ids, True)
        elif self.banned is not None:
            flags = np.ones((num_rows, vocab_size + 1), dtype=np.bool_)
        else:
            flags = np.ones((num_rows, vocab_size), dtype=np.bool_) if self.mask is None else self._masks(num_rows)
            return flags
        if self.banned is not None:
            _mark(flags, self.banned, False)
        flags = flags[:, :vocab_size]
        return flags if self.mask is None else np.logical_and(flags, self._shared_masks(), out=flags)

    def _shared_masks(self) -> BoolArray:
        assert self.mask is not None
        return self.mask if self.which is None else self.mask[self.which]

    def _masks(self, num_rows: int) -> BoolArray:
        masks = self._shared_masks()
        return masks if self.which is not None else np.array(np.broadcast_to(masks, (num_rows, masks.shape[-1])))

    def nothing(self, num_rows: int, vocab_size: int) -> BoolArray:
        """Return whether nothing at all is left to each row, bool [B]."""
        width = 0 if self.banned is None else self.banned.shape[1]
        if self.ids is not None:
            if width == 0 and self.mask is None and (self.least or not np.count_nonzero(self.ids[:, 0] == vocab_size)):  # the usual case, and fast
                return np.zeros(num_rows, dtype=np.bool_)
        elif (vocab_size if self.mask is None else self.least) > width:  # more than could be banned: no need to look
            return np.zeros(num_rows, dtype=np.bool_)
        return np.asarray(~(self.dense(num_rows, vocab_size) if self.ids is None else self._left_of_ids(vocab_size)).any(axis=1))

    def _left_of_ids(self, vocab_size: int) -> BoolArray:
        """Return which of `ids` are real and neither masked nor banned, bool [B, K]."""
        assert self.ids is not None
        left: BoolArray = self.ids < vocab_size
        if self.mask is not None:
            left &= self._passes(np.minimum(self.ids, vocab_size - 1))
        if self.banned is not None:
            left &= (self.ids[:, :, None] != self.banned[:, None, :]).all(axis=2)
        return left

    def both(self, other: Allowed, vocab_size: int) -> Allowed:
        """Return what this and `other` both allow."""
        ids = _common(self.ids, other.ids, vocab_size)
        banned = [part.banned for part in (self, other) if part.banned is not None]
        joined = np.concatenate(banned, axis=1) if banned else None
        masked = [part for part in (self, other) if part.mask is not None]
        if not masked:
            return Allowed(ids, None, joined)
        if len(masked) < 2:
            return masked[0]._replace(ids=ids, banned=joined)
        return Allowed(ids, np.logical_and(*(part._shared_masks() for part in masked)), joined)

    def take(self, rows: Rows) -> Allowed:
        """Return the part of `rows`; what is the same for all rows stays as it is."""
        ids, banned = (part if part is None else part[rows] for part in (self.ids, self.banned))
        which = None if self.which is None else self.which[rows]
        mask = self.mask if self.mask is None or self.mask.ndim == 1 or self.which is not None else self.mask[rows]
        return self._replace(ids=ids, mask=mask, banned=banned, which=which)


def _mark(flags: BoolArray, ids: Ids, value: bool) -> None:
    if len(flags) == 1:
        flags[0][ids[0]] = value
    else:
        flags[np.arange(len(flags))[:, None], ids] = value


def _among(ids: Ids, tokens: IntArray) -> BoolArray:
    """Return whether each token [B] is one of its row's ids [B, K]."""
    if len(tokens) < 32:
        return np.logical_or.reduce(ids == tokens[:, None], axis=1)
    found = np.zeros(len(tokens), dtype=np.bool_)
    hits = (ids == tokens.astype(ids.dtype)[:, None]).reshape(-1).nonzero()[0]  # in many rows, this beats reducing K flags a row
    found[hits // ids.shape[1] if len(hits) else hits] = True
    return found


def small(ids: Ids, vocab_size: int) -> Ids:
    """Return `ids` in the smallest type that holds them and V: a step is as fast as its ids are small."""
    return ids.astype(np.min_scalar_type(vocab_size))


def _common(a: Ids | None, b: Ids | None, vocab_size: int) -> Ids | None:
    if a is None or b is None:
        return b if a is None else a
    return np.where((a[:, :, None] == b[:, None, :]).any(axis=2), a, vocab_size)
