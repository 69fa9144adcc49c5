"""What a scorer gives back, checked, so that a wrong number is never a reward.

Axis legend: B completions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core import FloatArray
from ..task import Completions, ComposedScorer, Scorer


class ScorerError(ValueError):
    """A scorer failed, or gave back something that is no score."""


def scores_of(scorer: Scorer, completions: Completions) -> dict[str, FloatArray]:
    """Return `score` [B] and the parts of a composed scorer; raises `ScorerError` that names prompt and text."""
    try:
        if isinstance(scorer, ComposedScorer):
            parts = scorer.parts(completions)
            found = {"score": scorer.combine(parts), **parts}
        else:
            found = {"score": scorer(completions)}
    except Exception as error:
        first = f"{completions.prompts[0].text!r} -> {completions.texts[0]!r}"
        raise ScorerError(f"Scorer {_name(scorer)} raised {type(error).__name__}: {error} (a batch of {len(completions)}, the first: {first}).") from error
    return {name: _checked_scores(values, f"{_name(scorer)}, {name}", completions) for name, values in found.items()}


def _name(scorer: Scorer) -> str:
    return getattr(scorer, "__name__", type(scorer).__name__)


def _checked_scores(values: Any, name: str, completions: Completions) -> FloatArray:
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ScorerError(f"Scorer {name} returned {type(values).__name__}, which is no array of numbers: {error}.") from error
    if scores.shape != (len(completions),):
        raise ScorerError(f"Scorer {name}: {len(completions)} completions came in, so shape ({len(completions)},) must come out, got {scores.shape}.")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ScorerError(
            f"Scorer {name} returned {scores[bad]} for prompt {completions.prompts[bad].text!r}, text {completions.texts[bad]!r}; scores are finite."
        )
    return scores
