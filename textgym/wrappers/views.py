"""What is seen of observations: one pure function for each wrapper, batched over rows, that both its forms apply.

Axis legend: B rows, L columns, V vocabulary (V itself is the pad id), K tokens kept, H features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from numpy.typing import NDArray

from ..core import IntArray
from .reading import AnyEnv, Features, checked_count, ends_of, model_of, space_of, tokens_of
from .spelling import text_space

Seen = NDArray[Any] | dict[str, NDArray[Any]] | tuple[str, ...]  # rows first

MAX_CELLS = 2**24  # of one one-hot observation: 16 MB
EXACT = 2**24  # up to here float32 tells integers apart
WIDE = 2.0**53  # bounds so far apart bound nothing


class View(Protocol):
    """What is seen of B observations, and the space of one of them."""

    @property
    def space(self) -> Space[Any]:
        """Return the space of one row."""
        ...

    def __call__(self, observations: NDArray[Any], /) -> Seen:
        """Return what is seen of observations [B, ...]."""
        ...


def rows_of(seen: Seen) -> list[Any]:
    """Return the rows one by one."""
    if not isinstance(seen, dict):
        return list(seen)
    return [dict(zip(seen, row, strict=True)) for row in zip(*seen.values(), strict=True)]


class TokensLengthMask:
    """`tokens` [B, L], `length` [B] and `mask` int8 [B, L]."""

    def __init__(self, env: AnyEnv) -> None:
        width, self._pad, _ = tokens_of(env, "DictObservation")
        parts = {"tokens": Box(0, self._pad, (width,), np.int64), "length": Discrete(width + 1), "mask": Box(0, 1, (width,), np.int8)}
        self.space: Space[Any] = Dict(parts)

    def __call__(self, observations: IntArray) -> dict[str, NDArray[Any]]:
        """Return the three parts of ids [B, L]."""
        mask = observations != self._pad
        return {"tokens": observations, "length": mask.sum(axis=1), "mask": mask.astype(np.int8)}


class OneHot:
    """One flag an id, uint8 [B, L, V]; pads have none."""

    def __init__(self, env: AnyEnv) -> None:
        self._width, self._pad, _ = tokens_of(env, "OneHotObservation")
        if (cells := self._width * self._pad) > MAX_CELLS:
            raise ValueError(
                f"OneHotObservation would show {self._width} columns x {self._pad} ids = {cells:,} flags ({cells / 2**20:.0f} MiB) a row and step, "
                f"and {MAX_CELLS:,} are the limit. Take LastTokens(k) below it, HiddenState, or ids and an embedding in the agent."
            )
        self.space: Space[Any] = Box(0, 1, (self._width, self._pad), np.uint8)

    def __call__(self, observations: IntArray) -> NDArray[np.uint8]:
        """Return the flags [B, L, V] of ids [B, L]."""
        flags = np.zeros((*observations.shape, self._pad), dtype=np.uint8)
        rows, columns = np.nonzero(observations != self._pad)
        flags[rows, columns, observations[rows, columns]] = 1
        return flags


class Tail:
    """The last k tokens [B, K], pads on their left."""

    def __init__(self, env: AnyEnv, k: int) -> None:
        width, self._pad, _ = tokens_of(env, "LastTokens")
        self._k = checked_count("LastTokens: k", k, width, "the width of an observation")
        self.space: Space[Any] = Box(0, self._pad, (self._k,), np.int64)

    def __call__(self, observations: IntArray) -> IntArray:
        """Return the last tokens [B, K] of ids [B, L]."""
        columns = ends_of(observations, self._pad)[:, None] + np.arange(-self._k, 0)
        return np.where(columns < 0, self._pad, np.take_along_axis(observations, np.maximum(columns, 0), axis=1))


class Floats:
    """The same numbers as float32, or moved into [0, 1]."""

    def __init__(self, env: AnyEnv, scaled: bool) -> None:
        space = space_of(env)
        if not isinstance(space, Box):
            raise TypeError(f"FloatObservation makes floats of a Box, not of {space}; put it directly on the box, or take gymnasium's FlattenObservation.")
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        self._scaled, self._low, self._range = scaled, low, np.where(high > low, high - low, 1.0)
        if scaled and not (high - low < WIDE).all():
            raise ValueError(f"FloatObservation(scaled=True) needs bounds to scale by, and {space} has none that narrow; leave scaled=False.")
        if not scaled and np.issubdtype(space.dtype, np.integer) and max(high.max(initial=0), -low.min(initial=0)) > EXACT:
            raise ValueError(f"float32 cannot tell integers beyond {EXACT:,} apart, and {space} goes further; take scaled=True.")
        self.space: Space[Any] = Box(0, 1, space.shape, np.float32) if scaled else Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def __call__(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Return the floats [B, ...] of numbers [B, ...]."""
        return ((observations - self._low) / self._range if self._scaled else observations).astype(np.float32)


class Texts:
    """Prompt and continuation as one str."""

    def __init__(self, env: AnyEnv) -> None:
        width, self._pad, self._tokenizer = tokens_of(env, "TextObservation")
        self.space: Space[Any] = text_space(self._tokenizer, width)

    def __call__(self, observations: IntArray) -> tuple[str, ...]:
        """Return the texts (B of them) of ids [B, L]."""
        return tuple(self._tokenizer.decode([token for token in row if token != self._pad]) for row in observations.tolist())


class Hidden:
    """The features [B, H] of a local language model at the last token."""

    def __init__(self, env: AnyEnv, model: str | Path | Features | Any) -> None:
        self._model: Features = model_of(model, "hidden", tokens_of(env, "HiddenState").pad, "HiddenState")
        finite = np.finfo(np.float32).max  # infinite bounds would make every checker warn
        self.space: Space[Any] = Box(-finite, finite, (self._model.hidden_size,), np.float32)

    def __call__(self, observations: IntArray) -> NDArray[np.float32]:
        """Return the features [B, H] of ids [B, L]."""
        return np.asarray(self._model.hidden(observations), dtype=np.float32)
