"""The four tasks: how a run begins, what is measured in the end, and each algorithm's one configuration.

Configurations were chosen on seeds 10 and 11, with GAE or Monte Carlo; `docs/algorithms.md` says how.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np

import textgym  # noqa: F401 (registers the suite)
from agents import a2c, policy_gradient, ppo
from agents.play import AnyVectorEnv, evaluate
from agents.policies import MLPPolicy, Policy, TabularPolicy, seeded, small_gpt2
from agents.seeds import generators
from textgym.toy.counted import Even
from textgym.toy.diagnostics import prompts_of
from textgym.toy.two_state import best_return, random_return

from . import text
from .entrants import ESTIMATORS, FOUR, Entry

SLIP = 0.2
CARTPOLE = "CartPole-v1"
CARTPOLE_BEST = 500.0
EVEN = Even(split="train")


class Setting(NamedTuple):
    """What a run begins with, and how it is judged in the end."""

    env: AnyVectorEnv
    policy: Policy
    reference: Policy | None
    num_prompts: int
    judge: Callable[[Policy], dict[str, float]]  # "score", and what else is measured


class Task(NamedTuple):
    """A task."""

    name: str
    measured: str
    figures: tuple[str, ...]  # of `Setting.judge`: each gets its rows in the table
    estimators: tuple[str, ...]
    gamma: float
    length: int  # steps an episode is taken for when the budget is cut into iterations of whole episodes
    counted: bool  # episodes differ so much in length that a run ends when its budget is spent, whatever was planned
    entries: dict[str, Entry]
    begin: Callable[[int, int, Path, bool], Setting]  # of seed, rows, the folder and whether it is a smoke test


def share(low: float, high: float, reached: float) -> dict[str, float]:
    """Return how far `reached` is on the way from `low` to `high`, as a score."""
    return {"score": (reached - low) / (high - low)}


def two_state(seed: int, rows: int, folder: Path, quick: bool) -> Setting:
    """Return TwoState with slips, and a table of logits."""
    env, judge = (gym.make_vec("textgym/TwoState-v0", num_envs=n, autoreset_mode="SameStep", slip=SLIP) for n in (rows, 2000))
    low, high = random_return(slip=SLIP), best_return(slip=SLIP)

    def judged(policy: Policy) -> dict[str, float]:
        return share(low, high, float(evaluate(judge, policy, np.random.default_rng(seed), seed=10**6).returns.mean()))

    return Setting(env, TabularPolicy.for_env(env), None, 1, judged)  # its starts differ by chance alone: one prompt


def even(seed: int, rows: int, folder: Path, quick: bool) -> Setting:
    """Return Even of 32 ids, and a GPT-2 of 2 layers of 64 from random weights."""
    env = gym.make_vec("textgym/Even-v0", num_envs=rows, autoreset_mode="SameStep", split="train")
    judge = gym.make_vec("textgym/Even-v0", num_envs=512, autoreset_mode="SameStep", split="test")
    policy = small_gpt2(vocab_size=32, num_positions=20, eos_id=31, width=64, layers=2, heads=4, seed=seed)

    def judged(policy: Policy) -> dict[str, float]:
        return share(EVEN.random_return(), EVEN.best_return(), float(evaluate(judge, policy, np.random.default_rng(seed), seed=1).returns.mean()))

    return Setting(env, policy, None, len(prompts_of(EVEN)), judged)


def cartpole(seed: int, rows: int, folder: Path, quick: bool) -> Setting:
    """Return CartPole, and two layers of 64; judged greedily on 100 fresh episodes."""
    env = gym.make_vec(CARTPOLE, num_envs=rows)
    with seeded(seed):
        policy = MLPPolicy.for_env(env)

    def judged(policy: Policy) -> dict[str, float]:
        played = evaluate(gym.make_vec(CARTPOLE, num_envs=100), policy, generators(seed).evaluation, temperature=0.0, seed=10**6)
        return share(cartpole_random(), CARTPOLE_BEST, float(played.returns.mean()))

    return Setting(env, policy, None, 1, judged)


@lru_cache
def cartpole_random() -> float:
    """Return the mean return of 1,000 episodes of actions drawn uniformly (about 22)."""
    policy = MLPPolicy.for_env(gym.make_vec(CARTPOLE, num_envs=1))
    for parameter in policy.parameters():
        parameter.data.zero_()  # equal logits
    return float(evaluate(gym.make_vec(CARTPOLE, num_envs=1000), policy, np.random.default_rng(0), seed=0).returns.mean())


def film_reviews(seed: int, rows: int, folder: Path, quick: bool) -> Setting:
    """Return the default text task from the seed's language model, which all runs of that seed share."""
    material, (policy, reference) = text.material_of(seed), text.begun(seed, folder, quick)
    judged = text.judge_of(material, reference, seed, 32 if quick else text.HELD_OUT)
    return Setting(material.environment(rows), policy, reference, len(material.train_prompts), judged)


TASKS: dict[str, Task] = {
    "TextGen": Task(
        name="TextGen-v0",
        measured="mean score of held-out samples, and the share that is grammatical, which is not paid",
        figures=("score", "grammar"),
        estimators=FOUR,
        gamma=1.0,
        length=10,
        counted=False,
        entries=text.ENTRIES,
        begin=film_reviews,
    ),
    "CartPole": Task(
        name=CARTPOLE,
        measured="greedy return of 100 fresh episodes, 0 random and 1 the best (500)",
        figures=("score",),
        estimators=FOUR,
        gamma=0.98,
        length=8,  # no episode is shorter, so that the budget and not the number of iterations ends a run
        counted=True,
        entries={
            "ppo": Entry(ppo.Config(total_timesteps=80_000, num_steps=128, learning_rate=1e-3, anneal_lr=False, num_epochs=10), 8),
            "a2c": Entry(a2c.Config(total_timesteps=80_000, num_steps=16, optimizer="adam", learning_rate=1e-3), 8),
            "policy_gradient": Entry(
                policy_gradient.Config(total_timesteps=80_000, num_steps=8, learning_rate=1e-2, anneal_lr=False, normalise="batch"),
                8,
            ),
        },
        begin=cartpole,
    ),
    "TwoState": Task(
        name="TwoState-v0",
        measured="return of 2,000 sampled episodes, 0 random and 1 the best",
        figures=("score",),
        estimators=tuple(ESTIMATORS),
        gamma=0.9,
        length=20,
        counted=False,
        entries={
            "ppo": Entry(ppo.Config(total_timesteps=10_000, num_steps=20, learning_rate=0.05), 32),
            "a2c": Entry(
                a2c.Config(total_timesteps=10_000, num_steps=20, learning_rate=0.1, anneal_lr=True, normalise="batch"),
                32,
            ),
            "policy_gradient": Entry(policy_gradient.Config(total_timesteps=10_000, num_steps=20, learning_rate=0.3, normalise="batch"), 32),
        },
        begin=two_state,
    ),
    "Even": Task(
        name="Even-v0",
        measured="return of 512 sampled held-out episodes, 0 random and 1 the best",
        figures=("score",),
        estimators=tuple(ESTIMATORS),
        gamma=1.0,
        length=16,
        counted=False,
        entries={
            "ppo": Entry(ppo.Config(total_timesteps=8_000, num_steps=16, learning_rate=1e-3, num_epochs=4, ent_coef=0.015, vf_coef=20.0), 16),
            "a2c": Entry(
                a2c.Config(
                    total_timesteps=8_000,
                    num_steps=16,
                    optimizer="adam",
                    learning_rate=4e-3,
                    anneal_lr=True,
                    normalise="batch",
                    ent_coef=0.015,
                    vf_coef=20.0,
                ),
                16,
            ),
            "policy_gradient": Entry(
                policy_gradient.Config(total_timesteps=8_000, num_steps=16, learning_rate=4e-3, normalise="batch", ent_coef=0.015, vf_coef=20.0), 16
            ),
        },
        begin=even,
    ),
}
"""By the names of `--tasks`, in the order of the table."""
