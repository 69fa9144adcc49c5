"""Whole training jobs on text, from raw material to a run folder; the commands of `python -m agents` are these."""

from .choices import A2CText, Job, Model, PolicyGradientText, PPOText, Text, TextJob
from .job import JobError, Outcome, train

__all__ = ["A2CText", "Job", "JobError", "Model", "Outcome", "PPOText", "PolicyGradientText", "Text", "TextJob", "train"]
