"""Regular expressions as automata over the bytes of UTF-8.

`interegular` reads the expression and builds its automaton over characters; here its characters become bytes, so that any tokenizer's
pieces can be walked, those that hold a part of a character included. Axis legend: S states over characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from .nfa import MOST_STATES, Characters, TooLarge, determined
from .trie import DEAD, Automaton256

# What may follow a first byte (The Unicode Standard, table 3-7): how many bytes are to come, and the range of the next one.
Rest = tuple[int, int, int]
FIRST: dict[int, Rest] = {
    **dict.fromkeys(range(194, 224), (1, 128, 191)),
    **dict.fromkeys(range(224, 240), (2, 128, 191)),
    **dict.fromkeys(range(240, 245), (3, 128, 191)),
    0xE0: (2, 0xA0, 0xBF),
    0xED: (2, 0x80, 0x9F),
    0xF0: (3, 0x90, 0xBF),
    0xF4: (3, 0x80, 0x8F),
}


@lru_cache(maxsize=32)
def compiled(regex: str) -> Characters:
    """Return the automaton of the texts that `re.fullmatch(regex, text, re.ASCII)` accepts.

    Raises:
        ValueError: for what is no regular expression of Python's, and for what no finite automaton can do, or `interegular` cannot:
            anchors, look-around, backreferences, possessive repetitions;
            for what needs more than 20,000 states.
        ImportError: if `interegular` is not installed.
    """
    try:
        import interegular  # noqa: F401
    except ImportError as error:
        raise ImportError('Regular expressions need the package interegular: pip install "textgym[regex]".') from error
    try:
        re.compile(regex, re.ASCII)
    except re.error as error:
        raise ValueError(f"{regex!r} is no regular expression: {error}.") from error
    if re.search(r"(?<!\\)(\\\\)*\(\?(=|!|<=|<!)", regex):
        raise ValueError(f"{regex!r} looks ahead or back, which a constraint cannot; say what the whole text is instead.")
    found = _determined(regex)
    _check(found, regex)
    return found


def _determined(regex: str) -> Characters:
    from interegular.patterns import InvalidSyntax, Unsupported, parse_pattern
    from interegular.utils.simple_parser import nomatch

    try:
        parsed = parse_pattern(regex)
    except (InvalidSyntax, Unsupported, AttributeError, ValueError, nomatch) as error:  # the last three: what its parser lets slip
        told = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{regex!r} cannot be made a finite automaton ({told}). Leave out anchors (^ and $: the whole text must match anyhow), "
            r"\b, backreferences and comments, and write { as \{ where it is a character."
        ) from error
    try:
        return determined(parsed)
    except TooLarge:
        raise ValueError(
            f"{regex!r} needs more than {MOST_STATES} states, or too long to find them: simplify it. Large counts {{n}} behind * or + "
            "double the states with each count, and counts within counts multiply."
        ) from None


def shortest(automaton: Characters) -> list[str | None]:
    """Return for each state a shortest text that leads to it from state 0, None if there is none."""
    texts: list[str | None] = [None] * len(automaton.accepting)
    texts[0], queue = "", [0]
    for state in queue:
        for letter, target in _ways(automaton, state):
            if target != DEAD and texts[target] is None:
                texts[target] = f"{texts[state]}{letter}"
                queue.append(target)
    return texts


def _ways(automaton: Characters, state: int) -> Iterator[tuple[str, int]]:
    yield from sorted(automaton.named[state].items())
    yield next(letter for letter in ("x", "~", "\u00a4", "\u2603", "\U0001f5ff") if letter not in automaton.named[state]), automaton.others[state]


def _check(automaton: Characters, regex: str) -> None:
    """Hold the automaton to `re`: a shortest accepted text through each of its transitions that stay on the way to acceptance."""
    expression, before, after = re.compile(regex, re.ASCII), shortest(automaton), _completions(automaton)
    texts = [after[0]]
    for state, prefix in enumerate(before):
        ways = () if prefix is None else _ways(automaton, state)
        texts += [f"{prefix}{letter}{after[target]}" for letter, target in ways if target != DEAD and after[target] is not None]
    for text in texts:
        if text is not None and not expression.fullmatch(text):
            raise ValueError(
                f"{regex!r} is read in two ways: the automaton accepts {text!r}, Python's re does not. "
                "Write brackets and braces that are characters with a backslash."
            )


def _completions(automaton: Characters) -> list[str | None]:
    """Return for each state a shortest text that leads from it to acceptance, None if there is none."""
    into: dict[int, list[tuple[str, int]]] = {}
    for state in range(len(automaton.accepting)):
        for letter, target in _ways(automaton, state):
            into.setdefault(target, []).append((letter, state))
    texts: list[str | None] = ["" if accepts else None for accepts in automaton.accepting]
    queue = [state for state, accepts in enumerate(automaton.accepting) if accepts]
    for target in queue:
        for letter, state in into.get(target, []):
            if texts[state] is None:
                texts[state] = f"{letter}{texts[target]}"
                queue.append(state)
    return texts


class _Bytes:
    """The states of the automaton over bytes: those over characters first, then those inside a character, made as they are met."""

    def __init__(self, automaton: Characters) -> None:
        self.automaton = automaton
        self.special = {letter.encode("utf-8")[:n] for letter in automaton.named[0] if ord(letter) >= 128 for n in range(1, 5)}
        self.rows = [np.full(256, DEAD, dtype=np.int64) for _ in automaton.accepting]
        self.places: dict[tuple[Any, ...], int] = {}

    def build(self) -> Automaton256:
        for state, others in enumerate(self.automaton.others):
            row = self.rows[state]
            row[:128] = others
            for letter, target in self.automaton.named[state].items():
                if ord(letter) < 128:
                    row[ord(letter)] = target
            for byte, rest in FIRST.items():
                row[byte] = self._inside(state, bytes([byte]), rest)
        step = np.array(self.rows)
        accepting = np.zeros(len(step), dtype=np.bool_)
        accepting[: len(self.automaton.accepting)] = self.automaton.accepting
        return Automaton256(step, accepting)

    def _inside(self, state: int, prefix: bytes, rest: Rest) -> int:
        """Return the state after `prefix`, which `rest` completes to a character; one that no named character begins is shared."""
        others, (num, low, high) = self.automaton.others[state], rest
        special = prefix in self.special
        if not special and others == DEAD:
            return DEAD
        if num == 0:
            return self.automaton.named[state][prefix.decode("utf-8")] if special else others
        key = (state, prefix) if special else (others, rest)
        if key not in self.places:
            self.places[key] = len(self.rows)
            self.rows.append(row := np.full(256, DEAD, dtype=np.int64))
            for byte in range(low, high + 1):
                row[byte] = self._inside(state, prefix + bytes([byte]), (num - 1, 0x80, 0xBF))
        return self.places[key]


def over_bytes(automaton: Characters) -> Automaton256:
    """Return the same language as an automaton over UTF-8; what is no UTF-8 is refused."""
    return _Bytes(automaton).build()
