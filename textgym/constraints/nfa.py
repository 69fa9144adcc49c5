"""From a parsed regular expression to a deterministic automaton, with a bound on its size.

`interegular` parses; its own construction has no bound and looks states up one by one, so that an expression of a dozen letters may
take for ever. Here: Thompson (1968), "Regular Expression Search Algorithm", and the subset construction of Rabin & Scott (1959).
Axis legend: N nodes of the automaton that guesses, S states of the one that does not.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from .trie import DEAD

MOST_STATES = 20_000  # of the result
MOST_NODES = 10 * MOST_STATES
MOST_STEPS = 2_000_000  # nodes and arcs looked at: about a second


class TooLarge(ValueError):
    """The automaton exceeds the bound."""


class Characters(NamedTuple):
    """A deterministic automaton over characters; state 0 is where it begins."""

    named: list[dict[str, int]]  # [S] where each character that the expression tells apart leads to
    others: list[int]  # [S] where any other character leads to, -1 for nowhere
    accepting: list[bool]  # [S]


class _Guesses:
    """The automaton that guesses: arcs that read a character of some classes, and skips that read nothing."""

    def __init__(self, pattern: Any) -> None:
        from interegular.patterns import REFlags

        self.flags, self.alphabet = REFlags, pattern.get_alphabet(REFlags(0))
        self.arcs: list[list[tuple[Collection[int], int]]] = []  # [N]
        self.skips: list[list[int]] = []  # [N]
        self.steps = 0
        self.final = self._add(pattern, self._node(), REFlags(0))

    def _node(self) -> int:
        if len(self.arcs) == MOST_NODES:
            raise TooLarge
        self.arcs.append([])
        self.skips.append([])
        return len(self.arcs) - 1

    def _add(self, part: Any, start: int, flags: Any) -> int:
        """Add what reads `part` from node `start` on; return the node behind it."""
        if hasattr(part, "options"):
            return self._either(part.options, start, (flags | part.added_flags) & ~part.removed_flags)
        if hasattr(part, "parts"):
            for inner in part.parts:
                start = self._add(inner, start, flags)
            return start
        if hasattr(part, "base"):
            return self._repeated(part, start, flags)
        from interegular.patterns import _DOT, _EMPTY

        if part is _EMPTY:
            return start
        self.arcs[start].append((self._classes(part, flags, part is _DOT), end := self._node()))
        return end

    def _either(self, options: Collection[Any], start: int, flags: Any) -> int:
        end = self._node()
        for option in options:
            self.skips[start].append(first := self._node())
            self.skips[self._add(option, first, flags)].append(end)
        return end

    def _repeated(self, part: Any, start: int, flags: Any) -> int:
        for _ in range(part.min):
            start = self._add(part.base, start, flags)
        self.skips[start].append(end := self._node())
        if part.max is None:
            self.skips[self._add(part.base, end, flags)].append(end)
            return end
        for _ in range(part.max - part.min):
            start = self._add(part.base, start, flags)
            self.skips[start].append(end)
        return end

    def _classes(self, part: Any, flags: Any, is_dot: bool) -> Collection[int]:
        """Return the classes of characters that a part of one character reads."""
        if is_dot:
            letters = set(self.alphabet) - (set() if flags & self.flags.SINGLE_LINE else {"\n"})
        else:
            chars = {side for c in part.chars for side in (c.lower(), c.upper())} if flags & self.flags.CASE_INSENSITIVE else part.chars
            letters = set(self.alphabet) - chars if part.negated else set(chars)
        return {self.alphabet[letter] for letter in letters}

    def closure(self, nodes: Collection[int]) -> frozenset[int]:
        """Return the nodes that matter among those which can be reached without reading: those that read, and the last one."""
        seen, stack = set(nodes), list(nodes)
        while stack:
            fresh = [node for node in self.skips[stack.pop()] if node not in seen]
            seen.update(fresh)
            stack += fresh
        self.steps += len(seen)
        return frozenset(node for node in seen if self.arcs[node] or node == self.final)


def determined(pattern: Any) -> Characters:
    """Return the deterministic automaton of a pattern that `interegular` parsed; raises `TooLarge` beyond `MOST_STATES` states."""
    guesses = _Guesses(pattern)
    subsets = [guesses.closure([0])]
    place = {subsets[0]: 0}
    moves: list[dict[int, int]] = []  # [S] class to state
    for subset in subsets:
        reached: dict[int, set[int]] = {}
        for node in subset:
            for classes, target in guesses.arcs[node]:
                guesses.steps += len(classes)
                for kind in classes:
                    reached.setdefault(kind, set()).add(target)
        moves.append({})
        for kind, nodes in reached.items():
            after = guesses.closure(nodes)
            if after not in place:
                place[after] = len(subsets)
                subsets.append(after)
            moves[-1][kind] = place[after]
        if len(subsets) > MOST_STATES or guesses.steps > MOST_STEPS:
            raise TooLarge
    return _spelled_out(moves, guesses, [guesses.final in subset for subset in subsets])


def _spelled_out(moves: list[dict[int, int]], guesses: _Guesses, accepting: list[bool]) -> Characters:
    from interegular.fsm import anything_else

    letters = [(symbol, guesses.alphabet[symbol]) for symbol in guesses.alphabet if symbol is not anything_else]
    rest = guesses.alphabet[anything_else]
    return Characters([{symbol: row.get(kind, DEAD) for symbol, kind in letters} for row in moves], [row.get(rest, DEAD) for row in moves], accepting)
