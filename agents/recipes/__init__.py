"""Whole training jobs on text, from raw material to a run folder; the commands of `python -m agents` are these."""

from .choices import Model, PPOText, Text
from .ppo_text import JobError, Outcome, train

__all__ = ["JobError", "Model", "Outcome", "PPOText", "Text", "train"]
