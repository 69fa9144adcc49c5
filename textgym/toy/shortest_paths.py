"""Shortest paths on grids, for many maps at once.

Axis legend: M maps, H rows, W columns, C = H * W cells, B pairs of one question, 4 moves (up, right, down, left).
"""

from __future__ import annotations

import numpy as np

from ..core import BoolArray, IntArray

MOVES = ("up", "right", "down", "left")  # clockwise, so that a move to the side is one more or one less, modulo 4
DELTAS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # [4, (row, column)]
MEMO_ENTRIES = 1 << 24  # how many distances `Lengths` keeps (64 MiB)


def distances(free: BoolArray, sources: BoolArray) -> IntArray:
    """Return how many moves each free cell is away from the nearest source, int64 [M, H, W]; -1 where no path leads.

    Breadth-first search, one ring of all M maps at a time: moves lead to the four neighbours that are `free` [M, H, W].
    """
    ring = sources & free
    found = np.where(ring, 0, -1)
    length = 0
    while ring.any():
        length += 1
        ring = neighbours(ring) & free & (found < 0)
        found[ring] = length
    return found


def neighbours(cells: BoolArray) -> BoolArray:
    """Return the cells [M, H, W] that have one of `cells` above, below or beside them."""
    grown = np.zeros_like(cells)
    grown[:, 1:] |= cells[:, :-1]
    grown[:, :-1] |= cells[:, 1:]
    grown[:, :, 1:] |= cells[:, :, :-1]
    grown[:, :, :-1] |= cells[:, :, 1:]
    return grown


def components(free: BoolArray) -> IntArray:
    """Return a label for each cell, int64 [M, H, W]: equal where a path joins two free cells, -1 for walls."""
    cells = free[0].size
    labels = np.where(free, np.arange(free.size).reshape(free.shape) % cells, cells)
    while True:
        around = np.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=cells)
        least = np.minimum.reduce([labels, around[:, 2:, 1:-1], around[:, :-2, 1:-1], around[:, 1:-1, 2:], around[:, 1:-1, :-2]])
        least[~free] = cells
        if np.array_equal(least, labels):
            return np.where(free, labels, -1)
        labels = least


def transitions(walls: BoolArray) -> IntArray:
    """Return where each move leads, int64 [M * C * 4]: cells are numbered through all maps; a wall or the edge leaves the agent where it is."""
    num, height, width = walls.shape
    here = np.arange(walls.size).reshape(walls.shape)
    around = np.pad(here, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    blocked = np.pad(walls, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    table = np.empty((num, height, width, 4), dtype=np.int64)
    for move, (down, right) in enumerate(DELTAS.tolist()):
        there = np.s_[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        table[..., move] = np.where(blocked[there], here, around[there])
    return table.reshape(-1)


def optimal_moves(found: IntArray) -> BoolArray:
    """Return which moves shorten the way, bool [M, H, W, 4], given the `distances` [M, H, W] to the goal; none at the goal or where no path leads."""
    around = np.pad(found, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    height, width = found.shape[1:]
    there = [around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width] for down, right in DELTAS.tolist()]
    return np.stack([(found > 0) & (cells == found - 1) for cells in there], axis=-1)


class Lengths:
    """Lengths of shortest paths, worked out when first asked for and then kept: the random goals of many maps are too many to prepare."""

    def __init__(self, walls: BoolArray) -> None:
        self._free = ~walls
        self._forget()

    def _forget(self) -> None:
        self._slots = np.full(self._free.size, -1)  # [M * C] the line of `_known` that holds a goal's distances
        self._known = np.zeros((0, self._free[0].size), dtype=np.int32)  # [goals, C]
        self._num = 0

    def __call__(self, cells: IntArray, goals: IntArray) -> IntArray:
        """Return the moves [B] from `cells` to `goals` [B], numbered through all maps; -1 where no path leads."""
        size = self._free[0].size
        missing = np.unique(goals[self._slots[goals] < 0])
        if len(missing):
            if (self._num + len(missing)) * size > MEMO_ENTRIES:
                self._forget()
                missing = np.unique(goals)
            self._learn(missing)
        return self._known[self._slots[goals], cells % size].astype(np.int64)

    def _learn(self, goals: IntArray) -> None:
        size, needed = self._free[0].size, self._num + len(goals)
        if needed > len(self._known):
            more = np.zeros((max(needed, 2 * len(self._known)) - len(self._known), size), dtype=np.int32)
            self._known = np.concatenate([self._known, more])
        free = self._free[goals // size]
        sources = np.arange(size) == (goals % size)[:, None]
        self._known[self._num : needed] = distances(free, sources.reshape(free.shape)).reshape(len(goals), size)
        self._slots[goals] = np.arange(self._num, needed)
        self._num = needed

    def __reduce__(self) -> tuple[type[Lengths], tuple[BoolArray]]:
        return Lengths, (~self._free,)  # what was worked out is a cache: left out of pickles
