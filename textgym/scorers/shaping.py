"""Scorers that shape what another one says: bounds, scale, prices of length and of not ending, and a second opinion beside it.

Axis legend: B completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import ClassVar, cast

import numpy as np

from ..core import FloatArray
from ..task import Completions, Scorer
from .around import Around, ScorerLike, written
from .registry import make, register


@register("clip")
@dataclass(frozen=True)
class Clip(Around):
    """The score of `scorer`, kept within [low, high]; leave one out to bound the other side only."""

    low: float = -inf
    high: float = inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low <= self.high or not (isfinite(self.low) or isfinite(self.high)):
            raise ValueError(f"Clip needs low <= high, and at least one of them finite, not low={self.low} and high={self.high}.")

    def changed(self, score: FloatArray, parts: Mapping[str, FloatArray]) -> FloatArray:
        """Return the clipped score [B]."""
        return np.clip(score, self.low, self.high)


@register("scale")
@dataclass(frozen=True)
class Scale(Around):
    """factor * score + shift."""

    factor: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers: tuple[object, ...] = (self.factor, self.shift)  # JSON may give anything
        if not all(isinstance(number, int | float | np.number) and np.isfinite(number) for number in numbers):
            raise ValueError(f"Scale needs finite numbers, not factor={self.factor!r} and shift={self.shift!r}.")

    def changed(self, score: FloatArray, parts: Mapping[str, FloatArray]) -> FloatArray:
        """Return the scaled score [B]."""
        return self.factor * score + self.shift


@register("length_penalty")
@dataclass(frozen=True)
class LengthPenalty(Around):
    """The score minus min(limit, per_token * max(0, n - at_most)), n being the agent's own tokens without EOS.

    `at_most=0` puts a price on every token. The soft over-long punishment of DAPO (Yu et al. 2025, arXiv 2503.14476, eq. 13)
    with L_max and L_cache is `at_most=L_max - L_cache, per_token=1 / L_cache, limit=1`. What was taken off is shown
    as the part `length_penalty`. For one length that texts should have, put the scorer `length` into a weighted sum.
    """

    adds: ClassVar[tuple[str, ...]] = ("length_penalty",)

    at_most: int = 0
    per_token: float = 0.01
    limit: float = inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_most < 0 or not 0 < self.per_token < inf or not self.limit > 0:
            raise ValueError(
                f"LengthPenalty needs at_most >= 0, a finite per_token > 0 and limit > 0, "
                f"not at_most={self.at_most}, per_token={self.per_token} and limit={self.limit}."
            )

    def measured(self, completions: Completions, score: FloatArray) -> dict[str, FloatArray]:
        """Return the penalty, float64 [B]."""
        tokens = (written(completions) & (completions.tokens != completions.tokenizer.eos_id)).sum(axis=1)
        return {"length_penalty": np.minimum(self.limit, self.per_token * np.maximum(0, tokens - self.at_most))}

    def changed(self, score: FloatArray, parts: Mapping[str, FloatArray]) -> FloatArray:
        """Return the score [B] minus the penalty."""
        return score - parts["length_penalty"]


@register("missing_eos")
@dataclass(frozen=True)
class MissingEos(Around):
    """The score minus `penalty` where the text did not end itself: the budget cut it (as TRL's `missing_eos_penalty`).

    What was taken off is shown as the part `missing_eos_penalty`. With dense rewards every text is unfinished until its end.
    """

    adds: ClassVar[tuple[str, ...]] = ("missing_eos_penalty",)

    penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.penalty < inf:
            raise ValueError(f"penalty={self.penalty} must be positive and finite; it is subtracted.")

    def measured(self, completions: Completions, score: FloatArray) -> dict[str, FloatArray]:
        """Return the penalty, float64 [B]."""
        return {"missing_eos_penalty": np.where(completions.ended, 0.0, self.penalty)}

    def changed(self, score: FloatArray, parts: Mapping[str, FloatArray]) -> FloatArray:
        """Return the score [B] minus the penalty."""
        return score - parts["missing_eos_penalty"]


@register("proxy_and_gold")
@dataclass(frozen=True)
class ProxyAndGold(Around):
    """Pays the score of `scorer`, the proxy, and shows what `gold` says of the same text: parts `gold_score` and `proxy_gap`, proxy minus gold.

    It measures over-optimisation (Gao et al. 2023, arXiv 2210.10760). `Task.gold` alone suffices where gold is only to be
    logged: it is measured once, at the end, and stands in info["gold"]. Use this one where the gap is wanted, where the pair
    is to be one scorer (in JSON, in a sum), or beside a third measure in `Task.gold`. With dense rewards it asks gold at every
    step, `Task.gold` does not. The parts of a composed gold are not shown.
    """

    adds: ClassVar[tuple[str, ...]] = ("gold_score", "proxy_gap")

    gold: ScorerLike

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "gold", make(self.gold))

    def measured(self, completions: Completions, score: FloatArray) -> dict[str, FloatArray]:
        """Return gold's score and how far the proxy lies above it, float64 [B]."""
        gold = np.asarray(cast(Scorer, self.gold)(completions), dtype=np.float64)
        return {"gold_score": gold, "proxy_gap": score - gold}
