"""Automata over small alphabets: the bytes of a text.

Axis legend: S states, A letters (256 where they are bytes).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..core import BoolArray, IntArray

DEAD = -1  # no state: what was read cannot be continued


class Automaton256(NamedTuple):
    """A deterministic automaton over bytes; state 0 is where it begins."""

    step: IntArray  # [S, 256] the next state, -1 where there is none
    accepting: BoolArray  # [S]


def without(sequences: Sequence[Sequence[int]], num_letters: int) -> Automaton256:
    """Return the automaton of all texts that hold none of `sequences`, each state accepting.

    Aho & Corasick (1975), "Efficient string matching": the trie of the sequences, whose states also follow the longest
    suffix of what was read that begins one of them; a state in which a sequence is complete is dead.
    """
    children: list[dict[int, int]] = [{}]
    complete = [False]
    for sequence in sequences:
        state = 0
        for letter in sequence:
            if letter not in children[state]:
                children[state][letter] = len(children)
                children.append({})
                complete.append(False)
            state = children[state][letter]
        complete[state] = True
    step = np.zeros((len(children), num_letters), dtype=np.int64)
    queue = deque((0, letter, child, 0) for letter, child in children[0].items())
    step[0, list(children[0])] = list(children[0].values())
    while queue:
        _, _, state, suffix = queue.popleft()
        complete[state] |= complete[suffix]
        step[state] = step[suffix]
        queue.extend((state, letter, child, int(step[suffix, letter])) for letter, child in children[state].items())
        step[state, list(children[state])] = list(children[state].values())
    bad = np.array(complete)
    step[bad[step]] = DEAD
    return Automaton256(step, np.ones(len(step), dtype=np.bool_))
