"""Automata over tokens and grammars, given directly.

Axis legend: S states, V vocabulary, W words of a grammar.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import BoolArray, IntArray
from ..film_reviews import film_reviews
from ..grammar import Grammar
from ..task import Rules, Tokenizer, WordLevel
from .automaton import AutomatonRules
from .lift import Table32
from .registry import register
from .spelling import token_id
from .trie import DEAD
from .ways import NEVER

Table = IntArray | Mapping[Hashable, Mapping[str, Hashable]]


@register("automaton")
@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic finite automaton over the tokens of the continuation.

    Attributes:
        next_state: integers [S, V] (-1: impossible; state 0 begins a text), or {state: {word: state}}, the first state beginning,
            each word one token.
        accepting: the states in which a text may end, or bool [S].
        finish: allow only what can still be completed within the budget, EOS included; else a token is allowed that can be completed at all.
    """

    next_state: Table
    accepting: Collection[Hashable] | BoolArray
    finish: bool = True

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` naming states and words that do not exist, or if no text fits the budget."""
        names, table = self._named(tokenizer) if isinstance(self.next_state, Mapping) else self._numbered(tokenizer)
        accepting = self._accepting(names)
        return started(AutomatonRules(table, accepting, tokenizer, max_new_tokens, self.finish), "This automaton")

    def _named(self, tokenizer: Tokenizer) -> tuple[list[Hashable], Table32]:
        assert isinstance(self.next_state, Mapping)
        names = list(self.next_state)
        if not names:
            raise ValueError("An automaton has at least one state, the first of which begins a text; next_state names none.")
        table = np.full((len(names), tokenizer.vocab_size), DEAD, dtype=np.int32)
        for state, ways in enumerate(self.next_state.values()):
            for word, to in ways.items():
                if to not in names:
                    raise ValueError(f"State {names[state]!r} leads to {to!r}, which is none of the states {names}; give it {{}} if a text ends there.")
                table[state, token_id(word, tokenizer, "Automaton")] = names.index(to)
        table[:, tokenizer.eos_id] = DEAD
        return names, table

    def _numbered(self, tokenizer: Tokenizer) -> tuple[list[Hashable], Table32]:
        given = np.asarray(self.next_state)
        if given.ndim != 2 or given.shape[1] != tokenizer.vocab_size or given.dtype.kind not in "iu":
            raise ValueError(f"next_state must be integers [S, V] with V = {tokenizer.vocab_size}, got {given.dtype} of shape {given.shape}.")
        if given.size == 0 or given.min() < DEAD or given.max() >= len(given):
            raise ValueError(f"next_state must lie in [0, {len(given)}), or be -1 where a token is impossible.")
        table = given.astype(np.int32)
        table[:, tokenizer.eos_id] = DEAD
        return list(range(len(given))), table

    def _accepting(self, names: list[Hashable]) -> BoolArray:
        given: Any = self.accepting
        if isinstance(given, np.ndarray) and given.dtype == np.bool_:
            if given.shape != (len(names),):
                raise ValueError(f"accepting must be one flag for each of the {len(names)} states, got shape {given.shape}.")
            return np.array(given)
        if unknown := [state for state in given if state not in names]:
            raise ValueError(f"accepting names {unknown[0]!r}, which is none of the states {names[:20]}.")
        chosen = set(given)
        return np.array([name in chosen for name in names])


@dataclass(frozen=True)
class InGrammar:
    """Prompt and continuation together stay in a grammar, and end where it may end; the prompt is walked first.

    A prompt that is outside the grammar already is an error when its episode begins.
    """

    grammar: Grammar
    finish: bool = True

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` if the vocabulary holds no text of the grammar."""
        if not isinstance(tokenizer, WordLevel):
            raise ValueError(f"A grammar speaks of words: it needs a tokenizer of words, not {type(tokenizer).__name__}; for others use Pattern.")
        ids = {word: i for i, word in enumerate(tokenizer.words)}
        known = [word for word in self.grammar.words if word in ids]
        table = np.full((len(self.grammar.next_state), tokenizer.vocab_size), DEAD, dtype=np.int32)
        table[:, [ids[word] for word in known]] = self.grammar.next_state[:, [self.grammar.ids[word] for word in known]]
        rules = AutomatonRules(table, np.isfinite(self.grammar.log_stop), tokenizer, max_new_tokens, self.finish, reads_prompt=True)
        if rules.need[0] == NEVER:
            missing = [word for word in self.grammar.words if word not in ids]
            raise ValueError(f"The vocabulary cannot spell any text of the grammar: it lacks {len(missing)} of its words, {missing[:8]} among them.")
        return rules


@register("film_grammar")
def film_grammar(finish: bool = True) -> InGrammar:
    """Return the constraint to well-formed film reviews, the grammar of the default task."""
    return InGrammar(film_reviews(), finish)


def started(rules: AutomatonRules, name: str) -> AutomatonRules:
    """Return `rules`; raises `ValueError` if no text is accepted from the beginning within the budget."""
    need = int(rules.need[0])
    if need == NEVER:
        raise ValueError(f"{name} accepts no text at all: no accepting state can be reached from where it begins.")
    if rules.finish and need > rules.max_new_tokens:
        raise ValueError(
            f"{name} accepts no text of max_new_tokens={rules.max_new_tokens} tokens or fewer: the shortest takes {need}, EOS included. "
            f"Give max_new_tokens={need} or more, or finish=False."
        )
    return rules
