"""What agents on PathPlanning-v0 are measured against: a random walk, going straight to the goal, and the shortest path.

Axis legend: N rows, M maps, C cells.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import ALL_ROWS, BoolArray, FloatArray, IntArray, Streams
from .maps import Maps
from .path_core import PathCore, PathTask
from .shortest_paths import optimal_moves

Act = Callable[[NDArray[Any]], IntArray]  # observations [N, *] -> moves [N]


def random_walk(seed: int = 0) -> Act:
    """Return a policy that moves at random."""
    generator = np.random.default_rng(seed)
    return lambda observations: generator.integers(4, size=len(observations))


def go_straight(observations: NDArray[Any]) -> IntArray:
    """Return the moves [N] along the larger gap to the goal, whatever stands in the way; it reads the four numbers [N, 4]."""
    right, down = (observations[:, 2:] - observations[:, :2]).T
    moves: IntArray = np.where(np.abs(right) >= np.abs(down), np.where(right > 0, 1, 3), np.where(down > 0, 2, 0))
    return moves


def go_straight_around(observations: NDArray[Any]) -> IntArray:
    """Return the moves [N] of one that goes straight, but along the smaller gap where a wall blocks the larger one; it reads view="map"."""
    numbers = observations[:, 3:, 0, 0]
    right, down = (numbers[:, 2:] - numbers[:, :2]).T
    across, along = np.where(right > 0, 1, 3), np.where(down > 0, 2, 0)
    wide = np.abs(right) >= np.abs(down)
    first, second = np.where(wide, across, along), np.where(wide, along, across)
    sideways = np.where(wide, np.abs(down), np.abs(right)) > 1e-6
    moves: IntArray = np.where(_blocked(observations, first) & sideways, second, first)
    return moves


def _blocked(observations: NDArray[Any], moves: IntArray) -> BoolArray:
    walls = np.pad(observations[:, 0] > 0, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    every, row, column = np.nonzero(observations[:, 1])
    blocked: BoolArray = walls[every, row + 1 + np.array([-1, 0, 1, 0])[moves], column + 1 + np.array([0, 1, 0, -1])[moves]]
    return blocked


def shortest_path(maps: Maps) -> Act:
    """Return the policy of shortest paths to the goals of `maps`, for row i on map i."""
    optimal = optimal_moves(maps.goal_distances).reshape(len(maps), -1, 4)

    def act(observations: NDArray[Any]) -> IntArray:
        column = np.floor(observations[:, 0] * maps.width).astype(np.int64)
        row = np.floor(observations[:, 1] * maps.height).astype(np.int64)
        moves: IntArray = optimal[np.arange(len(maps)), row * maps.width + column].argmax(axis=1)
        return moves

    return act


def spl(act: Act, maps: Maps, *, view: str | None = None, slip: float = 0.0, max_steps: int | None = None, seed: int = 0) -> FloatArray:
    """Return the success weighted by path length [M] of one episode on each of `maps`, from its start to its goal.

    Rows whose episode is over are still shown to `act`; what it says of them is ignored.
    """
    core = PathCore(PathTask(maps, view=view, slip=slip, max_steps=max_steps or maps.walls[0].size), len(maps))
    streams = Streams.from_seeds([seed + row for row in range(len(maps))])
    live = np.arange(len(maps))
    core.start(live, streams, {"map": live})
    found = np.zeros(len(maps))
    while len(live):
        step = core.advance(live, act(core.observe(ALL_ROWS))[live], streams)
        over = step.terminated | step.truncated
        found[live[over]] = core.end_info(live[over])["spl"]
        live = live[~over]
    return found
