"""Law 4: the estimators of one critic agree with their definitions and with each other; and what holds for every estimator there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import LAST, NAN, NO, V_NEXT, R, V, column, columns, futures, make_rollout, masked, pieces, random_rollout, steps

from agents.advantages import (
    ADVANTAGES,
    GAE,
    TD,
    MonteCarlo,
    NStep,
    ReBN,
    SelfCritical,
    TDLambda,
    TotalReturn,
    Vine,
    estimate,
    gae,
    monte_carlo_returns,
    n_step_returns,
    needs,
    scan,
    td_errors,
)
from agents.advantages.scan import BLOCK

SIZES = {"num_steps": st.integers(1, 12), "num_envs": st.integers(1, 4), "seed": st.integers(0, 2**32 - 1)}
GAMMA = st.floats(0, 1)
CRITICS = [MonteCarlo(0.9), TD(0.9), NStep(0.9, 3), GAE(0.9, 0.8), TDLambda(0.9, 0.8, 0.8), Vine(0.9)]  # what they say of a perfect critic is 0
EVERY = [choice(gamma=0.9) for choice in ADVANTAGES.values()]
ROW_BY_ROW = [choice for choice in EVERY if not needs(choice).needs_groups and not isinstance(choice, ReBN)]  # a column does not know the others


def reference(rollout, gamma, gae_lambda, n):
    """GAE, n-step returns and Monte Carlo returns by their definitions: sums over each episode, no recursion."""
    advantages, n_step, returns = (np.zeros(rollout.rewards.shape) for _ in range(3))
    for i, first, last in pieces(rollout):
        r, v = rollout.rewards[:, i], rollout.values[:, i]
        future = futures(rollout, i)
        for t in range(first, last + 1):
            deltas = [r[k] + gamma * future[k] - v[k] for k in range(t, last + 1)]
            advantages[t, i] = sum((gamma * gae_lambda) ** k * delta for k, delta in enumerate(deltas))
            for out, m in ((n_step, min(n, last + 1 - t)), (returns, last + 1 - t)):
                out[t, i] = sum(gamma**k * r[t + k] for k in range(m)) + gamma**m * future[t + m - 1]
    return advantages, n_step, returns


# --- one example each, by hand: gamma = lambda = 1/2 ---------------------------------------------------------------------------------------


def test_td_by_hand():
    # 1 + 2/2 - 4 = -2,  2 + 1/2 - 2 = 0.5,  3 + 8/2 - 1 = 6; terminated: 3 - 1 = 2
    assert td_errors(R, V, V_NEXT, NO, 0.5).ravel().tolist() == [-2, 0.5, 6]
    assert td_errors(R, V, V_NEXT, LAST, 0.5).ravel().tolist() == [-2, 0.5, 2]


def test_gae_by_hand():
    # A_2 = 6, A_1 = 0.5 + 6/4 = 2, A_0 = -2 + 2/4 = -1.5; terminated: A_2 = 2, A_1 = 0.5 + 2/4 = 1, A_0 = -2 + 1/4 = -1.75
    assert gae(R, V, V_NEXT, NO, NO, 0.5, 0.5).ravel().tolist() == [-1.5, 2, 6]
    assert gae(R, V, V_NEXT, LAST, NO, 0.5, 0.5).ravel().tolist() == [-1.75, 1, 2]


def test_monte_carlo_by_hand():
    # G_2 = 3 + 8/2 = 7, G_1 = 2 + 7/2 = 5.5, G_0 = 1 + 5.5/2 = 3.75; terminated: 3, 3.5, 2.75
    assert monte_carlo_returns(R, V_NEXT, NO, LAST, 0.5).ravel().tolist() == [3.75, 5.5, 7]
    assert monte_carlo_returns(R, V_NEXT, LAST, NO, 0.5).ravel().tolist() == [2.75, 3.5, 3]


def test_n_step_by_hand():
    # n = 2: 1 + 2/2 + 1/4 = 2.25,  2 + 3/2 + 8/4 = 5.5,  3 + 8/2 = 7
    assert n_step_returns(R, V_NEXT, NO, NO, 0.5, 2).ravel().tolist() == [2.25, 5.5, 7]
    assert n_step_returns(R, V_NEXT, LAST, NO, 0.5, 2).ravel().tolist() == [2.25, 3.5, 3]


# --- definitions and reductions ------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(**SIZES, gamma=GAMMA, gae_lambda=GAMMA, n=st.integers(1, 14))
def test_the_definitions(num_steps, num_envs, seed, gamma, gae_lambda, n):
    rollout = random_rollout(num_steps, num_envs, seed)
    advantages, n_step, _ = reference(rollout, gamma, gae_lambda, n)
    values = masked(rollout, rollout.values)
    for choice, expected in ((GAE(gamma, gae_lambda), advantages), (NStep(gamma, n), n_step - values)):
        result = estimate(choice, rollout)
        np.testing.assert_allclose(result.advantages, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(result.value_targets, expected + values, rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(**SIZES, gamma=GAMMA)
def test_monte_carlo_is_the_sum_over_the_episode(num_steps, num_envs, seed, gamma):
    rollout = random_rollout(num_steps, num_envs, seed, whole=True)
    returns = reference(rollout, gamma, 1.0, 1)[2]
    result = estimate(MonteCarlo(gamma), rollout)
    np.testing.assert_allclose(result.value_targets, returns, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.advantages, returns - masked(rollout, rollout.values), rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(**SIZES, gamma=GAMMA)
def test_reductions(num_steps, num_envs, seed, gamma):
    rollout = random_rollout(num_steps, num_envs, seed, whole=True)
    full = estimate(GAE(gamma, 1.0), rollout)
    for choice in (MonteCarlo(gamma), NStep(gamma, num_steps)):
        for ours, other in zip(estimate(choice, rollout), full, strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-9, atol=1e-9)
    one = estimate(TD(gamma), rollout)
    for choice in (GAE(gamma, 0.0), NStep(gamma, 1)):
        for ours, other in zip(estimate(choice, rollout), one, strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(**SIZES, gamma=GAMMA, advantage_lambda=GAMMA, target_lambda=GAMMA)
def test_lambda_returns_are_means_of_n_step_returns(num_steps, num_envs, seed, gamma, advantage_lambda, target_lambda):
    rollout = random_rollout(num_steps, num_envs, seed)
    result = estimate(TDLambda(gamma, advantage_lambda, target_lambda), rollout)
    values = masked(rollout, rollout.values)
    for ours, weight in ((result.advantages + values, advantage_lambda), (result.value_targets, target_lambda)):
        expected = np.zeros(values.shape)
        by_n = [reference(rollout, gamma, 1.0, n)[1] for n in range(1, 13)]
        for i, first, last in pieces(rollout):
            for t in range(first, last + 1):
                left = last + 1 - t
                expected[t, i] = sum((1 - weight) * weight ** (n - 1) * by_n[n - 1][t, i] for n in range(1, left)) + weight ** (left - 1) * by_n[left - 1][t, i]
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


def test_td_lambda_of_equal_lambdas_is_gae_and_of_two_takes_its_halves():
    rollout = random_rollout(40, 5, seed=11)
    for ours, other in zip(estimate(TDLambda(0.9, 0.7, 0.7), rollout), estimate(GAE(0.9, 0.7), rollout), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-12, atol=1e-12)
    mixed = estimate(TDLambda(0.9, 0.7, 1.0), rollout)
    np.testing.assert_array_equal(mixed.advantages, estimate(GAE(0.9, 0.7), rollout).advantages)
    np.testing.assert_array_equal(mixed.value_targets, estimate(GAE(0.9, 1.0), rollout).value_targets)


def test_vine_is_the_error_of_measured_values():
    rollout = random_rollout(40, 5, seed=12)
    np.testing.assert_array_equal(estimate(Vine(0.9), rollout).advantages, estimate(TD(0.9), rollout).advantages)
    np.testing.assert_array_equal(estimate(Vine(0.9), rollout).value_targets, masked(rollout, rollout.values))


@pytest.mark.parametrize("num_envs", [4, 33, BLOCK // 7])
def test_blocks_do_not_show(num_envs):
    """Long and wide arrays are done in blocks of steps: the recursion, step by step, is the same."""
    rng, num_steps = np.random.default_rng(0), max(20, 3 * BLOCK // num_envs // 2)
    shape = (num_steps, num_envs)
    rewards, values = rng.normal(size=shape), rng.normal(size=(num_steps + 1, num_envs))
    terminated, truncated = rng.random(shape) < 0.01, rng.random(shape) < 0.01
    following, expected, returns = np.zeros(num_envs), np.empty(shape), np.empty(shape)
    later = values[-1]
    for t in reversed(range(num_steps)):
        ends, future = terminated[t] | truncated[t], np.where(terminated[t], 0, values[t + 1])
        following = expected[t] = rewards[t] + 0.99 * future - values[t] + 0.99 * 0.95 * np.where(ends, 0, following)
        later = returns[t] = rewards[t] + 0.99 * np.where(ends, future, later)
    ahead = np.where(terminated, NAN, values[1:])
    np.testing.assert_allclose(gae(rewards, values[:-1], ahead, terminated, truncated, 0.99, 0.95), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(monte_carlo_returns(rewards, ahead, terminated, truncated, 0.99), returns, rtol=1e-9, atol=1e-9)
    ours = n_step_returns(rewards, ahead, terminated, truncated, 0.99, 3)
    for t in (0, 1, num_steps // 3, num_steps // 2, num_steps - 3, num_steps - 2, num_steps - 1):
        for i in {0, num_envs - 1}:
            total, k = 0.0, t
            while k < min(t + 3, num_steps):
                total += 0.99 ** (k - t) * rewards[k, i]
                k += 1
                if terminated[k - 1, i] or truncated[k - 1, i]:
                    break
            total += 0.99 ** (k - t) * (0 if terminated[k - 1, i] else values[k, i])
            assert ours[t, i] == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("choice", EVERY, ids=str)
def test_the_size_of_a_block_does_not_show(choice, monkeypatch):
    rollout = random_rollout(40, 5, seed=8, whole=True)
    at_once = estimate(choice, rollout)
    for block in (5, 35):
        monkeypatch.setattr(scan, "BLOCK", block)
        for ours, other in zip(estimate(choice, rollout), at_once, strict=True):
            np.testing.assert_array_equal(ours, other)


def test_no_steps_are_no_trouble():
    none = np.zeros((0, 3))
    empty = none.astype(bool)
    assert gae(none, none, none, empty, empty, 0.9, 0.9).shape == n_step_returns(none, none, empty, empty, 0.9, 2).shape == (0, 3)


# --- what holds for every estimator --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", EVERY, ids=str)
def test_columns_commute(choice):
    rollout = random_rollout(40, 7, seed=1, whole=True)
    order = np.random.default_rng(0).permutation(7)
    for ours, other in zip(estimate(choice, columns(rollout, order)), estimate(choice, rollout), strict=True):
        np.testing.assert_allclose(ours, other[:, order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("choice", ROW_BY_ROW, ids=str)
def test_splitting_at_an_episode_boundary_changes_nothing(choice):
    rollout = random_rollout(60, 1, seed=3, whole=True)
    whole, splits = estimate(choice, rollout), np.flatnonzero(rollout.starts[:, 0])
    assert len(splits) > 5
    for first, stop in itertools.pairwise([*splits, 60]):
        part = estimate(choice, steps(rollout, slice(first, stop)))
        for ours, other in zip(part, whole, strict=True):
            np.testing.assert_allclose(ours, other[first:stop], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("choice", EVERY, ids=str)
def test_what_is_not_valid_changes_nothing(choice):
    rollout = random_rollout(60, 5, seed=4, whole=True)
    assert (~rollout.valid).sum() > 10
    noise = np.random.default_rng(5).normal(size=rollout.rewards.shape)
    numbers = ("rewards", "values", "next_values", "log_probs", "target_log_probs", "action_values", "baselines")
    loud = rollout._replace(**{key: np.where(rollout.valid, getattr(rollout, key), noise) for key in numbers})
    loud = loud._replace(groups=np.where(rollout.valid, rollout.groups, 9999), starts=np.where(rollout.valid, rollout.starts, noise > 0))
    for ours, other in zip(estimate(choice, loud), estimate(choice, rollout), strict=True):
        np.testing.assert_array_equal(ours, other)
        assert not ours[~rollout.valid].any()


@pytest.mark.parametrize("choice", EVERY, ids=str)
def test_inputs_are_left_alone_and_results_are_fresh(choice):
    rollout = random_rollout(30, 3, seed=6, whole=True)._replace(valid=np.ones((30, 3), dtype=bool))
    clean = {key: np.nan_to_num(getattr(rollout, key)) for key in ("rewards", "values", "log_probs", "target_log_probs", "action_values", "baselines")}
    firsts = np.vstack([np.ones((1, 3), dtype=bool), rollout.ends[:-1]])
    groups = np.zeros((30, 3), dtype=np.int64)
    rollout = rollout._replace(**clean, next_values=np.nan_to_num(rollout.next_values), starts=firsts, groups=groups)
    rollout.truncated[-1] = True
    before = [None if field is None else field.copy() for field in rollout]
    result, again = estimate(choice, rollout), estimate(choice, rollout)
    for field, copy in zip(rollout, before, strict=True):
        np.testing.assert_array_equal(field, copy)
        assert field is None or not any(np.shares_memory(field, ours) for ours in result)
    assert not np.shares_memory(*result)
    assert not any(np.shares_memory(ours, other) for ours, other in itertools.product(result, again))


def test_a_reset_without_an_end_is_a_cut():
    """Somebody reset a row in mid-episode: no reward of the new episode may reach the old one."""
    starts = np.array([[True], [False], [True]])
    rollout = make_rollout(R, V, V_NEXT, starts=starts)
    assert estimate(GAE(0.5, 1.0), rollout).value_targets.ravel().tolist() == [1 + (2 + 1 / 2) / 2, 2 + 1 / 2, 3 + 8 / 2]


@pytest.mark.parametrize("formula", [lambda end: td_errors(R, V, column(2, 1, NAN), end, 0.5), lambda end: gae(R, V, column(2, 1, NAN), end, NO, 0.5, 0.5)])
def test_nan_behind_a_terminal_step_does_not_leak(formula):
    assert np.isfinite(formula(LAST)).all()
    assert np.isnan(formula(NO)).any()


@pytest.mark.parametrize("behind", [NAN, np.inf, -np.inf])
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.0, 0.5), (0.5, 0.0), (0.5, 0.5), (0.5, 1.0)])
def test_what_stands_behind_a_terminal_step_is_not_even_multiplied(behind, gamma, gae_lambda):
    ends = np.array([[False], [True], [False], [True]])
    rewards, values = column(1, 2, 3, 4), column(4, 3, 2, 1)
    with np.errstate(all="raise"):
        ours = gae(rewards, values, column(3, behind, 1, behind), ends, np.zeros_like(ends), gamma, gae_lambda)
    np.testing.assert_array_equal(ours, gae(rewards, values, column(3, 0, 1, 0), ends, np.zeros_like(ends), gamma, gae_lambda))
    assert np.isfinite(ours).all()


def test_a_gamma_of_zero_does_not_look_ahead():
    with np.errstate(all="raise"):
        ours = gae(R, V, column(2, NAN, np.inf), NO, NO, 0.0, 0.5)
    np.testing.assert_array_equal(ours, R - V)


def test_nan_behind_a_terminal_step_does_not_leak_into_returns():
    assert np.isfinite(monte_carlo_returns(R, column(NAN, NAN, NAN), LAST, NO, 0.5)).all()
    assert np.isfinite(n_step_returns(R, column(2, 1, NAN), LAST, NO, 0.5, 2)).all()


# --- truncation is not termination ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", CRITICS, ids=str)
def test_truncation_is_not_termination(choice):
    """A reward of 1 for ever is worth 10 at gamma 0.9: a critic that knows this has nothing to learn from a time limit."""
    stop = np.array([[False], [True], [False], [True]])
    ten = np.full((4, 1), 10.0)
    right = make_rollout(np.ones((4, 1)), ten, ten, truncated=stop)
    np.testing.assert_allclose(estimate(choice, right).advantages, 0.0, atol=1e-12)
    wrong = right._replace(terminated=stop, truncated=np.zeros_like(stop))  # the twin that must fail
    assert estimate(choice, wrong).advantages[1, 0] == pytest.approx(-9.0)
    assert (estimate(choice, wrong).advantages < -0.1).any()


@pytest.mark.parametrize("choice", [MonteCarlo(0.9, "none"), TotalReturn(0.9), SelfCritical(0.9)], ids=str)
def test_truncation_is_not_termination_for_returns(choice):
    """They pay the critic for what a time limit cut off; the twin that takes it for an end does not."""
    stop, ten = np.array([[False], [True]]), np.full((2, 1), 10.0)
    right = make_rollout(np.ones((2, 1)), ten, ten, truncated=stop, baselines=np.zeros((2, 1)))
    wrong = right._replace(terminated=stop, truncated=np.zeros_like(stop))
    assert estimate(choice, right).advantages[0, 0] == pytest.approx(10.0)
    assert estimate(choice, wrong).advantages[0, 0] == pytest.approx(1.9)
