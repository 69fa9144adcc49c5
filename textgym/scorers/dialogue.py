"""Scorers of texts in which somebody answers.

Axis legend: B completions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core import FloatArray
from ..task import Completions
from .registry import register


@register("final_answer")
@dataclass(frozen=True)
class FinalAnswer:
    """1 where what the agent said after the last answer is its prompt's reference, blanks around both aside, otherwise 0.

    It is exact match for dialogues: what was asked of a tool on the way does not count. A text that nobody answered is all agent's.
    """

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return 1 or 0, float64 [B]; raises `ValueError` if a prompt has no reference."""
        if missing := next((p for p in completions.prompts if p.reference is None), None):
            raise ValueError(f"The prompt {missing.text!r} has no reference to match; give Prompt(text, reference=...) or a reference_column.")
        said = [turns[-1].text if turns and turns[-1].by_agent else "" for turns in completions.turns]
        pairs = zip(said, completions.prompts, strict=True)
        return np.array([text.strip() == (prompt.reference or "").strip() for text, prompt in pairs], dtype=np.float64)
