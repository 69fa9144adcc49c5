"""Constraints that count: no n-gram twice, no end too early.

Axis legend: B rows, L columns, n tokens of an n-gram, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..allowed import Allowed
from ..core import IntArray
from ..task import Prefixes, Rules, Tokenizer
from .registry import register
from .spelling import whole


class Forgetful:
    """The half of some rules that looks at the text alone, and so remembers nothing."""

    def begin(self, prefixes: Prefixes, /) -> IntArray:
        """Return nothing to remember [B, 0]."""
        return np.zeros((len(prefixes.ends), 0), dtype=np.int64)

    def follow(self, memory: IntArray, tokens: IntArray, /) -> IntArray:
        """Return nothing to remember [B, 0]."""
        return memory


@register("no_repeat")
@dataclass(frozen=True)
class NoRepeat:
    """No n tokens in a row come twice in prompt and continuation together (`no_repeat_ngram_size` of transformers).

    n = 1: no token comes twice, those of the prompt included. EOS is never banned: it comes once.
    """

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole(self.n, "n"))

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules for this vocabulary."""
        return NoRepeatRules(self.n, tokenizer.vocab_size)


class NoRepeatRules(Forgetful):
    """Bans every token that followed an earlier occurrence of the last n - 1 tokens."""

    def __init__(self, n: int, vocab_size: int) -> None:
        self.n, self.vocab_size = n, vocab_size

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return the bans [B, L - n + 1]: one place for each n-gram that could be repeated; where it has not been written, the pad stands."""
        tokens, before = prefixes.tokens, self.n - 1
        seen = np.ones((len(tokens), max(tokens.shape[1] - before, 0)), dtype=np.bool_)
        for back in range(1, self.n):  # the token `back` places before the next one, and before each candidate
            last = tokens[np.arange(len(tokens)), np.maximum(prefixes.ends - back, 0)]
            seen &= tokens[:, before - back :][:, : seen.shape[1]] == last[:, None]
        return Allowed(banned=np.where(seen, tokens[:, before:], self.vocab_size))


@register("min_length")
@dataclass(frozen=True)
class MinLength:
    """EOS comes only after n tokens of the agent's own."""

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole(self.n, "n"))

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules for this budget; raises `ValueError` if it is shorter than n."""
        if self.n > max_new_tokens:
            raise ValueError(f"MinLength({self.n}) asks for more tokens than max_new_tokens={max_new_tokens} allows; lower n, or raise the budget.")
        return MinLengthRules(tokenizer.eos_id, tokenizer.vocab_size, max_new_tokens - self.n)


class MinLengthRules(Forgetful):
    """Bans EOS while more of the budget is left than there may be."""

    def __init__(self, eos: int, vocab_size: int, most_left: int) -> None:
        self.eos, self.vocab_size, self.most_left = eos, vocab_size, most_left

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return the ban [B, 1] of EOS."""
        return Allowed(banned=np.where(prefixes.left > self.most_left, self.eos, self.vocab_size)[:, None])
