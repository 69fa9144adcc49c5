"""Prefixes as arrays: where they end, what a chunk of tokens adds to them, and which of them continue one another.

Axis legend: T steps, B rows, L observation columns, S segments, W compacted tokens, C tokens of a chunk; ... is [B] or [T, B].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CALL = 64  # tokens that a model of two layers, 128 wide, reads in the time in which it does nothing but be called


def compact(observations: NDArray[np.int64], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the tokens [B, W] of prefixes [B, L] shifted to the left (0 where there is none) and their lengths [B]."""
    real = observations != pad
    lengths, first = real.sum(1), real.argmax(1)
    if not lengths.all():
        raise ValueError("An observation holds no token at all: it is the pad id everywhere.")
    columns = np.arange(int(lengths.max()))
    tokens = np.take_along_axis(observations, np.minimum(first[:, None] + columns, observations.shape[1] - 1), 1)
    return np.where(columns < lengths[:, None], tokens, 0), lengths


def room_left(observations: NDArray[np.int64], pad: int) -> NDArray[np.int64]:
    """Return how many columns [...] are free behind the last token of prefixes [..., L]."""
    return (observations != pad)[..., ::-1].argmax(-1)


def agreement(before: NDArray[np.int64], after: NDArray[np.int64], pad: int) -> NDArray[np.int64]:
    """Return how many tokens [B] two prefixes [B, L] share from their first on; columns that are pads in both count along at the end.

    It is 0 where they begin in different columns.
    """
    first = (after != pad).argmax(1)
    differs = before != after
    shared = np.where(differs.any(1), differs.argmax(1), differs.shape[1])
    return np.maximum(shared - first, 0)


def counted_tokens(chunks: NDArray[np.int64], room: NDArray[np.int64], stops: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which tokens of chunks [..., C] count: the first, and those that find a free column and follow no stop id.

    `room` [...] are the free columns, `stops` [V] says which ids end a text or a turn.
    """
    place, stopping = np.arange(chunks.shape[-1]), stops[chunks]
    stopped = np.cumsum(stopping, axis=-1) > stopping  # by an earlier token
    counted: NDArray[np.bool_] = (place == 0) | ((place < room[..., None]) & ~stopped)
    return counted


def grown(observations: NDArray[np.int64], chunks: NDArray[np.int64], counted: NDArray[np.bool_], room: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return prefixes [..., L] with the counted tokens of their chunks [..., C] behind them, but the last one.

    It is what a model must read to say how likely each counted token was.
    """
    longer, ends = observations.copy(), observations.shape[-1] - room
    for j in range(chunks.shape[-1] - 1):
        where = np.nonzero(counted[..., j + 1])
        longer[(*where, ends[where] + j)] = chunks[(*where, j)]
    return longer


def unmoved(observations: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return in which steps [T, B] the prefix [T, B, L] is that of the step before."""
    again = np.zeros(observations.shape[:2], np.bool_)
    again[1:] = (observations[1:] == observations[:-1]).all(-1)
    return again


def repeated(observations: NDArray[np.int64], lengths: NDArray[np.int64], chunks: NDArray[np.int64], masks: Tensor | None) -> NDArray[np.bool_]:
    """Return which steps [T, B] say again what the step before them says: prefix [T, B, L], chunk [T, B, C] and, where there are any, masks [T * B * C, V]."""
    again = np.zeros(lengths.shape, np.bool_)
    t, b = np.nonzero((lengths[1:] == lengths[:-1]) & (chunks[1:] == chunks[:-1]).all(-1))
    again[t + 1, b] = (observations[t + 1, b] == observations[t, b]).all(-1)
    if masks is not None and again.any():
        t, b = np.nonzero(again)
        by_step = masks.reshape(*lengths.shape, -1)
        again[t, b] = (by_step[t, b] == by_step[t - 1, b]).all(-1).cpu().numpy()
    return again


def segments(
    observations: NDArray[np.int64], pad: int, longer: NDArray[np.int64] | None = None, again: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which flat steps (t * B + b) [S] end a segment, and the segment [T, B] that each step belongs to.

    Step t + 1 continues step t where its prefix begins in the same column, is longer, and repeats every token of what
    step t is about: its prefix, or, with chunks, the prefix that `longer` [T, B, L] holds in its place (see `grown`). A step that is about
    the same as the one before it (`again` [T, B]) continues it as well.
    """
    num_steps, num_rows = observations.shape[:2]
    before, after = (observations if longer is None else longer)[:-1], observations[1:]
    known, real = before != pad, after != pad
    extends = ((before == after) | ~known).all(-1) & (real.sum(-1) > known.sum(-1)) & (real.argmax(-1) == known.argmax(-1))
    if again is not None:
        extends |= again[1:]
    ends = np.concatenate([~extends, np.ones((1, num_rows), np.bool_)])  # [T, B]
    by_row = ends.T.reshape(-1)  # row after row, so that a segment is a run of steps
    number = np.concatenate([[0], np.cumsum(by_row)[:-1]]).reshape(num_rows, num_steps).T
    order = np.flatnonzero(by_row)
    return (order % num_steps) * num_rows + order // num_steps, number


def alike(sizes: NDArray[np.int64], padding: float = 0.1) -> list[NDArray[np.int64]]:
    """Return groups of segments of like length, each group's [S] numbers in ascending order: few groups, and little padding in them.

    Padded to the longest of its group, no more than the share `padding` of all tokens is added to segments of `sizes` [S], or the few that cost
    less than a call of the model. Groups are joined one by one, the cheapest neighbours first, for as long as that holds.
    """
    tops, which, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    group, left = np.arange(len(tops)), max(padding * float(sizes.sum()), CALL)
    tops, counts = tops.astype(np.float64), counts.astype(np.float64)
    while len(tops) > 1:
        costs = counts[:-1] * np.diff(tops)  # of padding a group to its longer neighbour's length
        cheapest = int(costs.argmin())
        if costs[cheapest] > left:
            break
        left -= costs[cheapest]
        counts[cheapest + 1] += counts[cheapest]
        tops, counts = np.delete(tops, cheapest), np.delete(counts, cheapest)
        group[group > cheapest] -= 1
    return [np.flatnonzero(group[which] == number) for number in range(len(tops) - 1, -1, -1)]
