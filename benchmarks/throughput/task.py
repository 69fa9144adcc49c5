"""The text task of every comparison: random prompts of 16 words, and a scorer that costs next to nothing.

Axis legend: B completions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import textgym  # noqa: F401 (registers the suite)
from textgym.task import Completions, Prompt
from textgym.tokenizers import WordTokenizer

from .evenness import evenness
from .shapes import PROMPT, Shape, prompt_ids

NUM_PROMPTS = 512


def even_share(completions: Completions) -> NDArray[np.float64]:
    """Score a batch by its share of even ids, float64 [B]."""
    return evenness(completions.tokens, completions.lengths)


@lru_cache(maxsize=4)
def tokenizer(vocab_size: int) -> WordTokenizer:
    """Return the words w0, w1, ... and, as the last id, EOS."""
    return WordTokenizer([f"w{i}" for i in range(vocab_size - 1)])


@lru_cache(maxsize=4)
def prompts(shape: Shape) -> tuple[Prompt, ...]:
    """Return the prompts of a shape, as text and as ids."""
    return tuple(Prompt(" ".join(f"w{i}" for i in row), tuple(row)) for row in prompt_ids(shape, NUM_PROMPTS).tolist())


def environment(shape: Shape, num_envs: int, num_new: int, mode: str = "SameStep") -> Any:
    """Return TextGen-v0 in its native vector form."""
    return gym.make_vec("TextGen-v0", num_envs=num_envs, autoreset_mode=mode, **options(shape, num_new))


def options(shape: Shape, num_new: int) -> dict[str, Any]:
    """Return what TextGen-v0 is told."""
    task = {"prompts": list(prompts(shape)), "tokenizer": tokenizer(shape.vocab_size), "scorer": even_share}
    return {**task, "max_prompt_tokens": PROMPT, "max_new_tokens": num_new}
