"""The environment alone: TextGen-v0 as it comes, on random tokens, beside the vector environments of others over our single one.

Real prompts, rewards from a batched scorer (the sentiment lexicon), real ends, no text in the info.
Axis legend: N rows.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

import textgym  # noqa: F401 (registers the suite)

from ..environment import ID, STEPS, Player, speeds, vector_player
from .lines import Bar, Line, NotRun, show

ROWS, PEER_ROWS = 1024, 64
BAR = Bar(12e6, 20e6)  # tokens a second, at 1,024 rows
UNIT = "tokens/s"


def native(num_envs: int, mode: str = "SameStep", copy: bool = True) -> Player:
    """Return a player of the native vector environment."""
    return vector_player(gym.make_vec(ID, num_envs=num_envs, autoreset_mode=mode, copy=copy))


def sb3_player(num_envs: int) -> Player:
    """Return a player of Stable-Baselines3's DummyVecEnv over the single environment, which resets a row in the step that ends it."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    env = DummyVecEnv([lambda: gym.make(ID)] * num_envs)
    assert isinstance(env.action_space, gym.spaces.Discrete)
    actions = np.random.default_rng(0).integers(env.action_space.n, size=(STEPS, num_envs))
    env.reset()

    def play() -> int:
        for row in actions:
            env.step(row)
        return num_envs * STEPS

    return play


def measure(*, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Print the table of the environment and return its lines."""
    alone = {f"{ROWS} rows, {mode}": native(ROWS, mode) for mode in ("SameStep", "NextStep", "Disabled")}
    alone[f"{ROWS} rows, SameStep, no copy of the observations"] = native(ROWS, copy=False)
    found = speeds(alone, seconds, rounds)
    lines: list[Line | NotRun] = [Line(name, speed, None, UNIT, BAR) for name, speed in found.items()]
    ours, peers = f"{PEER_ROWS} rows, SameStep", {"SyncVectorEnv": vector_player(SyncVectorEnv([lambda: gym.make(ID)] * PEER_ROWS))}
    try:
        peers["DummyVecEnv of SB3"] = sb3_player(PEER_ROWS)
    except ImportError:
        lines.append(NotRun("DummyVecEnv of SB3", "pip install stable-baselines3"))
    found = speeds({ours: native(PEER_ROWS), **peers}, seconds, rounds)
    lines += [Line(f"{ours} / {name}", found[ours], found[name], UNIT) for name in peers]
    return show("environment: TextGen-v0, random tokens, rewards and ends as they come", lines)
