"""Diagnostic token tasks, one question each, best and random return known: `best_return("textgym/Even-v0", vocab_size=8)`.

Sizes run from "every prefix can be enumerated" (vocab_size=4, max_new_tokens=3) to "only learning can do it".
V = 32 with 4 prompt tokens and 16 generated is the field's reference size for Even, Copy and Successor, and the default here.
How ids are spelled, and what an early end means, is said in `diagnostics`; `random` below means uniform over all V ids, EOS among them.

Axis legend: B completions, P prompt columns, G columns of generated tokens, S = V - 1 symbols.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from math import comb
from typing import Any

import numpy as np

from ..core import BoolArray, FloatArray, IntArray
from ..episodes import TextCore
from ..task import Completions
from .diagnostics import Diagnostic, Ids, numbers, prompt_ids, some_sequences
from .puzzles import Brackets, Countdown


@dataclass(frozen=True)
class Bandit(Diagnostic):
    """Does the better action gain probability? One token; symbol i pays i / (S - 1), EOS nothing. Best 1, random S / (2 V).

    No time and no credit to share out: where this fails, nothing else needs to be looked at.
    """

    vocab_size: int = 8

    least = {"vocab_size": 3}  # noqa: RUF012 (a constant of the class: two arms and EOS)

    def words(self) -> Sequence[str]:
        """Return the numbers of the arms."""
        return numbers(self.vocab_size - 1)

    def starts(self) -> Iterable[Ids]:
        """Return the one prompt there is."""
        return [(0,)]

    def solution(self, prompt: Ids) -> Ids:
        """Return the last arm."""
        return (self.vocab_size - 2,)

    def lengths(self) -> tuple[int, int]:
        """Return one token and one token."""
        return 1, 1

    def __call__(self, completions: Completions) -> FloatArray:
        """Return what the arm pulled pays [B]."""
        arms = completions.tokens[:, 0]
        return np.where(arms < self.vocab_size - 1, arms / (self.vocab_size - 2), 0.0)

    def best_return(self) -> float:
        """Return 1."""
        return 1.0

    def random_return(self) -> float:
        """Return S / (2 V): the mean pay of the S arms is 1/2."""
        return (self.vocab_size - 1) / (2 * self.vocab_size)


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
                f"IncreasingNumbers: {self.max_new_tokens} numbers above the prompt need vocab_size of at least {self.max_new_tokens + 2}, got {self.vocab_size}."
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


@dataclass(frozen=True)
class Recall(Diagnostic):
    """Does the one token that counts get the credit? Pays 1 if the last of G tokens is the prompt's first. Best 1, random (S / V)^(G - 1) / V.

    The rest of the prompt, and the G - 1 tokens before the last, are distractors: their true advantage is 0, except for ending the text.
    """

    vocab_size: int = 8
    prompt_tokens: int = 4
    max_new_tokens: int = 8
    num_prompts: int = 1024  # all there are, if they are fewer
    split: str = "all"

    def words(self) -> Sequence[str]:
        """Return the numbers of the symbols."""
        return numbers(self.vocab_size - 1)

    def starts(self) -> Iterable[Ids]:
        """Return random sequences of symbols."""
        return some_sequences(self.vocab_size - 1, self.prompt_tokens, self.num_prompts)

    def solution(self, prompt: Ids) -> Ids:
        """Return the prompt's first token, over and over."""
        return prompt[:1] * self.max_new_tokens

    def lengths(self) -> tuple[int, int]:
        """Return the options of these names."""
        return self.prompt_tokens, self.max_new_tokens

    def __call__(self, completions: Completions) -> FloatArray:
        """Return 1 where the last token is the prompt's first [B]."""
        return (completions.tokens[:, -1] == completions.prompt_tokens[:, 0]).astype(np.float64)

    def best_return(self) -> float:
        """Return 1."""
        return 1.0

    def random_return(self) -> float:
        """Return the chance of coming to the last step and being right there."""
        return ((self.vocab_size - 1) / self.vocab_size) ** (self.max_new_tokens - 1) / self.vocab_size


@dataclass(frozen=True)
class Password(Diagnostic):
    """Does it find a needle? Pays 1 if every token is right, and nothing else ever. Best 1, random V^-G."""

    vocab_size: int = 8
    max_new_tokens: int = 4
    password: Sequence[int] | None = None  # the symbols, max_new_tokens of them; None: always the same random ones

    def __post_init__(self) -> None:
        """Fix the password, as a tuple."""
        super().__post_init__()
        symbols = self.vocab_size - 1
        drawn = np.random.default_rng(0).integers(symbols, size=self.max_new_tokens).tolist()
        password = tuple(drawn if self.password is None else self.password)
        if len(password) != self.max_new_tokens or not all(isinstance(i, int) and 0 <= i < symbols for i in password):
            raise ValueError(f"Password: password must be {self.max_new_tokens} symbols (max_new_tokens) in [0, {symbols}), got {self.password!r}.")
        object.__setattr__(self, "password", password)

    def words(self) -> Sequence[str]:
        """Return the numbers of the symbols."""
        return numbers(self.vocab_size - 1)

    def starts(self) -> Iterable[Ids]:
        """Return the one prompt there is."""
        return [(0,)]

    def solution(self, prompt: Ids) -> Ids:
        """Return the password."""
        return tuple(self.password or ())

    def lengths(self) -> tuple[int, int]:
        """Return one token, and as many as the password has."""
        return 1, self.max_new_tokens

    def __call__(self, completions: Completions) -> FloatArray:
        """Return 1 where all is right [B]."""
        return (completions.tokens == np.array(self.password)).all(axis=1).astype(np.float64)

    def best_return(self) -> float:
        """Return 1."""
        return 1.0

    def random_return(self) -> float:
        """Return V^-G."""
        return float(self.vocab_size) ** -self.max_new_tokens


_KINDS = (Bandit, Even, Copy, Reverse, Recall, Password, Successor, IncreasingNumbers, Brackets, Countdown)
DIAGNOSTICS: Mapping[str, Callable[..., Diagnostic]] = {f"textgym/{kind.__name__}-v0": kind for kind in _KINDS}


def diagnostic(id: str, **options: Any) -> Diagnostic:
    """Return the description of a diagnostic task by its id; `options` are those of `gymnasium.make`."""
    if id not in DIAGNOSTICS:
        raise ValueError(f"There is no diagnostic task {id!r}; did you mean {get_close_matches(id, DIAGNOSTICS, n=1, cutoff=0.0)[0]!r}?")
    return DIAGNOSTICS[id](**options)


def best_return(id: str, **options: Any) -> float:
    """Return the expected return of the best policy on the task of this id and these options, exactly."""
    return diagnostic(id, **options).best_return()


def random_return(id: str, **options: Any) -> float:
    """Return the expected return of uniform random ids on the task of this id and these options, exactly."""
    return diagnostic(id, **options).random_return()


def _factory(kind: Callable[..., Diagnostic]) -> Callable[..., TextCore]:
    @wraps(kind, assigned=("__module__", "__doc__"), updated=())  # its documentation and its signature, for who asks the registry
    def make(num_rows: int, **options: Any) -> TextCore:
        return kind(**options).core(num_rows)

    return make


bandit, even, copy, reverse = map(_factory, (Bandit, Even, Copy, Reverse))
recall, password, successor, increasing_numbers = map(_factory, (Recall, Password, Successor, IncreasingNumbers))
brackets, countdown = map(_factory, (Brackets, Countdown))
