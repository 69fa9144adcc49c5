"""Diagnostic token tasks, one question each, best and random return known: `best_return("textgym/Even-v0", vocab_size=8)`.

Sizes run from "every prefix can be enumerated" (vocab_size=4, max_new_tokens=3) to "only learning can do it".
Here stand those that pay one token or the whole text; `counted` has those that count right tokens, `puzzles` those with a grammar.
How ids are spelled, and what an early end means, is said in `diagnostics`; `random` below means uniform over all V ids, EOS among them.

Axis legend: B completions, G columns of generated tokens, V ids, S = V - 1 symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps
from typing import Any

import numpy as np

from ..core import FloatArray
from ..episodes import TextCore
from ..task import Completions
from .counted import Copy, Even, IncreasingNumbers, Reverse, Successor
from .diagnostics import Diagnostic, Ids, numbers, some_sequences
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
