"""The core of path planning: agents on grids.

Position and goal are four numbers in [0, 1]: x and y of the agent, x and y of the goal (x to the right, y downwards, centres of cells).
Actions are 0 up, 1 right, 2 down, 3 left; a move against a wall or the edge has no effect, and counts.

Axis legend: N rows, B rows of one call, M maps, H and W rows and columns of a map, C = H * W cells, T the step limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from ..core import BoolArray, FloatArray, IntArray, Rows, Step, Streams, refuse_unknown
from .maps import Maps
from .path_drawing import draw, spell
from .path_tables import Draws, Tables
from .shortest_paths import MOVES

CHANNELS = ("walls", "agent", "goal", "x", "y", "goal x", "goal y")
Transitions = dict[int, dict[int, list[tuple[float, int, float, bool]]]]


@dataclass(frozen=True)
class PathTask:
    """All that is chosen about path planning; `path_planning` says what each means."""

    maps: Maps
    start: str = "map"
    goal: str = "map"
    view: str | None = None
    radius: int = 2
    slip: float = 0.0
    goal_reward: float = 10.0
    step_cost: float = 0.0
    max_steps: int = 64
    step_size: float = 0.05
    goal_radius: float = 0.1


class NoTableError(ValueError, AttributeError):
    """The states are not the cells of one map; an AttributeError too, so that `hasattr` says no."""


class PathCore:
    """N agents on grids; `ContinuousPathCore` moves them in the plane instead.

    At the end the info holds `success`, `path_length` (moves made, those against walls included), `shortest_length` (moves)
    and `spl` = success * shortest_length / max(path_length, shortest_length), the success weighted by path length of
    Anderson et al. 2018, "On Evaluation of Embodied Navigation Agents" (arXiv:1807.06757), section 3; its mean over episodes is their SPL.
    """

    render_modes: tuple[str, ...] = ("ansi", "human", "rgb_array")
    action_names = MOVES

    def __init__(self, task: PathTask, num_rows: int) -> None:
        self.task, self.num_rows = task, num_rows
        self._tables = Tables.of(task.maps, task.radius)
        self.observation_space = self._space()
        self.action_space = Discrete(4)
        self._at, self._start, self._goal, self._steps = np.zeros((4, num_rows), dtype=np.int64)  # [N] cells, numbered through all maps; moves made
        self._trace = self._empty_trace()
        self._trace_begin = np.arange(num_rows) * (task.max_steps + 1)  # [N] in the trace laid flat

    def _empty_trace(self) -> NDArray[Any]:
        return np.zeros((self.num_rows, self.task.max_steps + 1), dtype=np.int32)  # [N, T + 1] the cells that were passed

    def _space(self) -> Space[Any]:
        maps, view = self.task.maps, self.task.view
        if view == "cell":
            self._only_one_map("view='cell'")
            return Discrete(self._tables.size)
        side = 2 * self.task.radius + 1
        shape = {None: (4,), "local": (len(CHANNELS), side, side), "map": (len(CHANNELS), maps.height, maps.width)}[view]
        return Box(0.0, 1.0, shape, np.float32)

    @cached_property
    def _draws(self) -> Draws:
        return Draws(self.task.maps)

    def start(self, rows: IntArray, streams: Streams, options: Mapping[str, Any]) -> None:
        """Put each row on a map: a random one, or the one that `options["map"]` (an index, or [N] of them) names; draw what the map leaves open."""
        refuse_unknown(options, "map")
        maps, size, chosen = self.task.maps, self._tables.size, options.get("map")
        if chosen is not None:
            index = chosen_maps(chosen, self.num_rows, len(maps))[rows]
        else:
            index = streams.integers(rows, len(maps)) if len(maps) > 1 else np.zeros(len(rows), dtype=np.int64)
        self._place(rows, index, size, streams)
        self._steps[rows] = 0
        self._begin(rows, streams)

    def _place(self, rows: IntArray, index: IntArray, size: int, streams: Streams) -> None:
        """Choose the goal and start cells."""
        maps, task = self.task.maps, self.task
        starts, goals = index * size + maps.starts[index], index * size + maps.goals[index]
        if task.goal == "random":
            draw = streams.uniform(rows)
            goals = self._draws.any(index, draw) if task.start == "random" else self._draws.another(starts, draw)
        if task.start == "random":
            starts = self._draws.another(goals, streams.uniform(rows))
        self._at[rows] = self._start[rows] = starts
        self._goal[rows] = goals

    def _begin(self, rows: IntArray, streams: Streams) -> None:
        self._trace[rows, 0] = self._at[rows]

    def advance(self, rows: Rows, actions: NDArray[Any], streams: Streams) -> Step:
        """Move each row; pay the goal's reward where it is reached, less the cost of a step."""
        actions = checked_moves(actions)
        if self.task.slip:
            actions = self._slipped(rows, actions, streams)
        steps = self._steps[rows] + 1
        self._steps[rows] = steps
        reached = self._move(rows, actions, steps)
        truncated = steps >= self.task.max_steps
        truncated &= ~reached
        rewards = np.multiply(reached, self.task.goal_reward, dtype=np.float64)
        if self.task.step_cost:
            rewards -= self.task.step_cost
        return Step(rewards, reached, truncated)

    def _slipped(self, rows: Rows, actions: IntArray, streams: Streams) -> IntArray:
        """Turn a share `slip` of the moves to their left or right, evenly."""
        uniform = streams.uniform(np.arange(self.num_rows)[rows])
        turn = (uniform < self.task.slip).astype(np.int64) - 2 * (uniform < self.task.slip / 2)
        return (actions + turn) & 3

    def _move(self, rows: Rows, actions: IntArray, steps: IntArray) -> BoolArray:
        """Apply the moves and return where the goal is reached."""
        at = self._tables.moves.take(self._at[rows] * 4 + actions)
        self._at[rows] = at
        self._trace.reshape(-1)[self._trace_begin[rows] + steps] = at
        return at == self._goal[rows]

    def observe(self, rows: Rows, copy: bool = True) -> NDArray[Any]:
        """Return the four numbers [B, 4], or the `CHANNELS` of a view [B, 7, *, *], or cells [B]; always fresh memory."""
        if self.task.view is None:
            return self._four(rows)
        if self.task.view == "cell":
            return self._at[rows] % self._tables.size
        return self._planes(rows)

    def _four(self, rows: Rows) -> NDArray[np.float32]:
        """Return where agent and goal are."""
        at = self._at[rows]
        pairs = np.empty((len(at), 2), dtype=np.int64)
        self._tables.pairs.take(at, out=pairs[:, 0])
        self._tables.pairs.take(self._goal[rows], out=pairs[:, 1])
        return pairs.view(np.float32)

    def _planes(self, rows: Rows) -> NDArray[np.float32]:
        """Return a view: walls, agent and goal as ones among zeros, and each of the four numbers as a plane of its own."""
        index, at = np.divmod(self._at[rows], self._tables.size)
        goal, every = self._goal[rows] % self._tables.size, np.arange(len(at))
        space = self.observation_space.shape
        assert space is not None
        planes = np.zeros((len(at), *space), dtype=np.float32)
        planes[:, 3:] = self._four(rows)[:, :, None, None]
        if self.task.view == "map":
            planes[:, 0] = self._tables.walls[index]
            flat = planes.reshape(len(at), len(CHANNELS), -1)
            flat[every, 1, at] = flat[every, 2, goal] = 1
        else:
            radius, tables = self.task.radius, self._tables
            window = tables.corner[at][:, None, None] + tables.window  # [B, 2r + 1, 2r + 1]
            planes[:, 0] = tables.padded[index[:, None, None], window]
            planes[:, 1, radius, radius] = 1
            planes[:, 2] = window == (tables.corner[goal] + radius * (tables.line + 1))[:, None, None]
        return planes

    def live_info(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return nothing: the facts come at the end."""
        return {}

    def end_info(self, rows: IntArray) -> dict[str, NDArray[Any]]:
        """Return `success`, `path_length`, `shortest_length` and `spl` of the episodes that have ended."""
        success, length, shortest = self._reached(rows), self._steps[rows], self._shortest(rows)
        return {"success": success, "path_length": length, "shortest_length": shortest, "spl": success * shortest / np.maximum(length, shortest)}

    def _reached(self, rows: IntArray) -> BoolArray:
        return self._at[rows] == self._goal[rows]

    def _shortest(self, rows: IntArray) -> IntArray:
        return self.task.maps.lengths(self._start[rows], self._goal[rows])

    def render(self, row: int, mode: str) -> Any:
        """Return the map with the path walked so far: symbols and a line about the episode, or a picture."""
        index, size = int(self._at[row]) // self._tables.size, self._tables.size
        walls, goal = self.task.maps.walls[index], int(self._goal[row]) % size
        path = self._path(row)
        if mode == "rgb_array":
            return draw(walls, goal=goal, path=path, goal_radius=self._drawn_radius())
        reached = ", goal reached" if self._reached(np.array([row]))[0] else ""
        return f"{spell(walls, goal, path)}\n{self.task.maps.names[index]}: {self._steps[row]}/{self.task.max_steps} moves{reached}"

    def _path(self, row: int) -> FloatArray:
        """Return the places passed so far, x and y in cells [steps + 1, 2]."""
        cells = self._trace[row, : self._steps[row] + 1] % self._tables.size
        y, x = np.divmod(cells, self.task.maps.width)
        return np.stack([x + 0.5, y + 0.5], axis=1)

    def _drawn_radius(self) -> tuple[float, float] | None:
        return None

    @property
    def P(self) -> Transitions:
        """Return Gymnasium's table {state: {action: [(probability, next state, reward, terminated)]}} of one map with a goal of its own.

        States are cells. Goal and walls are terminal: they lead to themselves and pay nothing. The step limit is not part of the table.
        """
        self._only_one_map("P")
        goal, walls = int(self.task.maps.goals[0]), self.task.maps.walls[0].reshape(-1)
        return {
            cell: {a: [(1.0, cell, 0.0, True)] if walls[cell] or cell == goal else self._outcomes(cell, a, goal) for a in range(4)}
            for cell in range(self._tables.size)
        }

    def _outcomes(self, cell: int, action: int, goal: int) -> list[tuple[float, int, float, bool]]:
        slip, found = self.task.slip, []
        for turn, probability in ((0, 1 - slip), (-1, slip / 2), (1, slip / 2)):
            if probability:
                there = int(self._tables.moves[cell * 4 + (action + turn) % 4])
                found.append((probability, there, (there == goal) * self.task.goal_reward - self.task.step_cost, there == goal))
        return found

    @property
    def initial_state_distrib(self) -> FloatArray:
        """Return the probability [C] of each cell to be the start, on one map with a goal of its own."""
        self._only_one_map("initial_state_distrib")
        maps, cells = self.task.maps, np.arange(self._tables.size)
        if self.task.start == "map":
            return (cells == maps.starts[0]).astype(np.float64)
        joined = (maps.labels[0] == maps.labels[0, maps.goals[0]]) & (cells != maps.goals[0])
        return joined / joined.sum()

    def _only_one_map(self, name: str) -> None:
        if len(self.task.maps) > 1 or self.task.goal != "map":
            raise NoTableError(f"{name} needs states that are cells: one map (here are {len(self.task.maps)}) and goal='map' (here {self.task.goal!r}).")

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return the cells of agents, starts and goals [N], moves made [N] and paths [N, T + 1]."""
        return {"at": self._at.copy(), "start": self._start.copy(), "goal": self._goal.copy(), "steps": self._steps.copy(), "trace": self._trace.copy()}

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become what `get_state` described."""
        if np.shape(state["trace"]) != self._trace.shape:
            raise ValueError(f"This state holds paths of shape {np.shape(state['trace'])}, this environment {self._trace.shape}: other rows or another task.")
        for name, array in (("at", self._at), ("start", self._start), ("goal", self._goal), ("steps", self._steps), ("trace", self._trace)):
            array[:] = state[name]

    def like(self, num_rows: int) -> PathCore:
        """Return an unstarted core of the same task with `num_rows` rows; maps and tables are shared."""
        return type(self)(self.task, num_rows)


def checked_moves(actions: NDArray[Any]) -> IntArray:
    """Return the moves [B] as int64; raises `ValueError` if one is none."""
    if actions.dtype != np.int64:
        if actions.dtype.kind not in "iu":
            raise ValueError(f"Moves are integers (0 up, 1 right, 2 down, 3 left), got dtype {actions.dtype}.")
        actions = actions.astype(np.int64)
    if actions.view(np.uint64).max(initial=0) > 3:  # a negative number reads as a huge one: one comparison for both sides
        raise ValueError(f"Move {actions[(actions < 0) | (actions > 3)][0]} is outside the action space Discrete(4): 0 up, 1 right, 2 down, 3 left.")
    return actions


def chosen_maps(chosen: Any, num_rows: int, num_maps: int) -> IntArray:
    """Return `options["map"]` as one index a row [N]."""
    index = np.asarray(chosen)
    if index.dtype.kind not in "iu" or index.shape not in ((), (1,), (num_rows,)):
        raise ValueError(f'options["map"] must be one map index or {num_rows} of them, got {chosen!r}.')
    if not (index.min() >= 0 and index.max() < num_maps):
        raise ValueError(f'options["map"] must lie in [0, {num_maps}), the number of maps, got {chosen!r}.')
    return np.broadcast_to(index.astype(np.int64), (num_rows,))
