"""What wrappers must know of the environment below: its spaces, its task, where a prefix ends, whom to ask about it.

Axis legend: B rows, L columns, V vocabulary (V itself is the pad id), K tokens asked for, H features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from ..core import IntArray
from ..task import Task, Tokenizer

AnyEnv = gym.Env[Any, Any] | VectorEnv[Any, Any, Any]


class Features(Protocol):
    """What `HiddenState` asks; `textgym.language_models.LanguageModel` is one."""

    vocab_size: int
    hidden_size: int

    def hidden(self, tokens: IntArray, /) -> NDArray[np.float32]:
        """Return the features [B, H] of prefixes [B, L]."""


class Reference(Protocol):
    """What `TopKActions` asks; `textgym.language_models.LanguageModel` is one."""

    vocab_size: int

    def top(self, tokens: IntArray, k: int, /) -> IntArray:
        """Return the ids [B, K] of the k best next tokens of prefixes [B, L], best first."""


class Tokens(NamedTuple):
    """How observations spell a prefix: ids in [0, pad), pads on both sides."""

    width: int  # L
    pad: int  # V
    tokenizer: Tokenizer


def space_of(env: AnyEnv) -> Space[Any]:
    """Return the observation space of one row."""
    return env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space


def tokens_of(env: AnyEnv, wrapper: str) -> Tokens:
    """Return how `env` spells prefixes; raises `TypeError` in the name of `wrapper` if it shows none."""
    task = getattr(getattr(env.unwrapped, "core", None), "task", None)
    if not isinstance(task, Task):
        several = isinstance(env, VectorEnv) and not hasattr(env.unwrapped, "core")
        advice = "wrap its single environments instead" if several else "make one (TextGen-v0), or leave the wrapper away"
        raise TypeError(f"{wrapper} reads token ids, but {env} is no text task of textgym: {advice}.")
    space, pad = space_of(env), task.tokenizer.vocab_size
    if not isinstance(space, Box) or len(space.shape) != 1 or space.dtype != np.int64 or (space.low != 0).any() or (space.high != pad).any():
        raise TypeError(f"{wrapper} reads token ids, but what stands below it shows {space}: put {wrapper} below the wrapper that hides the ids.")
    return Tokens(space.shape[0], pad, task.tokenizer)


def ends_of(tokens: IntArray, pad: int) -> IntArray:
    """Return the column behind the last token of each row [B]."""
    return np.asarray(tokens.shape[1] - (tokens[:, ::-1] != pad).argmax(axis=1))


def checked_count(name: str, value: int, high: int, of: str, low: int = 1) -> int:
    """Return `value`; raises `ValueError` unless it is an integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be an integer in [{low}, {high}]; {high} is {of}.")
    return int(value)


def model_of(model: Any, method: str, pad: int, wrapper: str) -> Any:
    """Return `model` if it has the `method` that will be asked, else a language model made of it (a folder, or a decoder of transformers).

    Raises `ValueError` if it knows another vocabulary: it would take the environment's pads for a token, or a token for a pad. That a
    model's other rows are spare only its owner can know, so that nothing is cut away unasked.
    """
    if not hasattr(model, method):
        from ..language_models import LanguageModel  # here, since it brings torch along

        model = LanguageModel(model)
    if model.vocab_size != pad:
        raise ValueError(
            f"{wrapper}: {model} knows {model.vocab_size} token ids, the environment {pad}; give it vocab_size={pad} if its other rows are spare, "
            f"LanguageModel(..., vocab_size={pad}), or take the tokenizer it was trained with."
        )
    return model


def spec_argument(model: Any) -> Any:
    """Return what a spec keeps of a model: a folder's name as JSON can hold it, an object as it is."""
    return str(model) if isinstance(model, Path) else model
