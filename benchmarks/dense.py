"""What dense rewards save: `python -m benchmarks.dense`.

PPO on two diagnostic tasks, paid at the end or as the score grows, all else equal: generated tokens until the mean score of held-out
prompts, sampled, passes 0.5 and 0.9 of the best. A dense return lacks what the prompt was worth, so scores are compared and not returns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro

import textgym  # noqa: F401 (registers the suite)
from agents import ppo
from agents.advantages import GAE
from agents.files import write_json
from agents.play import evaluate
from agents.policies import small_gpt2
from textgym.toy.tokens import best_return

from .machine import describe, print_table

THRESHOLDS = (0.5, 0.9)  # of the best return
HELD_OUT = 128  # prompts


@dataclass(frozen=True)
class Choices:
    """Train PPO on sparse and on dense rewards and count the tokens that it needs."""

    tasks: tuple[str, ...] = ("Successor", "Copy")
    """Names of diagnostic tasks with dense rewards."""
    seeds: int = 3
    """How many seeds, from 0 on."""
    limit: int = 120_000
    """Generated tokens after which a run is given up."""
    vocab_size: int = 8
    """Ids; 32, with 16 new tokens, is the field's reference size, where sparse rewards need far more than the limit."""
    prompt_tokens: int = 4
    """Tokens of a prompt."""
    max_new_tokens: int = 12
    """Tokens to be generated."""
    width: int = 64
    """Hidden size of the GPT-2, which has two layers of four heads."""
    quick: bool = False
    """A smoke test: one seed, two iterations."""
    json: Path | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Result:
    """One run."""

    task: str
    dense: bool
    seed: int
    tokens: list[int]  # generated when each score was measured
    scores: list[float]  # mean of the held-out prompts
    passed: list[int | None]  # tokens at each of THRESHOLDS, None beyond the limit
    seconds: float


class Passed(Exception):
    """The last threshold is behind us: the run has nothing more to show."""


def measure(choices: Choices, task: str, dense: bool, seed: int) -> Result:
    """Train on the train split until the last threshold is passed on the test split, or the limit is reached."""
    id = f"textgym/{task}-v0"
    sizes: dict[str, Any] = {"vocab_size": choices.vocab_size, "prompt_tokens": choices.prompt_tokens, "max_new_tokens": choices.max_new_tokens}
    env = gym.make_vec(id, num_envs=64, autoreset_mode="SameStep", split="train", dense=dense, **sizes)
    judge = gym.make_vec(id, num_envs=HELD_OUT, autoreset_mode="SameStep", split="test", **sizes)
    width = choices.prompt_tokens + choices.max_new_tokens
    policy = small_gpt2(choices.vocab_size, width, eos_id=choices.vocab_size - 1, width=choices.width, layers=2, heads=4, seed=seed)
    config = ppo.Config(
        total_timesteps=choices.limit,
        num_steps=choices.max_new_tokens,
        anneal_lr=False,  # or the limit would be one of the settings
        advantage=GAE(gamma=1.0, gae_lambda=0.95),
        num_epochs=4,
        ent_coef=0.01,
    )
    bars = [share * best_return(id, **sizes) for share in THRESHOLDS]
    scores: list[float] = []

    def score(generator: np.random.Generator) -> dict[str, float]:
        scores.append(float(evaluate(judge, policy, generator, seed=1).ends["score"].mean()))
        if scores[-1] >= bars[-1]:
            raise Passed
        return {"score": scores[-1]}

    began, every = time.perf_counter(), 2
    with suppress(Passed):
        ppo.train(env, policy, config, seed=seed, evaluate=score, evaluate_every=every, quiet=True)
    tokens = [min(every * (i + 1) * 64 * choices.max_new_tokens, choices.limit) for i in range(len(scores))]
    passed = [next((at for at, value in zip(tokens, scores, strict=True) if value >= bar), None) for bar in bars]
    return Result(task, dense, seed, tokens, scores, passed, time.perf_counter() - began)


def spoken(found: Sequence[int | None], limit: int) -> str:
    """Return the median of some counts of tokens and their range; a run that was given up counts as beyond the limit."""
    counts = [limit + 1 if count is None else count for count in found]
    low, middle, high = (f"> {limit:,}" if count > limit else f"{round(count):,}" for count in (min(counts), statistics.median(counts), max(counts)))
    return f"{middle} ({low} to {high})" if len(counts) > 1 else middle


def rows_of(results: Sequence[Result], limit: int) -> list[tuple[str, ...]]:
    """Return a row for each task and kind of reward."""
    kinds = dict.fromkeys((result.task, result.dense) for result in results)
    table = []
    for task, dense in kinds:
        mine = [result for result in results if (result.task, result.dense) == (task, dense)]
        last = statistics.median(result.scores[-1] for result in mine)
        found = [spoken([result.passed[i] for result in mine], limit) for i in range(len(THRESHOLDS))]
        table.append((task, "dense" if dense else "sparse", *found, f"{last:.2f}", f"{sum(result.seconds for result in mine):.0f}"))
    return table


def main(choices: Choices) -> None:
    """Train, print and write."""
    torch.set_num_threads(1)
    if choices.quick:
        choices = Choices(**{**asdict(choices), "seeds": 1, "limit": 2 * 64 * choices.max_new_tokens})
    machine = describe("numpy", "torch", "transformers")
    print(machine)
    runs = [(task, dense, seed) for task in choices.tasks for dense in (False, True) for seed in range(choices.seeds)]
    results = []
    for task, dense, seed in runs:
        results.append(measure(choices, task, dense, seed))
        print(f"{task}, {'dense' if dense else 'sparse'}, seed {seed}: {results[-1].scores[-1]:.2f} after {results[-1].tokens[-1]:,} tokens", flush=True)
    columns = ("task", "reward", *(f"tokens to {share} of the best" for share in THRESHOLDS), "last score", "seconds")
    print_table(f"PPO, sparse and dense: median and range of {choices.seeds} seeds", columns, rows_of(results, choices.limit))
    if choices.json:
        write_json(choices.json, {"machine": machine, "choices": {**asdict(choices), "json": None}, "results": [asdict(result) for result in results]})


if __name__ == "__main__":
    main(tyro.cli(Choices, description=__doc__))
