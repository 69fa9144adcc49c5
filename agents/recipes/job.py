"""The jobs of `python -m agents ppo`, `a2c` and `policy_gradient`: material, a language model warmed up on it, the algorithm, and what came of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console

from .. import sft
from ..files import new_folder, write_json
from ..play import AnyVectorEnv
from ..policies import CausalLMPolicy
from ..policies.causal_lm import small_gpt2
from ..policies.local_models import load_model
from ..policies.seeding import seeded
from ..report import SUPERVISED_PANELS, learning_curve
from ..run import Run, checkpoints
from ..timing import stage, stopwatch
from .algorithm import loop_of, prompting_of, try_out
from .choices import TextJob, command_of, to_json
from .material import Material, gather
from .measure import Measured, measure
from .outcome import profile_table, report

HOW_TO_GO_ON = "go on with: python -m agents resume {folder}"
WARMUP_MODEL = "warmup_model"


class JobError(ValueError):
    """A job that cannot be begun: what is wrong with what it was told, and what to do."""


class Outcome(NamedTuple):
    """What a job came to."""

    folder: Path
    policy: CausalLMPolicy
    run: Run
    warmup_nats: float  # held-out, a token
    entropy_rate: float | None
    before: dict[str, float]
    after: dict[str, float] | None  # None where it was interrupted
    seconds: float


def train(choice: TextJob, *, resume: bool = False) -> Outcome | None:
    """Do the whole job and return what came of it; None if Ctrl-C came during the warm-up.

    With `resume`, what the folder already holds is taken from there: the warm-up model, and the algorithm's newest checkpoint.
    """
    began, job, name = time.perf_counter(), choice.job, command_of(choice)
    torch.set_num_threads(job.threads)
    console = Console(quiet=job.quiet, highlight=False)
    with _refusing():
        material = gather(job.text, job.seed)
        folder = job.folder or Path("runs") / f"{name}-{material.name}-seed{job.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        judge, env = material.environment(job.num_eval, heldout=True), material.environment(job.num_envs)
        policy, warm = _language_model(choice, material, folder / WARMUP_MODEL, resume)
        policy.acting_dtype = None if job.model.acting_dtype == "float32" else torch.bfloat16
        policy.check_width(material.num_positions)
        prompting = prompting_of(choice, material)
        try_out(choice, material, policy, prompting)
        if not resume:
            _open_folder(folder, choice)
    for note in material.notes:
        console.print(note)
    console.print(f"model: {type(policy.model).__name__}, {sum(p.numel() for p in policy.model.parameters()):,} weights, on {torch.get_num_threads()} threads")
    console.print(f"acting: {policy.acts_by(job.num_envs, material.num_positions)}")
    if not warm and not _warm_up(choice, material, policy, folder):
        console.print(HOW_TO_GO_ON.format(folder=folder))
        return None
    nats = sft.next_token_nats(policy, material.heldout_texts)
    bound = f"; no model can go below {material.entropy_rate:.3f}, the text's entropy rate" if material.entropy_rate is not None else ""
    console.print(f"warm-up model: {nats:.3f} nats a token on held-out texts{bound}")
    reference = frozen_copy(policy)
    before = _measure(judge, reference, reference, material, np.random.default_rng([job.seed, 2]))
    with stopwatch() as watch:
        run = loop_of(choice, material, policy)(
            env,
            policy,
            choice.algorithm,
            seed=job.seed,
            reference=reference,
            prompting=prompting,
            num_prompts=None if prompting is None else len(material.train_prompts),
            evaluate=lambda generator: _evaluated(judge, policy, reference, material, generator),
            evaluate_every=job.evaluate_every,
            folder=folder,
            save_every=job.save_every,
            resume=resume and bool(checkpoints(folder)),
            quiet=job.quiet,
            title=f"{name} on {material.name}",
        )
    if job.profile:
        console.print(profile_table(watch, run.done))
    after = None
    if run.interrupted:
        console.print(HOW_TO_GO_ON.format(folder=folder))
    else:
        after = _measure(judge, policy, reference, material, np.random.default_rng([job.seed, 2]))
        facts = {"warmup_nats": nats, "entropy_rate": material.entropy_rate}
        report(folder, material, policy, run, before, after, facts, console, title=f"{name} on {material.name}")
    seconds = time.perf_counter() - began
    console.print(f"{seconds:.0f} s in all; everything is in {folder}")
    return Outcome(folder, policy, run, nats, material.entropy_rate, before.metrics, after.metrics if after else None, seconds)


def frozen_copy(policy: CausalLMPolicy) -> CausalLMPolicy:
    """Return a copy that nothing will change: the reference that the KL divergence is taken from."""
    reference = copy.deepcopy(policy)
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what is wrong with a job's choices into a `JobError`; what goes wrong later is no fault of theirs."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise JobError(str(error)) from error


def _open_folder(folder: Path, choice: TextJob) -> None:
    with new_folder(folder) as temporary:
        write_json(temporary / "config.json", to_json(replace(choice, job=replace(choice.job, folder=folder))))


def _language_model(choice: TextJob, material: Material, kept: Path, resume: bool) -> tuple[CausalLMPolicy, bool]:
    """Return the language model to begin with, and whether it is warmed up already."""
    vocab_size, size, seed = material.tokenizer.vocab_size, choice.job.model, choice.job.seed
    if resume and kept.is_dir():
        return CausalLMPolicy.load(kept, vocab_size), True
    if size.model is not None:
        with seeded(seed):
            return CausalLMPolicy(load_model(size.model), vocab_size), False
    eos_id = material.tokenizer.eos_id
    return small_gpt2(vocab_size, material.num_positions, eos_id=eos_id, width=size.width, layers=size.layers, heads=size.heads, seed=seed), False


def _warm_up(choice: TextJob, material: Material, policy: CausalLMPolicy, folder: Path) -> bool:
    """Train the language model on the texts and keep it; return False if Ctrl-C came."""
    run = sft.train(
        policy,
        material.train_texts,
        material.heldout_texts,
        choice.job.warmup,
        seed=choice.job.seed,
        folder=folder / "warmup",
        resume=bool(checkpoints(folder / "warmup")),
        quiet=choice.job.quiet,
    )
    if run.interrupted:
        return False
    with new_folder(folder / WARMUP_MODEL) as temporary:
        policy.save(temporary)
    if run.history:
        learning_curve(run.history, folder / "warmup" / "learning_curve.png", SUPERVISED_PANELS, title="Warm-up", x="iteration")
    return True


def _evaluated(env: AnyVectorEnv, policy: CausalLMPolicy, reference: CausalLMPolicy, material: Material, generator: np.random.Generator) -> dict[str, float]:
    with stage("held-out evaluation"):
        return _measure(env, policy, reference, material, generator).metrics


def _measure(env: AnyVectorEnv, policy: CausalLMPolicy, reference: CausalLMPolicy, material: Material, generator: np.random.Generator) -> Measured:
    return measure(env, policy, reference, material.tokenizer.eos_id, len(material.heldout_prompts), generator)
