"""Generated maps: random walls, rooms and mazes, always solvable, in splits that never share a layout.

A hash of the walls decides the split, so that a layout of "train" is never one of "val" or "test", whatever the seeds and numbers.
Axis legend: M maps, K candidates, H rows, W columns, C = H * W cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from ..core import BoolArray, FloatArray, IntArray
from .maps import Maps
from .shortest_paths import distances

SPLITS = ("train", "val", "test")
CANDIDATES = 64  # drawn at a time: a constant, so that the first maps of a longer family are those of a shorter one


def random_walls(generator: np.random.Generator, num: int, height: int, width: int, density: float) -> BoolArray:
    """Return layouts [K, H, W] in which each cell is a wall with probability `density`."""
    return generator.random((num, height, width)) < density


def rooms(generator: np.random.Generator, num: int, height: int, width: int, density: float) -> BoolArray:
    """Return layouts [K, H, W] of rooms, at least two cells wide, each wall with one door; `density` plays no part."""
    walls = np.zeros((num, height, width), dtype=np.bool_)
    for layout in walls:
        _divide(generator, np.pad(layout, 1, constant_values=True), layout)
    return walls


def _divide(generator: np.random.Generator, framed: BoolArray, layout: BoolArray) -> None:
    """Put walls with doors through the rooms of `layout` until all are small; `framed` [H + 2, W + 2] is it with a frame of walls."""
    todo = [(1, 1, framed.shape[0] - 2, framed.shape[1] - 2)]  # top, left, height, width
    while todo:
        top, left, height, width = todo.pop()
        if max(height, width) < 5:
            continue
        if height < width:  # a wall from top to bottom: the same as one from left to right of the room on its side
            todo += [(a, b, h, w) for b, a, w, h in _cut(generator, framed.T, left, top, width, height)]
        else:
            todo += _cut(generator, framed, top, left, height, width)
    layout[:] = framed[1:-1, 1:-1]


def _cut(generator: np.random.Generator, framed: BoolArray, top: int, left: int, height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Put a wall with a door from left to right through a room and return the two that it makes; none where each wall would stand in a door."""
    right = left + width
    places = [row for row in range(top + 2, top + height - 2) if framed[row, left - 1] and framed[row, right]]
    if not places:
        return []
    row = places[int(generator.integers(len(places)))]
    framed[row, left:right] = True
    framed[row, left + int(generator.integers(width))] = False
    return [(top, left, row - top, width), (row + 1, left, top + height - row - 1, width)]


def mazes(generator: np.random.Generator, num: int, height: int, width: int, density: float) -> BoolArray:
    """Return layouts [K, H, W] of corridors with exactly one path between any two cells, by random depth-first search; `density` plays no part."""
    if not height % 2 or not width % 2:
        raise ValueError(f"A maze needs odd sizes (corridors and walls take turns), got {height} x {width}; give size={height | 1}, for instance.")
    walls = np.ones((num, height, width), dtype=np.bool_)
    for layout in walls:
        _dig(generator, layout)
    return walls


def _dig(generator: np.random.Generator, layout: BoolArray) -> None:
    height, width = layout.shape
    way = [(2 * int(generator.integers((height + 1) // 2)), 2 * int(generator.integers((width + 1) // 2)))]
    layout[way[0]] = False
    while way:
        row, column = way[-1]
        around = [(row - 2, column), (row, column + 2), (row + 2, column), (row, column - 2)]
        new = [(r, c) for r, c in around if 0 <= r < height and 0 <= c < width and layout[r, c]]
        if not new:
            way.pop()
            continue
        r, c = new[int(generator.integers(len(new)))]
        layout[(row + r) // 2, (column + c) // 2] = layout[r, c] = False
        way.append((r, c))


Family = Callable[[np.random.Generator, int, int, int, float], BoolArray]
FAMILIES: dict[str, Family] = {"walls": random_walls, "rooms": rooms, "mazes": mazes}


@lru_cache(maxsize=32)
def generate(
    family: str, size: int | tuple[int, int] = 8, density: float = 0.15, num_maps: int = 1000, split: str = "train", seed: int = 0, min_moves: int | None = None
) -> Maps:
    """Return `num_maps` different maps of a family, each with a start and a goal that a path joins.

    Args:
        family: "walls" (each cell is one with probability `density`), "rooms" (each wall has a door) or "mazes" (one path between any two cells).
        size: rows and columns, as one number or two.
        density: the share of walls, for "walls" alone.
        num_maps: how many; the first ones of a longer family are those of a shorter one.
        split: "train", "val" or "test"; no layout of walls is in two of them, for no two seeds.
        seed: another one gives other maps of the same split.
        min_moves: start and goal are at least this many moves apart; None is half of rows and columns together (8 for size 8):
            closer ones make going straight to the goal too good a plan.
    """
    height, width = (size, size) if isinstance(size, int) else size
    _check(family, height, width, density, num_maps, split)
    if wrong := [number for number in (num_maps, seed, min_moves) if number is not None and (not isinstance(number, int | np.integer) or number < 0)]:
        raise ValueError(f"num_maps={num_maps}, seed={seed}, min_moves={min_moves}: {wrong[0]!r} is no integer of at least 0.")
    apart = (height + width) // 2 if min_moves is None else min_moves
    generator = np.random.default_rng([seed, sorted(FAMILIES).index(family), SPLITS.index(split), height, width])
    found: dict[bytes, tuple[BoolArray, int, int]] = {}
    for _ in range(rounds := 160 + 40 * num_maps // CANDIDATES):
        for layout, start, goal in zip(*_candidates(generator, family, height, width, density, max(1, apart)), strict=True):
            if split_of(layout) == split:
                found.setdefault(layout.tobytes(), (layout, int(start), int(goal)))
        if len(found) >= num_maps:
            break
    else:
        raise ValueError(
            f"The {split!r} split of {family!r} maps of {height} x {width} gave {len(found)} different ones in {rounds * CANDIDATES} draws; "
            f"ask for {f'num_maps={len(found)} or fewer, ' if found else ''}a larger size, another density, or a smaller min_moves."
        )
    layouts, starts, goals = zip(*list(found.values())[:num_maps], strict=True)
    return Maps(np.stack(layouts), np.array(starts), np.array(goals), tuple(f"{family}-{split}-{seed}[{i}]" for i in range(num_maps)))


def _check(family: str, height: int, width: int, density: float, num_maps: int, split: str) -> None:
    if family not in FAMILIES:
        raise ValueError(f"There is no family {family!r} of maps; give one of {sorted(FAMILIES)}.")
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r} of maps; give one of {list(SPLITS)}.")
    if min(height, width) < 1 or num_maps < 1 or not 0 <= density < 1:
        raise ValueError(f"size={height} x {width}, num_maps={num_maps}, density={density}: give at least 1 x 1, 1, and a density in [0, 1).")


def split_of(layout: BoolArray) -> str:
    """Return the split that a layout [H, W] belongs to: a third of all layouts each, on every machine."""
    digest = blake2b(repr(layout.shape).encode() + np.packbits(layout).tobytes(), digest_size=6).digest()
    return SPLITS[int.from_bytes(digest, "big") % len(SPLITS)]


def _candidates(generator: np.random.Generator, family: str, height: int, width: int, density: float, apart: int) -> tuple[BoolArray, IntArray, IntArray]:
    """Return those of `CANDIDATES` layouts in which a goal has a start far enough away, with both."""
    walls = FAMILIES[family](generator, CANDIDATES, height, width, density)
    free = ~walls.reshape(CANDIDATES, -1)
    where, when = generator.random((2, CANDIDATES))
    goals = _pick(free, where)
    found = distances(~walls, (np.arange(free.shape[1]) == goals[:, None]).reshape(walls.shape)).reshape(free.shape)
    starts = _pick(found >= apart, when)
    good = starts >= 0
    return walls[good], starts[good], goals[good]


def _pick(mask: BoolArray, uniform: FloatArray) -> IntArray:
    """Return one of the true cells of each line of `mask` [K, C], chosen by a number in [0, 1); -1 where there is none."""
    counts = mask.cumsum(axis=1)
    wanted = (uniform * counts[:, -1]).astype(np.int64) + 1
    return np.where(counts[:, -1] > 0, (counts >= wanted[:, None]).argmax(axis=1), -1)
