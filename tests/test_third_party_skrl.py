"""skrl's wrapper hands token ids over exactly, and its PPO learns a token task and path planning."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import textgym  # noqa: F401 (registers the suite)

pytestmark = pytest.mark.slow  # importing skrl changes torch's distributions for the whole process
pytest.importorskip("skrl")


def test_the_wrapper_makes_exact_floats_of_token_ids() -> None:
    from skrl.envs.wrappers.torch import wrap_env

    twin = gym.make_vec("TextGen-v0", num_envs=3)
    env = wrap_env(gym.make_vec("TextGen-v0", num_envs=3), verbose=False)
    env._seed = 5
    expected, _ = twin.reset(seed=5)
    for step in range(40):
        seen = env.reset()[0] if step == 0 else env.step(torch.full((3, 1), step))[0]
        expected = expected if step == 0 else twin.step(np.full(3, step))[0]
        assert seen.dtype == torch.float32
        assert np.array_equal(seen.numpy(), expected)


@pytest.mark.parametrize(("name", "steps", "bar"), [("even", 12_288, 0.70), ("path", 30_720, -3.0)])
def test_ppo_learns(name: str, steps: int, bar: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.third_party.judge import random_returns, returns
    from benchmarks.third_party.skrl_ppo import ENTRANTS
    from benchmarks.third_party.tasks import TASKS

    monkeypatch.chdir(tmp_path)
    trained = ENTRANTS["ppo"].train(TASKS[name], steps, 0)
    assert trained.steps == steps
    assert returns(TASKS[name], trained.actor).mean() > bar > random_returns(TASKS[name]).mean()
    assert os.listdir(tmp_path) == []  # no folder "runs"
