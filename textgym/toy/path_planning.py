"""PathPlanning-v0: does the agent find the way to the goal, on maps that it has never seen?

The factory of the task, and shortest paths as demonstrations for supervised training.
Axis legend: N rows, M demonstrated steps, C cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core import ALL_ROWS, BoolArray, IntArray
from .map_families import generate
from .maps import Maps, checked, load_maps
from .path_continuous import ContinuousPathCore
from .path_core import PathCore, PathTask
from .shortest_paths import optimal_moves, transitions

VIEWS = (None, "local", "map", "cell")
MapChoice = str | Path | Sequence[str | Path] | Maps


def path_planning(
    num_rows: int,
    *,
    map: MapChoice | None = None,
    family: str | None = None,
    size: int | Sequence[int] = 8,
    density: float = 0.15,
    num_maps: int = 1000,
    split: str = "train",
    map_seed: int = 0,
    min_moves: int | None = None,
    start: str = "map",
    goal: str = "map",
    view: str | None = None,
    radius: int = 2,
    slip: float = 0.0,
    goal_reward: float = 10.0,
    step_cost: float = 0.0,
    max_steps: int | None = None,
    continuous: bool = False,
    step_size: float = 0.05,
    goal_radius: float = 0.1,
) -> PathCore:
    """Return the core of PathPlanning-v0; the defaults are one map of four rooms, from its corner to the opposite one.

    An observation is [x, y, goal x, goal y], each in [0, 1], float32; with a view it is float32 [7, height, width] in [0, 1],
    channels first: walls, agent, goal (ones among zeros), then the four numbers as constant planes.

    Args:
        num_rows: number of agents side by side (the two Gymnasium faces fill it in).
        map: an embedded name ("open", "trap", "four_rooms", "spiral"), the path of an ASCII file, a map as a text of several lines
            ('#' wall, '.' free, 'S' start, 'G' goal), a list of these, or `Maps`; None is "four_rooms". Each episode begins on a random one
            of several, or on the one that `reset(options={"map": index})` names.
        family: "walls", "rooms" or "mazes": generated maps instead of `map`. This and the next six are the arguments of `map_families.generate`.
        size: rows and columns, as one number or two.
        density: the share of walls of the family "walls".
        num_maps: how many maps.
        split: "train", "val" or "test"; maps of different splits never have the same walls.
        map_seed: another one gives other maps of a split.
        min_moves: start and goal are at least so many moves apart; None is (rows + columns) // 2.
        start: "map" is the one that the map draws; "random" is drawn for each episode among the cells from which a path leads to the goal.
        goal: likewise.
        view: None (four numbers), "local" (the window of 2 * radius + 1 cells around the agent; outside is wall), "map" (all of it),
            or "cell" (the number of the agent's cell, row * width + column, for tables: one map, goal="map", not continuous).
        radius: of the local view.
        slip: probability that a move goes to its left or right instead, evenly.
        goal_reward: paid where the goal is reached, which ends the episode.
        step_cost: paid for each move, the last one included.
        max_steps: moves after which the episode is truncated; None is one for each cell (in the plane: for each step through each cell).
        continuous: places in the plane instead of cells; the goal is reached within `goal_radius`.
        step_size: length of a move in the plane, where the map is the unit square; at most one cell.
        goal_radius: see `continuous`.
    """
    generated = _generated(family, size, density, num_maps, split, map_seed, min_moves)
    maps = chosen(map, generated, start, goal)
    _check(start, goal, view, radius, slip, max_steps, (goal_reward, step_cost, step_size, goal_radius))
    finer = int(np.ceil(1 / (min(maps.height, maps.width) * step_size))) if continuous and step_size > 0 else 1
    limit = maps.walls[0].size * finer if max_steps is None else max_steps
    task = PathTask(maps, start, goal, view, radius, slip, goal_reward, step_cost, limit, step_size, goal_radius)
    return (ContinuousPathCore if continuous else PathCore)(task, num_rows)


def chosen(map: MapChoice | None, generated: Maps | None, start: str = "map", goal: str = "map") -> Maps:
    """Return the generated maps, or those that `map` names; raises `MapError` where these lack a start or goal that they should have, or a path between."""
    if map is not None and generated is not None:
        raise ValueError("There are a map and a family of generated maps: give one of them.")
    if generated is not None:
        return generated
    map = "four_rooms" if map is None else map
    return checked(map if isinstance(map, Maps) else load_maps(map), start == "map", goal == "map")


def sizes(size: int | Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of one number or two (a spec that went through JSON holds a list)."""
    both = (size, size) if isinstance(size, int | np.integer) else tuple(size) if isinstance(size, Sequence) else ()
    if len(both) != 2 or not all(isinstance(side, int | np.integer) for side in both):
        raise ValueError(f"size={size!r}: give rows and columns, as one integer or two.")
    return int(both[0]), int(both[1])


def _generated(family: str | None, size: int | Sequence[int], density: float, num_maps: int, split: str, map_seed: int, min_moves: int | None) -> Maps | None:
    if family is not None:
        return generate(family, sizes(size), density, num_maps, split, map_seed, min_moves)
    if (size, density, num_maps, split, map_seed, min_moves) != (8, 0.15, 1000, "train", 0, None):
        raise ValueError("size, density, num_maps, split, map_seed and min_moves are of generated maps: give family='walls', 'rooms' or 'mazes', too.")
    return None


def _check(start: str, goal: str, view: str | None, radius: int, slip: float, max_steps: int | None, sizes: tuple[float, ...]) -> None:
    for name, value in (("start", start), ("goal", goal)):
        if value not in ("map", "random"):
            raise ValueError(f"{name}={value!r}: give 'map' or 'random'.")
    if view not in VIEWS:
        raise ValueError(f"view={view!r}: give one of {list(VIEWS)}.")
    if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in sizes):
        raise ValueError(f"goal_reward, step_cost, step_size, goal_radius = {sizes}: give finite numbers.")
    if not isinstance(slip, int | float | np.floating) or not all(
        isinstance(number, int | np.integer) for number in (radius, 1 if max_steps is None else max_steps)
    ):
        raise ValueError(f"slip={slip!r}, radius={radius!r}, max_steps={max_steps!r}: give a probability, and integers for the others.")
    if not 0 <= slip <= 1 or radius < 1 or (max_steps is not None and max_steps < 1):
        raise ValueError(f"slip={slip}, radius={radius}, max_steps={max_steps}: give a probability, and at least 1 of the others.")


class Demonstrations(NamedTuple):
    """Steps along shortest paths."""

    observations: NDArray[Any]  # [M, *]
    actions: IntArray  # [M] the first of the moves that shorten the way, in the order up, right, down, left
    optimal: BoolArray  # [M, 4] all moves that shorten the way: what an accuracy should accept
    starts: BoolArray  # [M] where a path begins


def demonstrations(maps: Maps, *, view: str | None = None, radius: int = 2, every_cell: bool = False) -> Demonstrations:
    """Return a shortest path on each of `maps` from its start to its goal, step by step, as PathPlanning-v0 would show it.

    With `every_cell` each cell from which a path leads to the goal is one path of one step: what to do wherever a learner strays.
    """
    checked(maps, not every_cell, True)
    size, found = maps.walls[0].size, maps.goal_distances
    optimal = optimal_moves(found).reshape(-1, 4)  # [maps * C, 4]
    cells, starts = (np.flatnonzero(found.reshape(-1) > 0), None) if every_cell else _walks(maps, optimal)
    core = PathCore(PathTask(maps, view=view, radius=radius, max_steps=1), len(cells))
    state = core.get_state()
    core.set_state({**state, "at": cells, "goal": cells // size * size + maps.goals[cells // size]})
    begins = np.ones(len(cells), dtype=np.bool_) if starts is None else starts
    return Demonstrations(core.observe(ALL_ROWS), optimal[cells].argmax(axis=1), optimal[cells], begins)


def _walks(maps: Maps, optimal: BoolArray) -> tuple[IntArray, BoolArray]:
    """Return the cells of one shortest path a map, goals left out, one path after the other, and where each begins."""
    moves = transitions(maps.walls).reshape(-1, 4)
    at = np.arange(len(maps)) * maps.walls[0].size + maps.starts
    steps = [at]
    while optimal[at].any():
        at = np.where(optimal[at].any(axis=1), moves[at, optimal[at].argmax(axis=1)], at)
        steps.append(at)
    walk = np.stack(steps, axis=1)  # [maps, longest + 1]
    live = optimal[walk].any(axis=2)
    begins = np.zeros(walk.shape, dtype=np.bool_)
    begins[:, 0] = True
    return walk[live], begins[live]
