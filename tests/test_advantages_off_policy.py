"""V-trace and Retrace against sums written from the papers, and what is left of them on-policy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollouts import NAN, column, futures, make_rollout, masked, pieces, random_rollout

from agents.advantages import GAE, MonteCarlo, NStep, Retrace, VTrace, estimate

SIZES = {"num_steps": st.integers(1, 12), "num_envs": st.integers(1, 4), "seed": st.integers(0, 2**32 - 1)}
UNIT, CLIP = st.floats(0, 1), st.floats(0, 5)


def v_trace(rollout, gamma, trace_lambda, rho_bar, c_bar):
    """Espeholt et al. 2018, equation 1 with the lambda of remark 2: sums of products, no recursion."""
    advantages, targets = np.zeros((2, *rollout.rewards.shape))
    for i, first, last in pieces(rollout):
        r, v, future = rollout.rewards[:, i], rollout.values[:, i], futures(rollout, i)
        ratio = np.exp(rollout.target_log_probs[:, i] - rollout.log_probs[:, i])
        rho, c = np.minimum(rho_bar, ratio), trace_lambda * np.minimum(c_bar, ratio)
        for s in range(first, last + 1):
            terms = [gamma ** (t - s) * np.prod(c[s:t]) * rho[t] * (r[t] + gamma * future[t] - v[t]) for t in range(s, last + 1)]
            targets[s, i] = v[s] + sum(terms)
        for s in range(first, last + 1):
            following = targets[s + 1, i] if s < last else future[s]
            advantages[s, i] = rho[s] * (r[s] + gamma * following - v[s])
    return advantages, targets


def retrace(rollout, gamma, trace_lambda):
    """Munos et al. 2016, equation 3 with the traces of Retrace: sums of products, no recursion."""
    advantages, targets = np.zeros((2, *rollout.rewards.shape))
    for i, first, last in pieces(rollout):
        r, q, future = rollout.rewards[:, i], rollout.action_values[:, i], futures(rollout, i)
        c = trace_lambda * np.minimum(1, np.exp(rollout.target_log_probs[:, i] - rollout.log_probs[:, i]))
        for s in range(first, last + 1):
            terms = [gamma ** (t - s) * np.prod(c[s + 1 : t + 1]) * (r[t] + gamma * future[t] - q[t]) for t in range(s, last + 1)]
            targets[s, i] = q[s] + sum(terms)
            advantages[s, i] = targets[s, i] - rollout.values[s, i]
    return advantages, targets


def close(result, expected):
    for ours, other in zip(result, expected, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(**SIZES, gamma=UNIT, trace_lambda=UNIT, rho_bar=CLIP, share=UNIT)
def test_v_trace_is_its_definition(num_steps, num_envs, seed, gamma, trace_lambda, rho_bar, share):
    rollout = random_rollout(num_steps, num_envs, seed)
    c_bar = share * rho_bar
    close(estimate(VTrace(gamma, trace_lambda, rho_bar, c_bar), rollout), v_trace(rollout, gamma, trace_lambda, rho_bar, c_bar))


@settings(max_examples=100, deadline=None)
@given(**SIZES, gamma=UNIT, trace_lambda=UNIT)
def test_retrace_is_its_definition(num_steps, num_envs, seed, gamma, trace_lambda):
    rollout = random_rollout(num_steps, num_envs, seed)
    close(estimate(Retrace(gamma, trace_lambda), rollout), retrace(rollout, gamma, trace_lambda))


# --- by hand: gamma = 1/2, ratios 2 and 1/2, V = 4, 2, both rewards 1, V = 8 behind the second ----------------------------------------------

HAND = make_rollout(column(1, 1), column(4, 2), column(2, 8), log_probs=np.log(column(0.25, 0.5)), target_log_probs=np.log(column(0.5, 0.25)))


def test_v_trace_by_hand():
    # deltas: 1 + 2/2 - 4 = -2 and 1 + 8/2 - 2 = 3; rho = c = 1 and 1/2: v_1 = 2 + 3/2 = 3.5, v_0 = 4 - 2 + (3.5 - 2)/2 = 2.75
    # advantages: 1/2 (1 + 8/2 - 2) = 1.5 and 1 (1 + 3.5/2 - 4) = -1.25
    result = estimate(VTrace(0.5), HAND)
    assert result.value_targets.ravel() == pytest.approx([2.75, 3.5])
    assert result.advantages.ravel() == pytest.approx([-1.25, 1.5])


def test_retrace_by_hand():
    # Q = 3, 1; deltas: 1 + 2/2 - 3 = -1 and 1 + 8/2 - 1 = 4; c_1 = 1/2: Q_ret = 1 + 4 = 5 and 3 - 1 + 4/4 = 3
    result = estimate(Retrace(0.5), HAND._replace(action_values=column(3, 1)))
    assert result.value_targets.ravel() == pytest.approx([3, 5])
    assert result.advantages.ravel() == pytest.approx([-1, 3])


# --- reductions -----------------------------------------------------------------------------------------------------------------------------


def on_policy(seed, whole=False):
    rollout = random_rollout(12, 6, seed, whole)
    return rollout._replace(target_log_probs=rollout.log_probs, action_values=rollout.values)


@pytest.mark.parametrize("seed", range(5))
def test_on_policy_v_trace_is_the_n_step_return(seed):
    """Espeholt et al. 2018, remark 1; targets are the lambda-returns of any lambda, but advantages are GAE's for lambda = 1 only."""
    rollout = on_policy(seed)
    close(estimate(VTrace(0.9), rollout), estimate(GAE(0.9, 1.0), rollout))
    close(estimate(VTrace(0.9), rollout), estimate(NStep(0.9, 12), rollout))
    half, gae = estimate(VTrace(0.9, 0.5), rollout), estimate(GAE(0.9, 0.5), rollout)
    np.testing.assert_allclose(half.value_targets, gae.value_targets, rtol=1e-9, atol=1e-9)
    assert np.abs(half.advantages - gae.advantages).max() > 0.01
    close(estimate(VTrace(0.9), on_policy(seed, whole=True)), estimate(MonteCarlo(0.9), on_policy(seed, whole=True)))


@pytest.mark.parametrize("seed", range(5))
def test_on_policy_retrace_of_state_values_is_gae(seed):
    rollout = on_policy(seed)
    close(estimate(Retrace(0.9, 0.7), rollout), estimate(GAE(0.9, 0.7), rollout))


def test_what_the_present_policy_never_does_teaches_nothing():
    """Ratio 0: no advantage and no target from that step, and none through it."""
    rollout = random_rollout(10, 4, seed=1)
    rollout = rollout._replace(target_log_probs=np.where(rollout.valid, -np.inf, NAN))
    result = estimate(VTrace(0.9), rollout)
    assert not result.advantages.any()
    np.testing.assert_array_equal(result.value_targets, masked(rollout, rollout.values))
    close(estimate(Retrace(0.9), rollout), estimate(Retrace(0.9, 0.0), rollout))


def test_an_enormous_ratio_is_clipped_in_silence():
    rollout = random_rollout(10, 4, seed=1)
    result = estimate(VTrace(0.9), rollout._replace(target_log_probs=rollout.log_probs + 1e4))
    close(result, estimate(VTrace(0.9), rollout._replace(target_log_probs=rollout.log_probs)))


def test_truncation_is_not_termination():
    """A reward of 1 for ever is worth 10 at gamma 0.9, whatever the ratios; with the time limit taken for an end it is not."""
    stop, ten = np.array([[False], [True], [False], [True]]), np.full((4, 1), 10.0)
    ratios = np.log(column(2, 0.5, 1, 3))
    right = make_rollout(np.ones((4, 1)), ten, ten, truncated=stop, target_log_probs=ratios, action_values=ten)
    wrong = right._replace(terminated=stop, truncated=np.zeros_like(stop))
    for choice in (VTrace(0.9), Retrace(0.9)):
        np.testing.assert_allclose(estimate(choice, right).advantages, 0.0, atol=1e-12)
        assert estimate(choice, wrong).advantages[3, 0] == pytest.approx(-9.0)
