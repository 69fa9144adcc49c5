"""Scorers that need nothing but the text: lexicons, references, lengths, and membership in a grammar.

In a dialogue all of them judge the agent's own turns, one behind the other; what was answered counts for nothing.

Axis legend: B completions, G generated tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from string import punctuation

import numpy as np

from ..core import FloatArray, IntArray
from ..film_reviews import FILM_NEGATIVE, FILM_POSITIVE, film_reviews
from ..grammar import BLANK, DEAD, Grammar
from ..task import Completions
from .registry import register
from .words import WordTable

_POSITIVE, _NEGATIVE = (1 << 32) + 1, 1  # one gathered integer counts both: words of sentiment in the low half, the positive ones of them in the high half


def normalise(word: str) -> str:
    """Return a word as lexicons see it: in lower case, without punctuation around it."""
    return word.lower().strip(punctuation)


@dataclass(frozen=True)
class Sentiment:
    """The share of positive words among the agent's sentiment words, in [0, 1]; 0.5 where there is none.

    Words are what stands between blanks, in lower case and without punctuation around it.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    _table: WordTable = field(default_factory=WordTable, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        positive, negative = (tuple(map(normalise, _words(words))) for words in (self.positive, self.negative))
        if both := set(positive) & set(negative):
            raise ValueError(f"{min(both)!r} stands in both lexicons; keep it in one, or a text's score would depend on the order.")
        object.__setattr__(self, "positive", positive)
        object.__setattr__(self, "negative", negative)

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the share of positive words, float64 [B]."""
        table = self._table.of(completions.tokenizer, self._count, 0)
        if table is not None:
            counts = table.take(completions.own.tokens).sum(axis=1)
        else:
            counts = np.array([self._count(text) for text in completions.own.texts], dtype=np.int64)
        positives, total = counts >> 32, counts & ((1 << 32) - 1)
        shares: FloatArray = positives / np.maximum(total, 1)
        shares[total == 0] = 0.5
        return shares

    def _count(self, text: str) -> int:
        return sum(self._weights.get(normalise(word), 0) for word in text.split())

    @cached_property
    def _weights(self) -> dict[str, int]:
        return dict.fromkeys(self.positive, _POSITIVE) | dict.fromkeys(self.negative, _NEGATIVE)


@register("sentiment")
def film_sentiment(positive: tuple[str, ...] = FILM_POSITIVE, negative: tuple[str, ...] = FILM_NEGATIVE) -> Sentiment:
    """Return the sentiment of the film reviews' own lexicon, or of another."""
    return Sentiment(positive, negative)


@register("keyword")
@dataclass(frozen=True)
class Keyword:
    """The share of the wanted words that the agent said, in [0, 1]."""

    words: Sequence[str]  # kept as a tuple

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(dict.fromkeys(map(normalise, _words(self.words)))))
        if not self.words:
            raise ValueError("Keyword() wants no words; give at least one.")

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the share of wanted words present, float64 [B]."""
        wanted = set(self.words)
        return np.array([len(wanted.intersection(map(normalise, text.split()))) for text in completions.own.texts], dtype=np.float64) / len(wanted)


@register("exact_match")
@dataclass(frozen=True)
class ExactMatch:
    """1 where the continuation is its prompt's reference, blanks around both aside, otherwise 0.

    In a dialogue the continuation is all that the agent said; `FinalAnswer` compares its last turn alone.
    """

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return 1 or 0, float64 [B]; raises `ValueError` if a prompt has no reference."""
        if missing := next((p for p in completions.prompts if p.reference is None), None):
            raise ValueError(f"The prompt {missing.text!r} has no reference to match; give Prompt(text, reference=...) or a reference_column.")
        pairs = zip(completions.own.texts, completions.prompts, strict=True)
        return np.array([text.strip() == (prompt.reference or "").strip() for text, prompt in pairs], dtype=np.float64)


@register("length")
@dataclass(frozen=True)
class Length:
    """1 where the agent wrote `target` tokens, EOS not counted, falling linearly to 0 at none and at twice as many."""

    target: int

    def __post_init__(self) -> None:
        if self.target < 1:
            raise ValueError(f"target={self.target} must be 1 or more tokens.")

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the closeness to the target length, float64 [B]."""
        written = _without_eos(completions.own)
        return np.maximum(0.0, 1.0 - np.abs(written - self.target) / self.target)


@register("repetition")
@dataclass(frozen=True)
class Repetition:
    """1 minus the share of n-grams of the agent's tokens that repeat an earlier one; 1 where the text is too short to repeat any.

    The agent's turns are read in a row, so that an n-gram may reach across an answer. EOS is left out.
    """

    n: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.n, int | np.integer) or self.n < 1:
            raise ValueError(f"n={self.n!r} must be an integer, 1 or more tokens.")

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the share of n-grams that are new, float64 [B]."""
        own = completions.own
        written = _without_eos(own).tolist()
        return np.array([self._share(row[:k]) for row, k in zip(own.tokens.tolist(), written, strict=True)], dtype=np.float64)

    def _share(self, tokens: list[int]) -> float:
        ngrams = list(zip(*(tokens[i:] for i in range(self.n)), strict=False))
        return len(set(ngrams)) / len(ngrams) if ngrams else 1.0


@dataclass(frozen=True)
class GrammarScorer:
    """1 where prompt and continuation are a text of the grammar, otherwise 0.

    A text that ended itself must be a whole one; a text cut by the budget need only be the beginning of one. In a dialogue the text
    is what the agent said, as it is for the constraint `InGrammar`; where the responder ended it, the beginning of one is enough.
    """

    grammar: Grammar
    _table: WordTable = field(default_factory=WordTable, init=False, repr=False, compare=False)

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return 1 or 0, float64 [B]."""
        own = completions.own
        states = self._states(own)
        good = np.where(own.ended, np.isfinite(self.grammar.log_stop)[states], self.grammar.can_finish[states])
        return np.asarray(good & (states != DEAD), dtype=np.float64)

    def _states(self, completions: Completions) -> IntArray:
        table = self._table.of(completions.tokenizer, self._id, BLANK)
        if table is not None:
            return self.grammar.walk(np.concatenate([table[completions.prompt_tokens], table[completions.tokens]], axis=1))
        rows = [[self._id(word) for word in text.split()] for text in completions.full_texts]
        padded = np.full((len(rows), max(map(len, rows), default=0)), BLANK, dtype=np.int64)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = ids
        return self.grammar.walk(padded)

    def _id(self, word: str) -> int:
        return self.grammar.ids.get(word, len(self.grammar.words))


@register("film_grammar")
def film_grammar() -> GrammarScorer:
    """Return membership in the grammar of film reviews."""
    return GrammarScorer(film_reviews())


def _without_eos(own: Completions) -> IntArray:
    """Return the number of tokens [B], an EOS not counted where there is one: a text may end without."""
    return np.asarray(own.lengths - (own.tokens == own.tokenizer.eos_id).sum(axis=1))


def _words(words: Iterable[str]) -> tuple[str, ...]:
    if isinstance(words, str):
        raise TypeError(f"A lexicon is a list of words, not the one text {words!r}; put it into a list, or split it.")
    kept = tuple(words)  # JSON gives lists
    if bad := [word for word in kept if len(word.split()) != 1 or not normalise(word)]:
        raise ValueError(f"{bad[0]!r} is not one word with a letter in it; give single words.")
    return kept
