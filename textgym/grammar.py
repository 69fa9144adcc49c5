"""A small language whose every probability is known: a deterministic probabilistic finite automaton over words.

Deterministic means that a state and a word lead to at most one state. So a text has one path, its likelihood is a sum along it,
"is this well formed?" is a table walk, and the language's entropy is exact: what a model is trained towards can be measured against the truth.

Axis legend: S states, W words, B texts of one batch, L tokens of a row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from .core import BoolArray, FloatArray, IntArray

DEAD = -1  # the state of a text that no continuation can repair
BLANK = -1  # a token id that `walk` steps over, so that padded rows can be walked as they are


class Rule(NamedTuple):
    """One way out of a state: one of `words`, all equally likely, `probability` in all, leading to state `to`."""

    words: tuple[str, ...]
    probability: float
    to: str


@dataclass(frozen=True, eq=False)
class Grammar:
    """A deterministic probabilistic finite automaton; state 0 is where every text begins.

    Attributes:
        words: the W distinct words; a word's id is its place.
        next_state: int64 [S, W], the state that a word leads to, -1 where it is impossible.
        log_probs: float64 [S, W], log P(word | state) in nats, -inf where it is impossible.
        log_stop: float64 [S], log P(the text ends | state).
    """

    words: tuple[str, ...]
    next_state: IntArray
    log_probs: FloatArray
    log_stop: FloatArray

    def __post_init__(self) -> None:
        shape = (len(self.log_stop), len(self.words))
        if self.next_state.shape != shape or self.log_probs.shape != shape:
            raise ValueError(f"next_state {self.next_state.shape} and log_probs {self.log_probs.shape} must both be [S, W] = {shape}.")
        if len(set(self.words)) != len(self.words):
            raise ValueError("The words of a grammar must be distinct: a word's id is its place.")
        if np.any((self.next_state < 0) != np.isneginf(self.log_probs)) or np.any(self.next_state >= shape[0]):
            raise ValueError(f"next_state must lie in [0, {shape[0]}) exactly where log_probs is finite, and be -1 elsewhere.")
        totals = np.exp(self.log_probs).sum(axis=1) + np.exp(self.log_stop)
        if np.any(np.abs(totals - 1) > 1e-9):
            worst = int(np.abs(totals - 1).argmax())
            raise ValueError(f"The probabilities of state {worst}, stopping included, add up to {totals[worst]:.6g}; they must add up to 1.")

    @classmethod
    def from_rules(cls, rules: Mapping[str, Sequence[Rule]]) -> Grammar:
        """Return the automaton of named states; the first begins a text, and what a state's rules leave over is its stopping."""
        states = {name: i for i, name in enumerate(rules)}
        words = tuple(dict.fromkeys(chain.from_iterable(rule.words for rule in chain.from_iterable(rules.values()))))
        place = {word: i for i, word in enumerate(words)}
        next_state = np.full((len(states), len(words)), DEAD, dtype=np.int64)
        probs = np.zeros((len(states), len(words)))
        for name, rule in ((name, rule) for name, ways in rules.items() for rule in ways):
            if rule.to not in states:
                raise ValueError(f"State {name!r} leads to {rule.to!r}, which has no rules; give it an empty list if a text ends there.")
            for word in rule.words:
                if next_state[states[name], place[word]] != DEAD:
                    raise ValueError(f"State {name!r} has two rules for {word!r}; an automaton is deterministic: keep one of them.")
                next_state[states[name], place[word]] = states[rule.to]
                probs[states[name], place[word]] = rule.probability / len(rule.words)
        stop = np.where((left := 1 - probs.sum(axis=1)) < 1e-12, 0.0, left)  # the residue of rounding is no way to stop
        with np.errstate(divide="ignore"):
            return cls(words, next_state, np.log(probs), np.log(stop))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grammar):
            return NotImplemented
        tables = ((self.next_state, other.next_state), (self.log_probs, other.log_probs), (self.log_stop, other.log_stop))
        return self.words == other.words and all(np.array_equal(mine, theirs) for mine, theirs in tables)

    def __hash__(self) -> int:
        return hash(self.words)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Return each word's id."""
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def can_finish(self) -> BoolArray:
        """Return whether some continuation from each state is accepted, bool [S]."""
        alive = np.isfinite(self.log_stop)
        while True:
            wider = alive | ((self.next_state >= 0) & alive[self.next_state]).any(axis=1)
            if np.array_equal(wider, alive):
                return alive
            alive = wider

    def accepts(self, words: str | Sequence[str]) -> bool:
        """Return whether `words` (or a text of words between blanks) is a whole text of the language."""
        state = self.walk(self._tokens(words))[0]
        return bool(state != DEAD and np.isfinite(self.log_stop[state]))

    def viable_prefix(self, words: str | Sequence[str]) -> bool:
        """Return whether some continuation of `words`, perhaps an empty one, is accepted."""
        state = self.walk(self._tokens(words))[0]
        return bool(state != DEAD and self.can_finish[state])

    def log_likelihood(self, words: str | Sequence[str], ended: bool = True) -> float:
        """Return log P(the text is `words`) in nats, or log P(it begins with `words`) if not `ended`; -inf where impossible."""
        state, total = 0, 0.0
        for token in self._tokens(words)[0].tolist():
            if token == len(self.words) or self.next_state[state, token] == DEAD:
                return -np.inf
            total += float(self.log_probs[state, token])
            state = int(self.next_state[state, token])
        return total + float(self.log_stop[state]) if ended else total

    def entropy_rate(self, skip: int = 0, length: int | None = None) -> float:
        r"""Return the exact expected entropy of a token given those before it, in nats per token, of tokens skip .. length - 1.

        The end symbol counts as a token. With p_t(s) = P(token t exists and is drawn in state s) and h(s) the entropy of state s,

            sum_{t = skip}^{length - 1} sum_s p_t(s) h(s)  /  sum_{t = skip}^{length - 1} sum_s p_t(s),

        where p_0 is 1 in state 0 and p_{t+1}(s') = sum_s p_t(s) P(s' | s). `length` None means every token to the end,
        summed in closed form, p_skip (I - P)^{-1}. By the chain rule the numerator is the joint entropy of those tokens
        given the first `skip`: a model that is the grammar has exactly this loss. Raises `ValueError` where no such token exists.
        """
        if skip < 0 or (length is not None and length <= skip):
            raise ValueError(f"skip={skip}, length={length} hold no token; give 0 <= skip < length.")
        visits = np.eye(len(self.log_stop))[0]
        for _ in range(skip):
            visits = visits @ self._chain
        expected = self._visits_to_the_end(visits) if length is None else self._visits(visits, length - skip)
        if expected.sum() <= 0:
            raise ValueError(f"No text of this grammar has a token {skip}; give a smaller skip.")
        return float(expected @ self._entropies / expected.sum())

    def sample(self, generator: np.random.Generator) -> list[str]:
        """Return the words of one text, drawn from the grammar with one uniform number a token, its end included."""
        state, words = 0, []
        while (token := bisect_right(self._cumulative[state], generator.random())) < len(self.words):
            words.append(self.words[token])
            state = int(self.next_state[state, token])
        return words

    def walk(self, tokens: IntArray, lengths: IntArray | None = None) -> IntArray:
        """Return the state [B] after the first `lengths` [B] of `tokens` [B, L] (all if None), -1 where the text is impossible.

        The id -1 is a blank and is stepped over, on either side; any other id outside [0, W) is a word the grammar does not know.
        """
        W = len(self.words)
        columns = np.where((tokens < BLANK) | (tokens > W), W, tokens)
        if lengths is not None:
            columns = np.where(np.arange(tokens.shape[1]) < lengths[:, None], columns, BLANK)
        states = np.zeros(len(tokens), dtype=np.int64)
        for column in columns.T:
            states = self._steps[states, column]
        return states

    def _tokens(self, words: str | Sequence[str]) -> IntArray:
        split = words.split() if isinstance(words, str) else words
        return np.array([[self.ids.get(word, len(self.words)) for word in split]], dtype=np.int64).reshape(1, -1)

    @cached_property
    def _steps(self) -> IntArray:
        """[S + 1, W + 2]: index -1 is the dead state below and the blank on the right; column W is the unknown word."""
        S, W = self.next_state.shape
        steps = np.full((S + 1, W + 2), DEAD, dtype=np.int64)
        steps[:S, :W] = self.next_state
        steps[:S, BLANK] = np.arange(S)
        return steps

    @cached_property
    def _cumulative(self) -> list[list[float]]:
        probs = np.concatenate([np.exp(self.log_probs), np.exp(self.log_stop)[:, None]], axis=1)
        cumulative = np.cumsum(probs, axis=1)
        rows: list[list[float]] = (cumulative / cumulative[:, -1:]).tolist()  # the last is exactly 1: a draw below 1 always finds a place
        return rows

    @cached_property
    def _entropies(self) -> FloatArray:
        logs = np.concatenate([self.log_probs, self.log_stop[:, None]], axis=1)
        entropies: FloatArray = -(np.exp(logs) * np.where(np.isneginf(logs), 0.0, logs)).sum(axis=1)
        return entropies

    @cached_property
    def _chain(self) -> FloatArray:
        """Return P(next state | state), float64 [S, S]; what a row lacks to 1 is the text's end."""
        S, W = self.next_state.shape
        chain_ = np.zeros((S, S + 1))
        np.add.at(chain_, (np.arange(S)[:, None].repeat(W, axis=1), self.next_state), np.exp(self.log_probs))
        return chain_[:, :S]

    def _visits(self, visits: FloatArray, steps: int) -> FloatArray:
        total = np.zeros_like(visits)
        for _ in range(steps):
            total, visits = total + visits, visits @ self._chain
        return total

    def _visits_to_the_end(self, visits: FloatArray) -> FloatArray:
        reached = visits > 0
        while not np.array_equal(wider := reached | ((reached @ self._chain) > 0), reached):
            reached = wider
        if not self.can_finish[reached].all():
            raise ValueError("Some texts of this grammar never end, so their entropy has no total; give a length.")
        total = np.zeros_like(visits)
        total[reached] = np.linalg.solve((np.eye(len(visits)) - self._chain)[np.ix_(reached, reached)].T, visits[reached])
        return total
