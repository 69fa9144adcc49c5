"""Stable-Baselines3's and sb3-contrib's agents find what they need in textgym's environments; and, slowly, they learn."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest

import textgym  # noqa: F401 (registers the suite)

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from benchmarks.third_party.judge import random_returns, returns
from benchmarks.third_party.sb3 import ENTRANTS, main
from benchmarks.third_party.script import Args
from benchmarks.third_party.tasks import TASKS


def test_masks_reach_contrib_through_the_wrappers_of_gym_make_and_of_sb3() -> None:
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
    from stable_baselines3.common.env_util import make_vec_env

    assert not hasattr(gym.Wrapper, "action_masks")  # so it is our environment that answers
    env = make_vec_env("textgym:TextGen-v0", n_envs=2, seed=0, env_kwargs={"constraint": "film_grammar"})
    assert is_masking_supported(env)
    observations = env.reset()
    single = gym.make("TextGen-v0", constraint="film_grammar")
    first, info = single.reset(seed=0)
    np.testing.assert_array_equal(observations[0], first)
    np.testing.assert_array_equal(get_action_masks(env)[0], info["action_mask"])
    chosen = get_action_masks(env).argmax(1)
    env.step(chosen)
    _, _, _, _, info = single.step(chosen[0])
    np.testing.assert_array_equal(get_action_masks(env)[0], info["action_mask"])


def test_every_entrant_enters_even_path_and_a_text_task(capsys: pytest.CaptureFixture[str]) -> None:
    main(Args(list=True))
    listed = json.loads(capsys.readouterr().out)
    assert len(listed) == 7
    assert all(tasks[:2] == ["even", "path"] and TASKS[tasks[2]].id == "TextGen-v0" for tasks in listed.values())
    assert [name for name, tasks in listed.items() if TASKS[tasks[2]].masked] == ["maskable_ppo"]


def test_what_is_not_entered_is_refused() -> None:
    with pytest.raises(SystemExit, match="does not enter 'textgen_constrained'; it enters even, path, textgen"):
        main(Args(algorithm="ppo", task="textgen_constrained"))
    with pytest.raises(SystemExit, match="--algorithm sac is not one"):
        main(Args(algorithm="sac"))


def test_maskable_ppo_plays_only_what_is_allowed() -> None:
    """Hardly trained, so that only the masks keep it to the grammar: without them the judge's environment ends an episode at once, unpaid."""
    task = TASKS["textgen_constrained"]
    actor = ENTRANTS["maskable_ppo"].train(task, 1, 0).actor
    env = gym.make_vec(task.id, num_envs=16, autoreset_mode="SameStep", **task.options)
    observations, infos = env.reset(seed=0)
    for _ in range(30):
        actions = actor(observations, np.zeros(16, np.bool_), infos["action_mask"])
        assert infos["action_mask"][np.arange(16), actions].all()
        observations, _, _, _, infos = env.step(actions)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", list(ENTRANTS))
def test_it_learns_even(algorithm: str) -> None:
    task, entrant = TASKS["even"], ENTRANTS[algorithm]
    reached = returns(task, entrant.train(task, STEPS.get(algorithm, 8_000), 0).actor, 64).mean()
    assert reached > random_returns(task).mean() + 0.1


STEPS = {"a2c": 16_000, "dqn": 15_000, "qr_dqn": 15_000}  # the others learn within 8,000
