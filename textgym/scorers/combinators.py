"""Scorers made of others, and of plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import FloatArray
from ..task import RESERVED, Completions, Scorer
from .registry import make, register


@register("weighted_sum")
@dataclass(frozen=True, init=False)
class WeightedSum:
    """The sum of weight times score over named parts; each part's own score is shown in the info beside the sum.

    Parts are {name: (scorer, weight)}, a scorer being whatever `scorers.make` takes.
    """

    scorers: Mapping[str, Scorer]
    weights: Mapping[str, float]

    def __init__(self, parts: Mapping[str, Sequence[Any]]) -> None:
        if not isinstance(parts, Mapping) or not parts:
            raise ValueError("A weighted sum needs parts: {name: (scorer, weight), ...}.")
        for name, part in parts.items():
            if not isinstance(name, str) or name in RESERVED or name.startswith("_"):
                raise ValueError(f"A part may not be called {name!r}: the info uses that name, or it is none; choose another.")
            if isinstance(part, str) or not isinstance(part, Sequence) or len(part) != 2 or not _is_weight(part[1]):
                raise ValueError(f"The part {name!r} must be (scorer, weight) with a finite weight, not {part!r}.")
        object.__setattr__(self, "scorers", {name: make(scorer) for name, (scorer, _) in parts.items()})
        object.__setattr__(self, "weights", {name: float(weight) for name, (_, weight) in parts.items()})

    def parts(self, completions: Completions, /) -> dict[str, FloatArray]:
        """Return each part's scores, float64 [B], before its weight."""
        return {name: np.asarray(scorer(completions), dtype=np.float64) for name, scorer in self.scorers.items()}

    def combine(self, parts: Mapping[str, FloatArray], /) -> FloatArray:
        """Return the weighted sum [B] of `parts`."""
        total = sum(weight * parts[name] for name, weight in self.weights.items())
        return np.asarray(total, dtype=np.float64)

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the weighted sum, float64 [B]."""
        return self.combine(self.parts(completions))


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


@dataclass(frozen=True)
class TextFunction:
    """The score of a plain function, called once a text: `fn(text)`, or `fn(prompt, text)` if it needs two arguments.

    Both are strings; `text` is the continuation without its prompt, in a dialogue the agent's turns alone. Whatever the function raises is raised again
    as a `RuntimeError` that shows the prompt and the text, with the original as its cause.
    """

    fn: Callable[..., float]

    def __post_init__(self) -> None:
        if not callable(self.fn) or self._arity() not in (1, 2):
            raise TypeError(f"TextFunction takes a function of (text) or of (prompt, text), not {self.fn!r}; use functools.partial for other arguments.")

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the function's value for each text, float64 [B]."""
        both = self._arity() == 2
        pairs = zip(completions.prompts, completions.own.texts, strict=True)
        return np.array([self._score((prompt.text, text) if both else (text,), prompt.text, text) for prompt, text in pairs], dtype=np.float64)

    def _score(self, arguments: tuple[str, ...], prompt: str, text: str) -> float:
        where = f"on the prompt {prompt!r} and the text {text!r}"
        try:
            score = float(self.fn(*arguments))
        except Exception as error:
            raise RuntimeError(f"The scoring function {self.name} failed {where}: {type(error).__name__}: {error}") from error
        if not np.isfinite(score):
            raise ValueError(f"The scoring function {self.name} gave {score} {where}; return a finite number.")
        return score

    @property
    def name(self) -> str:
        """Return the function's name, for messages."""
        return str(getattr(self.fn, "__name__", repr(self.fn)))

    def _arity(self) -> int:
        try:
            parameters = inspect.signature(self.fn).parameters.values()
        except ValueError:  # some built-in functions do not tell
            return 1
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        needed = sum(p.kind in kinds and p.default is p.empty for p in parameters)
        open_ended = any(p.kind in kinds or p.kind is p.VAR_POSITIONAL for p in parameters)
        return 1 if needed == 0 and open_ended else needed
