"""Law 2: the native vector environment equals `SyncVectorEnv` of single environments, exactly; a fork replays exactly."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from helpers import SmallCore, TwoParts

from textgym import GymEnv, GymVectorEnv
from textgym.episodes import ScorerError
from textgym.task import Completions

pytestmark = pytest.mark.core

POWERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "parts, gold and text": {"scorer": TwoParts(), "gold": TwoParts(), "info_text": True},
    "one token": {"max_new_tokens": 1},
}


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    """Equal values, types, shapes and dtypes, at every depth."""
    assert type(ours) is type(theirs), f"{where}: {type(ours)} is not {type(theirs)}"
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), f"{where}: {sorted(ours)} is not {sorted(theirs)}"
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (tuple, list)) or (isinstance(ours, np.ndarray) and ours.dtype == object):
        assert len(ours) == len(theirs), where
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{where}[{i}]")
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype, f"{where}: {ours.dtype} is not {theirs.dtype}"
        np.testing.assert_array_equal(ours, theirs, err_msg=where)
    else:
        assert ours == theirs, where


def pair(mode: AutoresetMode, limit: int | None, **changes: Any) -> tuple[GymVectorEnv, SyncVectorEnv]:
    def single() -> gym.Env:
        env: gym.Env = GymEnv(SmallCore(**changes))
        return env if limit is None else TimeLimit(env, limit)

    return GymVectorEnv(SmallCore(**changes), 5, autoreset_mode=mode, max_episode_steps=limit), SyncVectorEnv([single] * 5, autoreset_mode=mode)


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_native_equals_sync(mode: AutoresetMode, power: str, limit: int | None) -> None:
    ours, theirs = pair(mode, limit, **POWERS[power])
    assert_same(ours.reset(seed=7), theirs.reset(seed=7), "reset")
    random = np.random.default_rng(0)
    ended_together = 0
    for t in range(2_000):
        actions = random.integers(6, size=5)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions), f"step {t}")
        ended = step[2] | step[3]
        ended_together += ended.sum() > 1
        if mode is AutoresetMode.DISABLED and ended.any():
            options = {"reset_mask": ended}
            assert_same(ours.reset(options=options), theirs.reset(options={"reset_mask": ended.copy()}), f"reset {t}")
            assert list(options) == ["reset_mask"], "the caller's options were changed"
        if t % 500 == 250:  # a full reset in the middle, seeded one by one
            seeds = random.integers(1000, size=5).tolist()
            assert_same(ours.reset(seed=seeds), theirs.reset(seed=seeds), f"reset {t}")
    assert ended_together > 50, "a test in which rows never end together proves little"


def test_observation_and_action_spaces_are_those_of_sync() -> None:
    ours, theirs = pair(AutoresetMode.NEXT_STEP, None)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]


def test_the_registered_task_equals_sync_too() -> None:
    ours = gym.make_vec("TextGen-v0", num_envs=4, gold="film_grammar", info_text=True)
    theirs = gym.make_vec("TextGen-v0", num_envs=4, vectorization_mode="sync", gold="film_grammar", info_text=True)
    assert_same(ours.reset(seed=1), theirs.reset(seed=1), "reset")
    random = np.random.default_rng(1)
    for t in range(500):
        actions = random.integers(ours.single_action_space.n, size=4)
        assert_same(ours.step(actions), theirs.step(actions), f"step {t}")


def test_a_masked_reset_leaves_the_other_rows_alone() -> None:
    env = GymVectorEnv(SmallCore(), 4)
    env.reset(seed=0)
    before = env.step(np.array([1, 2, 3, 4]))[0]
    after, _ = env.reset(options={"reset_mask": np.array([True, False, True, False]), "prompt": np.array([0, 1, 2, 3])})
    assert np.array_equal(after[[1, 3]], before[[1, 3]])
    assert after[0, :3].tolist() == [6, 6, 1]
    assert after[2, :3].tolist() == [1, 2, 3]


@pytest.mark.parametrize("seed", [11, [5, None, 7, None, 9], None])
def test_a_masked_reset_seeds_the_rows_it_begins_and_no_other(seed: int | list[int | None] | None) -> None:
    ours, theirs = pair(AutoresetMode.DISABLED, None)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3), "reset")
    for t, mask in enumerate(([True, True, False, False, True], [False, False, True, True, False], [True] * 5)):
        assert_same(*(env.reset(seed=seed if t == 0 else None, options={"reset_mask": np.array(mask)}) for env in (ours, theirs)), f"reset {t}")


def test_rows_of_one_seed_are_rows_of_the_next_shifted() -> None:
    first, second = GymVectorEnv(SmallCore(), 5), GymVectorEnv(SmallCore(), 5)
    assert np.array_equal(first.reset(seed=10)[0][1:], second.reset(seed=11)[0][:-1])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_fork_replays_exactly_and_leaves_the_original_alone(mode: AutoresetMode) -> None:
    env = GymVectorEnv(SmallCore(info_text=True), 3, autoreset_mode=mode, max_episode_steps=4)
    env.reset(seed=2)
    env.step(np.array([1, 2, 3]))
    before = env.get_state()
    fork = env.fork([2, 0], 3)
    assert fork.num_envs == 6
    random = np.random.default_rng(0)
    for _ in range(200 if mode is not AutoresetMode.DISABLED else 1):
        actions = random.integers(6, size=3)
        ours, copies = env.step(actions), fork.step(np.repeat(actions[[2, 0]], 3))
        for one, many in zip(ours[:4], copies[:4], strict=True):
            assert np.array_equal(np.repeat(one[[2, 0]], 3, axis=0), many)
    env.set_state(before)
    fork.step(np.full(6, 1)) if mode is not AutoresetMode.DISABLED else None
    assert_same(env.get_state(), before, "state")


def test_a_fork_with_a_seed_has_streams_of_its_own() -> None:
    env = GymVectorEnv(SmallCore(), 1, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    fork = env.fork([0], 64, seed=9)
    assert len({tuple(row) for row in fork.step(np.zeros(64, np.int64))[0].tolist()}) > 3  # every row began another prompt
    again = env.fork([0], 64, seed=9)
    assert np.array_equal(again.step(np.zeros(64, np.int64))[0], fork.core.observe(slice(None)))


def test_state_and_pickle_continue_exactly() -> None:
    env = GymVectorEnv(SmallCore(), 3)
    env.reset(seed=4)
    random = np.random.default_rng(0)
    for _ in range(50):
        env.step(random.integers(6, size=3))
    other, copy = GymVectorEnv(SmallCore(), 3), pickle.loads(pickle.dumps(env))
    other.set_state(env.get_state())
    for t in range(200):
        actions = random.integers(6, size=3)
        step = env.step(actions)
        assert_same(other.step(actions), step, f"step {t}")
        assert_same(copy.step(actions), step, f"step {t}")


def test_zero_copy_hands_out_the_same_memory_and_the_default_does_not() -> None:
    lent, own = GymVectorEnv(SmallCore(), 2, copy=False), GymVectorEnv(SmallCore(), 2)
    for env, shared in ((lent, True), (own, False)):
        first, _ = env.reset(seed=0)
        assert np.shares_memory(first, env.step(np.array([1, 1]))[0]) is shared


class TestErrors:
    def test_stepping_an_ended_row_in_disabled_mode(self) -> None:
        env = GymVectorEnv(SmallCore(), 2, autoreset_mode=AutoresetMode.DISABLED)
        env.reset(seed=0)
        env.step(np.array([0, 1]))
        with pytest.raises(ResetNeeded, match=r"rows \[0\] are over.*reset_mask"):
            env.step(np.array([1, 1]))

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_step_before_reset(self, mode: AutoresetMode) -> None:
        with pytest.raises(ResetNeeded, match="reset"):
            GymVectorEnv(SmallCore(), 2, autoreset_mode=mode).step(np.array([1, 1]))

    def test_wrong_numbers_of_actions_seeds_and_masks(self) -> None:
        env = GymVectorEnv(SmallCore(), 2)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="2 rows, got 3"):
            env.step(np.array([1, 1, 1]))
        with pytest.raises(ValueError, match="seeds"):
            env.reset(seed=[1])
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": np.array([1, 0])})
        with pytest.raises(ValueError, match="outside the action space"):
            env.step(np.array([1, 6]))
        with pytest.raises(ValueError, match="num_envs"):
            GymVectorEnv(SmallCore(), 0)

    def test_numbers_and_names_of_the_wrong_kind_are_told_as_such(self) -> None:
        env = GymVectorEnv(SmallCore(), 2)
        for seed in (1.5, "ab", {0: 1, 1: 2}):
            with pytest.raises(ValueError, match="one seed, or a list of seeds, one for each of the 2 rows"):
                env.reset(seed=seed)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="each of the 2 rows, got 3"):
            env.step(3)
        for number in (2.5, "2", True, 0):
            with pytest.raises(ValueError, match="num_envs must be an integer of at least 1"):
                GymVectorEnv(SmallCore(), number)
            with pytest.raises(ValueError, match="max_episode_steps must be an integer of at least 1"):
                GymVectorEnv(SmallCore(), 2, max_episode_steps=number)
        with pytest.raises(ValueError, match=r"'SAME_STEP' is not one of .*'SameStep'"):
            GymVectorEnv(SmallCore(), 2, autoreset_mode="SAME_STEP")

    def test_only_live_rows_fork_and_only_the_same_task_takes_a_state(self) -> None:
        env = GymVectorEnv(SmallCore(), 2)
        env.reset(seed=0)
        env.step(np.array([0, 1]))
        with pytest.raises(ValueError, match=r"rows \[0\] are over"):
            env.fork([0, 1], 2)
        with pytest.raises(ValueError, match="shape"):
            GymVectorEnv(SmallCore(), 3).set_state(env.get_state())


def test_rows_that_do_not_exist_cannot_be_forked() -> None:
    env = GymVectorEnv(SmallCore(), 3)
    env.reset(seed=0)
    for rows in ([3], [-1]):
        with pytest.raises(ValueError, match=r"lie in \[0, 3\)"):
            env.fork(rows, 2)


def test_a_mask_of_rows_is_no_list_of_their_numbers() -> None:
    env = GymVectorEnv(SmallCore(), 3)
    env.reset(seed=0)
    for rows in ([True, False, True], np.array([False, False, True]), [0.7]):  # would have been rows 1, 0, 1 and so on
        with pytest.raises(ValueError, match=r"Rows to fork are their numbers.*flatnonzero"):
            env.fork(rows, 1)
    assert env.fork(np.flatnonzero([True, False, True]), 2).num_envs == 4


class Away:
    """A judge that answers all but its first question, as one does that is asked over a network."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, completions: Completions) -> np.ndarray:
        self.asked += 1
        if self.asked == 1:
            raise OSError("503")
        return completions.lengths.astype(np.float64)


@pytest.mark.parametrize("dense", [False, True])
def test_a_step_that_broke_off_is_not_gone_on_from(dense: bool) -> None:
    """Its texts are written, and not scored: another token would stand behind EOS, or in the prompt of the next row."""
    core = SmallCore(scorer=Away(), max_new_tokens=1, dense=dense)
    single, env = GymEnv(core), GymVectorEnv(core, 3)
    for face, actions in ((single, 2), (env, np.array([2, 2, 0]))):
        core.changes["scorer"].asked = 0
        if dense:  # the empty texts are scored first
            with pytest.raises(ScorerError, match="503"):
                face.reset(seed=0)
        else:
            face.reset(seed=0)
            with pytest.raises(ScorerError, match="503"):
                face.step(actions)
        with pytest.raises(ResetNeeded, match="reset"):
            face.step(actions)
        if not dense:
            with pytest.raises(ResetNeeded, match="broke off half done"):
                face.get_state()
        begun, _ = face.reset(seed=0)
        after, rewards, *_ = face.step(actions)
        assert np.all(rewards == 1)
        np.testing.assert_array_equal(after[..., :3], begun[..., :3])  # the prompts
