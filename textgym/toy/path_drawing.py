"""Pictures of maps and paths: plain NumPy, no window, no library.

Shapes are drawn by their distance fields: a pixel is covered by `radius - distance + 0.5` of a colour, which smooths the edges.
Axis legend: H rows, W columns of a map, K places of a path (x, y in cells), h and w pixels.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..core import BoolArray, FloatArray, IntArray
from .shortest_paths import DELTAS

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]

PAPER: Colour = (250, 249, 246)
GRID: Colour = (226, 224, 218)
WALL: Colour = (52, 58, 70)
GOAL: Colour = (46, 160, 90)
OLD: Colour = (160, 196, 240)
NEW: Colour = (28, 90, 200)
AGENT: Colour = (236, 112, 32)
INK: Colour = (40, 40, 40)
LOW: Colour = (255, 247, 214)
HIGH: Colour = (98, 176, 196)


def draw(
    walls: BoolArray,
    *,
    goal: int | None = None,
    path: FloatArray | None = None,
    values: FloatArray | None = None,
    moves: IntArray | None = None,
    goal_radius: tuple[float, float] | None = None,
    cell: int | None = None,
) -> Picture:
    """Return a picture, uint8 [H * cell + 1, W * cell + 1, 3].

    Args:
        walls: bool [H, W].
        goal: its cell, drawn as a green diamond; with `goal_radius` (x and y, in cells) as the region that counts as reached.
        path: places [K, 2] in cells, drawn as a line from light (old) to dark (new), from a ring at the start to the agent, a disc.
        values: a number for each cell [H, W], drawn as its colour from the lowest free cell to the highest.
        moves: a move for each cell [H, W] (0 up, 1 right, 2 down, 3 left; -1 none), drawn as arrows: a policy.
        goal_radius: see `goal`.
        cell: pixels of a cell; None makes the longer side about 480.
    """
    cell = max(8, 480 // max(walls.shape)) if cell is None else cell
    picture = _ground(walls, values, cell)
    if goal is not None:
        _goal(picture, goal, walls.shape[1], goal_radius, cell)
    if moves is not None:
        _arrows(picture, moves, walls, goal, cell)
    if path is not None and len(path):
        _path(picture, path, cell)
    return np.rint(picture).astype(np.uint8)


def _ground(walls: BoolArray, values: FloatArray | None, cell: int) -> FloatArray:
    colours = np.broadcast_to(np.array(PAPER, dtype=np.float64), (*walls.shape, 3)).copy()
    if values is not None:
        free = values[~walls]
        share = (values - free.min()) / max(float(np.ptp(free)), 1e-12)
        colours = np.array(LOW) + np.clip(share, 0, 1)[..., None] * (np.array(HIGH, dtype=np.float64) - LOW)
    colours[walls] = WALL
    picture = np.pad(colours.repeat(cell, axis=0).repeat(cell, axis=1), ((0, 1), (0, 1), (0, 0)), mode="edge")
    solid = np.pad(walls.repeat(cell, axis=0).repeat(cell, axis=1), ((0, 1), (0, 1)), mode="edge")
    lines = np.zeros(solid.shape, dtype=np.bool_)
    lines[::cell], lines[:, ::cell] = True, True
    picture[lines & ~solid] = GRID
    return picture


def _paint(picture: FloatArray, box: tuple[float, float, float, float], colour: Colour, cover: object) -> None:
    """Blend `colour` into the box (x0, y0, x1, y1) by cover(x, y) in [0, 1], given the pixels' centres."""
    x0, y0, x1, y1 = box
    top, left = max(0, int(y0)), max(0, int(x0))
    patch = picture[top : int(y1) + 2, left : int(x1) + 2]
    y, x = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    assert callable(cover)
    alpha = np.clip(cover(x + 0.5, y + 0.5), 0, 1)[..., None]
    patch += alpha * (np.array(colour) - patch)


def _disc(picture: FloatArray, x: float, y: float, radius: float, colour: Colour, strength: float = 1.0) -> None:
    def cover(px: FloatArray, py: FloatArray) -> FloatArray:
        return strength * np.clip(radius - np.hypot(px - x, py - y) + 0.5, 0, 1)

    _paint(picture, (x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), colour, cover)


def _line(picture: FloatArray, one: FloatArray, two: FloatArray, thick: float, colour: Colour) -> None:
    """Draw a line with round ends between two places in pixels."""
    along = two - one
    square = max(float(along @ along), 1e-12)

    def cover(px: FloatArray, py: FloatArray) -> FloatArray:
        share = np.clip(((px - one[0]) * along[0] + (py - one[1]) * along[1]) / square, 0, 1)
        return thick / 2 - np.hypot(px - one[0] - share * along[0], py - one[1] - share * along[1]) + 0.5

    low, high = np.minimum(one, two) - thick, np.maximum(one, two) + thick
    _paint(picture, (low[0], low[1], high[0], high[1]), colour, cover)


def _goal(picture: FloatArray, goal: int, width: int, radius: tuple[float, float] | None, cell: int) -> None:
    x, y, side = (goal % width + 0.5) * cell, (goal // width + 0.5) * cell, 0.46 * cell  # the corners look out behind an agent that stands on it
    if radius is not None:
        across, down = radius[0] * cell, radius[1] * cell

        def region(px: FloatArray, py: FloatArray) -> FloatArray:
            return 0.25 * np.clip((1 - np.hypot((px - x) / across, (py - y) / down)) * min(across, down) + 0.5, 0, 1)

        _paint(picture, (x - across - 1, y - down - 1, x + across + 1, y + down + 1), GOAL, region)
        side = 0.18 * cell

    def diamond(px: FloatArray, py: FloatArray) -> FloatArray:
        return (side - np.abs(px - x) - np.abs(py - y)) * 0.7071 + 0.5

    _paint(picture, (x - side - 1, y - side - 1, x + side + 1, y + side + 1), GOAL, diamond)


def _arrows(picture: FloatArray, moves: IntArray, walls: BoolArray, goal: int | None, cell: int) -> None:
    for row, column in np.argwhere(~walls & (moves >= 0)).tolist():
        if row * walls.shape[1] + column == goal:
            continue
        way = DELTAS[moves[row, column], ::-1] * (0.28 * cell)  # x and y
        middle, side = np.array([(column + 0.5) * cell, (row + 0.5) * cell]), way[::-1] * 0.55
        for one, two in ((middle - way, middle + way), (middle + way, middle + 0.35 * way + side), (middle + way, middle + 0.35 * way - side)):
            _line(picture, one, two, max(1.5, 0.06 * cell), INK)


def _path(picture: FloatArray, path: FloatArray, cell: int) -> None:
    places, steps = path * cell, max(1, len(path) - 2)
    for step, (one, two) in enumerate(pairwise(places)):
        red, green, blue = (round(old + (new - old) * step / steps) for old, new in zip(OLD, NEW, strict=True))
        _line(picture, one, two, max(2.0, 0.13 * cell), (red, green, blue))
    x, y = places[0]
    _disc(picture, x, y, 0.20 * cell, NEW)
    _disc(picture, x, y, 0.12 * cell, PAPER)
    x, y = places[-1]
    _disc(picture, x, y, 0.29 * cell, PAPER)
    _disc(picture, x, y, 0.25 * cell, AGENT)


def spell(walls: BoolArray, goal: int, path: FloatArray) -> str:
    """Return a map in symbols: '#' wall, '.' free, 'S' start, 'G' goal, 'A' agent ('*' on the goal), and arrows where the path left a cell."""
    height, width = walls.shape
    symbols = np.where(walls, "#", ".")
    cells = np.clip(np.floor(path).astype(np.int64), 0, [width - 1, height - 1])  # [K, 2] x, y; rounding may reach the edge
    for (x, y), (right, down) in zip(cells[:-1].tolist(), np.diff(path, axis=0).tolist(), strict=True):
        if right or down:
            symbols[y, x] = "^>v<"[(2 if down > 0 else 0) if down else (1 if right > 0 else 3)]
    x, y = cells[0].tolist()
    symbols[y, x] = "S"
    symbols[goal // width, goal % width] = "G"
    x, y = cells[-1].tolist()
    symbols[y, x] = "*" if y * width + x == goal else "A"
    return "\n".join("".join(line) for line in symbols)
