"""The jobs of `python -m agents ppo`, `a2c` and `policy_gradient`: material, a language model warmed up on it, the algorithm, and what came of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console

from .. import sft
from ..files import new_folder
from ..policies import CausalLMPolicy
from ..report import SUPERVISED_PANELS, learning_curve
from ..run import Run
from ..timing import stage, stopwatch
from .algorithm import loop_of, prompting_of, try_out
from .beginning import JobError, folder_of, introduce, language_model, open_folder, prepared, refusing, say_how_to_go_on, stoppable, taken_up
from .choices import TextJob, command_of
from .material import Material, gather
from .measure import Measured, measure
from .outcome import Facts, profile_table, report

__all__ = ["JobError", "Outcome", "frozen_copy", "train"]

WARMUP_MODEL = "warmup_model"


class Outcome(NamedTuple):
    """What a job came to."""

    folder: Path
    policy: CausalLMPolicy
    run: Run
    warmup_nats: float  # held-out, a token; of supervised training alone, those at its end
    entropy_rate: float | None
    before: dict[str, float]
    after: dict[str, float] | None  # None where it was interrupted
    seconds: float


class _Begun(NamedTuple):
    """A job that could be begun."""

    material: Material
    folder: Path
    policy: CausalLMPolicy
    warm: bool  # the policy has been warmed up before


def train(choice: TextJob, *, resume: bool = False) -> Outcome | None:
    """Do the whole job and return what came of it; None if Ctrl-C came during the warm-up.

    With `resume`, what the folder already holds is taken from there: the warm-up model, and the algorithm's newest checkpoint.
    """
    began = time.perf_counter()
    torch.set_num_threads(choice.job.threads)
    console = Console(quiet=choice.job.quiet, highlight=False)
    with refusing():
        begun = _begin(choice, resume)
    with stoppable(begun.folder):
        introduce(console, begun.material, begun.policy, choice.job.num_envs)
        if not begun.warm and not _warm_up(choice, begun):
            say_how_to_go_on(begun.folder)
            return None
        return _learn(choice, begun, resume, console, began)


def _begin(choice: TextJob, resume: bool) -> _Begun:
    job = choice.job
    material = gather(job.text, job.seed)
    folder = folder_of(choice, material)
    warm = resume and (folder / WARMUP_MODEL).is_dir()
    if warm:
        policy = prepared(CausalLMPolicy.load(folder / WARMUP_MODEL, material.tokenizer.vocab_size), job.model, material)
    else:
        policy = language_model(job.model, job.seed, material)
    try_out(choice, material, policy, prompting_of(choice, material))
    if not resume:
        open_folder(folder, choice)
    return _Begun(material, folder, policy, warm)


def _learn(choice: TextJob, begun: _Begun, resume: bool, console: Console, began: float) -> Outcome:
    """Do what comes after the warm-up."""
    job, name, (material, folder, policy, _) = choice.job, command_of(choice), begun
    nats = sft.next_token_nats(policy, material.heldout_texts)
    bound = f"; no model can go below {material.entropy_rate:.3f}, the text's entropy rate" if material.entropy_rate is not None else ""
    console.print(f"warm-up model: {nats:.3f} nats a token on held-out texts{bound}")
    reference, prompting, judge = frozen_copy(policy), prompting_of(choice, material), material.environment(job.num_eval, heldout=True)

    def look(policy: CausalLMPolicy, generator: np.random.Generator) -> Measured:
        return measure(judge, policy, reference, material.tokenizer.eos_id, len(material.heldout_prompts), generator)

    before = look(reference, heldout_generator(job.seed))
    with stopwatch() as watch:
        run = loop_of(choice, material, policy)(
            material.environment(job.num_envs),
            policy,
            choice.algorithm,
            seed=job.seed,
            reference=reference,
            prompting=prompting,
            num_prompts=None if prompting is None else len(material.train_prompts),
            evaluate=_staged(look, policy),
            evaluate_every=job.evaluate_every,
            folder=folder,
            save_every=job.save_every,
            resume=resume and taken_up(folder),
            quiet=job.quiet,
            title=f"{name} on {material.name}",
        )
    if job.profile:
        console.print(profile_table(watch, run.done))
    after = None
    if run.interrupted:
        say_how_to_go_on(folder)
    else:
        after = look(policy, heldout_generator(job.seed))
        facts = Facts(choice, {"warmup_nats": nats, "entropy_rate": material.entropy_rate}, before, after)
        report(folder, material, policy, run, facts, console)
    seconds = time.perf_counter() - began
    console.print(f"{seconds:.0f} s in all; everything is in {folder}")
    return Outcome(folder, policy, run, nats, material.entropy_rate, before.metrics, after.metrics if after else None, seconds)


def heldout_generator(seed: int) -> np.random.Generator:
    """Return the stream that the held-out samples before and after are drawn by: the same for both."""
    return np.random.default_rng([seed, 2])


def frozen_copy(policy: CausalLMPolicy) -> CausalLMPolicy:
    """Return a copy that nothing will change: the reference that the KL divergence is taken from."""
    reference = copy.deepcopy(policy)
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference


def _staged(look: Callable[[CausalLMPolicy, np.random.Generator], Measured], policy: CausalLMPolicy) -> Callable[[np.random.Generator], dict[str, float]]:
    """Return `look` at the policy that is trained, as a stage of the profile."""

    def evaluate(generator: np.random.Generator) -> dict[str, float]:
        with stage("held-out evaluation"):
            return look(policy, generator).metrics

    return evaluate


def _warm_up(choice: TextJob, begun: _Begun) -> bool:
    """Train the language model on the texts and keep it; return False if Ctrl-C came."""
    folder = begun.folder / "warmup"
    run = sft.train(
        begun.policy,
        begun.material.train_texts,
        begun.material.heldout_texts,
        choice.job.warmup,
        seed=choice.job.seed,
        folder=folder,
        resume=taken_up(folder),
        quiet=choice.job.quiet,
    )
    if run.interrupted:
        return False
    with new_folder(begun.folder / WARMUP_MODEL) as temporary:
        begun.policy.save(temporary)
    if run.history:
        learning_curve(run.history, folder / "learning_curve.png", SUPERVISED_PANELS, title="Warm-up", x="iteration")
    return True
