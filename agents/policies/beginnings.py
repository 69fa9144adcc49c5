"""Sequences that begin alike: what they share is cut off, to be read once.

The texts of a group (GRPO, RLOO) answer one prompt; without this a model reads it as often as it was answered.
Axis legend: S sequences, W their tokens, Q tokens of one, G beginnings, P tokens of the longest beginning, M places that are asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
