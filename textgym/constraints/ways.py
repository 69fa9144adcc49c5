"""How far the states of an automaton are from its acceptance, and which of them are far enough.

Axis legend: S states, V vocabulary, W pairs of a state and one that some token leads to, N tokens that a text must have at least.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core import BoolArray, IntArray
from .lift import Table32

NEVER = 2**30  # tokens to acceptance, where there is no way to it


class Ways:
    """Which states some token leads to from each state, pair by pair: a table [S, S] would not fit for some."""

    def __init__(self, next_state: Table32) -> None:
        met, found = np.zeros(len(next_state) + 1, dtype=np.bool_), []
        for targets in next_state:
            met[targets] = True
            found.append(np.flatnonzero(met[:-1]))
            met[:] = False
        counts = np.array([len(targets) for targets in found])
        self.to = np.concatenate(found)  # [W]
        self._some = np.flatnonzero(counts)  # the states that lead anywhere
        self._first = (np.cumsum(counts) - counts)[self._some]
        self.bounds = np.append(0, np.cumsum(counts))  # [S + 1] the pairs of state s are those from bounds[s] to bounds[s + 1]

    def best(self, values: IntArray) -> IntArray:
        """Return the largest of `values` [S], none below 0, among the states that each one leads to, int64 [S]; 0 where it leads nowhere."""
        found = np.zeros(len(values), dtype=np.int64)
        if len(self.to):
            found[self._some] = np.maximum.reduceat(values[self.to], self._first)
        return found

    def needed(self, accepting: BoolArray) -> IntArray:
        """Return how many tokens each state needs to the end of a text, EOS included, int64 [S]; `NEVER` where there is no way."""
        need = np.where(accepting, 1, NEVER).astype(np.int64)
        origin = np.repeat(np.arange(len(need)), np.diff(self.bounds))
        order = np.argsort(self.to, kind="stable")
        into, bounds = origin[order], np.append(0, np.cumsum(np.bincount(self.to, minlength=len(need))))
        newest, tokens = np.flatnonzero(accepting), 1
        while len(newest):
            tokens += 1
            before = np.concatenate([into[bounds[state] : bounds[state + 1]] for state in newest.tolist()])
            newest = np.unique(before[need[before] == NEVER])
            need[newest] = tokens
        return need


class Early(NamedTuple):
    """From which states a text can still become long enough, while EOS is too early: with n more tokens to write, row n."""

    possible: BoolArray  # [N + 1, S] and within the budget, if that is asked for
    at_all: BoolArray  # [N + 1, S] with any budget
    most_left: int  # with so many tokens left EOS is no more too early

    @classmethod
    def none(cls) -> Early:
        """Return what asks for nothing."""
        nothing = np.zeros((1, 0), dtype=np.bool_)
        return cls(nothing, nothing, NEVER)

    @classmethod
    def of(cls, ways: Ways, possible: BoolArray, at_all: BoolArray, num_tokens: int, most_left: int) -> Early:
        """Return the rows 0 to N, of which the first is given: what can be finished once EOS is no more too early."""
        levels = [(possible, at_all)]
        for _ in range(num_tokens):
            one, other = (ways.best(row.astype(np.int64)) > 0 for row in levels[-1])
            levels.append((one, other))
        return cls(np.stack([one for one, _ in levels]), np.stack([other for _, other in levels]), most_left)
