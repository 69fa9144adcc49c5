"""A constrained environment is an environment as any other: law 2, forks, states, the checkers; and no agent ever takes an illegal action."""

from __future__ import annotations

import json
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import PROMPTS, WORDS, SmallCore
from test_vector import assert_same

from textgym import GymEnv, GymVectorEnv
from textgym.constraints import All, AllowList, Automaton, BannedWords, MinLength, NextTokens, NoRepeat
from textgym.task import Constraint

pytestmark = pytest.mark.core

ABC = Automaton({0: {"a": 1, "b": 0, "d": 2}, 1: {"b": 2, "c": 0}, 2: {"e": 0, "d": 2}}, {0, 2})
PAIRS = NextTokens(np.array([[6, 6], [2, 3], [0, 4], [5, 1], [3, 0], [1, 2]]))
CONSTRAINTS: dict[str, dict[str, Any]] = {
    "mask": {"constraint": AllowList(["a", "b"])},
    "bans": {"constraint": All(NoRepeat(2), MinLength(2))},
    "ids": {"constraint": PAIRS, "forbidden_ends": False, "forbidden_penalty": 0.25},
    "automaton": {"constraint": ABC, "forbidden_ends": False, "info_text": True},
    "all kinds": {"constraint": All(ABC, BannedWords(["c"]), NoRepeat(3)), "forbidden_ends": False},
    "chunks": {"constraint": All(ABC, NoRepeat(4)), "chunk": 2},
    "dense": {"constraint": ABC, "dense": True, "gamma": 0.5, "info_mask": False},
}


def sampled(env: gym.vector.VectorEnv, random: np.random.Generator) -> np.ndarray:
    return random.integers(6, size=env.action_space.shape)


@pytest.mark.parametrize(("name", "limit"), [*((name, None) for name in CONSTRAINTS), ("all kinds", 3)])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_native_equals_sync(mode: AutoresetMode, name: str, limit: int | None) -> None:
    def single() -> gym.Env:
        env: gym.Env = GymEnv(SmallCore(**CONSTRAINTS[name]))
        return env if limit is None else gym.wrappers.TimeLimit(env, limit)

    ours = GymVectorEnv(SmallCore(**CONSTRAINTS[name]), 5, autoreset_mode=mode, max_episode_steps=limit)
    theirs = SyncVectorEnv([single] * 5, autoreset_mode=mode)
    assert_same(ours.reset(seed=7), theirs.reset(seed=7), "reset")
    random, ended_together, forbidden = np.random.default_rng(0), 0, 0
    for t in range(150):
        actions = sampled(ours, random)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions), f"step {t}")
        ended = step[2] | step[3]
        ended_together += ended.sum() > 1
        forbidden += int(step[4].get("final_info", step[4]).get("forbidden", np.zeros(5)).sum())
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended.copy()}), f"reset {t}")
        assert np.array_equal(ours.action_masks(), np.stack([env.get_wrapper_attr("action_masks")() for env in theirs.envs]))
    assert ended_together > 15
    assert forbidden > 20


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_fork_and_a_state_go_on_exactly(name: str) -> None:
    env = GymVectorEnv(SmallCore(**CONSTRAINTS[name]), 4, autoreset_mode="SameStep")
    env.reset(seed=3)
    random = np.random.default_rng(1)
    for _ in range(20):
        env.step(sampled(env, random))
    state, fork = env.get_state(), env.fork([2, 0, 3], 2)
    assert np.array_equal(fork.action_masks(), env.action_masks()[[2, 2, 0, 0, 3, 3]])
    again = GymVectorEnv(SmallCore(**CONSTRAINTS[name]), 4, autoreset_mode="SameStep")
    again.set_state(pickle.loads(pickle.dumps(state)))
    clone = pickle.loads(pickle.dumps(env))
    for t in range(20):
        actions = sampled(env, random)
        step = env.step(actions)
        assert_same(again.step(actions), step, f"step {t}")
        assert_same(clone.step(actions), step, f"step {t}")
        forked = fork.step(actions[[2, 2, 0, 0, 3, 3]])
        assert np.array_equal(forked[0][::2], step[0][[2, 0, 3]])
        assert np.array_equal(forked[0][::2], forked[0][1::2])
        assert np.array_equal(forked[1][::2], step[1][[2, 0, 3]])
        assert np.array_equal(fork.action_masks()[::2], env.action_masks()[[2, 0, 3]])


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_checker_of_gymnasium_is_content(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(GymEnv(SmallCore(**CONSTRAINTS[name])), skip_render_check=True)


def test_the_checkers_are_content_with_the_registered_task() -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = gym.make("TextGen-v0", constraint=["film_grammar", {"name": "min_length", "n": 3}])
    assert json.loads(env.spec.to_json())["kwargs"]["constraint"][0] == "film_grammar"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
        checker.check_env(env)


def test_masks_are_found_through_wrappers() -> None:
    env = gym.wrappers.TimeLimit(gym.wrappers.RecordEpisodeStatistics(gym.make("TextGen-v0", constraint="film_grammar")), 9)
    _, info = env.reset(seed=0)
    assert np.array_equal(env.get_wrapper_attr("action_masks")(), info["action_mask"])
    free = gym.make("TextGen-v0")
    free.reset()
    with pytest.raises(TypeError, match="has no constraint"):
        free.get_wrapper_attr("action_masks")()


def vectors(constraint: Constraint) -> list[gym.vector.VectorEnv]:
    return [GymVectorEnv(SmallCore(constraint=constraint), 6, autoreset_mode=mode) for mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)]


@pytest.mark.parametrize("constraint", [ABC, All(NoRepeat(1), MinLength(1)), PAIRS], ids=["automaton", "bans", "ids"])
def test_our_policies_never_take_an_illegal_action(constraint: Constraint) -> None:
    torch = pytest.importorskip("torch")
    from helpers import tiny_language_model

    from agents.play import begin, collect, evaluate
    from agents.policies import MLPPolicy, seeded

    torch.set_num_threads(1)
    with seeded(0):
        policies = [MLPPolicy(8, len(WORDS), (16,)), tiny_language_model()]
    for policy in policies:
        for env in vectors(constraint):
            random = np.random.default_rng(0)
            played = collect(env, policy, begin(env, policy, seed=1), random, episodes_per_row=12)
            assert np.nansum(played.ends["forbidden"]) == 0
            assert np.isfinite(played.ends["forbidden"]).sum() >= 72
            masks = played.rollout.action_masks
            chosen = np.take_along_axis(masks, played.rollout.actions[..., None], axis=-1)[..., 0]
            assert chosen[played.rollout.valid].all()
            assert not masks[played.rollout.valid].all(), "a mask that allows everything proves nothing"
            assert np.array(evaluate(env, policy, random, episodes_per_row=5, seed=2).ends["forbidden"]).sum() == 0


def test_maskable_ppo_never_takes_an_illegal_action() -> None:
    pytest.importorskip("sb3_contrib")
    import torch
    from sb3_contrib import MaskablePPO
    from stable_baselines3.common.callbacks import BaseCallback

    class Watch(BaseCallback):
        counts: list[int]

        def _on_training_start(self) -> None:
            self.counts = []

        def _on_step(self) -> bool:
            self.counts += [info["forbidden"] for info in self.locals["infos"] if "forbidden" in info]
            return True

    torch.set_num_threads(1)
    options = {"prompts": list(PROMPTS), "scorer": {"name": "length", "target": 4}, "max_prompt_tokens": 3, "max_new_tokens": 5}
    env = gym.make("TextGen-v0", tokenizer=SmallCore()(1).task.tokenizer, constraint=[ABC, {"name": "no_repeat", "n": 3}], **options)
    watch = Watch()
    MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0).learn(400, callback=watch)
    assert len(watch.counts) > 60
    assert sum(watch.counts) == 0
    unmasked = gym.make("TextGen-v0", tokenizer=SmallCore()(1).task.tokenizer, constraint=ABC, **options)
    unmasked.reset(seed=0)
    assert unmasked.step(WORDS.index("c"))[4]["forbidden"] == 1  # the count does count
