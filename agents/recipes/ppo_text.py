"""The job of `python -m agents ppo`: material, a language model warmed up on it, PPO, and what came of it.

Axis legend: E held-out samples.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from textgym import tokenizers

from .. import ppo, sft
from ..advantages import estimate
from ..files import new_folder, write_json
from ..play import AnyVectorEnv, begin, collect
from ..policies import CausalLMPolicy
from ..policies.causal_lm import small_gpt2
from ..policies.local_models import load_model
from ..policies.seeding import seeded
from ..providing import provided
from ..report import SUPERVISED_PANELS, Sample, learning_curve, samples_markdown
from ..run import Run, checkpoints
from .choices import PPOText, to_json
from .material import Material, gather
from .measure import Measured, measure

HOW_TO_GO_ON = "go on with: python -m agents resume {folder}"
WARMUP_MODEL = "warmup_model"
NUM_SHOWN = 6  # prompts continued before and after
EXPLAINED = {
    "score": "mean score, which is paid",
    "gold": "measured, never paid",
    "kl": "nats a sample from the warm-up model",
    "eos": "share that end themselves",
    "distinct": "share of different continuations",
    "distinct_2": "share of different bigrams",
    "length": "tokens generated",
}


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


def train(job: PPOText, *, resume: bool = False) -> Outcome | None:
    """Do the whole job and return what came of it; None if Ctrl-C came during the warm-up.

    With `resume`, what the folder already holds is taken from there: the warm-up model, and PPO's newest checkpoint.
    """
    began = time.perf_counter()
    torch.set_num_threads(job.threads)
    console = Console(quiet=job.quiet, highlight=False)
    with _refusing():
        material = gather(job.text, job.seed)
        folder = job.folder or Path("runs") / f"ppo-{material.name}-seed{job.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
        judge, env = material.environment(job.num_eval, heldout=True), material.environment(job.num_envs)
        policy, warm = _language_model(job, material, folder / WARMUP_MODEL, resume)
        policy.check_width(material.num_positions)
        _try_out(job, material, policy)
        if not resume:
            _open_folder(folder, job)
    for note in material.notes:
        console.print(note)
    console.print(f"model: {type(policy.model).__name__}, {sum(p.numel() for p in policy.model.parameters()):,} weights, on {torch.get_num_threads()} threads")
    if not warm and not _warm_up(job, material, policy, folder):
        console.print(HOW_TO_GO_ON.format(folder=folder))
        return None
    nats = sft.next_token_nats(policy, material.heldout_texts)
    bound = f"; no model can go below {material.entropy_rate:.3f}, the text's entropy rate" if material.entropy_rate is not None else ""
    console.print(f"warm-up model: {nats:.3f} nats a token on held-out texts{bound}")
    reference = frozen_copy(policy)
    before = _measure(judge, reference, reference, material, np.random.default_rng([job.seed, 2]))
    run = ppo.train(
        env,
        policy,
        job.ppo,
        seed=job.seed,
        reference=reference,
        evaluate=lambda generator: _measure(judge, policy, reference, material, generator).metrics,
        evaluate_every=job.evaluate_every,
        folder=folder,
        save_every=job.save_every,
        resume=resume and bool(checkpoints(folder)),
        quiet=job.quiet,
        title=f"ppo on {material.name}",
    )
    after = None
    if run.interrupted:
        console.print(HOW_TO_GO_ON.format(folder=folder))
    else:
        after = _measure(judge, policy, reference, material, np.random.default_rng([job.seed, 2]))
        _report(folder, material, policy, run, before, after, {"warmup_nats": nats, "entropy_rate": material.entropy_rate}, console)
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


def _try_out(job: PPOText, material: Material, policy: CausalLMPolicy) -> None:
    """Let scorers and estimator do their work once: what is wrong with them should not come to light after the warm-up."""
    generator = np.random.default_rng(0)
    provided(job.ppo, material.environment(2), policy, None)
    for heldout in (False, True):
        env = material.environment(2, heldout=heldout)
        played = collect(env, policy, begin(env, policy, seed=0), generator, episodes_per_row=job.ppo.episodes_per_row or 1)
        if job.ppo.episodes_per_row is None:
            played = collect(env, policy, played.position, generator, num_steps=1)  # windows begin anywhere
            played = collect(env, policy, played.position, generator, num_steps=job.ppo.num_steps)
        rollout = played.rollout  # what play will fill in for some estimators
        estimate(job.ppo.advantage, rollout._replace(baselines=np.zeros(rollout.valid.shape), target_log_probs=rollout.log_probs))


def _open_folder(folder: Path, job: PPOText) -> None:
    with new_folder(folder) as temporary:
        write_json(temporary / "config.json", to_json(replace(job, folder=folder)))


def _language_model(job: PPOText, material: Material, kept: Path, resume: bool) -> tuple[CausalLMPolicy, bool]:
    """Return the language model to begin with, and whether it is warmed up already."""
    vocab_size = material.tokenizer.vocab_size
    if resume and kept.is_dir():
        return CausalLMPolicy.load(kept, vocab_size), True
    if job.model.model is not None:
        with seeded(job.seed):
            return CausalLMPolicy(load_model(job.model.model), vocab_size), False
    size, eos_id = job.model, material.tokenizer.eos_id
    policy = small_gpt2(vocab_size, material.num_positions, eos_id=eos_id, width=size.width, layers=size.layers, heads=size.heads, seed=job.seed)
    return policy, False


def _warm_up(job: PPOText, material: Material, policy: CausalLMPolicy, folder: Path) -> bool:
    """Train the language model on the texts and keep it; return False if Ctrl-C came."""
    run = sft.train(
        policy,
        material.train_texts,
        material.heldout_texts,
        job.warmup,
        seed=job.seed,
        folder=folder / "warmup",
        resume=bool(checkpoints(folder / "warmup")),
        quiet=job.quiet,
    )
    if run.interrupted:
        return False
    with new_folder(folder / WARMUP_MODEL) as temporary:
        policy.save(temporary)
    if run.history:
        learning_curve(run.history, folder / "warmup" / "learning_curve.png", SUPERVISED_PANELS, title="Warm-up", x="iteration")
    return True


def _measure(env: AnyVectorEnv, policy: CausalLMPolicy, reference: CausalLMPolicy, material: Material, generator: np.random.Generator) -> Measured:
    return measure(env, policy, reference, material.tokenizer.eos_id, len(material.heldout_prompts), generator)


def _report(
    folder: Path, material: Material, policy: CausalLMPolicy, run: Run, before: Measured, after: Measured, facts: Mapping[str, Any], console: Console
) -> None:
    """Write and print what came of it: weights, figures, a learning curve and samples."""
    with new_folder(folder / "policy", replace=True) as temporary:
        policy.save(temporary)
        tokenizers.save(material.tokenizer, temporary)
        if isinstance(material.tokenizer, tokenizers.WordTokenizer):  # so that plain transformers can read the folder
            tokenizers.to_transformers(material.tokenizer).save_pretrained(str(temporary))
    write_json(folder / "evaluation.json", {**facts, "before": before.metrics, "after": after.metrics, "gold": material.gold_name})
    learning_curve(run.history, folder / "learning_curve.png", title=f"PPO on {material.name}")
    rows = [_sample(material, row, before, after) for row in range(min(NUM_SHOWN, len(before.tokens)))]
    samples_markdown(rows, folder / "samples.md")
    table = Table(title=f"{len(before.tokens):,} held-out samples", title_justify="left")
    for heading in ("", "before", "after", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for name in [name for name in EXPLAINED if name in after.metrics]:
        meaning = f"{material.gold_name}: {EXPLAINED[name]}" if name == "gold" else EXPLAINED[name]
        table.add_row(name, f"{before.metrics[name]:.3f}", f"{after.metrics[name]:.3f}", meaning)
    console.print(table)
    samples = Table(title="The same held-out prompts, continued before and after", title_justify="left", show_lines=True)
    for heading in ("prompt", "before", "after"):
        samples.add_column(heading)
    for sample in rows:
        samples.add_row(sample.prompt, f"{sample.before}  ({sample.score_before:.2f})", f"{sample.after}  ({sample.score_after:.2f})")
    console.print(samples)


def _sample(material: Material, row: int, before: Measured, after: Measured) -> Sample:
    decode = material.tokenizer.decode
    prompt = material.heldout_prompts[row % len(material.heldout_prompts)].text
    return Sample(prompt, decode(before.tokens[row]), decode(after.tokens[row]), before.scores[row], after.scores[row])
