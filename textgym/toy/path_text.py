"""PathPlanningText-v0: does the agent read a map and write the way to its goal?

The prompt spells a map, one word a cell and ';' after each row; the text is moves. Nothing shows the agent moving: it has to plan.
Axis legend: B completions, G generated tokens, M maps, H rows, W columns, C cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from ..core import FloatArray, IntArray
from ..episodes import TextCore
from ..prompts import ListPrompts
from ..task import Completions, Prompt, Task
from ..tokenizers import WordTokenizer
from .map_families import generate
from .maps import Maps
from .path_planning import MapChoice, chosen, sizes
from .shortest_paths import MOVES, optimal_moves, transitions

SPELLING = {"#": "#", ".": ".", "S": "A", "G": "G"}  # the agent stands on the start
ROW_END = ";"
WORDS = ("<eos>", *MOVES, *SPELLING.values(), ROW_END)  # so that a move is its word's id less one
MEASURES = ("spl", "success")


class PathScorer:
    """The path that a text walks: its success weighted by path length, or its success alone.

    A text succeeds if the agent stands on the goal where the text ends: to end it there is the agent's to say, as Anderson et al. 2018 recommend.
    The path's length is the number of words before EOS; a move against a wall, or a word that is no move, has no effect, and counts.
    """

    def __init__(self, maps: Maps, measure: str = "spl") -> None:
        if measure not in MEASURES:
            raise ValueError(f"measure={measure!r}: give one of {list(MEASURES)}.")
        self.maps, self.measure = maps, measure
        self._moves = _with_stay(transitions(maps.walls))  # [M * C, 5] where each move leads, and no move

    def __call__(self, completions: Completions) -> FloatArray:
        """Return the score of each completion [B]."""
        return self.combine(self.parts(completions))

    def combine(self, parts: Mapping[str, FloatArray]) -> FloatArray:
        """Return the part that is paid [B]."""
        return parts[self.measure]

    def parts(self, completions: Completions) -> dict[str, FloatArray]:
        """Return `success`, `path_length`, `shortest_length` and `spl`, float64 [B] each; lengths are in moves."""
        index = np.array([prompt.data["map"] for prompt in completions.prompts], dtype=np.int64)
        size = self.maps.walls[0].size
        start, goal = index * size + self.maps.starts[index], index * size + self.maps.goals[index]
        length = (completions.lengths - completions.ended).astype(np.float64)
        shortest = self.maps.lengths(start, goal).astype(np.float64)
        success = (self._walk(start, completions) == goal).astype(np.float64)
        return {"success": success, "path_length": length, "shortest_length": shortest, "spl": success * shortest / np.maximum(length, shortest)}

    def _walk(self, at: IntArray, completions: Completions) -> IntArray:
        """Return the cells [B] where the texts end; EOS, pads and other words stay where they are."""
        moves = completions.tokens - 1
        moves = np.where((moves >= 0) & (moves < len(MOVES)), moves, len(MOVES))
        for column in range(int(completions.lengths.max(initial=0))):
            at = self._moves[at, moves[:, column]]
        return at


def _with_stay(moves: IntArray) -> IntArray:
    table = moves.reshape(-1, len(MOVES))
    return np.concatenate([table, np.arange(len(table))[:, None]], axis=1)


def path_planning_text(
    num_rows: int,
    *,
    map: MapChoice | None = None,
    family: str | None = "walls",
    size: int | Sequence[int] = 5,
    density: float = 0.15,
    num_maps: int = 1000,
    split: str = "train",
    map_seed: int = 0,
    min_moves: int | None = None,
    measure: str = "spl",
    max_new_tokens: int | None = None,
    info_text: bool = False,
) -> TextCore:
    """Return the core of PathPlanningText-v0; the defaults are 5 x 5 maps with 15 % random walls.

    The options are those of `path_planning`, and these:

    Args:
        num_rows: number of texts written side by side (the two Gymnasium faces fill it in).
        map: as in `path_planning`; None is the family.
        family: as in `path_planning`; ignored where a map is given.
        size: of generated maps.
        density: of generated maps.
        num_maps: how many generated maps; `reset(options={"prompt": index})` names one.
        split: of generated maps.
        map_seed: of generated maps.
        min_moves: of generated maps.
        measure: what is paid at the end: "spl" or "success"; the info holds both, and the lengths.
        max_new_tokens: the budget; None is one for each cell of a map, so that the shortest path and EOS always fit.
        info_text: put the finished text into `info["text"]`.
    """
    if map is None and family is None:
        raise ValueError("There is neither a map nor a family; give one of them.")
    generated = None if map is not None or family is None else generate(family, sizes(size), density, num_maps, split, map_seed, min_moves)
    maps = chosen(map, generated)
    task = Task(
        prompts=map_prompts(maps),
        tokenizer=WordTokenizer(WORDS),
        scorer=PathScorer(maps, measure),
        max_prompt_tokens=maps.height * (maps.width + 1),
        max_new_tokens=maps.walls[0].size if max_new_tokens is None else max_new_tokens,
        info_text=info_text,
    )
    return TextCore(task, num_rows)


@lru_cache(maxsize=16)
def map_prompts(maps: Maps) -> ListPrompts:
    """Return each map as a prompt; its reference is a shortest path, its data the map's index."""
    optimal = optimal_moves(maps.goal_distances).reshape(len(maps), -1, len(MOVES))
    moves = transitions(maps.walls).reshape(len(maps), -1, len(MOVES)) % maps.walls[0].size
    return ListPrompts(Prompt(_spelled(maps.text(i)), reference=_way(optimal[i], moves[i], int(maps.starts[i])), data={"map": i}) for i in range(len(maps)))


def _spelled(text: str) -> str:
    return " ".join(f"{' '.join(SPELLING[symbol] for symbol in line)} {ROW_END}" for line in text.splitlines())


def _way(optimal: np.ndarray, moves: IntArray, at: int) -> str:
    """Return a shortest path from `at` in words."""
    words = []
    while optimal[at].any():
        move = int(optimal[at].argmax())
        words.append(MOVES[move])
        at = int(moves[at, move])
    return " ".join(words)
