"""What the diagnostic token tasks share: how they are spelled, where they begin, and a reward for every step where a task can tell.

All have V ids: the symbols 0 .. V - 2, and V - 1, which ends the text. What is missing where a text ended early counts as wrong.
A task is a frozen choice of sizes that is its own scorer, so that one small class says all: sizes, score, best and random return.

Axis legend: N rows, B rows or completions, P prompt columns, G columns of generated tokens, S symbols, V = S + 1 ids (V itself is the pad).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import ClassVar

import numpy as np

from ..core import FloatArray
from ..episodes import TextCore
from ..prompts import ListPrompts, split
from ..task import Completions, Prompt, PromptSource, Task
from ..tokenizers import WordTokenizer

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Diagnostic(ABC):
    """One question, asked of an agent or an estimator, with its answer: sizes, score, best and random return."""

    least: ClassVar[Mapping[str, int]] = {"vocab_size": 2}  # the smallest value of an integer option that is not 1

    chunk: int = field(default=1, kw_only=True)  # tokens of one action; the texts, their scores, and best and random return are those of single tokens

    def __post_init__(self) -> None:
        """Refuse sizes that make no task."""
        for one in fields(self):
            value, least = getattr(self, one.name), self.least.get(one.name, 1)
            if one.type == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{type(self).__name__}: {one.name} must be an integer of at least {least}, got {value!r}.")
            if one.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{type(self).__name__}: {one.name} must be True or False, got {value!r}.")

    @abstractmethod
    def words(self) -> Sequence[str]:
        """Return the word of each symbol; EOS comes after them."""

    @abstractmethod
    def starts(self) -> Iterable[Ids]:
        """Return the prompts, each once."""

    @abstractmethod
    def solution(self, prompt: Ids) -> Ids:
        """Return one of the best continuations of a prompt, EOS included where it ends the text."""

    @abstractmethod
    def lengths(self) -> tuple[int, int]:
        """Return (P, G): how many tokens a prompt and a continuation may have."""

    @abstractmethod
    def __call__(self, completions: Completions) -> FloatArray:
        """Return the score [B]: all that an episode pays."""

    @abstractmethod
    def best_return(self) -> float:
        """Return the expected return of the best policy, over the prompts."""

    @abstractmethod
    def random_return(self) -> float:
        """Return the expected return of uniform random ids, EOS among them, over the prompts."""

    def task(self) -> Task:
        """Return the text task; every prompt's reference is `solution`."""
        prompt_tokens, new_tokens = self.lengths()
        dense = bool(getattr(self, "dense", False))
        tokenizer = WordTokenizer(self.words())
        return Task(prompts_of(self), tokenizer, self, max_prompt_tokens=prompt_tokens, max_new_tokens=new_tokens, dense=dense, chunk=self.chunk)

    def core(self, num_rows: int) -> TextCore:
        """Return the core of the task."""
        return TextCore(self.task(), num_rows)


@lru_cache(maxsize=64)
def prompts_of(diagnostic: Diagnostic) -> PromptSource:
    """Return the prompts of a diagnostic, of its split if it has one; kept, so that N single environments share one list."""
    words = diagnostic.words()
    spelled = [" ".join(words[i] for i in ids) for ids in diagnostic.starts()]
    answers = [" ".join(words[i] for i in diagnostic.solution(ids) if i < len(words)) for ids in diagnostic.starts()]
    source = ListPrompts(Prompt(text, reference=answer) for text, answer in zip(spelled, answers, strict=True))
    return split(source, getattr(diagnostic, "split", "all"))


def prompt_ids(diagnostic: Diagnostic) -> list[Ids]:
    """Return the prompts of `prompts_of` as ids."""
    ids = {word: i for i, word in enumerate(diagnostic.words())}
    source = prompts_of(diagnostic)
    return [tuple(ids[word] for word in source[i].text.split()) for i in range(len(source))]


def some_sequences(num_symbols: int, length: int, num: int) -> Iterable[Ids]:
    """Return all sequences of symbols of this length if there are at most `num`, else `num` distinct ones, always the same."""
    if num_symbols**length <= num:
        return itertools.product(range(num_symbols), repeat=length)
    generator, found = np.random.default_rng(0), dict[Ids, None]()
    while len(found) < num:
        found.update(dict.fromkeys(map(tuple, generator.integers(num_symbols, size=(num, length)).tolist())))
    return list(found)[:num]


def numbers(count: int) -> list[str]:
    """Return the words 0 .. count - 1, each the number of its id."""
    return [str(i) for i in range(count)]
