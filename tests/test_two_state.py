"""TwoState-v0: its values against brute force, its noise against the normal distribution, its two forms against each other."""

from __future__ import annotations

import itertools
import time
from statistics import NormalDist
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import SmallCore
from test_vector import assert_same

from textgym import GymEnv, GymVectorEnv
from textgym.toy import two_state
from textgym.toy.noise import SMALLEST, normal_quantile
from textgym.toy.two_state import TwoState

pytestmark = pytest.mark.core

ID = "textgym/TwoState-v0"
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "slip": {"slip": 0.2},
    "noise": {"reward_noise": 0.5, "horizon": 3},
    "all": {"rewards": [2.0, -1.0], "slip": 0.7, "reward_noise": 2.0, "start": [0.2, 0.8], "horizon": 7},
    "without end": {"horizon": None, "slip": 0.1},
    "one step": {"horizon": 1},
}
TASKS = [(rewards, slip) for rewards in ((0.0, 1.0), (3.0, -2.0), (1.0, 1.0)) for slip in (0.0, 0.2, 0.5, 0.9, 1.0)]
POLICIES = [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.3, 0.9)]


def transition(rewards: Any, slip: float, policy: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the chain [2, 2] and the expected rewards [2] of a policy, read from the table P."""
    table = TwoState(1, rewards=rewards, slip=slip).P
    chain, pay = np.zeros((2, 2)), np.zeros(2)
    for state, action in itertools.product((0, 1), (0, 1)):
        chosen = policy[state] if action == 1 else 1 - policy[state]
        for chance, reached, reward, terminated in table[state][action]:
            assert not terminated
            chain[state, reached] += chosen * chance
            pay[state] += chosen * chance * reward
    return chain, pay


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("rewards", "slip"), TASKS)
class TestValues:
    def test_discounted(self, rewards: Any, slip: float, policy: tuple[float, float]) -> None:
        chain, pay = transition(rewards, slip, policy)
        for gamma in (0.0, 0.5, 0.99):
            found = two_state.policy_values(policy, gamma, rewards=rewards, slip=slip)
            np.testing.assert_allclose(found, np.linalg.solve(np.eye(2) - gamma * chain, pay), rtol=1e-11, atol=1e-11)
            best = two_state.best_values(gamma, rewards=rewards, slip=slip)
            assert (found <= best + 1e-9).all()
            every = [two_state.policy_values(fixed, gamma, rewards=rewards, slip=slip) for fixed in itertools.product((0.0, 1.0), repeat=2)]
            np.testing.assert_allclose(np.max(every, axis=0), best)

    def test_over_a_horizon(self, rewards: Any, slip: float, policy: tuple[float, float]) -> None:
        chain, pay = transition(rewards, slip, policy)
        values = np.zeros(2)
        for horizon in range(8):
            np.testing.assert_allclose(two_state.horizon_values(policy, horizon, rewards=rewards, slip=slip), values, rtol=1e-12, atol=1e-12)
            assert (values <= two_state.best_return(horizon, rewards=rewards, slip=slip) + 1e-9).all()
            if policy == (0.5, 0.5):
                np.testing.assert_allclose(values, two_state.random_return(horizon, rewards=rewards, slip=slip))
            values = pay + chain @ values


def test_best_return_by_trying_every_sequence_of_actions_and_slips() -> None:
    horizon, slip = 4, 0.3
    best = -np.inf
    for actions in itertools.product((0, 1), repeat=horizon):
        expected = 0.0
        for slips in itertools.product((0, 1), repeat=horizon):
            chance = np.prod([slip if s else 1 - slip for s in slips])
            expected += chance * sum(2.0 if a ^ s else -1.0 for a, s in zip(actions, slips, strict=True))
        best = max(best, expected)
    assert two_state.best_return(horizon, rewards=(-1.0, 2.0), slip=slip) == pytest.approx(best)


def test_the_environment_pays_what_the_closed_form_says() -> None:
    options: dict[str, Any] = {"rewards": [0.5, 2.0], "slip": 0.2, "reward_noise": 0.3, "horizon": 10, "start": [1.0, 0.0]}
    policy, rows = np.array([0.3, 0.9]), 4000
    env = GymVectorEnv(TwoState, rows, autoreset_mode=AutoresetMode.DISABLED, **options)
    states, _ = env.reset(seed=0)
    assert not states.any()
    random, returns, rich = np.random.default_rng(0), np.zeros(rows), np.zeros(rows)
    for t in range(10):
        states, rewards, terminated, truncated, infos = env.step((random.random(rows) < policy[states]).astype(np.int64))
        returns, rich = returns + rewards, rich + states
        assert not terminated.any()
        assert (truncated == (t == 9)).all()
    error = returns.std() / rows**0.5
    assert abs(returns.mean() - two_state.horizon_values(policy, 10, rewards=(0.5, 2.0), slip=0.2)[0]) < 4 * error
    assert np.array_equal(infos["rich_share"], rich / 10)


def test_the_share_of_rich_steps_is_that_of_the_episode_alone() -> None:
    env = GymEnv(TwoState, horizon=4)
    for actions, share in (((1, 1, 1, 1), 1.0), ((1, 0, 0, 0), 0.25), ((0, 0, 0, 0), 0.0)):
        env.reset(seed=0)
        infos = [env.step(action)[4] for action in actions]
        assert infos == [{}] * 3 + [{"rich_share": share}]


def test_zero_copy_hands_out_the_same_memory_and_the_default_does_not() -> None:
    for copy in (True, False):
        env = GymVectorEnv(TwoState, 3, copy=copy)
        first, _ = env.reset(seed=0)
        assert np.shares_memory(first, env.step(np.array([1, 0, 1]))[0]) is not copy


def test_start_distribution_and_table_are_those_of_gymnasiums_toy_texts() -> None:
    env = gym.make(ID, start=[0.2, 0.8], slip=0.25, rewards=[0, 4])
    assert env.unwrapped.initial_state_distrib.tolist() == [0.2, 0.8]
    to_each = {0: [(0.75, 0, 0.0, False), (0.25, 1, 4.0, False)], 1: [(0.75, 1, 4.0, False), (0.25, 0, 0.0, False)]}
    table = env.unwrapped.P
    assert table == {0: to_each, 1: to_each}
    assert gym.make(ID).unwrapped.P[0] == {0: [(1.0, 0, 0.0, False)], 1: [(1.0, 1, 1.0, False)]}
    states = GymVectorEnv(TwoState, 4000, start=[0.2, 0.8]).reset(seed=0)[0]
    assert abs(states.mean() - 0.8) < 4 * (0.16 / 4000) ** 0.5


def test_a_task_without_a_table_says_so() -> None:
    env = GymEnv(SmallCore())
    assert not hasattr(env, "P")
    for name in ("P", "initial_state_distrib"):
        with pytest.raises(AttributeError, match=rf"TextCore has no {name}: its task has no table of transitions"):
            getattr(env, name)


class TestNoise:
    def test_quantiles_are_those_of_the_standard_library(self) -> None:
        uniform = np.concatenate([np.random.default_rng(0).random(5000), 10.0 ** -np.arange(1, 16), 1 - 10.0 ** -np.arange(1, 16), [0.5, 0.075, 0.925]])
        expected = [NormalDist().inv_cdf(p) for p in uniform.tolist()]
        np.testing.assert_allclose(normal_quantile(uniform), expected, rtol=1e-14, atol=1e-16)

    def test_the_smallest_and_the_largest_draw_are_finite(self) -> None:
        ends = normal_quantile(np.array([0.0, 1 - 2.0**-53]))
        np.testing.assert_allclose(ends, [NormalDist().inv_cdf(SMALLEST), NormalDist().inv_cdf(1 - 2.0**-53)], rtol=1e-14)

    def test_one_number_and_many_give_the_same_bits(self) -> None:
        uniform = np.random.default_rng(1).random(1001)
        assert np.array_equal(normal_quantile(uniform), np.concatenate([normal_quantile(uniform[i : i + 1]) for i in range(1001)]))

    def test_rewards_have_the_deviation_asked_for(self) -> None:
        env = GymVectorEnv(TwoState, 4000, reward_noise=0.5)
        env.reset(seed=3)
        rewards = env.step(np.ones(4000, np.int64))[1]
        assert abs(rewards.mean() - 1) < 4 * 0.5 / 4000**0.5
        assert abs(rewards.std() - 0.5) < 0.025


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_native_equals_sync(mode: AutoresetMode, name: str) -> None:
    options = OPTIONS[name]
    ours = gym.make_vec(ID, num_envs=4, autoreset_mode=mode, **options)
    theirs = SyncVectorEnv([lambda: GymEnv(TwoState, **options)] * 4, autoreset_mode=mode)
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3), "reset")
    random = np.random.default_rng(0)
    for t in range(1000):
        actions = random.integers(2, size=4)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions), f"step {t}")
        ended = step[2] | step[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended.copy()}), f"reset {t}")
        if t % 250 == 125:
            mask = np.array([True, False, False, True])
            assert_same(ours.reset(seed=t, options={"reset_mask": mask}), theirs.reset(seed=t, options={"reset_mask": mask.copy()}), f"reset {t}")


def test_a_fork_replays_exactly_and_a_state_is_a_value() -> None:
    env = gym.make_vec(ID, num_envs=3, **OPTIONS["all"])
    env.reset(seed=1)
    for _ in range(4):
        env.step(np.array([0, 1, 1]))
    state, fork = env.get_state(), env.fork([2, 0], 2)
    ours = [env.step(np.array([0, 1, 1])) for _ in range(50)]
    copies = [fork.step(np.array([1, 1, 0, 0])) for _ in range(50)]
    for one, many in zip(ours, copies, strict=True):
        assert_same(tuple(part[[2, 2, 0, 0]] for part in one[:4]), many[:4], "fork")
    env.set_state(state)
    assert_same([env.step(np.array([0, 1, 1])) for _ in range(50)], ours, "again")


def test_the_drawing_shows_where_the_walker_is() -> None:
    env = gym.make(ID, render_mode="ansi", start=[1.0, 0.0], horizon=5)
    env.reset(seed=0)
    assert env.render() == "[0]  1   step 0/5"
    env.step(1)
    assert env.render() == " 0  [1]  step 1/5"


class TestErrors:
    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("rewards", [1.0], "rewards must be two finite numbers"),
            ("rewards", [0.0, np.inf], "rewards must be two finite numbers"),
            ("slip", 1.5, r"slip must be a probability in \[0, 1\], got 1.5"),
            ("slip", float("nan"), "slip must be a probability"),
            ("horizon", 0, "horizon must be a number of steps of at least 1, or None"),
            ("horizon", 2.5, "horizon must be a number of steps"),
            ("horizon", True, "horizon must be a number of steps"),
            ("start", [0.5, 0.4], "start must be the probabilities.*add up to 1"),
            ("start", [1.5, -0.5], "start must be the probabilities"),
            ("start", [1.0], "start must be the probabilities"),
            ("reward_noise", -1.0, "reward_noise is a standard deviation"),
            ("reward_noise", float("inf"), "reward_noise is a standard deviation"),
        ],
    )
    def test_an_option_that_makes_no_task(self, option: str, value: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            gym.make(ID, **{option: value})

    @pytest.mark.parametrize("action", [-1, 2])
    def test_an_action_outside_the_space(self, action: int) -> None:
        env = GymVectorEnv(TwoState, 2)
        env.reset(seed=0)
        with pytest.raises(ValueError, match=rf"Action {action} is outside the action space Discrete\(2\)"):
            env.step(np.array([0, action]))

    def test_a_float_is_no_state_to_go_to(self) -> None:
        env = GymEnv(TwoState)
        env.reset()
        with pytest.raises(ValueError, match="integers"):
            env.step(0.5)

    def test_a_state_of_other_rows(self) -> None:
        with pytest.raises(ValueError, match=r"states of shape \(2,\), this environment has 3 rows"):
            TwoState(3).set_state(TwoState(2).get_state())

    def test_values_of_no_discount_and_no_policy(self) -> None:
        with pytest.raises(ValueError, match="horizon_values"):
            two_state.best_values(1.0)
        with pytest.raises(ValueError, match="two probabilities"):
            two_state.policy_values([0.5, 1.5], 0.9)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "bar"), [({}, 4e6), ({"slip": 0.2}, 2e6), ({"slip": 0.2, "reward_noise": 1.0}, 2e6)])
def test_speed_is_not_below_a_third_of_the_bar(options: dict[str, Any], bar: float) -> None:
    env = gym.make_vec(ID, num_envs=1024, autoreset_mode="SameStep", **options)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(2, size=(420, 1024))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        for row in actions:
            env.step(row)
        seconds.append(time.perf_counter() - began)
    assert actions.size / np.median(seconds) > bar / 3


def test_groups_may_play_its_one_prompt() -> None:
    env = gym.make_vec(ID, num_envs=3)
    np.testing.assert_array_equal(env.reset(seed=0, options={"prompt": np.zeros(3, dtype=np.int64)})[0], env.reset(seed=0)[0])
    with pytest.raises(ValueError, match="must be 0 in a task without prompts"):
        env.reset(options={"prompt": np.array([0, 1, 0])})
