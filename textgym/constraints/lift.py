"""From automata over bytes to automata over tokens.

Willard & Louf (2023), "Efficient Guided Generation for Large Language Models" (arXiv 2307.09702): which tokens a state allows, and where each leads,
is a table, so a step costs one look-up. Axis legend: S states, F states of one call, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core import BoolArray
from .pieces import Pieces
from .trie import DEAD, Automaton256

MOST = 2**30  # entries of a table: 4 GB
AT_ONCE = 2**22  # entries worked on at a time: they stay in the cache

Table32 = NDArray[np.int32]


class TokenTable(NamedTuple):
    """A deterministic automaton over tokens; state 0 is where a text begins."""

    next_state: Table32  # [S, V], -1 where a token is impossible; EOS always is, since it ends
    accepting: BoolArray  # [S]


class _Spelling:
    """The pieces of V tokens, laid out byte by byte, the longest first."""

    def __init__(self, given: Sequence[bytes | None]) -> None:
        pieces = [piece or b"" for piece in given]
        lengths = np.array([len(piece) for piece in pieces])
        self.order = np.argsort(-lengths, kind="stable")
        self.nothing = np.array([piece is None for piece in given])
        self.columns: list[NDArray[np.int32]] = []
        rest = [pieces[i] for i in self.order.tolist()]
        for place in range(int(lengths.max(initial=0))):
            del rest[int((lengths > place).sum()) :]
            self.columns.append(np.array([piece[place] for piece in rest], dtype=np.int32))

    def walk(self, flat_step: Table32, states: Table32) -> Table32:
        """Return where each token leads to from `states` [F], [F, V]; the last state of the steps is the dead one."""
        dead = np.int32(len(flat_step) // 256 - 1)
        now = np.repeat(states[:, None], len(self.order), axis=1)
        for column in self.columns:
            part = now[:, : len(column)]
            part[:] = flat_step[(part << 8) + column]
        found = np.empty_like(now)
        found[:, self.order] = now
        found[:, self.nothing] = dead
        return found


def lift(automaton: Automaton256, pieces: Pieces, eos: int) -> TokenTable:
    """Return the automaton over tokens whose texts `automaton` reads; tokens without a piece are impossible.

    Raises:
        ValueError: if the table would be larger than a few gigabytes.
    """
    num_bytes_states, vocab_size = automaton.step.shape[0], len(pieces.first)
    flat = np.full((num_bytes_states + 1, 256), num_bytes_states, dtype=np.int32)
    flat[:-1] = np.where(automaton.step == DEAD, num_bytes_states, automaton.step)
    first, later = _Spelling(pieces.first), _Spelling(pieces.later)
    begin = first.walk(flat.reshape(-1), np.zeros(1, dtype=np.int32))
    rows: list[Table32] = [begin]
    origin: list[int] = []  # the byte state of each token state after the first
    place = np.full(num_bytes_states + 1, DEAD, dtype=np.int32)  # and the other way about
    fresh = _new(begin, place, origin)
    while len(fresh):
        if (len(origin) + 1) * vocab_size > MOST:
            raise ValueError(f"This constraint has more than {len(origin)} states over {vocab_size} tokens: its table would not fit; make it simpler.")
        found = _walked(later, flat.reshape(-1), fresh)
        rows.append(found)
        fresh = _new(found, place, origin)
    table = place[np.concatenate(rows)]
    table[:, eos] = DEAD
    return TokenTable(table, np.concatenate([automaton.accepting[:1], automaton.accepting[np.array(origin, dtype=np.int64)]]))


def _walked(spelling: _Spelling, flat_step: Table32, states: Table32) -> Table32:
    size = max(1, AT_ONCE // len(spelling.order))
    return np.concatenate([spelling.walk(flat_step, states[i : i + size]) for i in range(0, len(states), size)])


def _new(found: Table32, place: NDArray[Any], origin: list[int]) -> Table32:
    """Give places to the byte states among `found` that have none, behind the first token state; return them."""
    met = np.zeros(len(place), dtype=np.bool_)
    met[found] = True
    met[-1] = False  # the dead state has no place
    fresh = np.flatnonzero(met & (place == DEAD)).astype(np.int32)
    place[fresh] = 1 + len(origin) + np.arange(len(fresh))
    origin.extend(fresh.tolist())
    return fresh
