"""`TopKActions`: an action is a place in the table that was told; with constraints, at ends, in state and forks, in both forms."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from helpers import SmallCore
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wrappers import MODEL, Bigrams, V, play_both

from textgym import GymEnv, GymVectorEnv, wrappers
from textgym.allowed import Allowed
from textgym.core import IntArray
from textgym.task import Prefixes, Tokenizer
from textgym.wrappers import vector

pytestmark = pytest.mark.core

MODES = list(AutoresetMode)


class Only:
    """A constraint: nothing but these ids, and EOS at the earliest after `least` tokens."""

    def __init__(self, *ids: int, least: int = 0) -> None:
        self.ids, self.least = list(ids), least

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int) -> Only:
        return self

    def begin(self, prefixes: Prefixes) -> IntArray:
        return np.zeros((len(prefixes.tokens), 1), dtype=np.int64)

    def follow(self, memory: IntArray, tokens: IntArray) -> IntArray:
        return memory + 1

    def allowed(self, memory: IntArray, prefixes: Prefixes) -> Allowed:
        mask = np.zeros((len(memory), V), dtype=np.bool_)
        mask[:, self.ids] = True
        mask[:, 0] &= memory[:, 0] >= self.least
        return Allowed(mask=mask)


class Fixed:
    """A reference that always says the same, in whatever shape it is given."""

    vocab_size = V

    def __init__(self, table: Any) -> None:
        self.table = table

    def top(self, tokens: np.ndarray, k: int) -> np.ndarray:
        return np.array([self.table] * len(tokens))


FOUR = Only(0, 1, 3, 4)  # two of six ids are forbidden: of any three one is allowed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize(
    "changes",
    [{"constraint": FOUR}, {"constraint": FOUR, "info_mask": False}, {"constraint": FOUR, "forbidden_ends": False}, {"dense": True, "info_text": True}],
    ids=["mask", "no mask told", "penalty", "dense"],
)
def test_the_vector_form_is_sync_of_the_single_form(changes: dict[str, Any], limit: int | None, mode: AutoresetMode) -> None:
    play_both(lambda form, env: form.TopKActions(env, MODEL, 3), mode, limit, steps=50, **changes)
    play_both(lambda form, env: form.TopKActions(env, MODEL, 4, keep_eos=True), mode, limit, steps=50, **changes)


@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.integers(0, V - 1), min_size=1, max_size=5), prompt=st.integers(0, 5))
def test_an_action_writes_the_token_at_its_place_in_the_table(places: list[int], prompt: int) -> None:
    """With k = V nothing is lost: a game of places is the same game of tokens."""
    env, bare = wrappers.TopKActions(GymEnv(SmallCore()), MODEL, V), GymEnv(SmallCore())
    (observation, info), (expected, _) = env.reset(options={"prompt": prompt}), bare.reset(options={"prompt": prompt})
    for place in places:
        assert sorted(info["top_ids"].tolist()) == list(range(V))
        assert np.array_equal(info["top_ids"], MODEL.top(observation[None], V)[0])
        token = int(info["top_ids"][place])
        observation, reward, terminated, _, info = env.step(place)
        expected, owed, over, _, _ = bare.step(token)
        assert np.array_equal(observation, expected)
        assert (reward, terminated) == (owed, over)
        if over:
            break


class TestConstraint:
    def test_the_mask_is_that_of_the_table(self) -> None:
        env = wrappers.TopKActions(GymEnv(SmallCore(constraint=FOUR)), MODEL, 4)
        envs = vector.TopKActions(GymVectorEnv(SmallCore(constraint=FOUR), 3, autoreset_mode="SameStep"), MODEL, 4)
        _, info = env.reset(seed=0)
        _, infos = envs.reset(seed=0)
        random = np.random.default_rng(0)
        for _ in range(60):
            allowed = np.isin(infos["top_ids"], FOUR.ids)
            assert np.array_equal(infos["action_mask"], allowed)
            assert infos["action_mask"].dtype == np.int8
            assert infos["_action_mask"].all()
            assert np.array_equal(envs.action_masks(), allowed)
            assert envs.action_masks().dtype == np.bool_
            infos = envs.step(random.integers(4, size=3))[4]
            assert np.array_equal(info["action_mask"], np.isin(info["top_ids"], FOUR.ids))
            assert np.array_equal(env.action_masks(), info["action_mask"])
            _, _, terminated, _, info = env.step(int(random.choice(np.flatnonzero(info["action_mask"]))))
            if terminated:
                assert "forbidden" in info
                assert info["forbidden"] == 0
                _, info = env.reset()

    def test_where_an_episode_is_over_nothing_is_masked(self) -> None:
        env = wrappers.TopKActions(gym.wrappers.TimeLimit(GymEnv(SmallCore(constraint=Only(5, 4))), 1), MODEL, 6)
        env.reset(seed=0)
        _, _, _, truncated, info = env.step(int(np.flatnonzero(env.action_masks())[0]))
        assert truncated
        assert info["action_mask"].tolist() == [1] * 6
        assert info["top_ids"].tolist() == list(range(6))
        assert env.action_masks().all()

    def test_none_allowed_is_an_error_that_says_so(self) -> None:
        core, reference = SmallCore(constraint=Only(5)), Fixed([1, 2])
        for form, face in ((wrappers, GymEnv(core)), (vector, GymVectorEnv(core, 2))):
            with pytest.raises(ValueError, match=r"forbids all of the 2 best tokens .* ids \[1, 2\].*raise k"):
                form.TopKActions(face, reference, 2).reset(seed=0)

    def test_without_a_told_mask_it_is_told_on_request(self) -> None:
        env = vector.TopKActions(GymVectorEnv(SmallCore(constraint=FOUR, info_mask=False), 2), MODEL, 4)
        _, infos = env.reset(seed=0)
        assert "action_mask" not in infos
        assert np.array_equal(env.action_masks(), np.isin(infos["top_ids"], FOUR.ids))

    def test_without_a_constraint_there_is_no_mask(self) -> None:
        env = vector.TopKActions(GymVectorEnv(SmallCore(), 2), MODEL, 4)
        assert "action_mask" not in env.reset(seed=0)[1]
        with pytest.raises(TypeError, match="no constraint"):
            env.action_masks()


class TestEos:
    def test_it_takes_the_last_place_only_where_it_is_missing(self) -> None:
        for table, kept in (([1, 2, 3], [1, 2, 0]), ([1, 0, 3], [1, 0, 3])):
            env = wrappers.TopKActions(GymEnv(SmallCore()), Fixed(table), 3, keep_eos=True)
            assert env.reset(seed=0)[1]["top_ids"].tolist() == kept
            bare = wrappers.TopKActions(GymEnv(SmallCore()), Fixed(table), 3)
            assert bare.reset(seed=0)[1]["top_ids"].tolist() == table

    def test_an_agent_can_then_stop_at_once(self) -> None:
        env = vector.TopKActions(GymVectorEnv(SmallCore(), 2), Fixed([4, 5]), 2, keep_eos=True)
        env.reset(seed=0)
        assert env.step(np.array([1, 0]))[2].tolist() == [True, False]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_told_of_ended_rows_is_well_formed(mode: AutoresetMode) -> None:
    env = vector.TopKActions(GymVectorEnv(SmallCore(), 3, autoreset_mode=mode), Fixed([5, 0, 3]), 3)
    env.reset(seed=0)
    _, _, terminated, _, infos = env.step(np.array([1, 0, 1]))
    assert terminated.tolist() == [True, False, True]
    assert infos["_top_ids"].all()
    if mode is AutoresetMode.SAME_STEP:
        assert infos["top_ids"].tolist() == [[5, 0, 3]] * 3  # of the episodes that have begun
        assert infos["final_info"]["top_ids"].tolist() == [[0, 1, 2], [0, 0, 0], [0, 1, 2]]
        assert infos["final_info"]["_top_ids"].tolist() == [True, False, True]
    else:
        assert infos["top_ids"].tolist() == [[0, 1, 2], [5, 0, 3], [0, 1, 2]]
    if mode is AutoresetMode.NEXT_STEP:
        assert env.step(np.array([2, 0, 0]))[4]["top_ids"].tolist() == [[5, 0, 3]] * 3
    if mode is AutoresetMode.DISABLED:
        _, infos = env.reset(options={"reset_mask": np.array([True, False, False])})
        assert infos["top_ids"].tolist() == [[5, 0, 3], [0, 0, 0], [0, 0, 0]]
        assert infos["_top_ids"].tolist() == [True, False, False]


def test_the_reference_is_not_asked_about_what_is_over() -> None:
    class Counting(Bigrams):
        asked = 0

        def top(self, tokens: np.ndarray, k: int) -> np.ndarray:
            self.asked += len(tokens)
            return super().top(tokens, k)

    reference = Counting()
    env = vector.TopKActions(GymVectorEnv(SmallCore(max_new_tokens=1), 4, autoreset_mode="NextStep"), reference, 2)
    env.reset(seed=0)
    for _ in range(6):  # step and begin, in turn
        env.step(np.zeros(4, dtype=np.int64))
    assert reference.asked == 4 + 3 * 4


def test_the_table_belongs_to_the_state() -> None:
    """A reference that has been trained on since would give another table: the one that was told counts."""
    for one, other in (
        (wrappers.TopKActions(GymEnv(SmallCore()), Fixed([1, 2]), 2), wrappers.TopKActions(GymEnv(SmallCore()), Fixed([3, 4]), 2)),
        (vector.TopKActions(GymVectorEnv(SmallCore(), 1), Fixed([1, 2]), 2), vector.TopKActions(GymVectorEnv(SmallCore(), 1), Fixed([3, 4]), 2)),
    ):
        action = np.array([1]) if isinstance(one, gym.vector.VectorEnv) else 1
        one.reset(seed=0)
        other.reset(seed=1)
        other.set_state(pickle.loads(pickle.dumps(one.get_state())))
        assert np.ravel(other.step(action)[0])[3] == 2


def test_a_masked_reset_asks_about_the_rows_that_begin_alone() -> None:
    reference = Fixed([1, 2])
    env = vector.TopKActions(GymVectorEnv(SmallCore(), 2, autoreset_mode="Disabled"), reference, 2)
    env.reset(seed=0)
    reference.table = [3, 4]
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.step(np.array([1, 1]))[0][:, 3].tolist() == [4, 2]  # row 1 was told of 1 and 2


def test_a_fork_keeps_the_tables_of_its_rows() -> None:
    env = vector.TopKActions(GymVectorEnv(SmallCore(), 3), MODEL, 3)
    told = env.reset(seed=0, options={"prompt": np.array([0, 1, 3])})[1]["top_ids"]
    fork = env.fork([2, 0], 2)
    assert fork.single_action_space == Discrete(3)
    assert fork.action_space.shape == (4,)
    assert fork.step(np.array([0, 1, 0, 1]))[0][:, 3].tolist() == [*told[2, :2].tolist(), *told[0, :2].tolist()]
    assert env.step(np.array([0, 0, 0]))[0][:, 3].tolist() == told[:, 0].tolist()  # and leaves the original alone


class TestErrors:
    @pytest.mark.parametrize("k", [0, 7, 2.0])
    def test_k_lies_in_the_vocabulary(self, k: Any) -> None:
        for form, face in ((wrappers, GymEnv(SmallCore())), (vector, GymVectorEnv(SmallCore(), 2))):
            with pytest.raises(ValueError, match=r"TopKActions: k=.* must be an integer in \[1, 6\]; 6 is the size of the vocabulary"):
                form.TopKActions(face, MODEL, k)
        with pytest.raises(ValueError, match=r"k=1 must be an integer in \[2, 6\]"):
            wrappers.TopKActions(GymEnv(SmallCore()), MODEL, 1, keep_eos=True)

    def test_one_token_an_action_and_one_wrapper(self) -> None:
        with pytest.raises(TypeError, match=r"MultiDiscrete.*chunk=1"):
            wrappers.TopKActions(GymEnv(SmallCore(chunk=2)), MODEL, 2)
        with pytest.raises(TypeError, match="stands once"):
            vector.TopKActions(vector.TopKActions(GymVectorEnv(SmallCore(), 2), MODEL, 3), MODEL, 2)

    @pytest.mark.parametrize("action", [3, -1])
    def test_actions_are_places(self, action: int) -> None:
        env = wrappers.TopKActions(GymEnv(SmallCore()), MODEL, 3)
        env.reset(seed=0)
        with pytest.raises(ValueError, match=rf"Action {action} is outside the action space Discrete\(3\)"):
            env.step(action)
        envs = vector.TopKActions(GymVectorEnv(SmallCore(), 2), MODEL, 3)
        envs.reset(seed=0)
        for actions, message in ((np.array([0, action]), "outside"), (np.array([0]), "2 of them are wanted"), (np.array([0.0, 1.0]), "float64")):
            with pytest.raises(ValueError, match=message):
                envs.step(actions)

    @pytest.mark.parametrize("table", [[1], [1, 6], [-1, 2]])
    def test_a_reference_must_name_k_ids(self, table: list[int]) -> None:
        env = wrappers.TopKActions(GymEnv(SmallCore()), Fixed(table), 2)
        with pytest.raises(ValueError, match=r"must give 2 ids of \[0, 6\) for each of 1 rows"):
            env.reset(seed=0)

    def test_steps_without_an_episode(self) -> None:
        for form, face, action in ((wrappers, GymEnv(SmallCore()), 0), (vector, GymVectorEnv(SmallCore(), 1), np.array([0]))):
            with pytest.raises(gym.error.ResetNeeded):
                form.TopKActions(face, MODEL, 2).step(action)
