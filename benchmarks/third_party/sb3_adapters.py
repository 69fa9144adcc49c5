"""What the adapters for Stable-Baselines3 are worth: `python -m benchmarks.third_party.sb3_adapters`.

The native rows beside `DummyVecEnv`, a features extractor that reads ids beside raw ids, and a transformer that decodes over a cache beside
one that reads every prefix anew. One thread; whoever is compared takes turns in slices of time, and the median slice counts.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import textgym  # noqa: F401 (registers the suite)
from agents.adapters.networks import KINDS
from agents.adapters.sb3_extractor import TokenExtractor
from agents.adapters.sb3_transformer import TransformerPolicy
from agents.adapters.sb3_vec_env import SB3VecEnv
from agents.files import write_json
from agents.policies import CausalLMPolicy

from ..environment import Player, speeds
from ..machine import describe, print_table
from ..throughput.peers import sb3_ppo
from ..throughput.shapes import TINY, build
from ..throughput.task import environment

ROWS = 64
STEPS = 48  # of one call of a player of an environment
NEW = 32  # tokens of a text
BAR = 10.0  # steps a second of the native rows as a multiple of DummyVecEnv's
TOKENS_BAR = 7.0  # right tokens of 12
SUCCESSOR: dict[str, Any] = {"dense": True, "vocab_size": 8, "max_new_tokens": 12}
PPO_OPTIONS: dict[str, Any] = {"n_steps": 96, "batch_size": 192, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 1.0, "gae_lambda": 0.95, "device": "cpu"}


@dataclass(frozen=True)
class Args:
    """Measure the adapters for Stable-Baselines3."""

    seeds: int = 3
    """trainings of each features extractor, with the seeds 0, 1, ..."""
    steps: int = 30_000
    """environment steps of each of them"""
    episodes: int = 256
    """sampled episodes of each evaluation"""
    seconds: float = 8.0
    """how long each way of playing and training is timed, in all"""
    rounds: int = 9
    """slices that this time is cut into; the median counts"""
    quick: bool = False
    """one seed, few steps and short slices, to see whether all of it runs"""
    json: Path | None = None
    """also write the figures to this file"""


def stepper(env: Any) -> Player:
    """Return a player of random tokens on a VecEnv."""
    env.seed(0)
    env.reset()
    blocks = cycle(np.random.default_rng(0).integers(env.action_space.n, size=(10, STEPS, env.num_envs)))

    def play() -> int:
        for actions in next(blocks):
            env.step(actions)
        return STEPS * int(env.num_envs)

    return play


def environments(seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Print and return the speeds of the environments in steps a second."""
    ours = SB3VecEnv(gym.make_vec("TextGen-v0", num_envs=ROWS))
    players = {"DummyVecEnv": stepper(DummyVecEnv([lambda: Monitor(gym.make("TextGen-v0"))] * ROWS)), "SB3VecEnv": stepper(ours)}
    return told(f"TextGen-v0, {ROWS} rows, random tokens", "steps/s", speeds(players, seconds, rounds), BAR)


def our_ppo(model: nn.Module) -> Player:
    """Return Stable-Baselines3's PPO with our rows and policy: a call is one iteration, one epoch, one minibatch."""
    env = SB3VecEnv(environment(TINY, ROWS, NEW, "NextStep"))
    policy = {"make": lambda: CausalLMPolicy(copy.deepcopy(model), TINY.vocab_size)}
    ppo = PPO(TransformerPolicy, env, policy_kwargs=policy, n_steps=NEW, batch_size=ROWS * NEW, n_epochs=1, gamma=1.0, vf_coef=0.5, device="cpu", seed=0)

    def play() -> int:
        ppo.learn(ROWS * NEW)
        return ROWS * NEW

    return play


def transformers(seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Print and return the speeds of training a transformer in tokens a second."""
    model = build(TINY, "gelu_pytorch_tanh")
    players = {"as features extractor": sb3_ppo(copy.deepcopy(model), TINY, ROWS, NEW), "TransformerPolicy": our_ppo(model)}
    return told(f"PPO of SB3, GPT-2 of 2 layers, {ROWS} texts of 16 + {NEW} tokens, one epoch, one minibatch", "tokens/s", speeds(players, seconds, rounds))


def told(title: str, unit: str, found: dict[str, float], bar: float | None = None) -> list[dict[str, Any]]:
    """Print the second speed as a multiple of the first, and return both."""
    (base, slow), (name, fast) = found.items()
    ratio = fast / slow
    held = ["", ""] if bar is None else [f"{bar:.0f}", "yes" if ratio >= bar else "NO"]
    print_table(title, ["", unit, "ratio", "bar", "met"], [[base, f"{slow:,.0f}", "1.00", "", ""], [name, f"{fast:,.0f}", f"{ratio:.2f}", *held]])
    return [{"name": key, "unit": unit, "speed": speed, "ratio": speed / slow, "bar": bar} for key, speed in found.items()]


def right_tokens(kind: str, seed: int, steps: int, episodes: int) -> tuple[float, float]:
    """Train PPO on Successor, and return the right tokens of 12 in sampled episodes, and the seconds that training took."""
    env = SB3VecEnv(gym.make_vec("textgym/Successor-v0", num_envs=8, **SUCCESSOR))
    policy = {} if kind == "raw ids" else {"features_extractor_class": TokenExtractor, "features_extractor_kwargs": {"kind": kind}}
    model = PPO("MlpPolicy", env, policy_kwargs=policy, seed=seed, **PPO_OPTIONS)
    began = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - began
    held_out = SB3VecEnv(gym.make_vec("textgym/Successor-v0", num_envs=64, **SUCCESSOR))
    held_out.seed(1_000_000)
    returns, _ = evaluate_policy(model, held_out, episodes, deterministic=False, return_episode_rewards=True)
    return SUCCESSOR["max_new_tokens"] * float(np.mean(returns)), seconds


def extractors(seeds: int, steps: int, episodes: int) -> list[dict[str, Any]]:
    """Print and return what PPO reaches from raw ids and through each kind of features."""
    rows, found = [], []
    for kind in ("raw ids", *KINDS):
        reached, seconds = zip(*(right_tokens(kind, seed, steps, episodes) for seed in range(seeds)), strict=True)
        median = statistics.median(reached)
        verdict = "" if kind == "raw ids" else "yes" if median > TOKENS_BAR else "NO"
        rows.append([kind, *(f"{one:.2f}" for one in reached), f"{median:.2f}", verdict, f"{statistics.median(seconds):.0f}"])
        found.append({"features": kind, "reached": reached, "median": median, "seconds": seconds, "bar": TOKENS_BAR})
    title = f"Successor (dense, 8 ids), right tokens of 12 after {steps:,} steps of PPO, {episodes} sampled episodes"
    print_table(title, ["features", *(f"seed {seed}" for seed in range(seeds)), "median", f"> {TOKENS_BAR:.0f}", "seconds"], rows)
    return found


def main(args: Args) -> dict[str, Any]:
    """Measure, print, write and return the figures."""
    torch.set_num_threads(1)
    seeds, steps, episodes = (1, 800, 64) if args.quick else (args.seeds, args.steps, args.episodes)
    seconds, rounds = (0.3, 1) if args.quick else (args.seconds, args.rounds)
    machine = describe("stable-baselines3", "torch", "transformers", "gymnasium", "numpy")
    print(machine, flush=True)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "environments": lambda: environments(seconds, rounds),
        "transformers": lambda: transformers(seconds, rounds),
        "extractors": lambda: extractors(seeds, steps, episodes),
    }
    report: dict[str, Any] = {"machine": machine, **{name: part() for name, part in parts.items()}}
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
