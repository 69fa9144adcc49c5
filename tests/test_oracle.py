"""The oracle against hand-solved numbers, against solvers written here in plain Python, and against what the real environments play."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit, TransformAction, TransformObservation, TransformReward
from helpers import SmallCore, small_task

from agents.advantages import GAE, Advantage, MonteCarlo, estimate
from agents.play import begin, collect
from agents.policies.common import Acted
from agents.rollout import Rollout
from textgym import GymEnv, GymVectorEnv
from textgym.core import Step
from textgym.episodes import TextCore
from textgym.oracle import (
    Tabular,
    TooManyStates,
    evaluate,
    expected_return,
    finder,
    from_core,
    from_table,
    kl,
    occupancy,
    policy_gradient,
    probabilities_of,
    return_variance,
    solve,
    variances,
)
from textgym.prompts import ListPrompts

Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]


def two_states(slip: float) -> Table:
    """State 0 is rich (worth 1), state 1 is poor (worth 0); the action is the state to go to."""
    return {s: {a: [(1 - slip, a, 1.0 - a, False), (slip, 1 - a, float(a), False)] for a in (0, 1)} for s in (0, 1)}


def random_table(seed: int, states: int = 7, actions: int = 3, outcomes: int = 3, end: float = 0.2) -> Table:
    """A table whose rewards depend on where one lands, and which ends with chance `end` after every action."""
    rng = np.random.default_rng(seed)

    def lines() -> list[tuple[float, int, float, bool]]:
        chances = rng.dirichlet(np.ones(outcomes)) * (1 - end)
        return [(p, int(rng.integers(states)), float(rng.normal()), False) for p in chances] + [(end, 0, float(rng.normal()), True)]

    return {s: {a: lines() for a in range(actions)} for s in range(states)}


def random_policy(problem: Tabular, seed: int = 0, horizon: int | None = None) -> np.ndarray:
    shape = problem.rewards.shape[:1] if horizon is None else (horizon, problem.num_states)
    return np.random.default_rng(seed).dirichlet(np.ones(problem.num_actions), size=shape)


def first(states: int) -> np.ndarray:
    """Every episode begins in state 0."""
    return np.arange(states) == 0


def slow_values(table: Table, policy: Any, gamma: float, sweeps: int) -> list[float]:
    """Value iteration as in a textbook: of `policy` [S, A], or of the best one if it is None."""
    v = [0.0] * len(table)
    for _ in range(sweeps):
        q = [[sum(p * (r + gamma * v[n] * (not end)) for p, n, r, end in table[s][a]) for a in table[s]] for s in range(len(table))]
        v = [max(row) if policy is None else sum(w * x for w, x in zip(policy[s], row, strict=True)) for s, row in enumerate(q)]
    return v


# --- problems solved by hand


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("slip", [0.0, 0.2])
@pytest.mark.parametrize("x", [0.5, 0.7])
def test_two_states_have_their_closed_form(gamma: float, slip: float, x: float) -> None:
    problem = from_table(two_states(slip), start=[0.25, 0.75])
    policy = np.array([[x, 1 - x], [x, 1 - x]])
    y = x * (1 - slip) + (1 - x) * slip
    values = evaluate(problem, policy, gamma)
    visits = np.array([0.25 + gamma * y / (1 - gamma), 0.75 + gamma * (1 - y) / (1 - gamma)])
    np.testing.assert_allclose(values.v, y / (1 - gamma), atol=1e-10)
    np.testing.assert_allclose(values.a[:, 0], (1 - x) * (1 - 2 * slip), atol=1e-10)
    np.testing.assert_allclose(occupancy(problem, policy, gamma), visits, atol=1e-10)
    np.testing.assert_allclose(variances(problem, policy, gamma), y * (1 - y) / (1 - gamma**2), atol=1e-9)
    np.testing.assert_allclose(return_variance(problem, policy, gamma), y * (1 - y) / (1 - gamma**2), atol=1e-9)
    np.testing.assert_allclose(policy_gradient(problem, policy, gamma)[:, 0], visits * x * (1 - x) * (1 - 2 * slip), atol=1e-10)
    best = solve(problem, gamma)
    np.testing.assert_allclose(best.v, (1 - slip) / (1 - gamma), atol=1e-10)
    assert best.actions.tolist() == [0, 0]
    np.testing.assert_allclose(evaluate(problem, best.policy, gamma).v, best.v, atol=1e-10)


def test_two_states_under_a_limit() -> None:
    problem, policy = from_table(two_states(0.2), start=[1, 0]), np.full((2, 2), 0.5)
    values = evaluate(problem, policy, 1.0, horizon=4)
    np.testing.assert_allclose(values.v, np.array([2.0, 1.5, 1.0, 0.5, 0.0])[:, None].repeat(2, axis=1))
    np.testing.assert_allclose(values.a[..., 0], 0.3)
    assert return_variance(problem, policy, 1.0, horizon=4) == pytest.approx(4 * 0.25)
    assert expected_return(problem, policy, 1.0, horizon=4) == pytest.approx(2.0)
    np.testing.assert_allclose(solve(problem, 1.0, horizon=4).v[:, 0], [3.2, 2.4, 1.6, 0.8, 0])


def test_the_start_adds_its_own_variance() -> None:
    table: Table = {0: {0: [(1.0, 0, 10.0, True)]}, 1: {0: [(1.0, 1, 0.0, True)]}}
    assert return_variance(from_table(table, start=[0.5, 0.5]), np.ones((2, 1)), 1.0) == pytest.approx(25.0)
    assert return_variance(from_table(table, start=[0, 1]), np.ones((2, 1)), 1.0) == 0


# --- against solvers written here


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_values_agree_with_value_iteration(seed: int, gamma: float) -> None:
    table = random_table(seed)
    problem = from_table(table, start=np.full(7, 1 / 7))
    policy = random_policy(problem, seed)
    np.testing.assert_allclose(evaluate(problem, policy, gamma).v, slow_values(table, policy, gamma, 250), atol=1e-10)
    np.testing.assert_allclose(solve(problem, gamma).v, slow_values(table, None, gamma, 250), atol=1e-10)
    assert expected_return(problem, policy, gamma) == pytest.approx(np.mean(slow_values(table, policy, gamma, 250)))
    for horizon in (1, 4):
        np.testing.assert_allclose(evaluate(problem, policy, gamma, horizon).v[0], slow_values(table, policy, gamma, horizon), atol=1e-12)
        np.testing.assert_allclose(solve(problem, gamma, horizon).v[0], slow_values(table, None, gamma, horizon), atol=1e-12)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "Taxi-v4", "CliffWalking-v1"])
@pytest.mark.parametrize("gamma", [0.9, 0.99])
def test_gymnasiums_tables_are_solved_to_eight_digits(name: str, gamma: float) -> None:
    env = gym.make(name)
    table = env.unwrapped.P  # type: ignore[attr-defined]
    dense, rewards = np.zeros((len(table), len(table[0]), len(table))), np.zeros((len(table), len(table[0])))
    for s, a in itertools.product(table, table[0]):
        for p, n, r, end in table[s][a]:
            dense[s, a, n] += p * (not end)
            rewards[s, a] += p * r
    v = np.zeros(len(table))
    for _ in range(3000):
        v = (rewards + gamma * dense @ v).max(axis=1)
    best = solve(from_table(env), gamma)
    np.testing.assert_allclose(best.v, v, atol=1e-8)
    np.testing.assert_allclose(best.q, rewards + gamma * dense @ v, atol=1e-8)
    np.testing.assert_allclose(evaluate(from_table(env), best.policy, gamma).v, v, atol=1e-8)


def test_undiscounted_optima_that_are_known() -> None:
    assert solve(from_table(gym.make("CliffWalking-v1")), 1.0).v[36] == pytest.approx(-13)
    assert solve(from_table(gym.make("FrozenLake-v1")), 1.0).v[0] == pytest.approx(14 / 17)  # 0.8235: the known best success rate without a limit
    assert solve(from_table(gym.make("FrozenLake-v1", is_slippery=False)), 1.0).v[0] == pytest.approx(1)


def test_under_a_limit_the_optimal_policy_knows_the_time() -> None:
    table: Table = {0: {0: [(1.0, 0, 1.0, True)], 1: [(1.0, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 5.0, True)], 1: [(1.0, 1, 5.0, True)]}}
    problem = from_table(table, start=[1, 0])
    best = solve(problem, 1.0, horizon=2)
    assert best.actions[:, 0].tolist() == [1, 0]  # with one step left the small reward is all there is
    assert best.v[:, 0].tolist() == [5, 1, 0]
    assert best.a.max() == 0
    np.testing.assert_allclose(evaluate(problem, best.policy, 1.0, horizon=2).v, best.v)


# --- a gradient of numbers


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def differences(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    found = np.zeros_like(at)
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        found[index] = (function(at + shift) - function(at - shift)) / (2 * step)
    return found


@pytest.mark.parametrize(("gamma", "horizon", "timed"), [(0.9, None, False), (1.0, None, False), (0.9, 5, False), (1.0, 3, True)])
def test_policy_gradient_agrees_with_finite_differences(gamma: float, horizon: int | None, timed: bool) -> None:
    problem = from_table(random_table(3), start=np.arange(7) / 21)
    logits = np.random.default_rng(0).normal(size=((horizon, 7, 3) if timed else (7, 3)))
    numeric = differences(lambda at: expected_return(problem, softmax(at), gamma, horizon), logits)
    np.testing.assert_allclose(policy_gradient(problem, softmax(logits), gamma, horizon), numeric, atol=1e-8)


def test_policy_gradient_agrees_with_autograd() -> None:
    import torch

    problem, gamma = from_table(random_table(4), start=np.full(7, 1 / 7)), 0.95
    logits = torch.tensor(np.random.default_rng(1).normal(size=(7, 3)), requires_grad=True)
    pi = logits.softmax(-1)
    matrix = torch.einsum("sa,sat->st", pi, torch.tensor(problem.transitions.toarray().reshape(7, 3, 7)))
    v = torch.linalg.solve(torch.eye(7, dtype=torch.float64) - gamma * matrix, (pi * torch.tensor(problem.rewards)).sum(-1))
    v.mean().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    np.testing.assert_allclose(policy_gradient(problem, pi.detach().numpy(), gamma), logits.grad.numpy(), atol=1e-12)


# --- token tasks, against a recursion over the single environment


class DenseCore(TextCore):
    """Every token pays too, so that rewards come before the end."""

    def advance(self, rows: Any, actions: np.ndarray, streams: Any) -> Step:
        step = super().advance(rows, actions, streams)
        return step._replace(rewards=step.rewards + 0.25 * actions - 0.125 * (self._index[rows] == 2))

    def like(self, num_rows: int) -> DenseCore:
        return DenseCore(self.task, num_rows)


def dense_core(num_rows: int) -> TextCore:
    return DenseCore(small_task(max_new_tokens=3), num_rows)


CORES: dict[str, Callable[[int], TextCore]] = {"sparse": SmallCore(max_new_tokens=3), "dense": dense_core}


def wavy(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """A policy on token observations that is different in every prefix."""
    weights = np.random.default_rng(seed).normal(size=(16, 6))
    return lambda observations: softmax(1.5 * np.sin(observations @ weights[: observations.shape[-1]]))


class Brute:
    """Every answer by walking all continuations of the single environment, one step at a time."""

    def __init__(self, core: Callable[[int], TextCore], gamma: float, policy: Callable[[np.ndarray], np.ndarray] | None) -> None:
        self.env, self.gamma, self.policy = GymEnv(core), gamma, policy

    def play(self, prompt: int, actions: tuple[int, ...]) -> tuple[np.ndarray, float, bool]:
        """The last observation, reward and whether it was the end."""
        seen, _ = self.env.reset(options={"prompt": prompt})
        reward, end = 0.0, False
        for action in actions:
            seen, reward, end, _, _ = self.env.step(action)
        return seen, reward, end

    def q(self, prompt: int, actions: tuple[int, ...], action: int) -> float:
        _, reward, end = self.play(prompt, (*actions, action))
        return reward + (0.0 if end else self.gamma * self.v(prompt, (*actions, action)))

    def v(self, prompt: int, actions: tuple[int, ...] = ()) -> float:
        values = [self.q(prompt, actions, action) for action in range(6)]
        return max(values) if self.policy is None else float(self.chances(prompt, actions) @ values)

    def chances(self, prompt: int, actions: tuple[int, ...]) -> np.ndarray:
        assert self.policy is not None
        return self.policy(self.play(prompt, actions)[0][None])[0]

    def trajectories(
        self, prompt: int, actions: tuple[int, ...] = (), chance: float = 1.0, paid: float = 0.0
    ) -> Iterator[tuple[tuple[int, ...], float, float]]:
        """(actions, probability, discounted return) of every whole episode."""
        for action, p in enumerate(self.chances(prompt, actions)):
            longer = (*actions, action)
            _, reward, end = self.play(prompt, longer)
            total = paid + self.gamma ** len(actions) * reward
            if end:
                yield longer, chance * float(p), total
            else:
                yield from self.trajectories(prompt, longer, chance * float(p), total)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_token_values_agree_with_a_recursion(core: str, gamma: float) -> None:
    problem = from_core(CORES[core](1))
    assert problem.num_states == 6 * (1 + 5 + 25)
    find, values, best = finder(problem), evaluate(problem, wavy(0), gamma), solve(problem, gamma)
    mine, optimal = Brute(CORES[core], gamma, wavy(0)), Brute(CORES[core], gamma, None)
    for prompt in (0, 2):
        assert values.v[prompt] == pytest.approx(mine.v(prompt))
        assert best.v[prompt] == pytest.approx(optimal.v(prompt))
        for prefix in ((), (3,), (1, 1)):
            state = int(find(mine.play(prompt, prefix)[0]))
            for action in range(6):
                assert values.q[state, action] == pytest.approx(mine.q(prompt, prefix, action))
                assert best.q[state, action] == pytest.approx(optimal.q(prompt, prefix, action))
    np.testing.assert_allclose(evaluate(problem, best.policy, gamma).v, best.v)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_token_moments_and_kl_agree_with_the_list_of_all_trajectories(core: str, gamma: float) -> None:
    weights = np.array([0.7, 0.3])
    problem = from_core(CORES[core](1), prompts=[2, 4], weights=weights)
    mine, other = Brute(CORES[core], gamma, wavy(1)), Brute(CORES[core], gamma, wavy(2))
    chances, returns, ratios = [], [], []
    for prompt, weight in zip((2, 4), weights, strict=True):
        other_chances = {actions: p for actions, p, _ in other.trajectories(prompt)}
        for actions, p, total in mine.trajectories(prompt):
            chances.append(weight * p)
            returns.append(total)
            ratios.append(math.log(p / other_chances[actions]))
    p, g = np.array(chances), np.array(returns)
    assert p.sum() == pytest.approx(1)
    assert expected_return(problem, wavy(1), gamma) == pytest.approx(p @ g)
    assert return_variance(problem, wavy(1), gamma) == pytest.approx(p @ (g - p @ g) ** 2)
    assert kl(problem, wavy(1), wavy(2)).per_episode == pytest.approx(p @ np.array(ratios))


def test_kl_of_each_prefix() -> None:
    problem = from_core(SmallCore(max_new_tokens=3)(1))
    pi, ref = wavy(1)(problem.observations), wavy(2)(problem.observations)
    found = kl(problem, wavy(1), wavy(2))
    np.testing.assert_allclose(found.per_state, [sum(x * math.log(x / y) for x, y in zip(*pair, strict=True)) for pair in zip(pi, ref, strict=True)])
    assert found.per_step == pytest.approx(found.per_episode / occupancy(problem, pi, 1.0).sum())
    assert kl(problem, pi, pi).per_episode == 0
    assert kl(problem, pi, ref, horizon=3).per_episode == pytest.approx(found.per_episode)
    assert kl(problem, pi, ref, horizon=1).per_episode == pytest.approx(found.per_state[:6].mean())


def test_kl_where_the_reference_never_goes() -> None:
    problem = from_core(SmallCore(max_new_tokens=2)(1))
    pi, ref = wavy(1)(problem.observations), wavy(2)(problem.observations)
    pi[:, 3], ref[:, 3] = 0, 0
    pi, ref = pi / pi.sum(1, keepdims=True), ref / ref.sum(1, keepdims=True)
    assert np.isfinite(kl(problem, pi, ref).per_episode)  # both never
    unvisited = int(finder(problem)(np.array([6, 6, 1, 3, 6])))
    ref[unvisited] = np.eye(6)[0]
    found = kl(problem, pi, ref)
    assert found.per_state[unvisited] == np.inf
    assert np.isfinite(found.per_episode), "a prefix that pi never reaches costs nothing"
    ref[0] = np.eye(6)[0]
    assert kl(problem, pi, ref).per_episode == np.inf


def test_token_gradient_agrees_with_differences_of_the_recursion() -> None:
    core = SmallCore(max_new_tokens=2)
    problem = from_core(core(1), prompts=[4])
    find, logits = finder(problem), np.random.default_rng(0).normal(size=(6, 6))
    objective = lambda at: Brute(core, 0.9, lambda seen: softmax(at)[find(seen)]).v(4)  # noqa: E731
    np.testing.assert_allclose(policy_gradient(problem, softmax(logits), 0.9), differences(objective, logits), atol=1e-8)


def test_a_prefix_tree_stands_in_order_and_touches_nobody() -> None:
    core = TextCore(small_task(max_new_tokens=3), 2)
    before = core.get_state()
    problem = from_core(core)
    assert all(np.array_equal(before[key], value) for key, value in core.get_state().items())
    assert problem.start[:6] == pytest.approx(1 / 6)
    assert not problem.start[6:].any()
    lengths = (problem.observations[:, 3:] != 6).sum(axis=1)
    assert np.array_equal(lengths, np.sort(lengths))
    np.testing.assert_array_equal(np.asarray(problem.transitions.sum(axis=1)).reshape(-1, 6), 1 - problem.ends)
    assert occupancy(problem, wavy(0), 1.0)[:6].sum() == pytest.approx(1)
    find = finder(problem)
    assert np.array_equal(find(problem.observations.reshape(2, -1, 6)).ravel(), np.arange(problem.num_states))


def test_levels_in_several_batches_are_the_same_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = from_core(dense_core(1))
    monkeypatch.setattr("textgym.oracle.prefixes.ROWS", 50)
    parts = from_core(dense_core(1))
    for one, other in zip(whole, parts, strict=True):
        assert (one != other).nnz == 0 if hasattr(one, "nnz") else np.array_equal(one, other)


class StepLimitCore(TextCore):
    """A core whose own step limit truncates, where a text task's budget terminates."""

    def advance(self, rows: Any, actions: np.ndarray, streams: Any) -> Step:
        step = super().advance(rows, actions, streams)
        by_eos = actions == 0
        return Step(step.rewards, step.terminated & by_eos, step.terminated & ~by_eos)

    def like(self, num_rows: int) -> StepLimitCore:
        return StepLimitCore(self.task, num_rows)


def test_a_cores_own_limit_is_no_termination_unless_one_says_so() -> None:
    core = StepLimitCore(small_task(max_new_tokens=2), 1)
    with pytest.raises(ValueError, match="truncation_ends=True"):
        from_core(core)
    under = from_core(core, truncation_ends=True)
    assert np.array_equal(evaluate(under, wavy(0), 1.0).v, evaluate(from_core(SmallCore(max_new_tokens=2)(1)), wavy(0), 1.0).v)


# --- against what is really played


def near(sample: np.ndarray, mean: float, variance: float, sigmas: float = 4.0) -> None:
    """The mean and the variance of independent numbers lie within their confidence intervals around the exact ones."""
    n, centred = len(sample), sample - sample.mean()
    assert abs(sample.mean() - mean) < sigmas * sample.std() / math.sqrt(n)
    spread = math.sqrt(max((centred**4).mean() - sample.var() ** 2, 0) / n)
    assert abs(sample.var(ddof=1) - variance) < sigmas * spread
    assert sigmas * sample.std() / math.sqrt(n) < 0.2 * max(abs(mean), sample.std()), "a test that nothing could fail"


@pytest.mark.parametrize("limit", [6, 100])
def test_frozen_lake_pays_what_is_promised(limit: int) -> None:
    env = TimeLimit(gym.make("FrozenLake-v1", is_slippery=True).unwrapped, limit)
    problem, gamma, rng = from_table(env), 0.97, np.random.default_rng(0)
    policy = 0.7 * solve(problem, 0.99).policy + 0.3 * random_policy(problem, 1)
    env.reset(seed=0)
    returns = []
    for _ in range(1500):
        state, total, factor, over = env.reset()[0], 0.0, 1.0, False
        while not over:
            state, reward, terminated, truncated, _ = env.step(int(rng.choice(4, p=policy[state])))
            total, factor, over = total + factor * float(reward), factor * gamma, terminated or truncated
        returns.append(total)
    near(np.array(returns), expected_return(problem, policy, gamma, limit), return_variance(problem, policy, gamma, limit))
    if limit == 6:
        assert expected_return(problem, policy, gamma) > 4 * expected_return(problem, policy, gamma, limit), "the limit matters here"


class Known:
    """A policy whose probabilities are known, with a critic that is exact."""

    sequential = False

    def __init__(self, policy: Callable[[np.ndarray], np.ndarray], critic: Callable[[np.ndarray], np.ndarray]) -> None:
        self.policy, self.critic = policy, critic

    def initial_state(self, num_envs: int) -> None:
        return None

    def act(self, observations: Any, state: Any, starts: Any, generator: np.random.Generator, action_masks: Any = None, temperature: float = 1.0) -> Acted:
        chances, rows = self.policy(observations), np.arange(len(observations))
        actions = np.minimum((chances.cumsum(axis=1) < generator.random((len(rows), 1))).sum(axis=1), chances.shape[1] - 1)
        return Acted(actions, np.log(chances[rows, actions]), self.critic(observations), None)

    def value(self, observations: Any, state: Any = None) -> np.ndarray:
        return self.critic(observations)


def played(core: Callable[[int], TextCore], policy: Callable[[np.ndarray], np.ndarray], rows: int, limit: int | None, critic: Any, seed: int) -> Rollout:
    """One whole episode on each row."""
    env, known = GymVectorEnv(core, rows, autoreset_mode="SameStep", max_episode_steps=limit), cast(Any, Known(policy, critic))
    return collect(env, known, begin(env, known, seed), np.random.default_rng(seed), episodes_per_row=1).rollout


def z_scores(problem: Tabular, rollout: Rollout, advantages: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """How many standard errors the mean estimate of each often seen (state, action) lies from the exact advantage."""
    pairs = (finder(problem)(rollout.observations) * problem.num_actions + rollout.actions)[rollout.valid]
    seen, scores = advantages[rollout.valid], []
    for pair in np.unique(pairs):
        sample = seen[pairs == pair]
        if len(sample) >= 300:
            scores.append((sample.mean() - exact.reshape(-1)[pair]) / (sample.std(ddof=1) / math.sqrt(len(sample)) + 1e-9))
    return np.array(scores)


ONE_PROMPT = SmallCore(max_new_tokens=4, prompts=ListPrompts(["a b c"]))  # 156 prefixes, so that each is seen often
CALM = lambda observations: 0.5 / 6 + 0.5 * wavy(0)(observations)  # noqa: E731 (no action so rare that a mean says nothing)


@pytest.mark.parametrize("estimator", [MonteCarlo(0.9), GAE(0.9, 1.0), GAE(0.9, 0.5)], ids=str)
def test_estimators_with_the_exact_critic_are_unbiased(estimator: Advantage) -> None:
    """Law 4: for any lambda, since the exact critic has nothing to hide; only the variance differs."""
    problem = from_core(ONE_PROMPT(1))
    values, find = evaluate(problem, CALM, 0.9), finder(problem)
    rollout = played(ONE_PROMPT, CALM, 20_000, None, lambda seen: values.v[find(seen)], seed=1)
    scores = z_scores(problem, rollout, estimate(estimator, rollout).advantages, values.a)
    assert len(scores) > 30
    assert np.abs(scores).max() < 4.5
    assert (scores**2).mean() < 1.7, "no farther off than chance makes them"


def test_truncation_is_bootstrapped_with_the_value_without_a_limit_and_the_twin_fails() -> None:
    """Law 4: cut after two steps of four, GAE still estimates A of the whole task; with truncation mistaken for termination it must not."""
    problem = from_core(ONE_PROMPT(1))
    values, find = evaluate(problem, CALM, 0.9), finder(problem)
    rollout = played(ONE_PROMPT, CALM, 8_000, 2, lambda seen: values.v[find(seen)], seed=2)
    assert (rollout.truncated & ~rollout.terminated)[-1].any()
    twin = rollout._replace(terminated=rollout.terminated | rollout.truncated)
    right, wrong = (z_scores(problem, each, estimate(GAE(0.9, 0.8), each).advantages, values.a) for each in (rollout, twin))
    assert np.abs(right).max() < 4.5
    assert np.abs(wrong).max() > 10


def test_under_a_limit_that_counts_the_limited_value_is_what_monte_carlo_estimates() -> None:
    """Termination at the limit and the critic V[t] of the limited task belong together: V of the other task would be biased."""
    problem = from_core(ONE_PROMPT(1))
    values, find = evaluate(problem, CALM, 0.9, horizon=2), finder(problem)
    spent = lambda seen: (seen[:, 3:] != 6).sum(axis=1)  # noqa: E731
    rollout = played(ONE_PROMPT, CALM, 8_000, 2, lambda seen: values.v[spent(seen), find(seen)], seed=4)
    assert not rollout.next_values[rollout.truncated].any(), "nothing is worth anything at the limit"
    exact = np.where((spent(problem.observations) == 0)[:, None], values.a[0], values.a[1])
    assert np.abs(z_scores(problem, rollout, estimate(MonteCarlo(0.9), rollout).advantages, exact)).max() < 4.5


def test_a_kl_estimator_is_judged() -> None:
    """The sum of sampled log-ratios is an unbiased estimator of KL(pi || ref) over an episode."""
    core = SmallCore(max_new_tokens=4)
    problem = from_core(core(1))
    rollout = played(core, wavy(0), 5_000, None, lambda seen: np.zeros(len(seen)), seed=3)
    ref = np.log(np.take_along_axis(wavy(1)(rollout.observations), rollout.actions[..., None], axis=-1)[..., 0])
    sums = np.where(rollout.valid, rollout.log_probs - ref, 0).sum(axis=0)
    exact = kl(problem, wavy(0), wavy(1)).per_episode
    assert exact > 10 * sums.std() / math.sqrt(len(sums)), "a test that nothing could fail"
    assert abs(sums.mean() - exact) < 4 * sums.std() / math.sqrt(len(sums))


# --- policies, sizes, speed


def test_a_torch_model_enters_through_two_lines() -> None:
    import torch

    problem = from_table(gym.make("FrozenLake-v1"))
    with torch.random.fork_rng():
        model = torch.nn.Embedding(16, 4)

    def policy(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(torch.as_tensor(observations)).softmax(-1))

    exact = softmax(model.weight.detach().numpy().astype(np.float64))
    np.testing.assert_allclose(evaluate(problem, policy, 0.9).v, evaluate(problem, exact, 0.9).v, atol=1e-6)
    np.testing.assert_allclose(probabilities_of(problem, policy).sum(axis=1), 1, rtol=1e-15)  # float32 alone is off by 1e-7


def test_a_policy_sees_what_the_environment_shows() -> None:
    env = gym.make("FrozenLake-v1")
    problem = from_table(env, observe=lambda s: np.array(divmod(s, 4), dtype=np.float64))
    assert problem.observations.shape == (16, 2)
    sizes = []

    def policy(observations: np.ndarray) -> np.ndarray:
        sizes.append(len(observations))
        return np.where(observations[:, :1] == 0, [[1.0, 0, 0, 0]], [[0, 0, 0, 1.0]])

    assert probabilities_of(problem, policy, batch_size=6).argmax(axis=1).tolist() == [0] * 4 + [3] * 12
    assert sizes == [6, 6, 4]
    assert finder(problem)(np.array([[[1.0, 2.0]], [[3.0, 3.0]]])).tolist() == [[6], [15]]
    seen = TransformObservation(env, lambda s: s, env.observation_space)
    assert from_table(seen, observe=lambda s: s).num_states == 16


def test_noise_in_the_reward_is_one_line() -> None:
    problem, policy = from_table(two_states(0), start=[1, 0]), np.full((2, 2), 0.5)
    noisy = problem._replace(second_moments=problem.second_moments + 0.3**2)
    assert return_variance(noisy, policy, 1.0, 4) == pytest.approx(return_variance(problem, policy, 1.0, 4) + 4 * 0.09)


def test_the_suites_two_states_pay_what_is_promised() -> None:
    problem = from_table(gym.make("textgym/TwoState-v0", slip=0.2, start=[1.0, 0.0]))
    problem = problem._replace(second_moments=problem.second_moments + 0.3**2)
    env = gym.make_vec("textgym/TwoState-v0", num_envs=4_000, slip=0.2, start=[1.0, 0.0], reward_noise=0.3, horizon=8)
    policy, rng = np.array([[0.6, 0.4], [0.1, 0.9]]), np.random.default_rng(0)
    states, _ = env.reset(seed=0)
    returns = np.zeros(4_000)
    for t in range(8):
        states, rewards, _, truncated, _ = env.step((rng.random(4_000) < policy[states, 1]).astype(np.int64))
        returns += 0.9**t * rewards
    assert truncated.all()
    near(returns, expected_return(problem, policy, 0.9, 8), return_variance(problem, policy, 0.9, 8))


def grid_table(size: int) -> Table:
    """A slippery square of `size` cells a side, every step costs 1, the last corner pays 10 and ends."""
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))

    def to(s: int, way: int) -> int:
        y, x = s // size + moves[way][0], s % size + moves[way][1]
        return min(max(y, 0), size - 1) * size + min(max(x, 0), size - 1)

    def line(p: float, n: int) -> tuple[float, int, float, bool]:
        return (p, n, 10.0, True) if n == size * size - 1 else (p, n, -1.0, False)

    return {s: {a: [line(0.1, to(s, a - 1)), line(0.8, to(s, a)), line(0.1, to(s, (a + 1) % 4))] for a in range(4)} for s in range(size * size)}


def optimal_residual(problem: Tabular, q: np.ndarray, gamma: float) -> float:
    following = problem.rewards + gamma * (problem.transitions @ q.max(axis=1)).reshape(q.shape)
    return float(np.abs(following - q).max() / np.abs(q).max())


def test_a_hundred_thousand_prefixes_take_seconds() -> None:
    begun = time.process_time()
    problem = from_core(SmallCore(max_new_tokens=7)(1))
    policy = probabilities_of(problem, wavy(0))
    values, best = evaluate(problem, policy, 1.0), solve(problem, 1.0)
    policy_gradient(problem, policy, 1.0)
    kl(problem, policy, wavy(1))
    assert return_variance(problem, policy, 1.0) > 0
    assert problem.num_states == 117_186
    assert time.process_time() - begun < 15  # about 2 s on a quiet machine
    assert (best.v >= values.v - 1e-12).all()
    assert best.v[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [0.99, 1.0])
def test_a_hundred_thousand_cells_take_seconds(gamma: float) -> None:
    problem = from_table(grid_table(317), start=first(317 * 317))
    begun = time.process_time()
    best = solve(problem, gamma)
    values = evaluate(problem, np.full((317 * 317, 4), 0.25), gamma)
    assert time.process_time() - begun < 60  # about 8 s on a quiet machine
    assert optimal_residual(problem, best.q, gamma) < 1e-12
    assert np.abs(values.q.mean(axis=1) - values.v).max() < 1e-12 * np.abs(values.v).max()


@pytest.mark.parametrize("gamma", [0.9, 0.999, 1.0])
def test_iterated_factorised_and_slow_answers_are_the_same(gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = from_table(grid_table(20), start=first(400))
    policy = random_policy(problem)
    direct, best = evaluate(problem, policy, gamma), solve(problem, gamma)
    visits = occupancy(problem, policy, gamma)
    dense = np.einsum("sa,sat->st", policy, problem.transitions.toarray().reshape(400, 4, 400))
    np.testing.assert_allclose(direct.v, np.linalg.solve(np.eye(400) - gamma * dense, (policy * problem.rewards).sum(1)), rtol=1e-9)
    np.testing.assert_allclose(visits, np.linalg.solve(np.eye(400) - gamma * dense.T, problem.start), rtol=1e-8, atol=1e-12)
    monkeypatch.setattr("textgym.oracle.linear.DIRECT", 0)
    np.testing.assert_allclose(evaluate(problem, policy, gamma).v, direct.v, rtol=1e-9)
    np.testing.assert_allclose(solve(problem, gamma).v, best.v, rtol=1e-10)
    np.testing.assert_allclose(best.v, slow_values(grid_table(20), None, gamma, 150), rtol=1e-9)


def test_a_large_problem_that_is_knit_at_random_is_solved() -> None:
    """Factorising it would fill the memory: the iteration must answer."""
    problem = from_table(random_table(0, states=8_000, actions=2, end=0.01), start=np.full(8_000, 1 / 8_000))
    begun = time.process_time()
    assert not evaluate(problem._replace(rewards=0 * problem.rewards), np.full((8_000, 2), 0.5), 1.0).v.any()
    for gamma in (0.99, 1.0):
        assert optimal_residual(problem, solve(problem, gamma).q, gamma) < 1e-12
    assert time.process_time() - begun < 20


def test_a_long_way_in_order_of_time() -> None:
    length = 3_000
    table: Table = {s: {0: [(1.0, min(s + 1, length - 1), -1.0, s == length - 1)], 1: [(1.0, s, 0.0, True)]} for s in range(length)}
    problem = from_table(table, start=first(length))
    assert evaluate(problem, np.tile([1.0, 0.0], (length, 1)), 1.0).v[0] == -length
    assert solve(problem, 1.0).v[0] == 0


def test_undiscounted_optima_are_sought_among_policies_that_end() -> None:
    """Standing still costs nothing and the way out costs 1; only the way out ends."""
    table: Table = {0: {0: [(1.0, 0, 0.0, False)], 1: [(1.0, 0, -1.0, True)]}}
    best = solve(from_table(table, start=[1]), 1.0)
    assert best.actions.tolist() == [1]
    assert best.v[0] == -1
    assert solve(from_table(table, start=[1]), 0.99).v[0] == 0


# --- errors


FAIR = np.full((2, 2), 0.5)


class DrawingCore(TextCore):
    def advance(self, rows: Any, actions: np.ndarray, streams: Any) -> Step:
        streams.uniform(np.arange(len(actions)))
        return super().advance(rows, actions, streams)

    def like(self, num_rows: int) -> DrawingCore:
        return DrawingCore(self.task, num_rows)


def altered(line: tuple[float, int, float, bool]) -> Table:
    return {**two_states(0), 1: {0: two_states(0)[1][0], 1: [line]}}


BAD_TABLES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "sum": (altered((0.5, 0, 0.0, False)), {}, "state 1, action 1 has probabilities that do not sum to 1"),
    "negative": ({**two_states(0), 1: {0: two_states(0)[1][0], 1: [(-1.0, 0, 0.0, False), (2.0, 0, 0.0, False)]}}, {}, "negative"),
    "nan": (altered((float("nan"), 0, 0.0, False)), {}, "negative or no number"),
    "next": (altered((1.0, 2, 0.0, False)), {}, "outside 0 to 1"),
    "reward": (altered((1.0, 0, float("inf"), False)), {}, "reward that is not finite"),
    "states": ({0: two_states(0)[0], 5: two_states(0)[1]}, {}, "state 1 is missing"),
    "actions": ({0: two_states(0)[0], 1: {0: two_states(0)[1][0]}}, {}, "state 1 is missing or differs"),
    "no start": (two_states(0), {"start": None}, "Where do episodes begin"),
    "bad start": (two_states(0), {"start": [0.5, 0.6]}, "2 probabilities that sum to 1"),
    "long start": (two_states(0), {"start": [0.5, 0.5, 0]}, "2 probabilities that sum to 1"),
    "too many": (two_states(0), {"limit": 1}, "This table has 2 states; the limit is 1 states"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_are_named(case: str) -> None:
    table, options, message = BAD_TABLES[case]
    with pytest.raises(ValueError, match=message):
        from_table(table, **{"start": [1, 0], **options})


def test_the_roots_come_as_often_as_the_task_draws_its_prompts() -> None:
    core = SmallCore(prompt_weights=[0, 3, 0, 1, 0, 0], max_new_tokens=2)(1)
    assert from_core(core).start[:6].tolist() == [0, 0.75, 0, 0.25, 0, 0]
    assert from_core(core, prompts=[1, 3]).start[:2].tolist() == [0.5, 0.5]
    assert from_core(core, weights=np.full(6, 1 / 6)).start[0] == pytest.approx(1 / 6)
    with pytest.raises(TypeError, match="integer"):
        from_core(core, prompts=[0.5])


def test_environments_without_a_table_and_wrappers_that_contradict_it() -> None:
    lake = gym.make("FrozenLake-v1")
    with pytest.raises(TypeError, match="from_core"):
        from_table(GymEnv(SmallCore()))
    with pytest.raises(TypeError, match=r"one map .here are 2."):
        from_table(gym.make("textgym/PathPlanning-v0", map=["S.G", "G.S"]))
    for wrapped, name in (
        (TransformReward(lake, lambda r: 2 * r), "TransformReward"),
        (TransformAction(lake, lambda a: 3 - a, lake.action_space), "TransformAction"),
        (TransformObservation(lake, lambda s: s, lake.observation_space), "TransformObservation.*observe="),
    ):
        with pytest.raises(TypeError, match=name):
            from_table(wrapped)


def test_trees_that_are_too_large_or_none() -> None:
    with pytest.raises(TooManyStates, match=r"at least 936 states; the limit is 900 states"):
        from_core(SmallCore(max_new_tokens=20)(1), limit=900)
    with pytest.raises(TooManyStates, match=r"6 states and 36 pairs .* 1 states|6 states"):
        from_core(SmallCore()(1), limit=1)
    with pytest.raises(ValueError, match="draws random numbers"):
        from_core(DrawingCore(small_task(), 1))
    with pytest.raises(ValueError, match="There are no prompts"):
        from_core(SmallCore()(1), prompts=[])
    with pytest.raises(ValueError, match="must lie in"):
        from_core(SmallCore()(1), prompts=[6])
    with pytest.raises(ValueError, match="2 probabilities"):
        from_core(SmallCore()(1), prompts=[0, 1], weights=[1])
    continuous = SmallCore()(1)
    continuous.action_space = gym.spaces.Box(0, 1)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Discrete"):
        from_core(continuous)
    with pytest.raises(KeyError):
        finder(from_core(SmallCore(max_new_tokens=2)(1)))(np.full((1, 5), 6))


BAD_POLICIES: dict[str, tuple[Any, str]] = {
    "shape": (np.ones((2, 3)) / 3, r"shape \(2, 2\)"),
    "logits": (np.array([[0.5, 0.5], [-1.0, 2.0]]), "no distribution in state 1"),
    "sum": (lambda seen: np.ones((len(seen), 2)), "no distribution in state 0"),
    "nan": (np.full((2, 2), np.nan), "no distribution in state 0"),
    "timed": (np.full((3, 2, 2), 0.5), r"this one gave \(3, 2, 2\)"),
}


@pytest.mark.parametrize("case", BAD_POLICIES)
def test_bad_policies_are_named(case: str) -> None:
    policy, message = BAD_POLICIES[case]
    with pytest.raises(ValueError, match=message):
        evaluate(from_table(two_states(0), start=[1, 0]), policy, 0.9)
    with pytest.raises(ValueError, match="no distribution" if case in ("logits", "sum", "nan") else "if it changes with time"):
        evaluate(from_table(two_states(0), start=[1, 0]), policy, 0.9, horizon=2)


@pytest.mark.parametrize("function", [evaluate, expected_return, variances, return_variance, occupancy, policy_gradient, lambda *a: kl(*a[:2], *a[1:])])
def test_what_never_ends_has_no_undiscounted_value(function: Any) -> None:
    problem = from_table(two_states(0), start=[1, 0])
    with pytest.raises(ValueError, match="this policy never ends"):
        function(problem, FAIR, 1.0)
    assert np.isfinite(np.sum(function(problem, FAIR, 0.9)[0] if function is evaluate else 0))
    with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\]"):
        function(problem, FAIR, 1.1)
    with pytest.raises(ValueError, match="at least 1 step"):
        function(problem, FAIR, 1.0, 0)


def test_optima_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match=r"From 2 states \(the first: 0\) no policy can end"):
        solve(from_table(two_states(0), start=[1, 0]), 1.0)
    treadmill: Table = {0: {0: [(1.0, 0, 1.0, False)], 1: [(1.0, 0, 0.0, True)]}}
    with pytest.raises(ValueError, match="rewards can be collected for ever"):
        solve(from_table(treadmill, start=[1]), 1.0)
    assert solve(from_table(treadmill, start=[1]), 0.9).v[0] == pytest.approx(10)
    with pytest.raises(ValueError, match="gamma must lie"):
        solve(from_table(treadmill, start=[1]), -0.1)
    with pytest.raises(ValueError, match="at least 1 step"):
        solve(from_table(treadmill, start=[1]), 0.9, 0)


def test_without_scipy_one_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ImportError, match="pip install scipy"):
        from_table(two_states(0), start=[1, 0])


def test_importing_the_oracle_loads_neither_scipy_nor_torch() -> None:
    code = "import sys, textgym.oracle; sys.exit(str({'scipy', 'torch'} & set(sys.modules)) if {'scipy', 'torch'} & set(sys.modules) else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
