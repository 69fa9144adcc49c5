"""The command `eval`: what the policy of a run is worth on held-out prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.console import Console
from tyro.conf import Positional, arg

from .. import sft
from ..policies import CausalLMPolicy
from .beginning import refusing
from .choices import AnyJob, SFTText
from .job import heldout_generator
from .material import Material
from .measure import Measured, measure
from .outcome import metrics_table
from .supervised import look
from .trained import Trained, load


@dataclass(frozen=True)
class Examination:
    """What `eval` may be told."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder of ppo, a2c, policy_gradient or sft."""
    num_eval: int | None = None
    """Held-out samples; None: as many as in training."""
    seed: int | None = None
    """Of the samples; None: that of training. The prompts are always the same, those held out in training."""
    json: bool = False
    """Print JSON with the intervals instead of a table."""

    def __post_init__(self) -> None:
        if self.num_eval is not None and self.num_eval < 1:
            raise ValueError(f"--num-eval must be at least 1, got {self.num_eval}.")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"--seed must be at least 0, got {self.seed}.")


def examine(choice: AnyJob, asked: Examination) -> int:
    """Print what a run's policy is like on held-out prompts, beside what it started from; return 0."""
    torch.set_num_threads(choice.job.threads)
    with refusing():
        trained = load(choice)
    num_eval, seed = asked.num_eval or choice.job.num_eval, choice.job.seed if asked.seed is None else asked.seed
    before, after = measured(choice, trained, num_eval, seed)
    if asked.json:
        both = {"before": before, "after": after}
        told: dict[str, Any] = {"run": str(asked.run), "stage": trained.stage, "num_eval": num_eval, "seed": seed, "gold": trained.material.gold_name}
        told |= {name: one.metrics for name, one in both.items()}
        told["intervals"] = {name: {metric: one.interval(metric) for metric in one.errors if metric in one.metrics} for name, one in both.items()}
        print(json.dumps(told, indent=2, allow_nan=False))
    else:
        console = Console(highlight=False)
        console.print(f"{asked.run}: {trained.stage}, seed {seed}")
        console.print(metrics_table(trained.material, {"before": before, "after": after}, intervals=True))
    return 0


def measured(choice: AnyJob, trained: Trained, num_eval: int, seed: int) -> tuple[Measured, Measured]:
    """Return what held-out samples are like before and after: those of the training itself, where number and seed are its own."""
    material = trained.material
    if isinstance(choice, SFTText):
        return look(trained.start, material, num_eval, seed), look(trained.policy, material, num_eval, seed)
    env = material.environment(num_eval, heldout=True)

    def play(policy: CausalLMPolicy) -> Measured:
        found = measure(env, policy, trained.start, material.tokenizer.eos_id, len(material.heldout_prompts), heldout_generator(seed))
        return found._replace(metrics={"nats": nats(policy, material), **found.metrics})

    return play(trained.start), play(trained.policy)


def nats(policy: CausalLMPolicy, material: Material) -> float:
    """Return the mean cross-entropy on the held-out texts, in nats a token: what reward has cost of the language."""
    return sft.next_token_nats(policy, material.heldout_texts)
