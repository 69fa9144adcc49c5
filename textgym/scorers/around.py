"""What scorers around other scorers share: the parts of the inner one stay visible, and a batch can be split.

Axis legend: B completions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, cast

import numpy as np

from ..core import BoolArray, FloatArray, IntArray
from ..task import Completions, ComposedScorer, Scorer
from .registry import make

RAW = "raw_score"  # the part of a scorer that has none: what it said before others changed it
ScorerLike = str | Mapping[str, Any] | Callable[..., Any]  # whatever `scorers.make` takes


@dataclass(frozen=True)
class Around:
    """A scorer that changes what another one says.

    The info shows the parts of the inner scorer (or `raw_score`, if it has none), and beside them the parts named in `adds`.
    """

    adds: ClassVar[tuple[str, ...]] = ()

    scorer: ScorerLike

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorer", make(self.scorer))

    @property
    def inner(self) -> Scorer:
        """Return the scorer inside."""
        return cast(Scorer, self.scorer)

    def parts(self, completions: Completions, /) -> dict[str, FloatArray]:
        """Return the inner scorer's parts and those of `adds`, float64 [B]; raises `ValueError` if both use a name."""
        parts = parts_of(self.inner, completions)
        if taken := set(self.adds) & set(parts):
            raise ValueError(f"{type(self).__name__} shows a part called {min(taken)!r}, and the scorer inside has one already: put one of the two into a sum.")
        return parts | self.measured(completions, combined(self.inner, parts))

    def combine(self, parts: Mapping[str, FloatArray], /) -> FloatArray:
        """Return the score [B] of `parts`."""
        score = combined(self.inner, {name: part for name, part in parts.items() if name not in self.adds})
        return np.asarray(self.changed(score, parts), dtype=np.float64)

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the changed score, float64 [B]."""
        return self.combine(self.parts(completions))

    def measured(self, completions: Completions, score: FloatArray) -> dict[str, FloatArray]:
        """Return the parts named in `adds`, float64 [B]; `score` [B] is the inner scorer's."""
        return {}

    def changed(self, score: FloatArray, parts: Mapping[str, FloatArray]) -> FloatArray:
        """Return what becomes of the inner scorer's `score` [B]."""
        return score


def parts_of(scorer: Scorer, completions: Completions) -> dict[str, FloatArray]:
    """Return the parts of a composed scorer; of any other `raw_score` alone, float64 [B]."""
    if isinstance(scorer, ComposedScorer):
        return dict(scorer.parts(completions))
    return {RAW: np.asarray(scorer(completions), dtype=np.float64)}


def combined(scorer: Scorer, parts: Mapping[str, FloatArray]) -> FloatArray:
    """Return the score [B] of what `parts_of` returned."""
    return scorer.combine(parts) if isinstance(scorer, ComposedScorer) else parts[RAW]


def row_arrays(completions: Completions) -> dict[str, Any]:
    """Return the fields that are arrays with one row a completion, whichever they are."""
    values = {field.name: getattr(completions, field.name) for field in fields(completions) if field.name != "hand_over"}  # [V]
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def take(completions: Completions, rows: IntArray) -> Completions:
    """Return those rows of a batch, as a batch."""
    return replace(completions, **{name: array[rows] for name, array in row_arrays(completions).items()})


def written(completions: Completions) -> BoolArray:
    """Return where the agent's own tokens stand, EOS included, bool [B, G]."""
    generated = np.arange(completions.tokens.shape[1]) < completions.lengths[:, None]
    return generated if completions.agent is None else generated & completions.agent
