"""Maps of path planning: the model, ASCII maps from texts and files, and the embedded ones.

A map is a rectangle of symbols: '#' wall, '.' free, 'S' start (free), 'G' goal (free). What lies outside is wall.
Axis legend: M maps, H rows, W columns, C = H * W cells; cell = row * W + column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ..core import BoolArray, IntArray
from .shortest_paths import Lengths, components, distances

WALL, FREE, START, GOAL = "#", ".", "S", "G"
SYMBOLS = f"{WALL!r} wall, {FREE!r} free, {START!r} start, {GOAL!r} goal"

EMBEDDED = {
    "open": "S......\n.......\n.......\n.......\n.......\n.......\n......G",
    "trap": "........\n..####..\n.....#..\n.S...#.G\n.....#..\n..####..\n........\n........",
    "four_rooms": (
        ".....#.....\n.S...#.....\n...........\n.....#.....\n.....#.....\n#.####.....\n.....###.##\n.....#.....\n.....#.....\n.........G.\n.....#....."
    ),
    "spiral": ".........\n.#######.\n.#.....#.\n.#.###.#.\n.#.#G#.#.\n.#.#...#.\n.#.#####.\n.#.......\nS########",
}


class MapError(ValueError):
    """A map that cannot be played; the message names file, line and column."""


@dataclass(frozen=True, eq=False)  # compared and hashed as objects: tables worked out of one are kept for it
class Maps:
    """M maps of one size; never changed once made."""

    walls: BoolArray  # [M, H, W]
    starts: IntArray  # [M] cells, -1 where the map names none
    goals: IntArray  # [M] cells, -1 where the map names none
    names: tuple[str, ...]  # where each came from: a file, an embedded name, a family and split

    def __len__(self) -> int:
        return len(self.walls)

    @property
    def height(self) -> int:
        """Return the number of rows."""
        return self.walls.shape[1]

    @property
    def width(self) -> int:
        """Return the number of columns."""
        return self.walls.shape[2]

    @cached_property
    def lengths(self) -> Lengths:
        """Return the lengths of shortest paths between any two cells, as a function."""
        return Lengths(self.walls)

    @cached_property
    def labels(self) -> IntArray:
        """Return the connected part [M, C] that each cell belongs to, -1 for walls."""
        return components(~self.walls).reshape(len(self), -1)

    @cached_property
    def goal_distances(self) -> IntArray:
        """Return the moves [M, H, W] from each cell to its map's own goal, -1 where no path leads."""
        goals = np.arange(self.walls[0].size) == self.goals[:, None]
        return distances(~self.walls, goals.reshape(self.walls.shape))

    def text(self, index: int) -> str:
        """Return a map as `parse_map` reads it."""
        symbols = np.where(self.walls[index], WALL, FREE).reshape(-1)
        for cell, symbol in ((self.starts[index], START), (self.goals[index], GOAL)):
            if cell >= 0:
                symbols[cell] = symbol
        return "\n".join("".join(line) for line in symbols.reshape(self.height, self.width))

    def spot(self, index: int, cell: int) -> str:
        """Return where a cell stands, for messages: name, line and column."""
        return spot(self.names[index], cell // self.width + 1, cell % self.width + 1)


def spot(name: str, line: int, column: int) -> str:
    """Return how messages name a place."""
    return f"{name}, line {line}, column {column}"


def parse_map(text: str, name: str = "map") -> Maps:
    """Return the one map that `text` draws; raises `MapError` naming `name`, line and column.

    Empty lines before and after the map are skipped. Whether it has a start and a goal is asked by `checked`.
    """
    lines = text.splitlines()
    while lines and not lines[-1]:
        lines.pop()
    first = next((i for i, line in enumerate(lines) if line), 0)
    if not lines:
        raise MapError(f"{spot(name, 1, 1)}: the map is empty; draw it with {SYMBOLS}.")
    _check_symbols(lines, first, name)
    cells = np.array([list(line) for line in lines[first:]])
    starts, goals = (_only(cells, symbol, first, name) for symbol in (START, GOAL))
    return Maps((cells == WALL)[None], np.array([starts]), np.array([goals]), (name,))


def _check_symbols(lines: Sequence[str], first: int, name: str) -> None:
    width = len(lines[first])
    for number, line in enumerate(lines[first:], first + 1):
        for column, symbol in enumerate(line, 1):
            if symbol not in (WALL, FREE, START, GOAL):
                raise MapError(f"{spot(name, number, column)}: {symbol!r} is no map symbol; known are {SYMBOLS}.")
        if len(line) != width:
            where = spot(name, number, min(len(line), width) + 1)
            raise MapError(f"{where}: this line has {len(line)} symbols, line {first + 1} has {width}; make all lines equally long.")


def _only(cells: np.ndarray, symbol: str, first: int, name: str) -> int:
    """Return the one cell that holds `symbol`, -1 if there is none."""
    found = np.flatnonzero(cells.reshape(-1) == symbol)
    if len(found) > 1:
        row, column = divmod(int(found[1]), cells.shape[1])
        raise MapError(f"{spot(name, first + row + 1, column + 1)}: a second {symbol!r}; a map has one.")
    return int(found[0]) if len(found) else -1


def load_map(map: str | Path) -> Maps:
    """Return one map: an embedded name, a text of several lines (or of map symbols alone), or the path of an ASCII file."""
    if isinstance(map, str) and map in EMBEDDED:
        return parse_map(EMBEDDED[map], map)
    if isinstance(map, str) and ("\n" in map or not map.strip() or (set(map) <= {WALL, FREE, START, GOAL} and not Path(map).is_file())):
        return parse_map(map)
    path = Path(map)
    if not path.is_file():
        near = get_close_matches(str(map), EMBEDDED, n=1, cutoff=0.0)[0]
        raise MapError(
            f"{str(map)!r} is neither an embedded map nor a file, nor does it have several lines; did you mean {near!r}? Embedded are {sorted(EMBEDDED)}."
        )
    try:
        return parse_map(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise MapError(f"{spot(str(path), 1, 1)}: this is no text in UTF-8 ({error.reason}); a map is a text file of {SYMBOLS}.") from None


def load_maps(maps: str | Path | Sequence[str | Path]) -> Maps:
    """Return one map, or several of one size, as `load_map` reads them; equal names and texts give the same object."""
    if isinstance(maps, str) and (maps in EMBEDDED or "\n" in maps):
        return _kept(maps)
    if isinstance(maps, str | Path):
        return load_map(maps)
    if not maps:
        raise MapError("The list of maps is empty; give at least one.")
    parts = [load_map(map) for map in maps]
    for part in parts:
        if part.walls.shape != parts[0].walls.shape:
            sizes = f"{part.height} x {part.width}, {parts[0].names[0]!r} is {parts[0].height} x {parts[0].width}"
            raise MapError(f"{spot(part.names[0], 1, 1)}: this map is {sizes}; maps played together have one size.")
    return Maps(
        np.concatenate([part.walls for part in parts]),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.goals for part in parts]),
        tuple(part.names[0] for part in parts),
    )


_kept = lru_cache(maxsize=16)(load_map)


def checked(maps: Maps, needs_start: bool = True, needs_goal: bool = True) -> Maps:
    """Return `maps`; raises `MapError` where one lacks what it needs, or its goal cannot be reached."""
    for index in range(len(maps)):
        for cell, symbol, needed in ((maps.starts[index], START, needs_start), (maps.goals[index], GOAL, needs_goal)):
            if needed and cell < 0:
                word = "start" if symbol == START else "goal"
                raise MapError(
                    f"{maps.spot(index, maps.walls[index].size - 1)}: the map ends without a {word}; draw one {symbol!r}, or ask for {word}='random'."
                )
        _check_ways(maps, index, needs_start, needs_goal)
    return maps


def _check_ways(maps: Maps, index: int, needs_start: bool, needs_goal: bool) -> None:
    labels, start, goal = maps.labels[index], int(maps.starts[index]), int(maps.goals[index])
    if needs_start and needs_goal:
        if labels[start] != labels[goal]:
            raise MapError(f"{maps.spot(index, goal)}: no path leads to this goal from the start at {maps.spot(index, start)}; open a wall.")
    elif needs_start or needs_goal:
        cell = start if needs_start else goal
        if (labels == labels[cell]).sum() < 2:
            raise MapError(f"{maps.spot(index, cell)}: walls close this cell in, so that no path joins it to any other; open one.")
    elif np.bincount(labels[labels >= 0], minlength=1).max() < 2:
        raise MapError(f"{maps.spot(index, 0)}: no two free cells touch, so there is no path to plan; open some walls.")
