"""What path planning works out once of its maps, so that a step is a few gathers; cells are numbered through all maps.

Axis legend: B rows of one call, M maps, H and W rows and columns of a map, C = H * W cells, r radius of the local view.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..core import FloatArray, IntArray
from .maps import Maps
from .shortest_paths import transitions


class Tables:
    """What is worked out once of a set of maps; cells are numbered through all M maps."""

    def __init__(self, maps: Maps, radius: int) -> None:
        num, height, width = maps.walls.shape
        self.size = height * width
        self.moves = transitions(maps.walls)  # [M * C * 4]
        row, column = np.divmod(np.arange(self.size), width)
        xy = np.stack([(column + 0.5) / width, (row + 0.5) / height], axis=1).astype(np.float32)
        self.xy = np.tile(xy, (num, 1))  # [M * C, 2]
        self.pairs = self.xy.view(np.int64)[:, 0]  # [M * C] both numbers as one word: one gather instead of two
        self.walls = maps.walls.astype(np.float32)  # [M, H, W]
        padded = np.pad(self.walls, ((0, 0), (radius, radius), (radius, radius)), constant_values=1)
        self.padded, self.line = padded.reshape(num, -1), width + 2 * radius
        self.corner = row * self.line + column  # [C] the upper left cell of the window around a cell, in a padded map
        self.window = np.add.outer(np.arange(2 * radius + 1) * self.line, np.arange(2 * radius + 1))  # [2r + 1, 2r + 1]

    @classmethod
    def of(cls, maps: Maps, radius: int) -> Tables:
        """Return the tables of `maps`, kept for the last few: the N environments of a `SyncVectorEnv` share one."""
        return _kept(maps, radius)


_kept = lru_cache(maxsize=16)(Tables)


class Draws:
    """Start and goal cells drawn from the free cells that a path joins: one number each, and never the same cell twice."""

    def __init__(self, maps: Maps) -> None:
        labels = (maps.labels + np.where(maps.labels < 0, 0, np.arange(len(maps))[:, None] * maps.labels.shape[1])).reshape(-1)
        order = np.argsort(labels, kind="stable")
        order = order[labels[order] >= 0]
        _, part, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
        large = counts[part] > 1
        self.order = order[large]  # cells of all maps, part by part; parts of one cell are left out
        part = part[large]
        self.first, self.count = np.zeros((2, labels.size), dtype=np.int64)  # [M * C] where the part of a cell begins in `order`, and its size
        self.first[self.order], self.count[self.order] = np.searchsorted(part, part), counts[part]
        self.place = np.zeros(labels.size, dtype=np.int64)  # [M * C] where a cell stands in `order`
        self.place[self.order] = np.arange(len(self.order))
        maps_of = self.order // maps.labels.shape[1]
        self.begin = np.searchsorted(maps_of, np.arange(len(maps)))  # [M]
        self.total = np.bincount(maps_of, minlength=len(maps))  # [M]

    def any(self, index: IntArray, uniform: FloatArray) -> IntArray:
        """Return a cell [B] of the maps `index` [B]."""
        return self.order[self.begin[index] + (uniform * self.total[index]).astype(np.int64)]

    def another(self, cells: IntArray, uniform: FloatArray) -> IntArray:
        """Return a cell [B] that a path joins to each of `cells` [B]."""
        first, count = self.first[cells], self.count[cells]
        step = 1 + (uniform * (count - 1)).astype(np.int64)
        return self.order[first + (self.place[cells] - first + step) % count]
