"""Which of other people's environments our agents are trained on, by which settings, and the best that is known of each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.wrappers.vector import ClipAction, RescaleAction

from agents import a2c, policy_gradient, ppo
from agents.advantages import GAE
from agents.play import AnyVectorEnv
from agents.policies import GaussianPolicy, GRUPolicy, MLPPolicy, Policy, TabularPolicy

from .best_known import best_blackjack, best_return
from .textworld_game import STATE, TextWorldGame, write_game


@dataclass(frozen=True)
class Case:
    """One environment, who learns it and how; the settings were tried on the seeds 10 and 11."""

    environment: str
    agent: str
    make: Callable[[int], AnyVectorEnv]  # number of rows -> the environment
    policy: Callable[[AnyVectorEnv], Policy]
    algorithm: ModuleType
    config: Any
    best: Callable[[], float] | None  # the best return that is known, if one is
    source: str  # of the best return
    num_envs: int = 16
    episodes: int = 256  # of the judgement


def gymnasium(id: str, num_envs: int, **options: Any) -> AnyVectorEnv:
    """Return a vector environment of Gymnasium's, in one process."""
    return gym.make_vec(id, num_envs=num_envs, vectorization_mode="sync", **options)


@cache
def _game() -> Path:
    return write_game(Path(tempfile.mkdtemp(prefix="textworld-")), rooms=2, objects=4, quest_length=3)


def adventure(num_envs: int, *seen: str) -> AnyVectorEnv:
    """Return rows of one TextWorld game of two rooms, four objects and a quest of three commands, of which `seen` is seen."""
    return gym.vector.SyncVectorEnv([lambda: TextWorldGame(_game(), seen)] * num_envs)


TABLE = ppo.Config(learning_rate=0.05, advantage=GAE(0.99, 0.95), num_epochs=4)
GAMES = ppo.Config(total_timesteps=2_560, num_steps=40, learning_rate=3e-3, advantage=GAE(0.95, 0.95), num_epochs=4, ent_coef=0.01)
CASES = (
    Case(
        "FrozenLake-v1",
        "PPO, table",
        lambda n: gymnasium("FrozenLake-v1", n),
        TabularPolicy.for_env,
        ppo,
        ppo.Config(total_timesteps=150_000, num_steps=128, learning_rate=0.03, advantage=GAE(0.999, 0.95), num_epochs=4, ent_coef=0.003),
        lambda: best_return("FrozenLake-v1", 100),
        "exact, 100 steps",
        episodes=1024,
    ),
    Case(
        "CliffWalking-v1",
        "PPO, table",
        lambda n: gymnasium("CliffWalking-v1", n, max_episode_steps=200),  # it has no limit of its own
        TabularPolicy.for_env,
        ppo,
        replace(TABLE, total_timesteps=100_000, num_steps=64, ent_coef=0.05, ent_coef_final=0.0),
        lambda: best_return("CliffWalking-v1", 200),
        "exact, 200 steps",
        episodes=64,
    ),
    Case(
        "Taxi-v4",
        "PPO, table",
        lambda n: gymnasium("Taxi-v4", n),
        TabularPolicy.for_env,
        ppo,
        replace(TABLE, total_timesteps=300_000, num_steps=128, ent_coef=0.01),
        lambda: best_return("Taxi-v4", 200),
        "exact, 200 steps",
    ),
    Case(
        "Blackjack-v1",
        "policy gradient, MLP",
        lambda n: gymnasium("Blackjack-v1", n, wrappers=[gym.wrappers.FlattenObservation]),  # a tuple of numbers becomes zeros and ones
        MLPPolicy.for_env,
        policy_gradient,
        policy_gradient.Config(total_timesteps=100_000, num_steps=2, episodes_per_row=16),
        best_blackjack,
        "exact",
        episodes=4096,
    ),
    Case(
        "CartPole-v1",
        "A2C, MLP",
        lambda n: gymnasium("CartPole-v1", n),
        MLPPolicy.for_env,
        a2c,
        a2c.Config(total_timesteps=200_000, num_steps=16, optimizer="adam", learning_rate=3e-3, anneal_lr=True, advantage=GAE(0.99, 0.95)),
        lambda: 500.0,
        "its limit",
        episodes=64,
    ),
    Case(
        "Acrobot-v1",
        "PPO, MLP",
        lambda n: gymnasium("Acrobot-v1", n),
        MLPPolicy.for_env,
        ppo,
        ppo.Config(total_timesteps=100_000, num_steps=128, advantage=GAE(0.99, 0.95), num_epochs=10, ent_coef=0.01),
        lambda: -100.0,
        "Gymnasium's threshold",
        episodes=64,
    ),
    Case(
        "Pendulum-v1",
        "PPO, Gaussian",
        lambda n: ClipAction(RescaleAction(gymnasium("Pendulum-v1", n), -1.0, 1.0)),
        GaussianPolicy.for_env,
        ppo,
        ppo.Config(total_timesteps=100_000, num_steps=64, learning_rate=3e-3, advantage=GAE(0.9, 0.95), num_epochs=6, num_minibatches=4),
        None,
        "",
        episodes=64,
    ),
    Case("TextWorld", "PPO, MLP", lambda n: adventure(n, *STATE), MLPPolicy.for_env, ppo, GAMES, lambda: 1.0, "its quest", num_envs=8, episodes=32),
    Case("TextWorld", "PPO, GRU", lambda n: adventure(n, "feedback"), GRUPolicy.for_env, ppo, GAMES, lambda: 1.0, "its quest", num_envs=8, episodes=32),
)
