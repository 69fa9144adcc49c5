"""Laws 1 and 2 for every power of the core, alone, in pairs and in any company: constraints, dense rewards, turns, chunks, weighted prompts."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import PROMPTS, WORDS, Echo, SmallCore, TwoParts
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vector import assert_same

import textgym  # noqa: F401 (registers the suite)
from textgym import GymEnv, GymVectorEnv, constraints
from textgym.constraints import AllowList, MinLength, NoRepeat
from textgym.recording import RecordEpisode, RecordVectorEpisode, verify

pytestmark = pytest.mark.core

POWERS: dict[str, dict[str, Any]] = {
    "allow-list": {"constraint": AllowList(["a", "c", "d", "e"])},
    "no repeats": {"constraint": NoRepeat(2), "forbidden_ends": False, "forbidden_penalty": 0.25},
    "minimum length": {"constraint": MinLength(3), "info_mask": False},
    "dense": {"dense": True, "gamma": 0.875},
    "turns": {"responder": Echo(), "max_response_tokens": 40},
    "chunks": {"chunk": 3},
    "whole response": {"chunk": 5},
    "weighted prompts": {"prompt_weights": [3, 1, 0, 2, 0, 1]},
    "composed": {"scorer": TwoParts(), "gold": TwoParts(), "info_text": True},
}
SETS = [(name,) for name in POWERS] + [
    pair for pair in itertools.combinations(POWERS, 2) if len(POWERS[pair[0]].keys() & POWERS[pair[1]].keys()) == 0
]  # two constraints are no pair: `All` combines them, and tests/test_constraints.py has that


def merged(names: tuple[str, ...]) -> dict[str, Any]:
    """The options of several powers; of two that set the same option the last wins."""
    return {key: value for name in names for key, value in POWERS[name].items()}


def drawn(random: np.random.Generator, space: gym.Space, n: int) -> np.ndarray:
    """Actions of n rows, EOS (id 0) half as often as by chance, so that texts grow."""
    shape = (n, *space.shape)
    actions = random.integers(len(WORDS), size=shape)
    return np.where((actions == 0) & (random.random(shape) < 0.5), 1, actions)


def play_both(names: tuple[str, ...], mode: AutoresetMode, seed: int, steps: int, rows: int = 4) -> int:
    """Play native and sync side by side, a fork of the native one behind them; return how many episodes ended."""
    changes = merged(names)
    ours = GymVectorEnv(SmallCore(**changes), rows, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: GymEnv(SmallCore(**changes))] * rows, autoreset_mode=mode)
    assert_same(ours.reset(seed=seed), theirs.reset(seed=seed), f"{names} reset")
    random, ends = np.random.default_rng(seed), 0
    for t in range(steps):
        actions = drawn(random, ours.single_action_space, rows)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions), f"{names} {mode} step {t}")
        ended = step[2] | step[3]
        ends += int(ended.sum())
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended.copy()}), f"{names} reset {t}")
    return ends


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("names", SETS, ids=" + ".join)
def test_native_equals_sync_for_every_power_and_every_pair(names: tuple[str, ...], mode: AutoresetMode) -> None:
    assert play_both(names, mode, seed=1, steps=60) > 20


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(POWERS)), min_size=2, max_size=5, unique=True),
    mode=st.sampled_from(list(AutoresetMode)),
    seed=st.integers(0, 2**20),
    rows=st.integers(1, 5),
)
def test_native_equals_sync_in_any_company(names: list[str], mode: AutoresetMode, seed: int, rows: int) -> None:
    play_both(tuple(names), mode, seed, steps=25, rows=rows)


@pytest.mark.parametrize("names", SETS, ids=" + ".join)
def test_a_fork_and_a_state_replay_exactly(names: tuple[str, ...]) -> None:
    env = GymVectorEnv(SmallCore(**merged(names)), 3, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=5)
    random = np.random.default_rng(5)
    for _ in range(4):
        env.step(drawn(random, env.single_action_space, 3))
    fork = env.fork([2, 0], 2)
    other = GymVectorEnv(SmallCore(**merged(names)), 3, autoreset_mode=AutoresetMode.SAME_STEP)
    other.set_state(pickle.loads(pickle.dumps(env.get_state())))
    for t in range(40):
        actions = drawn(random, env.single_action_space, 3)
        step = env.step(actions)
        assert_same(other.step(actions), step, f"step {t}")
        forked = fork.step(actions[[2, 2, 0, 0]])
        for part in range(4):
            assert_same(forked[part], step[part][[2, 2, 0, 0]], f"fork, step {t}, part {part}")


@pytest.mark.parametrize("names", SETS, ids=" + ".join)
def test_the_single_form_passes_gymnasiums_checker_and_pickles(names: tuple[str, ...]) -> None:
    env = GymEnv(SmallCore(**merged(names)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
    env.reset(seed=1)
    random = np.random.default_rng(1)
    twin = pickle.loads(pickle.dumps(env))
    for _ in range(40):
        action = drawn(random, env.action_space, 1)[0]
        ours, theirs = env.step(action), twin.step(action)
        assert data_equivalence(ours, theirs, exact=True)
        if ours[2] or ours[3]:
            assert data_equivalence(env.reset(), twin.reset(), exact=True)


# In the registry's own words, so that a recorded line can be made again.
SPELLED: dict[str, dict[str, Any]] = {
    "dense": {"dense": True},
    "chunks": {"chunk": 5},
    "constraint": {"constraint": "film_grammar", "forbidden_ends": False},
    "no repeats": {"constraint": [{"name": "no_repeat", "n": 2}, {"name": "min_length", "n": 4}]},
    "turns": {
        "prompts": ["12 + 3", "4 - 9"],
        "tokenizer": "byte",
        "responder": "calculator",
        "max_response_tokens": 40,
        "scorer": {"name": "length", "target": 12},
    },
}
SPELLED_SETS = [(name,) for name in SPELLED] + [("dense", "chunks"), ("dense", "constraint"), ("chunks", "constraint"), ("chunks", "turns"), ("dense", "turns")]


@pytest.mark.parametrize("names", SPELLED_SETS, ids=" + ".join)
def test_a_recording_replays_exactly_and_the_spec_is_json(names: tuple[str, ...], tmp_path: Path) -> None:
    options = {key: value for name in names for key, value in SPELLED[name].items()}
    spec = copy.deepcopy(gym.spec("TextGen-v0"))  # the registry's own would be changed for everybody
    spec.kwargs.update(options)
    assert type(spec).from_json(spec.to_json()) == spec
    single = RecordEpisode(gym.make("TextGen-v0", **options), tmp_path / "single.jsonl")
    single.action_space.seed(0)
    single.reset(seed=2)
    for _ in range(80):
        if any(single.step(single.action_space.sample())[2:4]):
            single.reset()
    single.close()
    rows = RecordVectorEpisode(gym.make_vec("TextGen-v0", num_envs=3, **options), tmp_path / "vector.jsonl")
    rows.action_space.seed(0)
    rows.reset(seed=2)
    for _ in range(40):
        rows.step(rows.action_space.sample())
    rows.close()
    for file in ("single.jsonl", "vector.jsonl"):
        verdicts = list(verify(tmp_path / file))
        assert verdicts
        assert all(verdict.difference is None for verdict in verdicts), verdicts[0]


def test_a_power_that_is_off_says_nothing() -> None:
    env = GymVectorEnv(SmallCore(), 3, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    keys = set().union(*(env.step(np.ones(3, np.int64))[4].keys() for _ in range(4)))
    assert keys == set()
    assert set(env.core.get_state()) == {"tokens", "counts", "ended", "index"}
    with pytest.raises(TypeError, match="no constraint"):
        env.action_masks()


def test_a_forbidden_token_costs_and_ends_or_only_costs() -> None:
    ends = GymEnv(SmallCore(constraint=AllowList(["a", "b"]), forbidden_penalty=0.5))
    ends.reset(seed=0, options={"prompt": 0})
    assert ends.step(1)[1:3] == (0.0, False)
    _, reward, terminated, _, info = ends.step(3)
    assert (reward, terminated, info["score"], info["forbidden"]) == (0.5 - 0.5, True, 0.5, 1)
    goes_on = GymEnv(SmallCore(constraint=AllowList(["a", "b"]), forbidden_penalty=0.5, forbidden_ends=False))
    goes_on.reset(seed=0, options={"prompt": 0})
    assert goes_on.step(3)[1:3] == (-0.5, False)
    assert goes_on.step(3)[1:3] == (-0.5, False)
    _, reward, terminated, _, info = goes_on.step(0)
    assert (reward, terminated, info["score"], info["forbidden"]) == (0.0, True, 0.0, 2)


def test_the_mask_says_what_will_cost() -> None:
    env = GymVectorEnv(SmallCore(constraint=NoRepeat(1), forbidden_ends=False), 6, autoreset_mode=AutoresetMode.SAME_STEP)
    _, infos = env.reset(seed=3)
    random, seen = np.random.default_rng(0), set()
    for _ in range(200):
        masks = infos["action_mask"].astype(bool)
        np.testing.assert_array_equal(masks, env.action_masks())
        actions = random.integers(len(WORDS), size=6)
        allowed = masks[np.arange(6), actions]
        _, rewards, terminated, _, infos = env.step(actions)
        paid = np.where(terminated, infos["final_info"]["score"] if terminated.any() else 0.0, 0.0)
        np.testing.assert_array_equal(rewards - paid == 0, allowed)
        seen |= set(allowed.tolist())
    assert seen == {True, False}


def test_a_dead_end_is_an_error_that_shows_the_prefix() -> None:
    env = GymEnv(SmallCore(constraint=constraints.make([AllowList(["a"]), NoRepeat(1), MinLength(3)])))
    env.reset(seed=0, options={"prompt": 1})
    with pytest.raises(ValueError, match=r"no token at all after 'b c \| a.*contradict"):
        env.step(1)


def test_prompts_of_the_helpers_are_those_that_the_weights_speak_of() -> None:
    assert len(POWERS["weighted prompts"]["prompt_weights"]) == len(PROMPTS)
