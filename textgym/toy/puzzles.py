"""Diagnostic token tasks with a grammar: brackets to be closed, and numbers to be reckoned with.

Axis legend: B completions, P prompt columns, G columns of generated tokens, K kinds of brackets, n numbers of a puzzle, V ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..core import FloatArray, IntArray
from ..task import Completions
from .diagnostics import Diagnostic, Ids, numbers, prompt_ids, some_sequences

_PAIRS = ("()", "[]", "{}", "<>")
_OPERATORS = "+-*"


@dataclass(frozen=True)
class Brackets(Diagnostic):
    """Does it keep a stack? Pays 1 if the opening brackets of the prompt, and all it opened itself, are closed, last first. Best 1, random: `random_return`.

    Ids: K opening brackets, K closing ones in the same order, EOS. The text may end itself once all is closed, or fill its budget exactly.
    Prompts of 1 .. `depth` brackets, so that the easy ones lead to the hard ones.
    """

    kinds: int = 2
    depth: int = 4
    max_new_tokens: int = 8
    num_prompts: int = 1024  # all there are, if they are fewer; the shortest first
    split: str = "all"

    def __post_init__(self) -> None:
        """Refuse kinds that have no signs, and prompts that the budget cannot close."""
        super().__post_init__()
        if self.kinds > len(_PAIRS):
            raise ValueError(f"Brackets: kinds must be one of 1 .. {len(_PAIRS)} ({' '.join(_PAIRS)}), got {self.kinds}.")
        if self.depth > self.max_new_tokens:
            raise ValueError(f"Brackets: {self.depth} brackets cannot be closed by {self.max_new_tokens} tokens; give max_new_tokens of at least depth.")

    def words(self) -> Sequence[str]:
        """Return the brackets, the opening ones first."""
        return [pair[side] for side in (0, 1) for pair in _PAIRS[: self.kinds]]

    def starts(self) -> Iterable[Ids]:
        """Return sequences of opening brackets, the shortest first."""
        every = itertools.chain.from_iterable(some_sequences(self.kinds, length, self.num_prompts) for length in range(1, self.depth + 1))
        return itertools.islice(every, self.num_prompts)

    def solution(self, prompt: Ids) -> Ids:
        """Return the closing brackets in their order, and EOS if the budget has room for it."""
        closing = tuple(i + self.kinds for i in reversed(prompt))
        return (*closing, 2 * self.kinds)[: self.max_new_tokens]

    def lengths(self) -> tuple[int, int]:
        """Return depth and budget."""
        return self.depth, self.max_new_tokens

    def __call__(self, completions: Completions) -> FloatArray:
        """Return 1 where nothing is left open and nothing was closed that was not [B]."""
        both = np.concatenate([completions.prompt_tokens, completions.tokens], axis=1)
        rows, height, fine = np.arange(len(both)), np.zeros(len(both), dtype=np.int64), np.ones(len(both), dtype=np.bool_)
        stack = np.full((len(both), both.shape[1] + 1), -1, dtype=np.int64)  # stack[row, h]: the bracket opened at height h; h = 0 holds none
        for column in both.T:
            opens, closes = column < self.kinds, (column >= self.kinds) & (column < 2 * self.kinds)  # neither: a pad, or EOS
            fine &= ~closes | (stack[rows, height] == column - self.kinds)
            height += opens.astype(np.int64) - (closes & (height > 0))
            stack[rows[opens], height[opens]] = column[opens]
        return (fine & (height == 0)).astype(np.float64)

    def best_return(self) -> float:
        """Return 1."""
        return 1.0

    def random_return(self) -> float:
        """Return the mean of f(G, height of the prompt), f(n, h) the chance of ending well with n tokens left at height h.

        f(n, h) = (K f(n - 1, h + 1) + [h > 0] f(n - 1, h - 1) + [h = 0]) / V and f(0, h) = [h = 0]:
        any bracket may open, one closes rightly, and EOS pays at height 0.
        """
        at_zero = np.eye(1, self.depth + self.max_new_tokens + 2)[0]
        chances = at_zero
        for _ in range(self.max_new_tokens):
            higher, lower = np.append(chances[1:], 0.0), np.insert(chances[:-1], 0, 0.0)
            chances = (self.kinds * higher + lower + at_zero) / (2 * self.kinds + 1)
        return float(np.mean([chances[len(prompt)] for prompt in prompt_ids(self)]))


@dataclass(frozen=True)
class Countdown(Diagnostic):
    """Does it reckon? "3 5 2 = 1 3" asks for an expression of these numbers, each once, worth 13: "3 * 5 - 2". Best 1, random: `random_return`.

    Numbers are 1 .. 9, targets 0 .. 99 in two digits; `*` comes before `+` and `-`; every puzzle has a solution.
    Ids: the digits 0 .. 9, + - * =, EOS. A text that is such an expression but worth something else pays `valid_score`.
    """

    num_numbers: int = 3
    num_prompts: int = 1024  # or as many as were found
    valid_score: float = 0.1
    split: str = "all"

    least = {"num_numbers": 2}  # noqa: RUF012 (a constant of the class)
    plus: ClassVar[int] = 10
    equals: ClassVar[int] = 13
    vocab_size: ClassVar[int] = 15

    def __post_init__(self) -> None:
        """Refuse a partial score that beats the whole one, and puzzles too large to solve by trying."""
        super().__post_init__()
        if not 0 <= self.valid_score <= 1:
            raise ValueError(f"Countdown: valid_score must lie in [0, 1], got {self.valid_score!r}.")
        if self.num_numbers > 5:
            raise ValueError(f"Countdown: num_numbers must be one of 2 .. 5, since every expression is tried; got {self.num_numbers}.")

    def words(self) -> Sequence[str]:
        """Return digits, operators and the sign between numbers and target."""
        return [*numbers(10), *_OPERATORS, "="]

    def starts(self) -> Iterable[Ids]:
        """Return distinct puzzles, always the same, each made from an expression that solves it."""
        generator, found, size = np.random.default_rng(0), dict[Ids, None](), (20 * self.num_prompts, self.num_numbers)
        given = generator.integers(1, 10, size=size)
        tokens = np.zeros((len(given), 2 * self.num_numbers - 1), dtype=np.int64)
        tokens[:, ::2], tokens[:, 1::2] = given, self.plus + generator.integers(len(_OPERATORS), size=(len(given), self.num_numbers - 1))
        for symbols, value in zip(generator.permuted(given, axis=1).tolist(), reckoned(tokens, self.plus).tolist(), strict=True):
            if 0 <= value <= 99:
                found[(*symbols, self.equals, *divmod(value, 10))] = None
        return list(found)[: self.num_prompts]

    def solution(self, prompt: Ids) -> Ids:
        """Return the first expression, in order of ids, that is worth the target."""
        expressions = self._expressions(prompt)
        return tuple(expressions[reckoned(expressions, self.plus) == _target(np.array([prompt]))[0]][0].tolist())

    def lengths(self) -> tuple[int, int]:
        """Return n numbers, the sign and two digits; and n numbers with n - 1 operators between them."""
        return self.num_numbers + 3, 2 * self.num_numbers - 1

    def __call__(self, completions: Completions) -> FloatArray:
        """Return 1 where the expression reaches the target, `valid_score` where it is one of the given numbers, else 0 [B]."""
        tokens, prompts = completions.tokens, completions.prompt_tokens
        operators = tokens[:, 1::2] - self.plus
        valid = ((operators >= 0) & (operators < len(_OPERATORS))).all(axis=1)
        valid &= (np.sort(tokens[:, ::2], axis=1) == np.sort(prompts[:, : self.num_numbers], axis=1)).all(axis=1)
        reached = valid & (reckoned(tokens, self.plus) == _target(prompts))
        return np.where(reached, 1.0, np.where(valid, self.valid_score, 0.0))

    def best_return(self) -> float:
        """Return 1: every puzzle was made from a solution."""
        return 1.0

    def random_return(self) -> float:
        """Return the mean over puzzles of what their expressions pay, each written with probability V^-(2 n - 1)."""
        paid = [self._paid(prompt) for prompt in prompt_ids(self)]
        return float(np.mean(paid)) * float(self.vocab_size) ** (1 - 2 * self.num_numbers)

    def _paid(self, prompt: Ids) -> float:
        expressions = self._expressions(prompt)
        solved = int((reckoned(expressions, self.plus) == _target(np.array([prompt]))[0]).sum())
        return solved + self.valid_score * (len(expressions) - solved)

    def _expressions(self, prompt: Ids) -> IntArray:
        """Return every distinct expression of the prompt's numbers, in order of ids."""
        orders = sorted(set(itertools.permutations(prompt[: self.num_numbers])))
        signs = list(itertools.product(range(self.plus, self.plus + len(_OPERATORS)), repeat=self.num_numbers - 1))
        tokens = np.zeros((len(orders), len(signs), 2 * self.num_numbers - 1), dtype=np.int64)
        tokens[:, :, ::2], tokens[:, :, 1::2] = np.array(orders)[:, None], np.array(signs)[None]
        return tokens.reshape(-1, tokens.shape[2])


def reckoned(tokens: IntArray, plus: int) -> IntArray:
    """Return the values [B] of expressions [B, 2 n - 1]: numbers in the even columns, and plus, minus or times (`plus` and the ids after it) between."""
    total, term = np.zeros(len(tokens), dtype=np.int64), tokens[:, 0]
    for operator, number in zip(tokens[:, 1::2].T, tokens[:, 2::2].T, strict=True):
        times = operator == plus + 2
        total = np.where(times, total, total + term)
        term = np.where(times, term * number, np.where(operator == plus + 1, -number, number))
    return total + term


def _target(prompts: IntArray) -> IntArray:
    return 10 * prompts[:, -2] + prompts[:, -1]
