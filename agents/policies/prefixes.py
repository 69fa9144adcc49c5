"""Prefixes as arrays: where they end, what a chunk of tokens adds to them, and which of them continue one another.

Axis legend: T steps, B rows, L observation columns, S segments, W compacted tokens, C tokens of a chunk; ... is [B] or [T, B].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
    differs = np.pad(before != after, ((0, 0), (0, 1)), constant_values=True)
    return np.maximum(differs.argmax(1) - first, 0)


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


def segments(observations: NDArray[np.int64], pad: int, longer: NDArray[np.int64] | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which flat steps (t * B + b) [S] end a segment, and the segment [T, B] that each step belongs to.

    Step t + 1 continues step t where its prefix begins in the same column, is longer, and repeats every token of what
    step t is about: its prefix, or, with chunks, the prefix that `longer` [T, B, L] holds in its place (see `grown`).
    """
    num_steps, num_rows = observations.shape[:2]
    before, after = (observations if longer is None else longer)[:-1], observations[1:]
    known, real = before != pad, after != pad
    extends = ((before == after) | ~known).all(-1) & (real.sum(-1) > known.sum(-1)) & (real.argmax(-1) == known.argmax(-1))
    ends = np.concatenate([~extends, np.ones((1, num_rows), np.bool_)])  # [T, B]
    by_row = ends.T.reshape(-1)  # row after row, so that a segment is a run of steps
    number = np.concatenate([[0], np.cumsum(by_row)[:-1]]).reshape(num_rows, num_steps).T
    order = np.flatnonzero(by_row)
    return (order % num_steps) * num_rows + order // num_steps, number
