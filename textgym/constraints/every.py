"""Several constraints at once.

Axis legend: B rows, M numbers remembered, of all parts side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ..allowed import Allowed
from ..core import IntArray
from ..task import Constraint, Prefixes, Rules, Tokenizer
from .automaton import AutomatonRules
from .counting import MinLength


@dataclass(frozen=True, init=False)
class All:
    """What every one of its parts allows: "and".

    Each part judges for itself: a token that one part forbids and another allows counts as written for the other. A MinLength is told
    to the automata beside it (Pattern, Automaton, InGrammar, film_grammar), which then write nothing that would have to end too early.
    Otherwise no part knows of the others: two automata, or an automaton with NoRepeat, BannedWords or TopK, may each be able to go on and
    leave nothing in common. Such a dead end is an error when it is reached (`ValueError` showing the prefix), not planned around; say both
    in one Pattern or Automaton, or weaken one of them.
    """

    parts: tuple[Constraint, ...]

    def __init__(self, *parts: Constraint) -> None:
        if not parts:
            raise ValueError("All() needs at least one constraint; where nothing is forbidden, leave the constraint away.")
        if wrong := [part for part in parts if isinstance(part, type) or not isinstance(part, Constraint)]:
            raise TypeError(f"{wrong[0]!r} is no constraint object; build it first, e.g. textgym.constraints.make({{'name': ...}}).")
        object.__setattr__(self, "parts", parts)

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the parts' rules, joined; raises `ValueError` if a MinLength among them asks an automaton for more than it accepts."""
        parts = _flat(self.parts)
        rules = [part.rules(tokenizer, max_prompt_tokens, max_new_tokens) for part in parts]
        least = max((part.n for part in parts if isinstance(part, MinLength)), default=0)
        for part, rule in zip(parts, rules, strict=True):
            if least and isinstance(rule, AutomatonRules):
                rule.at_least(least, type(part).__name__)
        return JoinedRules(rules, tokenizer.vocab_size, max_prompt_tokens, max_prompt_tokens + max_new_tokens)


def _flat(parts: Sequence[Constraint]) -> list[Constraint]:
    return [inner for part in parts for inner in (_flat(part.parts) if isinstance(part, All) else [part])]


class JoinedRules:
    """The rules of several constraints, all to be kept."""

    def __init__(self, parts: Sequence[Rules], vocab_size: int, prompt_columns: int, columns: int) -> None:
        self.parts, self.vocab_size = parts, vocab_size
        nobody = Prefixes(np.zeros((0, columns), dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), prompt_columns)
        self._cuts = np.cumsum([part.begin(nobody).shape[1] for part in parts])[:-1].tolist()  # asked now: a fork continues without a begin

    def begin(self, prefixes: Prefixes, /) -> IntArray:
        """Return what the parts remember of fresh prompts, side by side."""
        return np.concatenate([part.begin(prefixes) for part in self.parts], axis=1)

    def follow(self, memory: IntArray, tokens: IntArray, /) -> IntArray:
        """Return what each part remembers after `tokens`."""
        return np.concatenate([part.follow(own, tokens) for part, own in zip(self.parts, self._split(memory), strict=True)], axis=1)

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return what all parts allow."""
        found = [part.allowed(own, prefixes) for part, own in zip(self.parts, self._split(memory), strict=True)]
        return reduce(lambda one, other: one.both(other, self.vocab_size), found)

    def _split(self, memory: IntArray) -> list[IntArray]:
        return np.split(memory, self._cuts, axis=1)
