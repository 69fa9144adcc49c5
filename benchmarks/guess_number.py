"""Does PPO find binary search? `python -m benchmarks.guess_number --seeds 3`: GuessNumber, 32 numbers, an untrained GPT-2 of two layers.

Every dialogue is sampled, not greedy, ten for each secret; the bar is a mean of at most 1.2 log2(32) = 6 guesses, and 95 % of the numbers found.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import tyro

import textgym  # noqa: F401 (registers the suite)
from agents import ppo
from agents.files import write_json
from agents.play import evaluate
from agents.policies import CausalLMPolicy, small_gpt2
from textgym.toy.guess_number import GuessNumber, search_depths

from .machine import describe, print_table

HIGH, BUDGET = 32, 10
MOST_TURNS, LEAST_SUCCESS = 1.2 * float(np.log2(HIGH)), 0.95
DENSE = ppo.Config(total_timesteps=300_000, num_steps=10)
SPARSE = replace(DENSE, total_timesteps=400_000, ent_coef=0.01)  # paid at the end alone, it settles too early without a bonus
NUM_ENVS, DIALOGUES, EVERY = 128, 10 * HIGH, 10
Row = tuple[str, ...]


class Outcome(NamedTuple):
    """What one seed came to."""

    dense: bool
    seed: int
    turns: float  # mean guesses of a dialogue, those of the ones that failed included
    success: float  # share of dialogues that found the number
    score: float
    tokens: int | None  # that were played when the bar was first met; None: it never was
    seconds: float


@dataclass(frozen=True)
class Choices:
    """Train agents to guess numbers and compare them with binary search."""

    seeds: int = 3
    """How many seeds, from 0 on."""
    rewards: tuple[str, ...] = ("dense", "sparse")
    """Which rewards to learn from."""
    scale: float = 1.0
    """Share of the usual steps: 0.01 is a smoke test."""
    json: Path | None = None
    """File for the figures."""


def meets_bar(turns: float, success: float) -> bool:
    """Return whether these figures meet the bar."""
    return turns <= MOST_TURNS and success >= LEAST_SUCCESS


def measure(env: Any, policy: CausalLMPolicy, generator: np.random.Generator) -> dict[str, float]:
    """Return mean turns, success and score of sampled dialogues, the secrets equally often."""
    ends = evaluate(env, policy, generator, options={"prompt": np.arange(env.num_envs) % HIGH}).ends
    return {"turns": float(ends["turns"].mean()), "success": float((ends["score"] > 0).mean()), "score": float(ends["score"].mean())}


def learn(dense: bool, seed: int, scale: float = 1.0) -> Outcome:
    """Train one policy and return what it came to."""
    began = time.perf_counter()
    env, judge = (gym.make_vec("textgym/GuessNumber-v0", num_envs=n, autoreset_mode="SameStep", dense=dense) for n in (NUM_ENVS, DIALOGUES))
    policy = small_gpt2(int(env.single_action_space.n), env.single_observation_space.shape[0], seed=seed)  # type: ignore[attr-defined, index]
    config = DENSE if dense else SPARSE
    config = replace(config, total_timesteps=max(1, int(config.total_timesteps * scale)))
    run = ppo.train(env, policy, config, seed=seed, evaluate=lambda generator: measure(judge, policy, generator), evaluate_every=EVERY, quiet=True)
    met = [i + 1 for i, entry in enumerate(run.history) if "eval/turns" in entry and meets_bar(entry["eval/turns"], entry["eval/success"])]
    last = measure(judge, policy, np.random.default_rng(seed))
    tokens = met[0] * config.num_steps * NUM_ENVS if met else None
    return Outcome(dense, seed, last["turns"], last["success"], last["score"], tokens, time.perf_counter() - began)


def known() -> list[Row]:
    """Return the rows of what needs no learning."""
    task, depths = GuessNumber(HIGH, BUDGET), search_depths(HIGH)
    reached = sum(((HIGH + 3) / (HIGH + 5)) ** t for t in range(BUDGET))  # steps that random ids come to: neither EOS nor the right number before
    return [
        ("binary search", f"{statistics.mean(depths):.2f}", "1.000", f"{task.best_return():.3f}", "", ""),
        ("random ids", f"{reached * HIGH / (HIGH + 5):.2f}", f"{reached / (HIGH + 5):.3f}", f"{task.random_return():.3f}", "", ""),
        ("bar", f"{MOST_TURNS:.2f}", f"{LEAST_SUCCESS:.3f}", "", "", ""),
    ]


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """Return a row for each seed, and the medians."""
    rows = [_row(f"{_name(one.dense)}, seed {one.seed}", one[2:5], "never" if one.tokens is None else f"{one.tokens:,}", one.seconds) for one in outcomes]
    for dense in sorted({one.dense for one in outcomes}, reverse=True):
        *figures, seconds = median_of(outcomes, dense)
        rows.append(_row(f"{_name(dense)}, median", figures, "", seconds))
    return rows


def median_of(outcomes: Sequence[Outcome], dense: bool) -> tuple[float, float, float, float]:
    """Return the medians of turns, success, score and seconds."""
    chosen = [one for one in outcomes if one.dense == dense]
    turns, success, score, seconds = (statistics.median(getattr(one, name) for one in chosen) for name in ("turns", "success", "score", "seconds"))
    return turns, success, score, seconds


def _name(dense: bool) -> str:
    return "dense" if dense else "sparse"


def _row(name: str, figures: Sequence[float], tokens: str, seconds: float) -> Row:
    turns, success, score = figures
    return name, f"{turns:.2f}", f"{success:.3f}", f"{score:.3f}", tokens, f"{seconds:.0f}"


def main(choices: Choices) -> int:
    """Print the table; return 0 if the medians of what was learned from dense rewards meet the bar, or if they were not asked for."""
    torch.set_num_threads(1)
    if wrong := set(choices.rewards) - {"dense", "sparse"}:
        sys.exit(f"There are no rewards {wrong.pop()!r}; choose among dense, sparse.")
    outcomes: list[Outcome] = []
    for reward, seed in itertools.product(choices.rewards, range(choices.seeds)):
        outcomes.append(one := learn(reward == "dense", seed, choices.scale))
        print(f"{reward}, seed {seed}: {one.turns:.2f} guesses, {one.success:.1%} found, in {one.seconds:.0f} s", flush=True)
    machine = describe("torch", "transformers", "gymnasium")
    columns = ("", "turns", "success", "score", "tokens to the bar", "seconds")
    print_table(f"GuessNumber, {HIGH} numbers: PPO, sampled; {machine}", columns, [*known(), *rows_of(outcomes)])
    if choices.json is not None:
        write_json(choices.json, {"machine": machine, "outcomes": [one._asdict() for one in outcomes]})
    return 0 if "dense" not in choices.rewards or meets_bar(*median_of(outcomes, True)[:2]) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Choices, description=__doc__)))
