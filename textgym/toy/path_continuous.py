"""Path planning in the plane: the same maps, moves of a fixed length, and a goal that is reached within a radius.

Places are `origin + step_size * moves`: whole numbers of moves are kept, so that no error adds up and the shortest path is exact.
Axis legend: N rows, B rows of one call, T the step limit, K lattice points along a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import BoolArray, FloatArray, IntArray, Rows, Streams
from .path_core import NoTableError, PathCore, PathTask
from .shortest_paths import DELTAS, distances

WAYS = DELTAS[:, ::-1]  # [4, (x, y)]


class ContinuousPathCore(PathCore):
    """N agents in the unit square; a random start lies anywhere in its cell, one of the map in the middle.

    `shortest_length` is the fewest moves from the start to within the goal's radius; an episode that begins within it counts as one move long.
    """

    def __init__(self, task: PathTask, num_rows: int) -> None:
        super().__init__(task, num_rows)
        self._sides = np.array([task.maps.width, task.maps.height])
        if not 0 < task.step_size <= 1 / self._sides.max():
            raise ValueError(f"step_size={task.step_size} could leap over a wall; give a number in (0, {1 / self._sides.max():.4g}], at most one cell.")
        if task.goal_radius < task.step_size * np.sqrt(0.5):
            raise ValueError(
                f"goal_radius={task.goal_radius} could be stepped over; give at least {task.step_size * np.sqrt(0.5):.4g}, or a smaller step_size."
            )
        self._moved = np.zeros((num_rows, 2), dtype=np.int64)  # [N, (x, y)]
        self._origin = np.zeros((num_rows, 2))

    def _empty_trace(self) -> NDArray[Any]:
        return np.zeros((self.num_rows, self.task.max_steps + 1, 2), dtype=np.float32)  # [N, T + 1, (x, y)] the places that were passed

    def _begin(self, rows: IntArray, streams: Streams) -> None:
        y, x = np.divmod(self._at[rows] % self._tables.size, self.task.maps.width)
        inside = np.full((len(rows), 2), 0.5)
        if self.task.start == "random":
            inside = np.stack([streams.uniform(rows), streams.uniform(rows)], axis=1)
        self._origin[rows] = (np.stack([x, y], axis=1) + inside) / self._sides
        self._moved[rows] = 0
        self._trace[rows, 0] = self._origin[rows]

    def _move(self, rows: Rows, actions: IntArray, steps: IntArray) -> BoolArray:
        moved = self._moved[rows] + WAYS[actions]
        xy = self._origin[rows] + self.task.step_size * moved
        column, row = np.floor(xy * self._sides).astype(np.int64).T
        inside = ((xy >= 0) & (xy < 1)).all(axis=1)
        index = self._at[rows] // self._tables.size
        there = index * self._tables.size + np.where(inside, row * self.task.maps.width + column, 0)
        free = inside & ~self.task.maps.walls.reshape(-1)[there]
        self._moved[rows] = np.where(free[:, None], moved, self._moved[rows])
        self._at[rows] = np.where(free, there, self._at[rows])
        xy = self._xy(rows)
        self._trace[np.arange(self.num_rows)[rows], steps] = xy
        return self._near(xy, rows)

    def _xy(self, rows: Rows) -> FloatArray:
        places: FloatArray = self._origin[rows] + self.task.step_size * self._moved[rows]
        return places

    def _near(self, xy: FloatArray, rows: Rows) -> BoolArray:
        """Return whether places [B, ..., 2] lie within reach of the goals of `rows` [B]."""
        goal = self._tables.xy[self._goal[rows]].astype(np.float64)
        gap = xy - goal.reshape(len(goal), *[1] * (xy.ndim - 2), 2)
        near: BoolArray = (gap**2).sum(axis=-1) <= self.task.goal_radius**2
        return near

    def _four(self, rows: Rows) -> NDArray[np.float32]:
        return np.concatenate([self._xy(rows).astype(np.float32), self._tables.xy[self._goal[rows]]], axis=1)

    def _reached(self, rows: IntArray) -> BoolArray:
        return self._near(self._xy(rows), rows)

    def _shortest(self, rows: IntArray) -> IntArray:
        """Return the fewest moves [B]: breadth-first search on the lattice of places that moves can lead to."""
        step, origin = self.task.step_size, self._origin[rows]
        first = np.ceil(-origin / step).astype(np.int64) - 1  # one more on either side, for the rounding: places outside are no ways
        reach = np.arange(int(1 / step) + 4)
        x, y = (origin[:, [i]] + step * (first[:, [i]] + reach) for i in (0, 1))  # [B, K] each
        xy = np.stack(np.broadcast_arrays(x[:, None, :], y[:, :, None]), axis=-1)  # [B, K (y), K (x), 2]
        inside = ((xy >= 0) & (xy < 1)).all(axis=-1)
        cell = np.clip(np.floor(xy * self._sides).astype(np.int64), 0, self._sides - 1)
        index = self._start[rows] // self._tables.size
        free = inside & ~self.task.maps.walls[index[:, None, None], cell[..., 1], cell[..., 0]]
        found = distances(free, self._near(xy, rows) & free)
        return np.maximum(found[np.arange(len(rows)), -first[:, 1], -first[:, 0]], 1)

    def _path(self, row: int) -> FloatArray:
        return self._trace[row, : self._steps[row] + 1].astype(np.float64) * self._sides

    def _drawn_radius(self) -> tuple[float, float] | None:
        across, down = self.task.goal_radius * self._sides
        return float(across), float(down)

    def _only_one_map(self, name: str) -> None:
        raise NoTableError(f"{name} needs a finite number of states; use continuous=False.")

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return the grid's state, the moves made along x and y [N, 2] and the places of the starts [N, 2]."""
        return {**super().get_state(), "moved": self._moved.copy(), "origin": self._origin.copy()}

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become what `get_state` described."""
        super().set_state(state)
        self._moved[:], self._origin[:] = state["moved"], state["origin"]
