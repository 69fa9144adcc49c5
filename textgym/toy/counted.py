"""Diagnostic token tasks that count right tokens: does it learn without context, read, look backwards, explore, save room?

V = 32 with 4 prompt tokens and 16 generated is the field's reference size for Even, Copy and Successor, and the default here.
`random` below means uniform over all V ids, EOS among them.

Axis legend: B completions, P prompt columns, G columns of generated tokens, V ids, S = V - 1 symbols.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from ..core import BoolArray, FloatArray, IntArray
from ..task import Completions
from .diagnostics import Diagnostic, Ids, numbers, prompt_ids, some_sequences


@dataclass(frozen=True)
class Counted(Diagnostic):
    """A task that counts right tokens: the score is their share of the budget G. With `dense`, each pays 1 / G when it is written."""

    vocab_size: int = 32
    prompt_tokens: int = 4
    max_new_tokens: int = 16
    num_prompts: int = 1024  # all there are, if they are fewer
    split: str = "all"  # or "train", "val", "test" of the prompts, by a hash
    dense: bool = False

    @abstractmethod
    def right(self, prompts: IntArray, tokens: IntArray) -> BoolArray:
        """Return which tokens [B, G] are right after `prompts` [B, P]; ids that are no symbols never count."""

    @property
    def right_ids(self) -> int:
        """Return how many ids are right at each step."""
        return 1

    def words(self) -> Sequence[str]:
        """Return the numbers of the symbols."""
        return numbers(self.vocab_size - 1)

    def starts(self) -> Iterable[Ids]:
        """Return random sequences of `prompt_tokens` symbols."""
        return some_sequences(self.vocab_size - 1, self.prompt_tokens, self.num_prompts)

    def lengths(self) -> tuple[int, int]:
        """Return the options of these names."""
        return self.prompt_tokens, self.max_new_tokens

    def __call__(self, completions: Completions) -> FloatArray:
        """Return the share of right tokens [B]."""
        symbols = completions.tokens < self.vocab_size - 1
        count: IntArray = (self.right(completions.prompt_tokens, completions.tokens) & symbols).sum(axis=1)
        return count / self.max_new_tokens

    def best_return(self) -> float:
        """Return 1: every token can be right."""
        return 1.0

    def random_return(self) -> float:
        """Return R (1 - (S / V)^G) / G with R right ids a step: step t is reached with probability (S / V)^t."""
        alive = (self.vocab_size - 1) / self.vocab_size
        return self.right_ids * (1 - alive**self.max_new_tokens) / self.max_new_tokens


@dataclass(frozen=True)
class Even(Counted):
    """Does it learn where context does not matter? The share of even ids among those written. Best 1, random E (1 - (S / V)^G) / G, E even symbols."""

    def right(self, prompts: IntArray, tokens: IntArray) -> BoolArray:
        """Return which tokens are even."""
        return tokens % 2 == 0

    @property
    def right_ids(self) -> int:
        """Return the number of even symbols."""
        return self.vocab_size // 2

    def solution(self, prompt: Ids) -> Ids:
        """Return zeros."""
        return (0,) * self.max_new_tokens


@dataclass(frozen=True)
class Copy(Counted):
    """Does it read its prompt? The prompt is written again, over and over: token t is prompt token t mod P. Best 1, random (1 - (S / V)^G) / G."""

    def right(self, prompts: IntArray, tokens: IntArray) -> BoolArray:
        """Return which tokens are the prompt's at that place."""
        return tokens == prompts[:, np.arange(self.max_new_tokens) % self.prompt_tokens]

    def solution(self, prompt: Ids) -> Ids:
        """Return the prompt, over and over."""
        return tuple(prompt[t % self.prompt_tokens] for t in range(self.max_new_tokens))


@dataclass(frozen=True)
class Reverse(Counted):
    """Does it find a place that moves? The prompt backwards: token t is prompt token P - 1 - t mod P. Best 1, random (1 - (S / V)^G) / G."""

    prompt_tokens: int = 8
    max_new_tokens: int = 8

    def right(self, prompts: IntArray, tokens: IntArray) -> BoolArray:
        """Return which tokens are the prompt's at that place, counted from its end."""
        return tokens == prompts[:, ::-1][:, np.arange(self.max_new_tokens) % self.prompt_tokens]

    def solution(self, prompt: Ids) -> Ids:
        """Return the prompt backwards, over and over."""
        return tuple(prompt[-1 - t % self.prompt_tokens] for t in range(self.max_new_tokens))


@dataclass(frozen=True)
class Successor(Counted):
    """Does it explore? Each token is the one before it + 1 (mod S), the first after the prompt's last. Best 1, random (1 - (S / V)^G) / G.

    A known trap, with `dense` above all: an agent that credits the future finds three steps right, a -> a + 1 -> a + 2 -> a + 3, and goes back
    to a, where it knows its way, instead of on to a + 4, where it does not. It settles in that cycle of four tokens, worth 0.75, and
    random draws around it nearly never find a fourth right step that pays at once. So this task measures exploration, not the estimator.
    """

    def right(self, prompts: IntArray, tokens: IntArray) -> BoolArray:
        """Return which tokens follow the one before them."""
        before = np.concatenate([prompts[:, -1:], tokens[:, :-1]], axis=1)
        return tokens == (before + 1) % (self.vocab_size - 1)

    def solution(self, prompt: Ids) -> Ids:
        """Return the numbers after the prompt's last."""
        return tuple((prompt[-1] + 1 + t) % (self.vocab_size - 1) for t in range(self.max_new_tokens))


@dataclass(frozen=True)
class IncreasingNumbers(Counted):
    """Does it save room for later? The share of G up to which every number exceeds the one before it. Best 1, random: `random_return`.

    The first must exceed the prompt, and the largest number ends the run for good: what is greedy for one step more loses all the others.
    """

    prompt_tokens: int = 1

    def __post_init__(self) -> None:
        """Refuse a budget that the numbers cannot fill."""
        super().__post_init__()
        if self.prompt_tokens != 1:
            raise ValueError(f"IncreasingNumbers: a prompt is one number, the one to exceed; got prompt_tokens={self.prompt_tokens}.")
        if self.vocab_size - 1 <= self.max_new_tokens:
            raise ValueError(
                f"IncreasingNumbers: {self.max_new_tokens} numbers (max_new_tokens) above the prompt need vocab_size of at least "
                f"{self.max_new_tokens + 2}, got {self.vocab_size}."
            )

    def starts(self) -> Iterable[Ids]:
        """Return the numbers that leave room for G larger ones."""
        return [(first,) for first in range(self.vocab_size - 1 - self.max_new_tokens)][: self.num_prompts]

    def right(self, prompts: IntArray, tokens: IntArray) -> BoolArray:
        """Return the tokens of the first increasing run."""
        before = np.concatenate([prompts[:, -1:], tokens[:, :-1]], axis=1)
        rising: BoolArray = np.logical_and.accumulate((tokens > before) & (tokens < self.vocab_size - 1), axis=1)
        return rising

    def solution(self, prompt: Ids) -> Ids:
        """Return the numbers right after the prompt."""
        return tuple(prompt[0] + 1 + t for t in range(self.max_new_tokens))

    def random_return(self) -> float:
        """Return sum_{k=1..G} C(S - 1 - p, k) / V^k / G, the mean over prompts p: that many runs of length k stand above p."""
        above = [self.vocab_size - 2 - first for (first,) in prompt_ids(self)]
        runs = [comb(room, k) / self.vocab_size**k for room in above for k in range(1, self.max_new_tokens + 1)]
        return sum(runs) / len(above) / self.max_new_tokens
