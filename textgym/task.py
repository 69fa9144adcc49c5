"""The words in which a text task is described: prompts, completions, the task itself, and Protocols for its parts.

Axis legend: B completions, P prompt columns, G columns of generated tokens, V vocabulary (V itself is the pad id).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .core import BoolArray, FloatArray, IntArray


class Prompt(NamedTuple):
    """Where an episode begins, and what a scorer may need to know about it."""

    text: str
    ids: tuple[int, ...] | None = None  # ready-made ids in place of the encoded text
    reference: str | None = None  # a wanted continuation
    data: Mapping[str, Any] = {}  # anything else (a label, a goal)


@runtime_checkable
class PromptSource(Protocol):
    """A finite, indexed collection of prompts that never changes; index i always means the same prompt."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Prompt: ...


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids in [0, vocab_size) and back; `eos_id` ends a text."""

    @property
    def vocab_size(self) -> int:
        """Return how many ids there are."""
        ...

    @property
    def eos_id(self) -> int:
        """Return the id that ends a text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without EOS; raises `ValueError` naming what cannot be spelled."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; EOS is left out."""


@runtime_checkable
class WordLevel(Protocol):
    """A tokenizer whose text is its words joined by blanks: scorers may then work on ids, many times faster."""

    @property
    def words(self) -> Sequence[str]:
        """Return the word of each id."""
        ...


@dataclass(frozen=True)
class Completions:
    """The finished texts of one step, as one batch: all that a scorer sees.

    Ids come first, text on demand: decoding is the dearest part of an episode's end, and many scorers need none.
    """

    tokens: IntArray  # [B, G] generated ids, EOS included, pads (V) on the right
    lengths: IntArray  # [B] number of generated ids, EOS included
    ended: BoolArray  # [B] true where the text ended itself by EOS, false where the budget did
    prompt_tokens: IntArray  # [B, P] pads (V) on the left
    prompt_indices: IntArray  # [B]
    source: PromptSource
    tokenizer: Tokenizer

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def texts(self) -> list[str]:
        """Return what was generated, without EOS, one text a row."""
        return [self.tokenizer.decode(row[:n]) for row, n in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Return the prompt of each row, as its source gave it."""
        return [self.source[i] for i in self.prompt_indices.tolist()]

    @cached_property
    def full_texts(self) -> list[str]:
        """Return prompt and continuation, decoded together, one text a row."""
        pad = self.tokenizer.vocab_size
        both = np.concatenate([self.prompt_tokens, self.tokens], axis=1)
        return [self.tokenizer.decode([token for token in row if token != pad]) for row in both.tolist()]


@runtime_checkable
class Scorer(Protocol):
    """Batch in, batch out: order-independent, deterministic unless it says otherwise, picklable, finite."""

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return one score a completion, float64 [B]."""


@runtime_checkable
class ComposedScorer(Scorer, Protocol):
    """A scorer made of parts; its parts are shown in the info beside the score."""

    def parts(self, completions: Completions, /) -> dict[str, FloatArray]:
        """Return each part's scores, float64 [B], by name."""

    def combine(self, parts: Mapping[str, FloatArray], /) -> FloatArray:
        """Return the score [B] of those parts; calling the scorer is `combine(parts(completions))`."""


@dataclass(frozen=True)
class Task:
    """A text task: where it begins, how it is spelled, what it is worth, and how long it may grow."""

    prompts: PromptSource
    tokenizer: Tokenizer
    scorer: Scorer
    max_prompt_tokens: int = 8
    max_new_tokens: int = 24
    cut_prompts: bool = False  # cut a prompt that is too long on its left, instead of refusing it
    info_text: bool = False  # put the finished text into info["text"]
    gold: Scorer | None = field(default=None)  # measured at the end (info["gold"]), never paid
