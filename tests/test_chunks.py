"""A chunk of tokens is those tokens, one after another: the same texts, the same scores, the same truth.

That chunked tasks keep laws 1 and 2 in every mode, alone and with every other power of the core, is asserted in tests/test_powers.py.
Axis legend: C tokens of a chunk, B rows of one call, S states, A actions.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from helpers import WORDS, Echo, SmallCore, TwoParts
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vector import assert_same

from textgym import GymEnv, GymVectorEnv, oracle
from textgym.allowed import Allowed
from textgym.recording import RecordEpisode, verify
from textgym.task import Prefixes
from textgym.toy.tokens import best_return, random_return

pytestmark = pytest.mark.core


class NoEcho:
    """A constraint: never the same token twice in a row."""

    def rules(self, tokenizer: Any, max_prompt_tokens: int, max_new_tokens: int) -> NoEcho:
        return self

    def begin(self, prefixes: Prefixes) -> np.ndarray:
        return np.zeros((len(prefixes.tokens), 0), np.int64)

    def follow(self, memory: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return memory

    def allowed(self, memory: np.ndarray, prefixes: Prefixes) -> Allowed:
        return Allowed(banned=np.take_along_axis(prefixes.tokens, prefixes.ends[:, None] - 1, axis=1))


DIALOGUE: dict[str, Any] = {"responder": Echo(), "max_response_tokens": 40}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dense": {"dense": True},
    "dense, composed": {"dense": True, "scorer": TwoParts()},
    "constrained": {"constraint": NoEcho()},
    "a price, no end": {"constraint": NoEcho(), "forbidden_ends": False, "forbidden_penalty": 0.25},
    "dialogue": DIALOGUE,
    "dense dialogue": {**DIALOGUE, "dense": True},
}
HAND_OVER = {WORDS.index(word) for word in Echo.end_of_turn}


def one_by_one(env: GymEnv, chunk: list[int], hands_over: bool) -> tuple[Any, float, bool, int, dict[str, Any]]:
    """Play a chunk on an environment of single tokens; return observation, rewards, the end, tokens not played, and the last info."""
    total, dropped = 0.0, len(chunk)
    observation, terminated, info = None, False, dict[str, Any]()
    for token in chunk:
        observation, reward, terminated, _, info = env.step(token)
        total, dropped = total + reward, dropped - 1
        if terminated or (hands_over and token in HAND_OVER):
            break
    return observation, total, terminated, dropped, info


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_chunk_is_its_tokens_one_after_another(kind: str, data: st.DataObject) -> None:
    chunk, budget = data.draw(st.integers(2, 6), "chunk"), data.draw(st.integers(1, 9), "budget")
    changes = KINDS[kind] | {"max_new_tokens": budget, "info_text": True}
    chunked, single = GymEnv(SmallCore(**changes, chunk=chunk)), GymEnv(SmallCore(**changes))
    options = {"prompt": data.draw(st.integers(0, 5), "prompt")}
    assert chunked.reset(seed=3, options=options)[1].get("dropped_tokens", 0) == single.reset(seed=3, options=options)[1].get("dropped_tokens", 0) == 0
    terminated = False
    while not terminated:
        tokens = data.draw(st.lists(st.integers(0, len(WORDS) - 1), min_size=chunk, max_size=chunk), "tokens")
        observation, reward, terminated, truncated, info = chunked.step(np.array(tokens))
        expected, total, over, dropped, facts = one_by_one(single, tokens, "responder" in changes)
        np.testing.assert_array_equal(observation, expected)
        assert reward == pytest.approx(total, abs=1e-12)
        assert (terminated, truncated, info["dropped_tokens"]) == (over, False, dropped)
        assert chunked.texts() == single.texts()
        if terminated:
            assert {name: info[name] for name in facts if name not in ("action_mask", "agent_mask")} == {
                name: fact for name, fact in facts.items() if name not in ("action_mask", "agent_mask")
            }


def test_what_is_dropped_is_counted_and_forgotten() -> None:
    env = GymVectorEnv(SmallCore(chunk=3), 3, autoreset_mode=AutoresetMode.SAME_STEP)
    _, info = env.reset(seed=0)
    assert info["dropped_tokens"].tolist() == [0, 0, 0]
    *_, terminated, _, info = env.step(np.array([[1, 2, 3], [1, 0, 3], [0, 1, 1]]))
    assert terminated.tolist() == [False, True, True]
    assert info["final_info"]["dropped_tokens"].tolist() == [0, 1, 2]
    assert info["dropped_tokens"].tolist() == [0, 0, 0], "what begins anew has dropped nothing"
    *_, terminated, _, info = env.step(np.array([[4, 4, 5], [1, 1, 1], [1, 1, 1]]))
    assert terminated.tolist() == [True, False, False], "a budget of five is two chunks of three, less one token"
    assert info["final_info"]["dropped_tokens"].tolist() == [1, 0, 0]


def test_a_chunk_of_one_is_a_token_and_a_chunk_of_the_budget_a_whole_response() -> None:
    one = GymEnv(SmallCore(chunk=1))
    assert one.action_space == Discrete(len(WORDS))
    assert "dropped_tokens" not in one.reset(seed=0)[1]
    whole = GymEnv(SmallCore(chunk=5, info_text=True))
    assert whole.action_space == MultiDiscrete([len(WORDS)] * 5)
    assert whole.observation_space == one.observation_space == Box(0, len(WORDS), (8,), np.int64)
    whole.reset(seed=0)
    _, reward, terminated, _, info = whole.step(np.array([1, 2, 1, 2, 2]))
    assert terminated
    assert (reward, info["text"], info["dropped_tokens"]) == (0.4, "a b a b b", 0)


def test_the_mask_of_a_chunk_speaks_of_its_first_token() -> None:
    env = GymVectorEnv(SmallCore(chunk=2, constraint=NoEcho()), 6)
    _, info = env.reset(seed=0, options={"prompt": np.arange(6)})
    single = GymVectorEnv(SmallCore(constraint=NoEcho()), 6)
    single.reset(seed=0, options={"prompt": np.arange(6)})
    np.testing.assert_array_equal(env.action_masks(), single.action_masks())
    np.testing.assert_array_equal(info["action_mask"], single.action_masks())
    *_, terminated, _, info = env.step(np.array([[2, 1], [1, 1], [2, 3], [1, 2], [1, 1], [1, 2]]))
    assert terminated.tolist() == [False, True, False, False, True, False], "the second token is held to the rule all the same"


class TestErrors:
    def test_actions_of_another_shape(self) -> None:
        env = GymVectorEnv(SmallCore(chunk=3), 2)
        env.reset(seed=0)
        for actions in ([1, 1], [[1, 1], [1, 1]]):
            with pytest.raises(ValueError, match="a chunk of 3 token ids a row"):
                env.step(np.array(actions))
        with pytest.raises(ValueError, match="Action 6 is outside"):
            env.step(np.array([[1, 1, 1], [0, 1, 6]]))
        single = GymVectorEnv(SmallCore(), 2)
        single.reset(seed=0)
        with pytest.raises(ValueError, match="one token id a row"):
            single.step(np.array([[1], [1]]))

    def test_no_tokens_at_all(self) -> None:
        with pytest.raises(ValueError, match="chunk of at least 1"):
            GymEnv(SmallCore(chunk=0))
        with pytest.raises(ValueError, match="chunk must be an integer of at least 1"):
            gym.make("textgym/Recall-v0", chunk=0)


NAMES = ("Bandit", "Even", "Copy", "Reverse", "Recall", "Password", "Successor", "IncreasingNumbers", "Brackets", "Countdown")


@pytest.mark.parametrize("name", NAMES)
class TestDiagnostics:
    def test_both_checkers_accept_a_chunked_task(self, name: str) -> None:
        env = gym.make(f"textgym/{name}-v0", chunk=4)
        assert env.action_space == MultiDiscrete([gym.make(f"textgym/{name}-v0").action_space.n] * 4)
        check_env(env.unwrapped, skip_render_check=True)
        checker = pytest.importorskip("stable_baselines3.common.env_checker")
        checker.check_env(gym.make(f"textgym/{name}-v0", chunk=4))

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_native_equals_sync(self, name: str, mode: AutoresetMode) -> None:
        options: dict[str, Any] = {"num_envs": 3, "chunk": 3}
        ours = gym.make_vec(f"textgym/{name}-v0", autoreset_mode=mode, **options)
        theirs = gym.make_vec(f"textgym/{name}-v0", vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **options)
        assert_same(ours.reset(seed=1), theirs.reset(seed=1), "reset")
        random = np.random.default_rng(1)
        for t in range(40):
            actions = random.integers(ours.single_action_space.nvec[0], size=(3, 3))
            step = ours.step(actions)
            assert_same(step, theirs.step(actions), f"step {t}")
            if mode is AutoresetMode.DISABLED and (step[2] | step[3]).any():
                assert_same(ours.reset(options={"reset_mask": step[2]}), theirs.reset(options={"reset_mask": step[2].copy()}), f"reset {t}")

    def test_best_and_random_return_do_not_depend_on_it(self, name: str) -> None:
        id = f"textgym/{name}-v0"
        assert (best_return(id, chunk=4), random_return(id, chunk=4)) == (best_return(id), random_return(id))


def test_an_episode_of_chunks_is_recorded_and_replays(tmp_path: Any) -> None:
    env = RecordEpisode(gym.make("textgym/Recall-v0", chunk=3), str(tmp_path / "episode.jsonl"))
    random = np.random.default_rng(0)
    for _ in range(5):
        env.reset(seed=int(random.integers(100)))
        over = False
        while not over:
            *_, over, _, _ = env.step(random.integers(8, size=3))
    env.close()
    verify(tmp_path / "episode.jsonl")


SMALL: list[tuple[str, dict[str, Any]]] = [
    ("Recall", {"vocab_size": 3, "prompt_tokens": 2, "max_new_tokens": 4}),
    ("Successor", {"vocab_size": 4, "prompt_tokens": 1, "max_new_tokens": 3}),
    ("Successor", {"vocab_size": 4, "prompt_tokens": 1, "max_new_tokens": 3, "dense": True}),
    ("Brackets", {"kinds": 1, "depth": 2, "max_new_tokens": 4}),
]


class TestOracle:
    @pytest.mark.parametrize("chunk", [2, 3, 4])
    @pytest.mark.parametrize(("name", "options"), SMALL)
    def test_chunks_have_the_values_of_their_tokens(self, name: str, options: dict[str, Any], chunk: int) -> None:
        """What can be had, and what a policy of tokens is worth: the same at every prefix that chunks come to."""
        tokens, chunks = (oracle.from_core(gym.make(f"textgym/{name}-v0", **options, chunk=size).unwrapped.core) for size in (1, chunk))
        size = tokens.num_actions
        assert chunks.num_actions == size**chunk
        where = oracle.finder(tokens)(chunks.observations)
        np.testing.assert_allclose(oracle.solve(chunks, 1.0).v, oracle.solve(tokens, 1.0).v[where], atol=1e-12)
        np.testing.assert_allclose(chunks.start.sum(), 1.0)
        policy = np.random.default_rng(0).dirichlet(np.ones(size), tokens.num_states)
        values = oracle.evaluate(chunks, product_policy(tokens, chunks, policy, chunk), 1.0)
        np.testing.assert_allclose(values.v, oracle.evaluate(tokens, policy, 1.0).v[where], atol=1e-12)
        assert oracle.expected_return(chunks, product_policy(tokens, chunks, policy, chunk), 1.0) == pytest.approx(oracle.expected_return(tokens, policy, 1.0))

    def test_actions_are_numbered_as_digits_are(self) -> None:
        problem = oracle.from_core(gym.make("textgym/Password-v0", vocab_size=3, max_new_tokens=2, password=[1, 0], chunk=2).unwrapped.core)
        assert problem.rewards[0].tolist() == [float(i == np.ravel_multi_index((1, 0), (3, 3))) for i in range(9)]

    def test_what_cannot_be_enumerated(self) -> None:
        with pytest.raises(oracle.TooManyStates, match=r"With actions of this size.*1 states and \d+ pairs"):
            oracle.from_core(gym.make("textgym/Recall-v0", chunk=8).unwrapped.core)
        core = gym.make("textgym/Recall-v0").unwrapped.core
        core.action_space = Box(0, 1)
        with pytest.raises(ValueError, match=r"Discrete\(A\) or MultiDiscrete"):
            oracle.from_core(core)


def product_policy(tokens: oracle.Tabular, chunks: oracle.Tabular, policy: np.ndarray, chunk: int) -> np.ndarray:
    """Return the probabilities [S, A] of chunks under a policy of single tokens; tokens behind an end are as likely as any."""
    find, size, pad = oracle.finder(tokens), tokens.num_actions, int(tokens.observations.max())
    found = np.ones((chunks.num_states, size**chunk))
    for state, prefix in enumerate(chunks.observations):
        for action in range(size**chunk):
            seen, end = prefix.copy(), int(np.flatnonzero(prefix != pad)[-1]) + 1
            for token in np.unravel_index(action, [size] * chunk):
                try:
                    found[state, action] *= policy[find(seen)][token]
                except KeyError:  # the text is over
                    found[state, action] /= size
                    continue
                if end < len(seen):
                    seen[end], end = token, end + 1
    return found
