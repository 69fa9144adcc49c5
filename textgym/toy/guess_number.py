"""Does it learn to ask what halves its ignorance? A number is found by guesses that are answered "higher", "lower" or "correct".

The secret stands in the prompt's `data` alone, all prompts read alike: what the agent knows of it are the answers. So the best policy is
binary search, which pays exactly `best_return`; `textgym.oracle` finds the same for small `high` (see `oracle.as_seen`).

Axis legend: B dialogues, G the agent's tokens, n = `high`, V = n + 5 ids (V itself is the pad), t tokens that the agent wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log2
from typing import ClassVar

import numpy as np

from ..core import FloatArray, IntArray
from ..episodes import TextCore
from ..prompts import ListPrompts
from ..task import Answer, Completions, Prompt, Task
from ..tokenizers import WordTokenizer

HIGHER, LOWER, CORRECT, BEGIN, EOS = range(5)  # ids, counted from n on; before them, id i is the number i + 1
ANSWERS = ("higher", "lower", "correct")


@dataclass(frozen=True)
class Hints:
    """Who keeps the secret `data["secret"]`, a number in 1 .. high: each guess is told "higher" or "lower" than it, until it is "correct"."""

    high: int
    draws_lots: ClassVar[bool] = False

    @property
    def end_of_turn(self) -> Sequence[str]:
        """Return the numbers: each of them hands over."""
        return [str(number) for number in range(1, self.high + 1)]

    def __call__(self, dialogues: Completions, lots: FloatArray) -> list[Answer]:
        """Return "higher" where the secret is, and so on; "correct" ends the dialogue."""
        last = dialogues.tokens[np.arange(len(dialogues)), dialogues.lengths - 1].tolist()
        guesses = [int(dialogues.tokenizer.decode([token])) for token in last]
        secrets = [prompt.data["secret"] for prompt in dialogues.prompts]
        return [_hint(secret, guess) for secret, guess in zip(secrets, guesses, strict=True)]


def _hint(secret: int, guess: int) -> Answer:
    answer = CORRECT if guess == secret else HIGHER if secret > guess else LOWER
    return Answer(ANSWERS[answer], ends=answer == CORRECT)


@dataclass(frozen=True)
class GuessNumber:
    """Does it learn to halve what is left? A number found with the t-th token pays 1 - (t - 1) / G, one not found nothing. Best: binary search.

    Every token costs, words that are no guess included, and EOS gives up. With `dense` the score of an unfinished dialogue is
    phi = 1 - (t + log2(numbers left)) / G, about what binary search would still make of it, and each step pays what phi rises by:
    a guess that halves what is left is worth 0, any other less. Returns are then those of the sparse task less phi(s_0) = 1 - log2(n) / G.
    """

    high: int = 32  # the secret is one of 1 .. high, each equally likely
    max_new_tokens: int = 10  # the guesses that one has
    dense: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that make no task."""
        for name, least in (("high", 2), ("max_new_tokens", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"GuessNumber: {name} must be an integer of at least {least}, got {value!r}.")

    def task(self) -> Task:
        """Return the text task: n prompts that read alike, prompt i with the secret i + 1."""
        words = [*map(str, range(1, self.high + 1)), *ANSWERS, "guess"]
        prompts = ListPrompts(Prompt("guess", data={"secret": secret}) for secret in range(1, self.high + 1))
        return Task(
            prompts,
            WordTokenizer(words),
            self,
            max_prompt_tokens=1,
            max_new_tokens=self.max_new_tokens,
            dense=self.dense,
            responder=Hints(self.high),
            max_response_tokens=self.max_new_tokens,
        )

    def __call__(self, completions: Completions) -> FloatArray:
        """Return the score [B]; of dialogues that are not over, phi."""
        assert completions.agent is not None  # somebody answers
        written = completions.agent.sum(axis=1)
        found = (completions.tokens == self.high + CORRECT) & ~completions.agent
        over = completions.ended | (written == self.max_new_tokens)
        paid = np.where(found.any(axis=1), 1 - (written - 1) / self.max_new_tokens, 0.0)
        return np.where(over, paid, 1 - (written + np.log2(self._left(completions))) / self.max_new_tokens) if self.dense else paid

    def _left(self, completions: Completions) -> IntArray:
        """Return how many numbers the answers leave possible [B]; where the right one was said, nothing is asked any more: 1."""
        guesses, answers = completions.tokens[:, :-1] + 1, completions.tokens[:, 1:]
        told = ~completions.agent[:, 1:] if completions.agent is not None else np.zeros_like(answers, dtype=np.bool_)
        above = np.where(told & (answers == self.high + HIGHER), guesses, 0).max(axis=1, initial=0)
        below = np.where(told & (answers == self.high + LOWER), guesses, self.high + 1).min(axis=1, initial=self.high + 1)
        return np.maximum(below - above - 1, 1)

    def best_return(self) -> float:
        """Return what binary search earns: of k guesses the last can be right for 2^(k - 1) of the numbers, and for no more."""
        return self._of_scores(mean_score(search_depths(self.high), self.max_new_tokens))

    def random_return(self) -> float:
        """Return what uniform random ids earn: at each step 1 of V is right, 1 of V is EOS, and the others go on."""
        ids, budget = self.high + 5, self.max_new_tokens
        return self._of_scores(sum(((ids - 2) / ids) ** t / ids * (1 - t / budget) for t in range(budget)))

    def _of_scores(self, score: float) -> float:
        return score - (1 - log2(self.high) / self.max_new_tokens) if self.dense else score


def search_depths(high: int) -> list[int]:
    """Return the guess at which binary search finds each of `high` numbers, sorted: 1, 2, 2, 3, 3, 3, 3, 4 ..."""
    return [number.bit_length() for number in range(1, high + 1)]


def mean_score(depths: Sequence[int], budget: int) -> float:
    """Return the mean score of numbers found at these guesses."""
    return sum(max(0.0, 1 - (depth - 1) / budget) for depth in depths) / len(depths)


def binary_search(high: int) -> Callable[[IntArray], IntArray]:
    """Return the best policy: from observations [B, L] to the ids [B] that halve what the answers have left, the lower one of two middles."""

    def act(observations: IntArray) -> IntArray:
        guesses, answers = observations[:, :-1] + 1, observations[:, 1:]
        above = np.where(answers == high + HIGHER, guesses, 0).max(axis=1)
        below = np.where(answers == high + LOWER, guesses, high + 1).min(axis=1)
        middle: IntArray = (above + below) // 2 - 1
        return middle

    return act


def guess_number(num_rows: int, *, high: int = 32, max_new_tokens: int = 10, dense: bool = False) -> TextCore:
    """GuessNumber-v0: does it learn to ask what halves its ignorance?

    Args:
        num_rows: number of dialogues side by side (the two Gymnasium faces fill it in).
        high: the secret is one of 1 .. high.
        max_new_tokens: how many guesses one has.
        dense: pay at every step what the guess has gained, as a potential difference (see `GuessNumber`).
    """
    return TextCore(GuessNumber(high, max_new_tokens, dense).task(), num_rows)
