"""Does Stable-Baselines3's PPO learn TextGen-v0 as it comes? `python -m benchmarks.third_party.sb3_ppo`.

Everything that touches the environment is theirs: `check_env`, `make_vec_env`, `PPO("MlpPolicy", ...)`, `evaluate_policy`. The policy sees the
token ids as plain numbers, which suits a network badly; the question is whether it learns, not how well. It is compared with random tokens
on the same held-out prompts.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import textgym  # noqa: F401 (registers the suite)
from agents.files import write_json

from ..machine import describe, print_table

ID = "TextGen-v0"
HELD_OUT_SEED = 1_000_000


@dataclass(frozen=True)
class Args:
    """Train Stable-Baselines3's PPO on TextGen-v0 and compare it with random tokens."""

    steps: int = 30_000
    """environment steps, here tokens, of each training"""
    seeds: int = 1
    """trains with the seeds 0, 1, ..."""
    episodes: int = 200
    """held-out episodes (the split "test") of each evaluation"""
    json: Path | None = None
    """also write the figures to this file"""


class Score(NamedTuple):
    """A mean over episodes with its normal 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class RandomPolicy:
    """Draws every token alike; `predict` is all that `evaluate_policy` asks of a model."""

    def __init__(self, num_actions: int, seed: int) -> None:
        self._num_actions, self._generator = num_actions, np.random.default_rng(seed)

    def predict(
        self, observation: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.int64], Any]:
        """Return one random token for each row of `observation`."""
        return self._generator.integers(self._num_actions, size=len(observation)), state


def checked() -> None:
    """Run Stable-Baselines3's environment checker; a warning of it is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID))


def trained(seed: int, steps: int) -> tuple[PPO, float]:
    """Return a model after `steps` steps, and the seconds that they took."""
    env = make_vec_env(ID, n_envs=8, seed=seed)
    model = PPO("MlpPolicy", env, n_steps=128, gamma=1.0, seed=seed, device="cpu")
    began = time.perf_counter()
    model.learn(steps)
    return model, time.perf_counter() - began


def held_out_score(model: Any, episodes: int) -> Score:
    """Return the mean score of sampled continuations of held-out prompts, the same prompts for every model."""
    env = make_vec_env(ID, n_envs=8, seed=HELD_OUT_SEED, env_kwargs={"split": "test"})
    returns, _ = evaluate_policy(model, env, n_eval_episodes=episodes, deterministic=False, return_episode_rewards=True)
    mean, margin = float(np.mean(returns)), 1.96 * float(np.std(returns, ddof=1)) / len(returns) ** 0.5
    return Score(mean, mean - margin, mean + margin)


def main(args: Args) -> dict[str, Any]:
    """Check, train, compare, print, write and return the figures."""
    torch.set_num_threads(1)
    machine = describe("stable-baselines3", "torch", "gymnasium", "numpy")
    print(machine, flush=True)
    checked()
    print("stable_baselines3's check_env: passed without a warning", flush=True)
    rows, results = [], []
    for seed in range(args.seeds):
        model, seconds = trained(seed, args.steps)
        random, learned = (held_out_score(one, args.episodes) for one in (RandomPolicy(model.action_space.n, seed), model))
        beaten = learned.low > random.high
        rows.append([str(seed), f"{model.num_timesteps:,}", f"{seconds:.1f}", str(random), str(learned), "yes" if beaten else "NO"])
        results.append({"seed": seed, "steps": model.num_timesteps, "seconds": seconds, "random": random, "ppo": learned, "beaten": beaten})
    columns = ["seed", "steps", "seconds", "random", "PPO", "beats random"]
    print_table(f"{ID}, score of {args.episodes} held-out episodes with 95 % interval", columns, rows)
    report = {"machine": machine, "results": results}
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
