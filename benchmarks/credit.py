"""Credit for a token, for four or for the whole response: `python -m benchmarks.credit`.

One task, one scorer; the environment's option `chunk` decides how much of a text is one action, and so what a critic and an
advantage can tell apart. First the gradient: estimates of each level against the exact one. Then learning: generated tokens
until the score is 0.9, by the same PPO, on Recall and on the default text task.

What to expect. Without a critic, or with an exact one as a mere baseline, a smaller action wins nothing: only who bootstraps from a
critic can give tokens credit of their own. From an exact critic that halves the variance; from one that is still learning it brings a
bias, which a whole response does not have. On Recall, where one token counts, small actions learn from two thirds of the tokens that
a whole response needs; on the film reviews, from a warm model, they win nothing, and the whole response was ahead by a little.

Axis legend: T steps, N environments, K batches.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import VectorWrapper

from agents import ppo, sft
from agents.advantages import GAE
from agents.files import write_json
from agents.kl import FixedKL
from agents.policies import CausalLMPolicy, small_gpt2
from agents.recipes import Text
from agents.recipes.job import frozen_copy
from agents.recipes.material import gather

from .credit_gradients import ESTIMATORS, LEVELS, Quality, estimates, exact, half_trained, quality
from .machine import describe, print_table

GOAL = 0.9
RECALL: dict[str, Any] = {"vocab_size": 8, "prompt_tokens": 4, "max_new_tokens": 8}  # the defaults, spelled out
RECALL_PPO = ppo.Config(num_steps=8, learning_rate=3e-3, anneal_lr=False, advantage=GAE(gamma=1.0, gae_lambda=0.95), ent_coef=0.01)
TEXT_PPO = ppo.Config(kl=FixedKL(0.06))  # that of `python -m agents ppo`


@dataclass(frozen=True)
class Choices:
    """Compare levels of credit."""

    parts: tuple[str, ...] = ("gradient", "recall", "text")
    """What to measure."""
    batches: int = 200
    """Gradient estimates of each kind."""
    episodes: int = 64
    """Texts of one estimate."""
    seeds: int = 3
    """Learning runs of each level, from seed 0 on."""
    quick: bool = False
    """A smoke test: a twentieth of the batches and of the steps, and one seed."""
    json: Path | None = None
    """File for the figures."""


class CountingTokens(VectorWrapper):
    """Counts the tokens that are written, whatever the size of an action (SAME_STEP mode)."""

    tokens = 0

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and count what was not dropped."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        told = infos.get("dropped_tokens", np.zeros(self.num_envs, np.int64))
        ended = infos.get("final_info", {}).get("dropped_tokens", told)
        self.tokens += int(np.size(actions) - np.where(terminated, ended, told).sum())
        return observations, rewards, terminated, truncated, infos


class Job(NamedTuple):
    """A task, where learning on it begins, and how it goes on; everything but the level of credit."""

    title: str
    levels: dict[str, int]
    environment: Callable[[int], Any]  # of a chunk
    beginning: Callable[[int], CausalLMPolicy]  # of a seed
    config: ppo.Config
    iterations: int
    text_length: int  # tokens of a usual text
    priced: bool  # by the KL divergence from the beginning


class Curve(NamedTuple):
    """Generated tokens and mean score, iteration by iteration."""

    tokens: list[int]
    scores: list[float]

    @property
    def reached(self) -> int | None:
        """Return the tokens after which the mean of three iterations in a row is at the goal; None if it never is."""
        for i in range(2, len(self.scores)):
            if np.mean(self.scores[i - 2 : i + 1]) >= GOAL:
                return self.tokens[i]
        return None


def recall_job(choices: Choices) -> Job:
    """Return the job of learning Recall from nothing."""
    return Job(
        title="Recall-v0, 8 ids, 8 tokens, from random weights",
        levels=LEVELS,
        environment=lambda chunk: gym.make_vec("textgym/Recall-v0", num_envs=128, autoreset_mode="SameStep", chunk=chunk, **RECALL),
        beginning=lambda seed: small_gpt2(8, 12, eos_id=7, width=32, layers=2, heads=2, seed=seed),
        config=RECALL_PPO,
        iterations=8 if choices.quick else 70,
        text_length=8,
        priced=False,
    )


def text_job(choices: Choices) -> Job:
    """Return the job of `python -m agents ppo`: film reviews, from the model that has learned their language."""
    material = gather(Text(), 0)
    tokenizer, budget = material.tokenizer, material.max_new_tokens

    def environment(chunk: int) -> Any:
        options: dict[str, Any] = {"prompts": material.train_prompts, "tokenizer": tokenizer, "scorer": material.scorer}
        return gym.make_vec("TextGen-v0", num_envs=128, autoreset_mode="SameStep", chunk=chunk, **options)

    def beginning(seed: int) -> CausalLMPolicy:
        texts, policy = gather(Text(), seed), small_gpt2(tokenizer.vocab_size, material.num_positions, eos_id=tokenizer.eos_id, seed=seed)
        sft.train(policy, texts.train_texts, texts.heldout_texts, _warm_up(choices), seed=seed, quiet=True)
        return policy

    return Job(
        title="TextGen-v0, film reviews, from the warm-up model",
        levels={"token": 1, "4 tokens": 4, "whole response": budget},
        environment=environment,
        beginning=beginning,
        config=TEXT_PPO,
        iterations=2 if choices.quick else 39,
        text_length=11,
        priced=True,
    )


def _warm_up(choices: Choices) -> sft.Config:
    return replace(sft.Config(), num_updates=20) if choices.quick else sft.Config()


def learn(job: Job, beginning: CausalLMPolicy, chunk: int, seed: int) -> Curve:
    """Train a copy of `beginning` with chunks as actions; every iteration has about as many tokens at every level."""
    env, policy = CountingTokens(job.environment(chunk)), frozen_copy(beginning)
    policy.requires_grad_(True)
    policy.chunk = chunk
    reference = frozen_copy(policy) if job.priced else None
    window = _window(job, chunk)
    config = replace(job.config, num_steps=window, total_timesteps=window * env.num_envs * job.iterations)
    run = ppo.train(
        env, policy, config, seed=seed, reference=reference, evaluate=lambda generator: {"tokens": env.tokens}, evaluate_every=1, save_every=None, quiet=True
    )
    return Curve([int(one["eval/tokens"]) for one in run.history], [one["return"] for one in run.history])


def _window(job: Job, chunk: int) -> int:
    """Return how many actions a row takes between two updates, so that an update has about as many tokens at every level."""
    tokens_an_action = job.text_length / math.ceil(job.text_length / chunk)
    return max(1, round(job.config.num_steps / tokens_an_action))


def measure_learning(job: Job, seeds: int) -> dict[str, list[Curve]]:
    """Return a curve for each seed at each level, from one beginning a seed."""
    found: dict[str, list[Curve]] = {level: [] for level in job.levels}
    for seed in range(seeds):
        beginning = job.beginning(seed)
        for level, chunk in job.levels.items():
            curve = learn(job, beginning, chunk, seed)
            found[level].append(curve)
            print(f"{job.title}: {level}, seed {seed}: {_reached(curve.reached)} tokens, {curve.scores[-1]:.3f} at the end", flush=True)
    return found


def measure_gradients(choices: Choices) -> tuple[dict[tuple[str, str], Quality], str]:
    """Return the quality of each estimator at each level, and what they were measured on."""
    policy = half_trained(iterations=4 if choices.quick else 8)
    truth = exact(policy)
    found, tokens = estimates(policy, truth, max(10, choices.batches // (20 if choices.quick else 1)), choices.episodes, seed=0)
    what = f"{truth.problem.num_states:,} prefixes, {truth.gradient.size:,} weights, expected score {truth.score:.3f}, {tokens:.0f} tokens an estimate"
    return {key: quality(gradients, truth.gradient, tokens) for key, gradients in found.items()}, what


def gradient_rows(found: dict[tuple[str, str], Quality]) -> list[tuple[str, ...]]:
    """Return the table's rows, estimator by estimator."""
    keys = [(name, level) for name in ESTIMATORS for level in LEVELS]
    return [(f"{name}; {level}", *(f"{one.mean:.3f} ± {one.half:.3f}" for one in found[name, level])) for name, level in keys]


def words(found: dict[tuple[str, str], Quality]) -> list[str]:
    """Return what the figures of the gradient say."""

    def levels(name: str, figure: str) -> str:
        return ", ".join(f"{getattr(found[name, level], figure).mean:.3f} ({level})" for level in LEVELS)

    return [
        f"Without a critic the levels are one estimator; variances: {levels('return, no critic', 'variance')}.",
        f"An exact V as a baseline alone tells them hardly apart: {levels('return - V, exact V', 'variance')}.",
        f"Credit is won by bootstrapping from an exact V, and more of it by smaller actions: {levels('TD, exact V', 'variance')}.",
        f"So is the bias of a learned V; share of the exact gradient found by TD: {levels('TD, learned V', 'found')},",
        f"by GAE(0.95): {levels('GAE(0.95), learned V', 'found')}. A whole response has nothing to bootstrap from, and no bias.",
    ]


def learning_rows(found: dict[str, list[Curve]]) -> list[tuple[str, ...]]:
    """Return median and range of the tokens to the goal, and the scores at the end."""
    rows: list[tuple[str, ...]] = []
    for level, curves in found.items():
        reached = sorted((curve.reached for curve in curves), key=lambda tokens: np.inf if tokens is None else tokens)
        last = [float(np.mean(curve.scores[-3:])) for curve in curves]
        middle = reached[(len(reached) - 1) // 2]
        cells = (_reached(middle), f"{_reached(reached[0])} to {_reached(reached[-1])}")
        rows.append((level, *cells, f"{statistics.median(last):.3f}", f"{statistics.median(curve.tokens[-1] for curve in curves):,.0f}"))
    return rows


def _reached(tokens: int | None) -> str:
    return "never" if tokens is None else f"{tokens:,}"


def main(choices: Choices) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    machine = describe("torch", "transformers")
    print(machine)
    report: dict[str, Any] = {"machine": machine}
    if "gradient" in choices.parts:
        qualities, what = measure_gradients(choices)
        columns = ("estimator; level", "share of exact", "squared bias", "variance at 1,000 tokens", "cosine")
        print_table(f"Gradient of Recall against the exact one: {what}; 95 % intervals", columns, gradient_rows(qualities))
        print("\n".join(words(qualities)))
        report["gradient"] = [{"estimator": name, "level": level, **_json(one)} for (name, level), one in qualities.items()]
    for part, job_of in (("recall", recall_job), ("text", text_job)):
        if part in choices.parts:
            job = job_of(choices)
            curves = measure_learning(job, 1 if choices.quick else choices.seeds)
            columns = ("level", f"tokens to {GOAL}, median", "range", "score at the end", "of tokens")
            print_table(f"{job.title}: {len(next(iter(curves.values())))} seeds", columns, learning_rows(curves))
            report[part] = {level: [one._asdict() | {"reached": one.reached} for one in many] for level, many in curves.items()}
    if choices.json is not None:
        write_json(choices.json, report)


def _json(found: Quality) -> dict[str, Any]:
    return {name: one._asdict() for name, one in found._asdict().items()}


if __name__ == "__main__":
    main(tyro.cli(Choices, description=__doc__))
