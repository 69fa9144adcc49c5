"""SB3VecEnv: it must be what `DummyVecEnv` over single environments is, number for number."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textgym  # noqa: F401 (registers the suite)

pytest.importorskip("stable_baselines3")
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from agents.adapters.sb3_vec_env import SB3VecEnv
from textgym.wrappers import DictObservation, LastTokens, vector

ROWS = 5
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sparse": ("TextGen-v0", {"max_new_tokens": 6}),
    "texts in infos, a composed score": (
        "TextGen-v0",
        {"info_text": True, "scorer": {"name": "weighted_sum", "parts": {"good": ["sentiment", 1.0], "varied": ["repetition", 0.5]}}},
    ),
    "masks beside every observation": ("TextGen-v0", {"constraint": "film_grammar", "forbidden_ends": False}),
    "dense": ("textgym/Successor-v0", {"dense": True, "vocab_size": 5}),
    "chunks": ("TextGen-v0", {"chunk": 3}),
    "truncated by the task": ("textgym/PathPlanning-v0", {"map": "four_rooms", "start": "random", "max_steps": 30}),
    "no text": ("textgym/TwoState-v0", {"slip": 0.2}),
}


def both(id: str, options: dict[str, Any], rows: int = ROWS, limit: int | None = None) -> tuple[SB3VecEnv, DummyVecEnv]:
    extra = {} if limit is None else {"max_episode_steps": limit}
    ours = SB3VecEnv(gym.make_vec(id, num_envs=rows, **options, **extra))
    return ours, DummyVecEnv([lambda: Monitor(gym.make(id, **options, **extra))] * rows)


def same(ours: Any, theirs: Any) -> None:
    """Compare nested observations and infos, types of numbers included; what a clock says may differ."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            if key != "t":
                same(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(theirs, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs


def play_both(ours: Any, theirs: Any, steps: int, seed: int = 3) -> int:
    """Step both with the same actions and compare everything; return how many episodes ended."""
    for env in (ours, theirs):
        env.seed(seed)
        env.action_space.seed(seed)
    same(ours.reset(), theirs.reset())
    same(ours.reset_infos, theirs.reset_infos)
    ends = 0
    for _ in range(steps):
        actions = np.array([theirs.action_space.sample() for _ in range(theirs.num_envs)])
        one, other = ours.step(actions), theirs.step(actions)
        same(one, other)
        same(ours.reset_infos, theirs.reset_infos)
        ends += int(other[2].sum())
    return ends


@pytest.mark.parametrize("name", TASKS)
def test_it_is_what_dummy_vec_env_is(name: str) -> None:
    assert play_both(*both(*TASKS[name]), steps=150) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_it_is_what_dummy_vec_env_is_for_thousands_of_steps(name: str) -> None:
    play_both(*both(*TASKS[name], rows=8), steps=5000, seed=11)


def test_somebody_elses_limit_is_told_as_truncation() -> None:
    ours, theirs = both("TextGen-v0", {}, limit=4)
    assert play_both(ours, theirs, steps=60) > 50
    ours.reset()
    for _ in range(4):
        _, _, dones, infos = ours.step(np.full(ROWS, 5))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] and "score" not in info for info in infos)


@pytest.mark.parametrize("wrapper", ["DictObservation", "LastTokens"])
def test_wrappers_of_the_vector_environment_stand_below_it(wrapper: str) -> None:
    outer: Any = {"DictObservation": vector.DictObservation, "LastTokens": partial(vector.LastTokens, k=4)}[wrapper]
    inner: Any = {"DictObservation": DictObservation, "LastTokens": partial(LastTokens, k=4)}[wrapper]
    ours = SB3VecEnv(outer(gym.make_vec("TextGen-v0", num_envs=3)))
    assert play_both(ours, DummyVecEnv([lambda: Monitor(inner(gym.make("TextGen-v0")))] * 3), steps=60) > 5


def test_wrappers_of_stable_baselines_stand_above_it() -> None:
    def wrapped(env: Any) -> Any:
        return VecNormalize(VecFrameStack(VecMonitor(env), 3), norm_obs=True)

    options = {"start": "random", "max_steps": 20}
    ours = SB3VecEnv(gym.make_vec("textgym/PathPlanning-v0", num_envs=3, **options), monitor=False)
    ended = play_both(wrapped(ours), wrapped(DummyVecEnv([lambda: gym.make("textgym/PathPlanning-v0", **options)] * 3)), steps=80)
    assert ended >= 9


def test_options_are_used_once_and_may_differ_from_row_to_row() -> None:
    ours, theirs = both("TextGen-v0", {})
    chosen: list[Any] = [{"prompt": 7}, [{"prompt": row} for row in range(ROWS)], [{"prompt": 2}, {}, {"prompt": 4}, {}, {}]]
    for options in chosen:
        for begun in range(2):
            for env in (ours, theirs):
                env.seed(begun)
                env.set_options(options)
            same(ours.reset(), theirs.reset())
    fresh, other = both("TextGen-v0", {})  # what stands first must begin every row, whoever has options
    for env in (fresh, other):
        env.seed(5)
        env.set_options(chosen[2])
    same(fresh.reset(), other.reset())
    same([fresh.reset() for _ in range(3)], [other.reset() for _ in range(3)])


def test_attributes_and_methods_are_those_of_single_environments() -> None:
    ours, theirs = both("TextGen-v0", {"constraint": "film_grammar", "render_mode": "ansi"})
    play_both(ours, theirs, steps=5)
    for name in ("render_mode", "observation_space", "action_space", "metadata"):
        one, other = (env.get_attr(name, [0, 2]) for env in (ours, theirs))
        assert len(one) == 2
        assert name == "metadata" or one == other
    for method in ("action_masks", "texts", "render"):
        same(ours.env_method(method), theirs.env_method(method))
        same(ours.env_method(method, indices=3), theirs.env_method(method, indices=3))
    for env in (ours, theirs):
        assert env.has_attr("action_masks")
        assert not env.has_attr("no_such_thing")
        env.set_attr("note", 7)
        assert env.get_attr("note") == [7] * ROWS
        assert env.env_is_wrapped(Monitor) == [True] * ROWS
    assert not any(SB3VecEnv(ours.env, monitor=False).env_is_wrapped(Monitor))


def test_pictures_are_tiled() -> None:
    ours, theirs = both("textgym/PathPlanning-v0", {"render_mode": "rgb_array"}, rows=2)
    play_both(ours, theirs, steps=2)
    np.testing.assert_array_equal(ours.render(), theirs.render())


def test_ppo_and_its_evaluation_take_it() -> None:
    ours, theirs = both("textgym/Even-v0", {"vocab_size": 4}, rows=4)
    means = []
    for env in (ours, theirs):
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
        model.learn(256)
        env.seed(9)
        means.append((evaluate_policy(model, env, 12), len(model.ep_info_buffer), [info["r"] for info in model.ep_info_buffer]))
    assert means[0] == means[1]


@pytest.mark.slow
def test_masked_ppo_never_plays_what_is_forbidden() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = SB3VecEnv(gym.make_vec("TextGen-v0", num_envs=8, constraint="film_grammar"))
    model = contrib.MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=128, n_epochs=1, seed=0, device="cpu")
    model.learn(2048)
    assert len(model.ep_info_buffer) > 50
    observations = env.reset()
    for _ in range(60):
        masks = np.stack(env.env_method("action_masks"))
        actions, _ = model.predict(observations, action_masks=masks)
        assert masks[np.arange(8), actions].all()
        observations, _, _, infos = env.step(actions)
        assert not any(info.get("forbidden", 0) for info in infos)


def test_what_it_cannot_take_is_refused() -> None:
    with pytest.raises(TypeError, match="DummyVecEnv takes single ones"):
        SB3VecEnv(gym.make("TextGen-v0"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="textgym's vector environment"):
        SB3VecEnv(gym.make_vec("CartPole-v1", num_envs=2))
    with pytest.raises(ValueError, match="SameStep"):
        SB3VecEnv(gym.make_vec("TextGen-v0", num_envs=2, autoreset_mode="SameStep"))
    env = SB3VecEnv(gym.make_vec("TextGen-v0", num_envs=2, autoreset_mode="Disabled"))
    with pytest.raises(RuntimeError, match="no actions"):
        env.step_wait()
    env.reset()
    with pytest.raises(AttributeError, match="action_masks, texts, render"):
        env.env_method("fork", [0], 2)
    with pytest.raises(ValueError, match="all of them at once"):
        env.set_attr("note", 1, indices=0)
    env.set_options([{}])
    with pytest.raises(ValueError, match="one for each of the 2 rows"):
        env.reset()
    with pytest.raises(ValueError, match="outside the action space"):
        env.step(np.array([0, 10_000]))
