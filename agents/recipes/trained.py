"""What a run folder holds by now: the finished policy, or that of its newest checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..policies import CausalLMPolicy
from ..run import checkpoints, load_checkpoint
from .beginning import language_model, prepared
from .choices import AnyJob, SFTText
from .job import WARMUP_MODEL
from .material import Material, gather


class Trained(NamedTuple):
    """A run's policy, what it stands beside, and how far it is."""

    material: Material
    policy: CausalLMPolicy
    start: CausalLMPolicy  # the warm-up model, or of supervised training the model before it
    stage: str  # in words


def load(choice: AnyJob) -> Trained:
    """Return what the folder of a job holds; raises `ValueError` if that is not yet a policy."""
    folder, job, supervised = choice.job.folder, choice.job, isinstance(choice, SFTText)
    assert folder is not None  # `job_of` has put it there
    finished = (folder / "policy").is_dir()
    if not finished and not checkpoints(folder):
        raise ValueError(f"{folder} holds neither a policy nor a checkpoint: it was stopped too early. Give it time: python -m agents resume {folder}")
    material = gather(job.text, job.seed, judged=not supervised)

    def start() -> CausalLMPolicy:
        if supervised:
            return language_model(job.model, job.seed, material)
        return prepared(CausalLMPolicy.load(folder / WARMUP_MODEL, material.tokenizer.vocab_size), job.model, material)

    if finished:
        return Trained(material, _finished(folder, choice, material), start(), "the finished policy")
    policy, checkpoint = start(), load_checkpoint(folder)
    policy.load_state_dict(checkpoint.state["policy"])
    return Trained(material, policy, start(), f"the policy after {checkpoint.iteration} iterations")


def _finished(folder: Path, choice: AnyJob, material: Material) -> CausalLMPolicy:
    return prepared(CausalLMPolicy.load(folder / "policy", material.tokenizer.vocab_size), choice.job.model, material)
