"""Whole jobs on text, from raw material to a run folder and back; the commands of `python -m agents` are these."""

from .beginning import JobError
from .choices import A2CText, AnyJob, Job, Model, PolicyGradientText, PPOText, SFTJob, SFTText, Text, TextJob
from .job import Outcome, train
from .supervised import supervise

__all__ = [
    "A2CText",
    "AnyJob",
    "Job",
    "JobError",
    "Model",
    "Outcome",
    "PPOText",
    "PolicyGradientText",
    "SFTJob",
    "SFTText",
    "Text",
    "TextJob",
    "supervise",
    "train",
]
