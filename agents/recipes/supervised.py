"""The job of `python -m agents sft`: supervised training of a language model on texts, standing alone."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console

from .. import sft
from ..policies import CausalLMPolicy
from ..run import Run
from .beginning import folder_of, introduce, language_model, open_folder, refusing, say_how_to_go_on, stoppable, taken_up
from .choices import SFTText
from .job import Outcome, heldout_generator
from .material import Material, gather
from .measure import Measured, measure
from .outcome import Facts, report


def supervise(choice: SFTText, *, resume: bool = False) -> Outcome:
    """Train a language model on texts and return what came of it, all of it from the folder's newest checkpoint on with `resume`."""
    began, job = time.perf_counter(), choice.job
    torch.set_num_threads(job.threads)
    console = Console(quiet=job.quiet, highlight=False)
    with refusing():
        material = gather(job.text, job.seed, judged=False)
        folder = folder_of(choice, material)
        policy = language_model(job.model, job.seed, material)
        if not resume:
            open_folder(folder, choice)
    with stoppable(folder):
        introduce(console, material, policy, job.num_eval)
        before = look(policy, material, job.num_eval, job.seed)
        run = _run(choice, material, policy, folder, resume)
        after = None
        if run.interrupted:
            say_how_to_go_on(folder)
        else:
            after = look(policy, material, job.num_eval, job.seed)
            report(folder, material, policy, run, Facts(choice, {"entropy_rate": material.entropy_rate}, before, after), console)
    seconds = time.perf_counter() - began
    console.print(f"{seconds:.0f} s in all; everything is in {folder}")
    told = after or before
    return Outcome(folder, policy, run, told.metrics["nats"], material.entropy_rate, before.metrics, after.metrics if after else None, seconds)


def _run(choice: SFTText, material: Material, policy: CausalLMPolicy, folder: Path, resume: bool) -> Run:
    return sft.train(
        policy,
        material.train_texts,
        material.heldout_texts,
        choice.algorithm,
        seed=choice.job.seed,
        folder=folder,
        resume=resume and taken_up(folder),
        quiet=choice.job.quiet,
        title=f"sft on {material.name}",
    )


def look(policy: CausalLMPolicy, material: Material, num_eval: int, seed: int) -> Measured:
    """Return what a language model is like: "nats" and "accuracy" a token of the held-out texts, and what its held-out samples are."""
    env = material.environment(num_eval, heldout=True)
    found = measure(env, policy, None, material.tokenizer.eos_id, len(material.heldout_prompts), heldout_generator(seed))
    judged = sft.judge(policy, material.heldout_texts)
    samples = {name: value for name, value in found.metrics.items() if name != "score" or material.is_judged}
    return found._replace(metrics={"nats": judged.loss, "accuracy": judged.accuracy, **samples})
