"""PPO at the field's reference size: `python -m benchmarks.tokens --seeds 5`.

Even, Successor and Copy with 32 ids, 4 prompt tokens, 16 generated and one reward at the end; a GPT-2 of 2 layers of 128, from scratch, and one
configuration for all. Counted: generated tokens until the mean score of held-out prompts, sampled after every iteration, passes a threshold.
What the judge generates is not counted. Others measure the mean return of the episodes that they train on; with 16 episodes an iteration that is too
noisy, and passes a threshold by luck. Tokens are what is saved here, not time: there is an optimiser step for every 16 of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

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

from .dense import Passed, spoken
from .machine import describe, print_table

ENVS = 16  # episodes of an iteration, or a few more where they end early
TOKENS = 16  # of an episode
CONFIG = ppo.Config(
    num_steps=TOKENS,
    learning_rate=1e-3,
    anneal_lr=False,  # or the limit would be one of the settings
    advantage=GAE(gamma=1.0, gae_lambda=0.9),
    num_epochs=4,
    ent_coef=0.015,
    vf_coef=20.0,  # a right token earns 1 / 16, so that squared errors of the critic are near 0.001, and the loss of the policy near 0.05
)
"""The one configuration, chosen on seeds 100 to 102."""
HELD_OUT = 128  # episodes, of the test split
THRESHOLDS: Mapping[str, Mapping[float, int | None]] = {"Even": {0.9: 18_000}, "Successor": {0.5: 45_000, 0.9: None}, "Copy": {0.5: None}}
"""Scores (the best is 1) and within how many tokens the median is to pass them; None: reported, no bar."""


@dataclass(frozen=True)
class Choices:
    """Train PPO on tasks with a terminal reward and count the tokens that it needs."""

    tasks: tuple[str, ...] = tuple(THRESHOLDS)
    """Names of diagnostic tasks: Even, Successor, Copy."""
    seeds: int = 5
    """How many seeds, from 0 on."""
    limit: int = 120_000
    """Generated tokens after which a run is given up."""
    quick: bool = False
    """A smoke test: one seed, two iterations."""
    json: Path | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Result:
    """One run."""

    task: str
    seed: int
    tokens: list[int]  # generated when each score was measured
    scores: list[float]  # mean of the held-out prompts
    passed: dict[str, int | None]  # tokens at each threshold, None beyond the limit
    seconds: float


def measure(task: str, seed: int, limit: int, config: ppo.Config = CONFIG, envs: int = ENVS, held_out: int = HELD_OUT) -> Result:
    """Train on the train split until the task's last threshold is passed on the test split, or `limit` tokens are generated."""
    env = gym.make_vec(f"textgym/{task}-v0", num_envs=envs, autoreset_mode="SameStep", split="train")
    judge = gym.make_vec(f"textgym/{task}-v0", num_envs=held_out, autoreset_mode="SameStep", split="test")
    policy = small_gpt2(vocab_size=32, num_positions=20, eos_id=31, width=128, layers=2, heads=4, seed=seed)
    scores: list[float] = []

    def score(generator: np.random.Generator) -> dict[str, float]:
        scores.append(float(evaluate(judge, policy, generator, seed=1).ends["score"].mean()))
        if scores[-1] >= max(THRESHOLDS[task]):
            raise Passed
        return {"score": scores[-1]}

    began = time.perf_counter()
    with suppress(Passed):
        ppo.train(env, policy, replace(config, total_timesteps=limit), seed=seed, evaluate=score, evaluate_every=1, quiet=True)
    tokens = [(i + 1) * envs * config.num_steps for i in range(len(scores))]
    passed = {str(bar): next((at for at, value in zip(tokens, scores, strict=True) if value >= bar), None) for bar in THRESHOLDS[task]}
    return Result(task, seed, tokens, scores, passed, time.perf_counter() - began)


def rows_of(results: Sequence[Result], limit: int) -> list[tuple[str, ...]]:
    """Return a row for each task and threshold."""
    table: list[tuple[str, ...]] = []
    for task, bar in dict.fromkeys((result.task, float(bar)) for result in results for bar in result.passed):
        mine = [result for result in results if result.task == task]
        found, within = [result.passed[str(bar)] for result in mine], THRESHOLDS[task][bar]
        each = " ".join("-" if at is None else f"{at:,}" for at in found)
        last = statistics.median(result.scores[-1] for result in mine)
        seconds = sum(result.seconds for result in mine)
        table.append((f"{task} to {bar}", spoken(found, limit), "" if within is None else f"{within:,}", each, f"{last:.2f}", f"{seconds:.0f}"))
    return table


def main(choices: Choices) -> None:
    """Train, print and write."""
    torch.set_num_threads(1)
    if unknown := [task for task in choices.tasks if task not in THRESHOLDS]:
        raise SystemExit(f"This benchmark has no task {unknown[0]!r}: choose from {', '.join(THRESHOLDS)}.")
    if choices.quick:
        choices = replace(choices, seeds=1, limit=2 * ENVS * TOKENS)
    machine = describe("numpy", "torch", "transformers")
    print(machine)
    results = []
    for task, seed in ((task, seed) for task in choices.tasks for seed in range(choices.seeds)):
        results.append(measure(task, seed, choices.limit))
        print(f"{task}, seed {seed}: {results[-1].scores[-1]:.2f} after {results[-1].tokens[-1]:,} tokens, passed {results[-1].passed}", flush=True)
    columns = ("score", "tokens", "bar", "of each seed", "last score", "seconds")
    print_table(f"PPO, terminal reward: generated tokens, median and range of {choices.seeds} seeds", columns, rows_of(results, choices.limit))
    if choices.json:
        figures = [asdict(result) for result in results]
        settings = {"envs": ENVS, **asdict(CONFIG)}
        write_json(choices.json, {"machine": machine, "choices": {**asdict(choices), "json": None}, "settings": settings, "results": figures})


if __name__ == "__main__":
    main(tyro.cli(Choices, description=__doc__))
