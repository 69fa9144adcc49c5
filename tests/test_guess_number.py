"""GuessNumber-v0: its returns against decision trees and the oracle, its hints, and (slowly) that PPO learns binary search.

Axis legend: n = high, G the agent's tokens, B dialogues.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import textgym  # noqa: F401 (registers the suite)
from textgym import GymEnv, GymVectorEnv
from textgym.oracle import as_seen, evaluate, from_core, solve
from textgym.toy import two_state
from textgym.toy.guess_number import GuessNumber, binary_search, guess_number, mean_score, search_depths
from textgym.toy.tokens import even

pytestmark = pytest.mark.core


def brute_force(high: int, budget: int) -> float:
    """The best mean score over every decision tree: which number to ask first, which next on either side, or to stop."""

    @cache
    def total(numbers: int, asked: int) -> float:
        if not numbers or asked == budget:
            return 0.0
        found = 1 - asked / budget
        return found + max(total(lower, asked + 1) + total(numbers - 1 - lower, asked + 1) for lower in range(numbers))

    return total(high, 0) / high


@pytest.mark.parametrize(("high", "budget"), [(2, 1), (2, 3), (5, 2), (7, 3), (8, 3), (20, 4), (32, 10), (32, 4), (33, 6)])
def test_the_best_return_is_that_of_the_best_decision_tree(high: int, budget: int) -> None:
    assert GuessNumber(high, budget).best_return() == pytest.approx(brute_force(high, budget), abs=1e-12)


def test_what_is_known_of_32_numbers() -> None:
    depths = search_depths(32)
    assert sum(depths) / 32 == 135 / 32 == 4.21875
    assert GuessNumber().best_return() == pytest.approx(1 - (135 / 32 - 1) / 10)
    assert mean_score([1, 3], 2) == 0.5  # what is found too late pays nothing


@pytest.mark.parametrize(("high", "budget", "dense"), [(4, 3, False), (4, 3, True), (5, 3, False), (6, 3, True), (3, 4, False)])
def test_the_oracle_agrees_once_prompts_that_read_alike_are_one(high: int, budget: int, dense: bool) -> None:
    task = GuessNumber(high, budget, dense)
    known = from_core(guess_number(1, high=high, max_new_tokens=budget, dense=dense))
    seen = as_seen(known)
    assert solve(seen, gamma=1.0).v @ seen.start == pytest.approx(task.best_return(), abs=1e-12)
    uniform = np.full(seen.rewards.shape, 1 / seen.num_actions)
    assert evaluate(seen, uniform, gamma=1.0).v @ seen.start == pytest.approx(task.random_return(), abs=1e-12)
    gain = solve(known, gamma=1.0).v @ known.start - task.best_return()
    assert gain == pytest.approx(1 - GuessNumber(high, budget).best_return(), abs=1e-12)  # who knows the secret says it at once


def test_binary_search_is_optimal_in_the_oracle_too() -> None:
    seen = as_seen(from_core(guess_number(1, high=6, max_new_tokens=3)))
    search = np.eye(seen.num_actions)[binary_search(6)(np.asarray(seen.observations)) % seen.num_actions]
    assert evaluate(seen, search, gamma=1.0).v @ seen.start == pytest.approx(GuessNumber(6, 3).best_return(), abs=1e-12)


def test_as_seen_changes_nothing_where_all_can_be_told_apart() -> None:
    problem = from_core(even(1, vocab_size=3, prompt_tokens=2, max_new_tokens=3))
    seen = as_seen(problem)
    assert seen.num_states == problem.num_states
    policy = np.random.default_rng(0).dirichlet(np.ones(3), problem.num_states)
    order = [problem.observations.tolist().index(row) for row in seen.observations.tolist()]
    np.testing.assert_allclose(evaluate(seen, policy[order], gamma=0.9).v, evaluate(problem, policy, gamma=0.9).v[order], atol=1e-12)


def test_as_seen_weighs_prompts_by_how_often_they_come() -> None:
    core = guess_number(1, high=2, max_new_tokens=1)
    seen = as_seen(from_core(core, weights=[0.9, 0.1]))
    np.testing.assert_allclose(seen.rewards[0, :2], [0.9, 0.1])
    np.testing.assert_allclose(as_seen(from_core(core, weights=[1.0, 0.0])).rewards[0, :2], [1.0, 0.0])
    seen = as_seen(from_core(guess_number(1, high=3, max_new_tokens=2), weights=[0.6, 0.3, 0.1]))
    assert solve(seen, gamma=1.0).v @ seen.start == pytest.approx(0.6 + 0.4 * 0.75 * 0.5)  # 1 first, then 2, which is three times as likely as 3


def test_as_seen_wants_a_tree() -> None:
    from textgym.oracle import from_table

    with pytest.raises(ValueError, match="tree"):
        as_seen(from_table(GymEnv(two_state.TwoState)))


def play(act: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, turns and undiscounted returns of one dialogue for each secret."""
    high = options.get("high", 32)
    env = GymVectorEnv(guess_number, high, autoreset_mode=AutoresetMode.DISABLED, **options)
    observations, _ = env.reset(seed=0, options={"prompt": np.arange(high)})
    scores, turns, returns = np.full(high, np.nan), np.zeros(high), np.zeros(high)
    while np.isnan(scores).any():
        observations, rewards, over, _, infos = env.step(act(observations))
        live = np.isnan(scores)
        returns[live] += rewards[live]
        fresh = over & live
        if over.any():
            scores[fresh], turns[fresh] = infos["score"][fresh], infos["turns"][fresh]
            env.reset(options={"reset_mask": over, "prompt": np.arange(high)})
            observations = env.core.observe(slice(None))
    return scores, turns, returns


@pytest.mark.parametrize("high", [2, 7, 32, 45])
def test_binary_search_earns_the_best_return(high: int) -> None:
    scores, turns, returns = play(binary_search(high), high=high)
    assert scores.mean() == pytest.approx(GuessNumber(high).best_return())
    assert sorted(turns.astype(int).tolist()) == search_depths(high)
    np.testing.assert_allclose(returns, scores)
    _, _, dense = play(binary_search(high), high=high, dense=True)
    np.testing.assert_allclose(dense, scores - (1 - np.log2(high) / 10), atol=1e-12)
    assert dense.mean() == pytest.approx(GuessNumber(high, dense=True).best_return())


def test_random_ids_earn_the_random_return() -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate([play(lambda seen: random.integers(37, size=len(seen)))[0] for _ in range(60)])
    assert GuessNumber().random_return() == pytest.approx(scores.mean(), abs=4 * scores.std() / len(scores) ** 0.5)


def test_a_dialogue() -> None:
    env = gym.make("textgym/GuessNumber-v0").unwrapped
    env.reset(seed=0, options={"prompt": 6})  # the secret is 7
    assert env.step(15)[1:3] == (0.0, False)
    assert env.step(3)[1:3] == (0.0, False)
    assert env.step(33)[1:3] == (0.0, False)  # saying "lower" oneself is no guess: nobody answers, and it costs a token
    _, reward, over, _, info = env.step(6)
    assert (over, info["turns"], info["score"]) == (True, 3, pytest.approx(0.7))
    assert reward == info["score"]
    assert env.texts() == ["16 lower 4 higher lower 7 correct"]
    assert env.core.render(0, "ansi") == "guess | 16 [lower] 4 [higher] lower 7 [correct]  [4/10 tokens, ended]"


def test_what_the_agent_says_itself_is_no_hint() -> None:
    """An agent that says "higher" itself has learned nothing: phi counts answers alone."""
    env = gym.make("textgym/GuessNumber-v0", dense=True).unwrapped
    env.reset(seed=0, options={"prompt": 20})
    assert env.step(33)[1] == pytest.approx(-0.1)
    assert env.step(34)[1] == pytest.approx(-0.1)  # "correct", said by the agent
    assert env.step(15)[1] == pytest.approx(-0.1 + (5 - 4) / 10)
    assert env.step(32)[1] == pytest.approx(-0.1)  # "higher", behind the answer "higher"
    assert env.step(34)[2] is False


def test_dense_pays_what_a_guess_gains() -> None:
    env = gym.make("textgym/GuessNumber-v0", dense=True).unwrapped
    env.reset(seed=0, options={"prompt": 20})
    assert env.step(15)[1] == pytest.approx(0.0)  # 16 of 32 are left
    assert env.step(15)[1] == pytest.approx(-0.1)  # asked again: nothing gained
    assert env.step(16)[1] == pytest.approx(-0.1 + (4 - np.log2(15)) / 10)
    assert env.step(20)[1:3] == (pytest.approx(np.log2(15) / 10), True)  # in luck: 14 others were possible, and none is left


def test_giving_up_pays_nothing_and_so_does_the_last_token_in_vain() -> None:
    for dense in (False, True):
        env = gym.make("textgym/GuessNumber-v0", dense=dense, max_new_tokens=2).unwrapped
        for actions in ([36], [0, 36], [0, 1]):
            env.reset(seed=0, options={"prompt": 30})
            steps = [env.step(action) for action in actions]
            assert steps[-1][2]
            assert steps[-1][4]["score"] == 0.0
            assert sum(step[1] for step in steps) == pytest.approx(-(1 - 5 / 2) if dense else 0.0)


def test_the_prompt_tells_nothing() -> None:
    env = GymVectorEnv(guess_number, 32)
    observations, infos = env.reset(seed=0, options={"prompt": np.arange(32)})
    assert (observations == observations[0]).all()
    assert not infos["agent_mask"].any()


@pytest.mark.parametrize("wrong", [{"high": 1}, {"high": 2.5}, {"max_new_tokens": 0}, {"high": True}])
def test_sizes_that_make_no_task(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be an integer"):
        guess_number(1, **wrong)
