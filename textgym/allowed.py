"""Which ids may come next: kept sparse where it is sparse, so that a vocabulary of 50,000 costs no 50,000 flags a row and step.

Axis legend: B rows, V vocabulary (V itself fills up a row of ids that is short), K ids a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .core import BoolArray, IntArray, Rows


class Allowed(NamedTuple):
    """What B rows may take next: those of `ids`, if they are given, that `mask` lets pass, less those that are `banned`.

    Each part is absent where it says nothing. Between two calls of the same rules the parts and their widths stay the same;
    a part with rows is fresh memory, a part without is never written to.
    """

    ids: IntArray | None = None  # [B, K] nothing but these; V where a row has fewer
    mask: BoolArray | None = None  # [B, V], or [V] for all rows alike
    banned: IntArray | None = None  # [B, K] none of these; V where a row has fewer

    def has(self, tokens: IntArray) -> BoolArray:
        """Return whether each row [B] may take its token [B]."""
        found = np.ones(len(tokens), dtype=np.bool_)
        if self.ids is not None:
            found &= (self.ids == tokens[:, None]).any(axis=1)
        if self.mask is not None:
            found &= self.mask[tokens] if self.mask.ndim == 1 else self.mask[np.arange(len(tokens)), tokens]
        if self.banned is not None:
            found &= (self.banned != tokens[:, None]).all(axis=1)
        return found

    def dense(self, num_rows: int, vocab_size: int) -> BoolArray:
        """Return it as one flag an id, fresh bool [B, V]."""
        flags = np.zeros((num_rows, vocab_size + 1), dtype=np.bool_)  # a column more, for the ids that fill up
        if self.ids is not None:
            np.put_along_axis(flags, self.ids, True, axis=1)
        else:
            flags[:, :vocab_size] = True
        if self.mask is not None:
            flags[:, :vocab_size] &= self.mask
        if self.banned is not None:
            np.put_along_axis(flags, self.banned, False, axis=1)
        return flags[:, :vocab_size]

    def nothing(self, num_rows: int, vocab_size: int) -> BoolArray:
        """Return whether nothing at all is left to each row, bool [B]."""
        if self.ids is None and self.banned is not None:
            left = vocab_size if self.mask is None else self.mask.sum(axis=-1)
            if np.all(left > self.banned.shape[1]):  # more than could be banned: no need to look
                return np.zeros(num_rows, dtype=np.bool_)
        if self.banned is not None:
            return np.asarray(~self.dense(num_rows, vocab_size).any(axis=1))
        if self.ids is None:
            none = np.asarray(self.mask is not None and ~self.mask.any(axis=-1))
            return np.broadcast_to(none, (num_rows,))
        some: BoolArray = self.ids < vocab_size
        if self.mask is not None:
            ids = np.minimum(self.ids, vocab_size - 1)
            some &= self.mask[ids] if self.mask.ndim == 1 else np.take_along_axis(self.mask, ids, axis=1)
        return np.asarray(~some.any(axis=1))

    def both(self, other: Allowed, vocab_size: int) -> Allowed:
        """Return what this and `other` both allow."""
        masks = [part.mask for part in (self, other) if part.mask is not None]
        banned = [part.banned for part in (self, other) if part.banned is not None]
        return Allowed(
            ids=_common(self.ids, other.ids, vocab_size),
            mask=masks[0] & masks[-1] if masks else None,
            banned=np.concatenate(banned, axis=1) if banned else None,
        )

    def take(self, rows: Rows) -> Allowed:
        """Return the part of `rows`; what is the same for all rows stays as it is."""
        mask = self.mask if self.mask is None or self.mask.ndim == 1 else self.mask[rows]
        return Allowed(None if self.ids is None else self.ids[rows], mask, None if self.banned is None else self.banned[rows])


def _common(a: IntArray | None, b: IntArray | None, vocab_size: int) -> IntArray | None:
    if a is None or b is None:
        return b if a is None else a
    return np.where((a[:, :, None] == b[:, None, :]).any(axis=2), a, vocab_size)
