"""RLlib learns on textgym, in a virtual environment of its own: TEXTGYM_RLLIB_PYTHON names its Python."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("TEXTGYM_RLLIB_PYTHON")
if not PYTHON:
    pytest.skip("TEXTGYM_RLLIB_PYTHON names no Python with RLlib (docs/libraries/rllib.md)", allow_module_level=True)

WRONG = """
import sys
from agents.adapters.rllib import TokenModule, masked_text_env
import gymnasium as gym
import numpy as np
import textgym, torch

def refused(call):
    try:
        call()
    except (ValueError, TypeError) as error:
        print(type(error).__name__, str(error))
    else:
        sys.exit("not refused")

refused(lambda: masked_text_env({"id": "TextGen-v0"}))
refused(lambda: masked_text_env({"num_envs": 2}))
refused(lambda: masked_text_env({"id": "TextGen-v0", "num_envs": 2}))
refused(lambda: TokenModule(observation_space=gym.spaces.Box(0, 1, (2, 2)), action_space=gym.spaces.Discrete(3)))

env = masked_text_env({"id": "TextGen-v0", "num_envs": 4, "constraint": "film_grammar"})
seen, infos = env.reset(seed=0)
assert env.observation_space.contains(seen) and "action_mask" not in infos
module = TokenModule(observation_space=env.single_observation_space, action_space=env.single_action_space, model_config={"kind": "mean"})
for _ in range(40):  # over the ends of episodes
    batch = {"obs": {name: torch.from_numpy(values) for name, values in seen.items()}}
    logits = module.forward_exploration(batch)["action_dist_inputs"]
    allowed = torch.from_numpy(seen["action_mask"]).bool()
    probabilities = logits.softmax(-1)
    assert (probabilities[~allowed] == 0).all() and (probabilities[allowed] > 0).all()
    assert module.compute_values(batch).shape == (4,)
    seen, rewards, terminated, truncated, infos = env.step(logits.argmax(-1).numpy())
    assert "action_mask" not in infos and not infos.get("forbidden", np.zeros(4)).any()
"""


def run(*arguments: str) -> str:
    done = subprocess.run([str(PYTHON), *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("algorithm", "task", "steps", "gain"),
    [("ppo", "even", "10000", 0.25), ("ppo_2_runners", "even", "10000", 0.25), ("ppo", "textgen_constrained", "15000", 0.2), ("ppo", "path", "15000", 2.0)],
)
def test_ppo_learns(algorithm: str, task: str, steps: str, gain: float, tmp_path: Path) -> None:
    run("-m", "benchmarks.third_party.rllib_ppo", "--algorithm", algorithm, "--task", task, "--steps", steps, "--json", str(tmp_path / "figures.json"))
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())["results"][0]
    assert figures["steps"] >= int(steps)
    assert figures["reached"] > figures["random"] + gain


def test_masks_reach_the_module_and_wrong_use_is_refused() -> None:
    said = run("-c", WRONG).splitlines()
    assert [line.split()[0] for line in said] == ["ValueError", "ValueError", "ValueError", "TypeError"]
    for line, what in zip(said, ("vector_entry_point", "needs the id", "shows no masks", "reads token ids"), strict=True):
        assert what in line
