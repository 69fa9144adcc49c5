"""What a scorer gives back, checked, so that a wrong number is never a reward.

Axis legend: B completions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard

import numpy as np

from ..core import FloatArray
from ..task import RESERVED, Completions, ComposedScorer, Scorer


class ScorerError(ValueError):
    """A scorer failed, or gave back something that is no score."""


def scores_of(scorer: Scorer, completions: Completions) -> dict[str, FloatArray]:
    """Return `score` [B] and the parts of a composed scorer; raises `ScorerError` that names prompt and text, or the part whose name is taken."""
    try:
        if _is_composed(scorer):
            parts = scorer.parts(completions)
            _refuse_taken(scorer, parts)
            found = {**parts, "score": scorer.combine(parts)}
        else:
            found = {"score": scorer(completions)}
    except ScorerError:
        raise
    except Exception as error:
        first = f"{completions.prompts[0].text!r} -> {completions.texts[0]!r}"
        raise ScorerError(
            f"Scorer {_name(scorer)} raised {type(error).__name__}: {error} (a batch of {len(completions)}, the first: {first}).{_unfinished(completions)}"
        ) from error
    return {part: _checked_scores(values, scorer, part, completions) for part, values in found.items()}


def _is_composed(scorer: Scorer) -> TypeGuard[ComposedScorer]:
    """Do as `isinstance` does, which takes a tenth of an environment's step for Protocols on Python 3.11."""
    return hasattr(scorer, "parts") and hasattr(scorer, "combine")


def _refuse_taken(scorer: Scorer, parts: Iterable[str]) -> None:
    """Raise `ScorerError` if a part would write over the score, or over what the info tells."""
    if taken := [name for name in parts if name in RESERVED or name.startswith("_")]:
        raise ScorerError(
            f"Scorer {_name(scorer)} has a part called {taken[0]!r}, a name that the info of an episode uses itself: call it {taken[0].strip('_')}_part, say."
        )


def _unfinished(completions: Completions) -> str:
    """Return what a scorer may not have thought of in this batch."""
    if completions.ended.all():
        return ""
    return " Some of these texts have not ended: a task with dense=True has unfinished and empty texts scored, too, and max_new_tokens may cut any."


def _name(scorer: Scorer) -> str:
    return getattr(scorer, "__name__", type(scorer).__name__)


def _checked_scores(values: Any, scorer: Scorer, part: str, completions: Completions) -> FloatArray:
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ScorerError(f"Scorer {_name(scorer)}, {part} returned {type(values).__name__}, which is no array of numbers: {error}.") from error
    if scores.shape != (len(completions),) or np.count_nonzero(np.isfinite(scores)) < len(scores):
        raise ScorerError(f"Scorer {_name(scorer)}, {part}{_what_is_wrong(scores, completions)}")
    return scores


def _what_is_wrong(scores: FloatArray, completions: Completions) -> str:
    """Return the end of the sentence that tells of scores of a wrong shape, or not all finite."""
    if scores.shape != (len(completions),):
        return f": {len(completions)} completions came in, so shape ({len(completions)},) must come out, got {scores.shape}."
    bad = int(np.flatnonzero(~np.isfinite(scores))[0])
    return f" returned {scores[bad]} for prompt {completions.prompts[bad].text!r}, text {completions.texts[bad]!r}; scores are finite."
