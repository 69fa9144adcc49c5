"""The laboratory of estimators: its sampler against the environment and the oracle, its measures against sums by hand, and what must come out.

Axis legend: T steps, N episodes, S states, A actions, K batches.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from test_benchmarks import run

from agents.advantages import GAE, RLOO, MonteCarlo, NStep, TotalReturn, Vine, estimate, needs
from agents.play import begin, collect
from agents.policies import TabularPolicy
from benchmarks.laboratory import contestants, learning, measures, off_policy, policies, problems, sampling, sweeps
from textgym import oracle

pytest.importorskip("scipy")


@functools.cache
def random_case(name: str) -> sweeps.Case:
    return sweeps.random_case(problems.PROBLEMS[name]())


@functools.cache
def episodes(name: str, num: int = 20_000, seed: int = 0, group: int = 4) -> sampling.Played:
    one, rng = random_case(name), np.random.default_rng(seed)
    return sampling.play(one.problem, one.policy, sampling.draw_starts(one.problem, num, group, rng), rng)


def exact_critic(one: sweeps.Case) -> policies.Critic:
    return sweeps.asked(one, 0.0, np.random.default_rng(0))


def z(sample: np.ndarray, exact: float) -> float:
    return float((sample.mean() - exact) / (sample.std() / len(sample) ** 0.5 + 1e-12))


# --- the sampler ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_episodes_are_those_of_the_oracle(name: str) -> None:
    """Visits of every state and action, and mean and spread of the return."""
    one, played = random_case(name), episodes(name, group=1)
    num = played.valid.shape[1]
    visits = oracle.occupancy(one.problem.tabular, one.policy, 1.0)[:, None] * one.policy
    pairs = (played.states * one.problem.num_actions + played.actions)[played.valid]
    counts = np.bincount(pairs, minlength=visits.size).reshape(visits.shape)
    assert np.abs((counts - num * visits) / np.sqrt(num * visits * (1 - visits) + 1)).max() < 5
    returns = (played.rewards * played.valid).sum(axis=0)
    assert abs(z(returns, policies.expected(one.problem, one.policy))) < 4
    variance = oracle.return_variance(one.problem.tabular, one.policy, 1.0)
    assert returns.var() == pytest.approx(variance, rel=0.05)
    assert played.ended.sum() == num
    assert (played.valid.sum(axis=0) == played.ended.argmax(axis=0) + 1).all()


def test_episodes_are_those_of_the_environment() -> None:
    """`collect` on path planning with slips, and the sampler on its table: what is visited, paid and how long it takes have the same means."""
    env = gym.make_vec(
        "textgym/PathPlanning-v0",
        num_envs=2_000,
        autoreset_mode="SameStep",
        map=problems.GRID,
        view="cell",
        slip=0.2,
        goal_reward=1.0,
        step_cost=0.05,
        max_steps=5_000,
    )
    policy = TabularPolicy(9, 4)
    logits = np.random.default_rng(3).normal(size=(9, 4))
    policy.logits.data[:] = policy.logits.new_tensor(logits)
    theirs = collect(env, policy, begin(env, policy, seed=1), np.random.default_rng(1), episodes_per_row=1).rollout
    assert not (theirs.truncated & theirs.valid).any()
    core: Any = gym.make("textgym/PathPlanning-v0", map=problems.GRID, view="cell", slip=0.2, goal_reward=1.0, step_cost=0.05).unwrapped
    problem = problems.of_table("grid", core.core.P, core.core.initial_state_distrib)
    rng = np.random.default_rng(2)
    ours = sampling.play(problem, policies.softmax(logits), sampling.draw_starts(problem, 2_000, 1, rng), rng)

    def seen(states: np.ndarray, actions: np.ndarray, rewards: np.ndarray, valid: np.ndarray) -> np.ndarray:
        pairs = [((states == s) & (actions == a) & valid).sum(axis=0) for s in range(9) for a in range(4)]
        return np.array([*pairs, (rewards * valid).sum(axis=0), valid.sum(axis=0)], dtype=float)  # [38, N]

    one = seen(theirs.observations, theirs.actions, theirs.rewards, theirs.valid)
    two = seen(ours.states, ours.actions, ours.rewards, ours.valid)
    gaps = (one.mean(axis=1) - two.mean(axis=1)) / np.sqrt(one.var(axis=1) / 2_000 + two.var(axis=1) / 2_000 + 1e-9)
    assert np.abs(gaps).max() < 4
    exact = policies.expected(problem, policies.softmax(logits))
    assert abs(z(one[-2], exact)) < 4
    assert abs(z(two[-2], exact)) < 4


def test_a_tree_plays_what_its_core_pays() -> None:
    """Every episode of the sampler is a text of Recall that the scorer pays the same."""
    one, played = random_case("Recall"), episodes("Recall")
    roots = one.problem.tabular.observations[played.states[0], 0]
    last = played.actions[-1]
    full = played.valid.all(axis=0)
    returns = (played.rewards * played.valid).sum(axis=0)
    assert (returns[full] == (last == roots)[full]).all()
    assert (returns[~full] == 0).all()
    assert full.any()
    assert not full.all()


def test_windows_begin_anywhere() -> None:
    """In play that goes on, every step of TwoState's eight is as frequent at the first step of a window as at the last."""
    one = random_case("TwoState")
    played = sampling.windows(one.problem, one.policy, 8_000, 3, np.random.default_rng(0))
    assert played.valid.all()
    assert played.states.shape == (3, 8_000)
    for states in played.states:
        np.testing.assert_allclose(np.bincount(states // 2, minlength=8) / 8_000, 1 / 8, atol=0.02)
    assert (played.states[1:] == played.following[:-1])[~played.ended[:-1]].all()


def test_windows_go_on_in_new_episodes() -> None:
    one, rng = random_case("Grid"), np.random.default_rng(0)
    played = sampling.play(one.problem, one.policy, sampling.draw_starts(one.problem, 50, 1, rng), rng, steps=25)
    assert played.valid.all()
    assert played.states.shape == (25, 50)
    assert (played.starts[1:] == played.ended[:-1]).all()
    assert set(played.states[played.starts]) == {0}
    assert (played.states[1:] == played.following[:-1])[~played.ended[:-1]].all()


def test_noise_is_on_every_reward_and_the_oracle_knows() -> None:
    problem = problems.two_state(4, noise=0.7)
    policy, rng = policies.uniform(problem), np.random.default_rng(0)
    played = sampling.play(problem, policy, sampling.draw_starts(problem, 20_000, 1, rng), rng)
    returns = played.rewards.sum(axis=0)
    assert returns.var() == pytest.approx(oracle.return_variance(problem.tabular, policy, 1.0), rel=0.04)
    assert returns.var() == pytest.approx(4 * (0.25 + 0.49), rel=0.04)


def test_rewards_that_are_chance_themselves_need_the_table() -> None:
    table = {0: {0: [(0.5, 0, 1.0, True), (0.5, 0, 0.0, True)]}}
    problem = problems.of_table("coin", table, np.ones(1))
    with pytest.raises(ValueError, match="chance themselves"):
        problems.lines(problem.tabular)
    rng = np.random.default_rng(0)
    assert set(sampling.play(problem, np.ones((1, 1)), np.zeros(50, np.int64), rng).rewards[0]) == {0.0, 1.0}


def test_groups_begin_alike_and_must_be_whole() -> None:
    one, rng = random_case("Recall"), np.random.default_rng(0)
    starts = sampling.draw_starts(one.problem, 400, 4, rng).reshape(-1, 4)
    assert (starts == starts[:, :1]).all()
    assert len(np.unique(starts)) == 3
    with pytest.raises(ValueError, match="whole groups"):
        sampling.draw_starts(one.problem, 10, 4, rng)


def test_rollouts_hold_what_estimators_read() -> None:
    """Whole episodes, the exact critic beside them, and a critic that knows Q only says the same of V when it is right."""
    one, played = random_case("Grid"), episodes("Grid", 400)
    critic = exact_critic(one)
    rollout = sampling.rollout_of(played, one.policy, critic, 4)
    for advantage in (RLOO(1.0), MonteCarlo(1.0), TotalReturn(1.0), GAE(1.0, 0.9), NStep(1.0, 3)):
        estimate(advantage, rollout)
    assert np.isnan(rollout.next_values[rollout.terminated]).all()
    inner = rollout.valid[1:]
    np.testing.assert_array_equal(rollout.next_values[:-1][inner], rollout.values[1:][inner])
    by_q = sampling.with_mean_q(rollout, played, critic)
    np.testing.assert_allclose(by_q.values[rollout.valid], rollout.values[rollout.valid], atol=1e-12)


def test_vine_measures_every_prefix_anew() -> None:
    """The mean of many continuations is V, and the value behind a step is the same number as that before the next one."""
    one, played = random_case("TwoState"), episodes("TwoState", 40)
    rollout = sampling.rollout_of(played, one.policy, sweeps.asked(one, None, np.random.default_rng(0)), 4)
    found = sampling.with_vine(rollout, one.problem, one.policy, played, 400, np.random.default_rng(5))
    spread = np.sqrt(oracle.variances(one.problem.tabular, one.policy, 1.0)[played.states] / 400)
    assert np.abs((found.values - one.values.v[played.states]) / spread)[found.valid].max() < 5
    np.testing.assert_array_equal(found.next_values[:-1][found.valid[1:]], found.values[1:][found.valid[1:]])


def test_greedy_baselines_are_returns_of_the_likeliest_actions() -> None:
    one, played = random_case("Even"), episodes("Even", 40)
    rollout = sampling.with_greedy(sampling.rollout_of(played, one.policy, exact_critic(one), 4), one.problem, one.policy, played, np.random.default_rng(0))
    greedy = oracle.evaluate(one.problem.tabular, np.eye(one.problem.num_actions)[one.policy.argmax(axis=1)], 1.0).v
    assert rollout.baselines is not None
    np.testing.assert_allclose(rollout.baselines, np.broadcast_to(greedy[played.states[0]], played.valid.shape))


# --- the measures -----------------------------------------------------------------------------------------------------------------------------


def made_up(pairs: list[tuple[int, int]]) -> sampling.Played:
    """Episodes of one step."""
    states, actions = (np.array([column]) for column in zip(*pairs, strict=True))
    yes, rewards = np.ones(states.shape, np.bool_), np.zeros(states.shape)
    return sampling.Played(states, actions, rewards, yes, yes, yes, np.zeros_like(states))


def test_measures_by_hand() -> None:
    """Two actions in one state, A = 1 and -1; estimates 3, 1 (mean 2, variance 2) and 0, 0."""
    played = made_up([(0, 0), (0, 0), (0, 1), (0, 1)])
    found = measures.advantage_errors(np.array([[3.0, 1.0, 0.0, 0.0]]), played, np.array([[1.0, -1.0]]), np.random.default_rng(0))
    assert found["error"] == pytest.approx((4 + 0 + 1 + 1) / 4)
    assert found["variance"] == pytest.approx(1.0)  # half of the visits have 2, half 0
    assert found["bias"] == pytest.approx((2 * 1 - 2 + 2 * 1) / 4)  # errors of 1 and 1, less the chance in the first mean
    assert found["bias of actions"] == pytest.approx(-0.25)  # both errors are the state's: nothing is left but the chance
    assert found["signs"] == pytest.approx(0.75)
    assert found["ranks"] == 1.0


@pytest.mark.parametrize("critic", [0.0, 0.5, None])
def test_the_error_is_bias_and_variance(critic: float | None) -> None:
    one, played = random_case("Grid"), episodes("Grid", 400)
    rollout = sampling.rollout_of(played, one.policy, sweeps.asked(one, critic, np.random.default_rng(0)), 4)
    judged = estimate(GAE(1.0, 0.5), rollout).advantages
    found = measures.advantage_errors(judged, played, one.values.a, np.random.default_rng(0))
    assert found["error"] == pytest.approx(found["bias"] + found["variance"], rel=1e-9)
    assert found["bias of actions"] < found["bias"] + 0.2
    gradient = measures.gradient_errors(measures.gradients(judged, played, one.policy, 10), one.gradient)
    assert gradient["gradient error"] == pytest.approx(gradient["gradient bias"] + gradient["gradient variance"], rel=1e-9)


def test_a_known_bias_is_found_and_that_of_a_state_is_told_apart() -> None:
    """Exact advantages, spoiled by hand: a constant of each state, or of each pair."""
    one, played, rng = random_case("Recall"), episodes("Recall"), np.random.default_rng(0)
    noise, signal = rng.normal(size=played.valid.shape), (one.values.a[played.states, played.actions] ** 2)[played.valid].mean()
    exact = one.values.a[played.states, played.actions]
    of_states = rng.normal(size=one.policy.shape[0])[played.states]
    found = measures.advantage_errors(exact + of_states + noise, played, one.values.a, rng)
    assert found["bias"] * signal == pytest.approx((of_states**2)[played.valid].mean(), abs=0.03)
    assert found["bias of actions"] * signal == pytest.approx(0, abs=0.01)
    assert found["variance"] * signal == pytest.approx(1.0, abs=0.03)
    wrong = rng.normal(size=one.policy.shape)
    of_pairs = wrong[played.states, played.actions]
    pairs = measures.advantage_errors(exact + of_pairs + noise, played, one.values.a, rng)
    centred = (of_pairs - (one.policy * wrong).sum(axis=1)[played.states]) ** 2
    assert pairs["bias of actions"] * signal == pytest.approx(centred[played.valid].mean(), abs=0.05)
    nothing = measures.advantage_errors(np.zeros(played.valid.shape), played, one.values.a, rng)
    assert nothing["error"] == pytest.approx(1.0)
    assert nothing["signs"] == nothing["ranks"] == 0.5
    opposite = measures.advantage_errors(-exact, played, one.values.a, rng)
    assert opposite["signs"] == opposite["ranks"] == 0.0


def test_gradients_are_the_oracles_where_advantages_are_exact() -> None:
    one, played = random_case("Grid"), episodes("Grid")
    found = measures.gradients(one.values.a[played.states, played.actions], played, one.policy, 100)
    assert found.shape == (100, one.gradient.size)
    told = measures.gradient_errors(found, one.gradient)
    assert told["share"] == pytest.approx(1, abs=0.05)
    assert told["gradient bias"] == pytest.approx(0, abs=0.01)
    whole = measures.gradients(one.values.a[played.states, played.actions], played, one.policy, 1)
    np.testing.assert_allclose(whole[0], found.mean(axis=0), atol=1e-12)
    lifted = measures.gradients(one.values.a[played.states, played.actions] + 0.5, played, one.policy, 100)
    told = measures.gradient_errors(lifted, one.gradient)
    assert told["share"] == pytest.approx(1, abs=0.2), "what does not depend on the action is no gradient"
    assert np.abs(lifted.reshape(100, *one.policy.shape).sum(axis=-1)).max() < 1e-9


def test_gradient_errors_by_hand() -> None:
    """Two estimates of (1, 0): (2, 1) and (2, -1). Their mean is twice too long and points where it should."""
    found = measures.gradient_errors(np.array([[2.0, 1.0], [2.0, -1.0]]), np.array([1.0, 0.0]))
    assert found["share"] == 2
    assert found["gradient variance"] == 2
    assert found["gradient bias"] == 1 - 2 / 2
    assert found["gradient error"] == 2
    assert found["cosine"] == pytest.approx(2 / 5**0.5)
    assert found["signal to noise"] == pytest.approx((4 - 1) / 2)
    assert found["skew"] == pytest.approx(-1 / 3)  # (0 - 1) / (-1 + 4): the chance in the mean is taken off


# --- policies, critics, contestants -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_policies_along_training_are_where_they_say(name: str) -> None:
    problem = problems.PROBLEMS[name]()
    low, high = policies.expected(problem, policies.uniform(problem)), policies.best(problem)
    for share, policy in zip((0.05, 0.95), policies.along_training(problem, [0.05, 0.95]), strict=True):
        assert share <= (policies.expected(problem, policy) - low) / (high - low) < share + 0.15


def test_unlike_prompts_are_unlike() -> None:
    problem = problems.recall()
    known, *others = oracle.evaluate(problem.tabular, policies.unlike_prompts(problem), 1.0).v[:3]
    assert known > 0.4
    assert max(others) < 0.25


def test_critics_are_wrong_by_what_was_asked() -> None:
    one = random_case("Grid")
    wrong = [sweeps.asked(one, 0.5, np.random.default_rng(seed)) for seed in range(50)]
    assert np.std([critic.v - one.values.v for critic in wrong]) == pytest.approx(0.5 * one.deviation, rel=0.05)
    assert np.std([critic.q - one.values.q for critic in wrong]) == pytest.approx(0.5 * one.deviation, rel=0.05)
    np.testing.assert_allclose(exact_critic(one).mean_q, one.values.v, atol=1e-12)
    assert not sweeps.asked(one, None, np.random.default_rng(0)).v.any()


def test_every_estimator_is_a_contestant_and_gets_what_it_needs() -> None:
    from agents.advantages import ADVANTAGES

    every = (*contestants.WITHOUT_CRITIC, *contestants.WITH_CRITIC)
    assert {type(one.advantage) for one in every} == set(ADVANTAGES.values())
    assert {type(one.contestant.advantage) for one in learning.LEARNERS} >= set(ADVANTAGES.values()) - {type(contestants.WITH_CRITIC[4].advantage)}
    for one in every:
        told = needs(one.advantage)
        assert (one.reads == "forks") == told.needs_forks == isinstance(one.advantage, Vine)
        assert (one.reads == "greedy") == told.needs_baselines
        assert one.asks or not told.bootstraps


def test_what_depends_on_a_batch_is_judged_batch_by_batch() -> None:
    one, played = random_case("Recall"), episodes("Recall", 400)
    rollout = sampling.rollout_of(played, one.policy, exact_critic(one), 4)
    rebn = next(each for each in contestants.WITHOUT_CRITIC if each.name == "ReBN")
    found, counted = contestants.judged(rebn, rollout, 4), played.valid
    for part in np.array_split(np.arange(400), 4):
        assert found[:, part][counted[:, part]].mean() == pytest.approx(0, abs=1e-9)
        assert found[:, part][counted[:, part]].std() == pytest.approx(1, rel=1e-6)


def test_contestants_are_judged_on_the_same_episodes() -> None:
    """GAE(1) and the return less V are one number, whatever was drawn for others between them."""
    scale = sweeps.Scale(3, batches=4, problems=("Recall",))
    trio = (contestants.LAMBDAS[-1], contestants.vine(1), contestants.BASELINE_V)
    first, vine, last = sweeps.measure("some", random_case("Recall"), trio, {"wrong": 0.5}, scale, np.random.default_rng(0))
    assert vine.critic == "none"
    for key in ("bias", "variance", "gradient error"):
        np.testing.assert_allclose(first.measures[key], last.measures[key], rtol=1e-9)
    again, *_ = sweeps.measure("some", random_case("Recall"), trio, {"wrong": 0.5}, scale, np.random.default_rng(0))
    np.testing.assert_array_equal(first.measures["cosine"], again.measures["cosine"])
    assert len(set(first.measures["bias"])) == 3, "replications share nothing"


def test_off_policy_the_ratio_matters() -> None:
    """With an exact critic Retrace and wide V-trace find the gradient at the other policy's states; who ignores the ratio does not."""
    scale = sweeps.Scale(10, batches=32, problems=("Recall",))
    cells = {cell.estimator: cell.measures for cell in off_policy.over_distance(scale, np.random.default_rng(0), [1.0]) if cell.critic == "exact"}
    for name in ("V-trace, wide clips", "Retrace"):
        bias = cells[name]["gradient bias"]
        assert abs(bias.mean()) < 4 * bias.std() / 10**0.5, name
    ignored = cells["GAE, ratio ignored"]["gradient bias"]
    assert ignored.mean() > 6 * ignored.std() / 10**0.5
    assert abs(cells["Retrace"]["bias"].mean()) < 0.01


# --- learning ---------------------------------------------------------------------------------------------------------------------------------


def test_learners_learn_and_pay_for_their_forks() -> None:
    problem = problems.two_state()
    by_name = {learner.name: learner for learner in learning.LEARNERS}
    found = {
        name: learning.learn(problem, by_name[name], 25, np.random.default_rng(0))
        for name in ("RLOO", "TD, exact V", "Vine, K = 4, forks for free", "Vine, K = 1, forks paid")
    }
    assert all(curve.scores[0] == 0 and len(curve.scores) == 26 for curve in found.values())
    assert min(found[name].scores[-1] for name in ("RLOO", "TD, exact V", "Vine, K = 4, forks for free")) > 0.7
    assert max(curve.scores.max() for curve in found.values()) <= 1
    own = 25 * learning.EPISODES * 8
    assert found["RLOO"].steps == own
    assert found["Vine, K = 4, forks for free"].steps == own * (1 + 4 * 4.5)
    assert found["Vine, K = 1, forks paid"].steps == pytest.approx(own, rel=0.4)


def test_a_scaled_gradient_learns_the_same() -> None:
    by_name = {learner.name: learner for learner in learning.LEARNERS}
    one, two = (learning.learn(problems.recall(), by_name[name], 10, np.random.default_rng(0)) for name in ("RLOO", "Dr. GRPO"))
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-9)


# --- the whole -------------------------------------------------------------------------------------------------------------------------------


def test_it_reproduces_what_is_known(tmp_path: Path) -> None:
    """The quick run: every claim that is known holds, by its interval, on both problems; and tables and pictures are there."""
    printed, report = run("estimators", "--quick", "--out", str(tmp_path), json_file=tmp_path / "claims.json")
    known = [fact for fact in report["facts"] if fact["kind"] == "known"]
    assert {fact["problem"] for fact in known} == {"TwoState", "Recall"}
    assert len({fact["claim"] for fact in known}) == 7
    assert not [fact for fact in known if fact["verdict"] != "yes"]
    assert report["machine"] in printed
    for fact in known:
        if fact["claim"] == "leave-one-out is unbiased" and fact["figure"].startswith("gradient bias"):
            assert fact["interval"]["high"] < 0.15  # GRPO's is above 0.17
        if fact["claim"] == "division by the group's deviation is biased":
            assert fact["interval"]["low"] > 0.15
    tables = {path.stem: list(csv.DictReader(path.open(encoding="utf-8"))) for path in tmp_path.glob("*.csv")}
    assert set(tables) == {"estimators", "lambda", "n", "batch", "group", "critic", "horizon", "noise", "window", "off_policy", "cost", "learning"}
    for rows in tables.values():
        assert all(float(row["low"]) <= float(row["estimate"]) + 1e-9 and float(row["estimate"]) <= float(row["high"]) + 1e-9 for row in rows)
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert pictures == {"lambda_wrong", "lambda_exact", "lambda_untrained", "samples", "critic", "horizon", "noise", "learning"}
    assert "## Claims" in (tmp_path / "estimators.md").read_text(encoding="utf-8")
