"""Law 4, in expectation: the estimators against exact values and gradients of a small stochastic problem, and against SB3's code.

Three states in which one may go on, two actions; every reward and every step is random, and every episode ends.
Axis legend: T steps, N episodes (one a row), S states, A actions.
"""

import functools
from typing import NamedTuple

import numpy as np
import pytest
from rollouts import make_rollout

from agents.advantages import GAE, RLOO, TD, DrGRPO, MonteCarlo, NStep, Retrace, SelfCritical, TDLambda, TotalReturn, Vine, VTrace, estimate
from agents.rollout import Rollout
from textgym.oracle import evaluate, from_table, policy_gradient

pytest.importorskip("scipy")

# {state: {action: [(probability, next state, reward, terminated)]}}
TABLE = {
    0: {0: [(0.7, 1, 1.0, False), (0.3, 2, 0.0, False)], 1: [(0.5, 2, 2.0, False), (0.5, 0, -1.0, True)]},
    1: {0: [(0.6, 0, 0.5, False), (0.4, 0, 3.0, True)], 1: [(0.9, 2, -1.0, False), (0.1, 0, 0.0, True)]},
    2: {0: [(0.5, 1, 1.0, False), (0.5, 0, 0.0, True)], 1: [(1.0, 0, 1.5, True)]},
}
START = np.array([0.6, 0.4, 0.0])
PI = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
MU = np.array([[0.45, 0.55], [0.5, 0.5], [0.65, 0.35]])
WRONG = np.array([1.0, -0.5, 0.7])  # what a bad critic adds to V

PROBLEM = from_table(TABLE, start=START)
OUTCOMES = np.array([[[*(row := TABLE[s][a])[0], row[-1][1], row[-1][2], row[-1][3]] for a in (0, 1)] for s in range(3)], dtype=float)


class Play(NamedTuple):
    """Episodes, with what only a test may know."""

    rollout: Rollout
    states: np.ndarray  # [T, N]
    actions: np.ndarray  # [T, N]


def move(states, policy, rng):
    """One step of each row: actions, rewards, next states, ends."""
    actions = (rng.random(len(states)) >= policy[states, 0]).astype(int)
    one = OUTCOMES[states, actions]
    second = (rng.random(len(states)) >= one[:, 0])[:, None]
    after, rewards, ends = np.where(second, one[:, 4:7], one[:, 1:4]).T
    return actions, rewards, after.astype(int), ends.astype(bool)


def returns_from(states, gamma, rng):
    """One fresh continuation of each state under PI: its discounted return."""
    total, alive, weight = np.zeros(len(states)), np.ones(len(states), dtype=bool), 1.0
    while alive.any():
        _, rewards, states, ends = move(states, PI, rng)
        total += weight * np.where(alive, rewards, 0)
        alive, weight = alive & ~ends, weight * gamma
    return total


@functools.cache
def play(episodes, gamma, seed, critic_error=0.0, policy="pi"):
    """Whole episodes of PI or MU, four in a row from each start; the critic is V of PI plus an error of WRONG times `critic_error`."""
    rng, played = np.random.default_rng(seed), PI if policy == "pi" else MU
    critic = evaluate(PROBLEM, PI, gamma).v + critic_error * WRONG
    states, alive, log = np.repeat(rng.choice(3, size=episodes // 4, p=START), 4), np.ones(episodes, dtype=bool), []
    groups = np.arange(episodes) // 4
    while alive.any():
        actions, rewards, after, ends = move(states, played, rng)
        log.append((rewards, critic[states], np.where(ends, np.nan, critic[after]), ends & alive, alive, states, actions))
        states, alive = after, alive & ~ends
    rewards, values, next_values, ends, valid, states, actions = map(np.array, zip(*log, strict=True))
    starts = np.zeros(valid.shape, dtype=bool)
    starts[0] = True
    rollout = make_rollout(
        rewards,
        values,
        next_values,
        ends,
        starts=starts,
        valid=valid,
        groups=np.broadcast_to(groups, valid.shape),
        log_probs=np.log(played[states, actions]),
        target_log_probs=np.log(PI[states, actions]),
        baselines=np.where(states[:1] == 0, 1.3, -0.4) * np.ones(valid.shape),  # any number of the prompt will do
    )
    return Play(rollout, states, actions)


def with_vine_values(found, gamma, continuations, seed):
    """`values` and `next_values` as the means of fresh continuations of every prefix."""
    rng, seen = np.random.default_rng(seed), found.rollout.valid
    measured = np.full(seen.shape, np.nan)
    measured[seen] = np.mean([returns_from(found.states[seen], gamma, rng) for _ in range(continuations)], axis=0)
    following = np.vstack([measured[1:], np.full((1, measured.shape[1]), np.nan)])
    return found.rollout._replace(values=measured, next_values=following)


def z_scores(sample, exact):
    """How many standard errors the means over the last axis lie from what is exact."""
    return (sample.mean(axis=-1) - exact) / (sample.std(axis=-1) / np.sqrt(sample.shape[-1]) + 1e-12)


def gradients(found, advantages, discount=1.0):
    """sum_t discount^t A_t d log pi(a_t | s_t) / d logits of each episode, [S, A, N]."""
    weights = np.where(found.rollout.valid, advantages, 0.0) * discount ** np.arange(len(advantages))[:, None]
    sums = np.zeros((3, 2, advantages.shape[1]))
    for s in range(3):
        for a in range(2):
            sums[s, a] = (weights * (found.states == s) * ((found.actions == a) - PI[s, a])).sum(axis=0)
    return sums


def group_means(gradient):
    """Episodes of a group share their baselines: only groups are independent."""
    return gradient.reshape(3, 2, -1, 4).mean(axis=-1)


# --- the policy gradient ---------------------------------------------------------------------------------------------------------------------

UNBIASED = [
    MonteCarlo(1.0),
    MonteCarlo(1.0, "none"),
    MonteCarlo(1.0, "batch_mean"),
    MonteCarlo(1.0, "given"),
    TotalReturn(1.0),
    TotalReturn(1.0, "value"),
    TotalReturn(1.0, "batch_mean"),
    SelfCritical(1.0),
    GAE(1.0, 1.0),
    TDLambda(1.0, 1.0, 0.5),
    NStep(1.0, 1000),
    VTrace(1.0, 1.0, 1e9, 1e9),
    RLOO(1.0),
]


@pytest.mark.parametrize("choice", UNBIASED, ids=str)
def test_the_mean_gradient_is_exact_whatever_the_critic_says(choice):
    found = play(40_000, 1.0, 1, critic_error=1.0)
    sample = group_means(gradients(found, estimate(choice, found.rollout).advantages))
    assert np.abs(z_scores(sample, policy_gradient(PROBLEM, PI, 1.0))).max() < 4


def test_dr_grpo_shrinks_the_gradient_by_its_own_share():
    """Each return is a quarter of its own baseline, in groups of four."""
    found = play(40_000, 1.0, 1, critic_error=1.0)
    sample = group_means(gradients(found, estimate(DrGRPO(1.0), found.rollout).advantages))
    exact = policy_gradient(PROBLEM, PI, 1.0)
    assert np.abs(z_scores(sample, 3 / 4 * exact)).max() < 4
    assert np.abs(z_scores(sample, exact)).max() > 8, "the twin that must fail"


@pytest.mark.parametrize("choice", [TD(1.0), GAE(1.0, 0.5), NStep(1.0, 2)], ids=str)
def test_a_wrong_critic_biases_what_bootstraps(choice):
    wrong, right = play(40_000, 1.0, 1, critic_error=1.0), play(40_000, 1.0, 1)
    exact = policy_gradient(PROBLEM, PI, 1.0)
    scores = [np.abs(z_scores(gradients(found, estimate(choice, found.rollout).advantages), exact)).max() for found in (wrong, right)]
    assert scores[0] > 6
    assert scores[1] < 4


@pytest.mark.parametrize("continuations", [1, 3])
def test_vine_needs_no_critic_and_any_number_of_continuations(continuations):
    found = play(20_000, 1.0, 2)
    rollout = with_vine_values(found, 1.0, continuations, seed=3)
    sample = gradients(found, estimate(Vine(1.0), rollout).advantages)
    assert np.abs(z_scores(sample, policy_gradient(PROBLEM, PI, 1.0))).max() < 4


def test_total_return_is_the_discounted_gradient_and_reward_to_go_drops_a_factor():
    found, exact = play(40_000, 0.8, 4), policy_gradient(PROBLEM, PI, 0.8)
    total, to_go = (estimate(choice, found.rollout).advantages for choice in (TotalReturn(0.8), MonteCarlo(0.8)))
    assert np.abs(z_scores(gradients(found, total), exact)).max() < 4
    assert np.abs(z_scores(gradients(found, to_go, 0.8), exact)).max() < 4
    assert np.abs(z_scores(gradients(found, to_go), exact)).max() > 8


# --- advantages of the first action, which are independent samples ---------------------------------------------------------------------------


def first_actions(found, sample, exact):
    """Z scores of `sample` [T, N] at the first step, for each state and action that starts an episode; `exact` [S, A]."""
    pairs = [(s, a) for s in (0, 1) for a in (0, 1)]
    chosen = [sample[0, (found.states[0] == s) & (found.actions[0] == a)] for s, a in pairs]
    return np.array([z_scores(some, exact[s, a]) for some, (s, a) in zip(chosen, pairs, strict=True)])


@pytest.mark.parametrize("choice", [MonteCarlo(0.8), TD(0.8), NStep(0.8, 2), GAE(0.8, 0.7), TDLambda(0.8, 0.3, 0.9), VTrace(0.8)], ids=str)
def test_with_the_exact_critic_the_mean_is_q_minus_v(choice):
    found = play(40_000, 0.8, 5)
    assert np.abs(first_actions(found, estimate(choice, found.rollout).advantages, evaluate(PROBLEM, PI, 0.8).a)).max() < 4


def test_v_trace_off_policy_with_large_clips_is_unbiased_whatever_the_critic_says():
    """v_0 is V of PI; the advantage of an action is its ratio times A of PI, plus what the critic is wrong by in the state it starts from."""
    found, exact = play(80_000, 0.8, 6, critic_error=1.0, policy="mu"), evaluate(PROBLEM, PI, 0.8)
    result = estimate(VTrace(0.8, 1.0, 1e9, 1e9), found.rollout)
    ratio = PI / MU
    assert np.abs(first_actions(found, result.advantages, ratio * (exact.a - WRONG[:, None]))).max() < 4
    for s in (0, 1):
        assert abs(z_scores(result.value_targets[0, found.states[0] == s], exact.v[s])) < 4
    clipped, ignored = estimate(VTrace(0.8), found.rollout), estimate(GAE(0.8, 1.0), found.rollout)
    for biased in (clipped, ignored):  # the twins that must fail
        assert max(abs(z_scores(biased.value_targets[0, found.states[0] == s], exact.v[s])) for s in (0, 1)) > 8


@pytest.mark.parametrize("trace_lambda", [0.0, 0.6, 1.0])
def test_retrace_off_policy_with_exact_action_values_is_unbiased(trace_lambda):
    found, exact = play(40_000, 0.8, 7, policy="mu"), evaluate(PROBLEM, PI, 0.8)
    rollout = found.rollout._replace(action_values=exact.q[found.states, found.actions])
    result = estimate(Retrace(0.8, trace_lambda), rollout)
    assert np.abs(first_actions(found, result.value_targets, exact.q)).max() < 4
    assert np.abs(first_actions(found, result.advantages, exact.a)).max() < 4


def test_retrace_contracts_wrong_action_values_and_on_policy_mends_them():
    """Munos et al. 2016, theorem 1: the largest error shrinks at least by gamma, off-policy; on-policy with lambda 1 nothing of it is left."""
    exact, error = evaluate(PROBLEM, PI, 0.8), np.array([[2.0, -2.0], [2.0, 1.0], [-2.0, 2.0]])
    wrong = exact.q + error
    for policy, left in (("mu", 0.8 * 2.0), ("pi", 0.0)):
        found = play(40_000, 0.8, 8, policy=policy)
        wrong_v, valid = (PI * wrong).sum(axis=1), found.rollout.valid
        following = np.where(np.vstack([valid[1:], ~valid[:1]]), np.vstack([wrong_v[found.states[1:]], np.zeros((1, valid.shape[1]))]), np.nan)
        rollout = found.rollout._replace(values=wrong_v[found.states], next_values=following, action_values=wrong[found.states, found.actions])
        targets = estimate(Retrace(0.8), rollout).value_targets
        for s in (0, 1):
            for a in (0, 1):
                sample = targets[0, (found.states[0] == s) & (found.actions[0] == a)]
                assert abs(sample.mean() - exact.q[s, a]) <= left + 4 * sample.std() / np.sqrt(len(sample))


# --- SB3 --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_sb3_agrees_on_terminations(gamma, gae_lambda):
    gym = pytest.importorskip("gymnasium")
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    torch = pytest.importorskip("torch")
    rng, shape = np.random.default_rng(7), (64, 5)
    rewards, values, dones = rng.normal(size=shape), rng.normal(size=shape), rng.random(shape) < 0.1
    last_values = rng.normal(size=5)
    starts = np.vstack([np.ones((1, 5), dtype=bool), dones[:-1]])
    buffer = buffers.RolloutBuffer(64, gym.spaces.Discrete(2), gym.spaces.Discrete(2), "cpu", gae_lambda, gamma, 5)
    buffer.rewards, buffer.values, buffer.episode_starts = rewards, values, starts.astype(np.float32)
    buffer.compute_returns_and_advantage(torch.as_tensor(last_values), dones[-1])
    ours = estimate(GAE(gamma, gae_lambda), make_rollout(rewards, values, np.vstack([values[1:], last_values[None]]), dones))
    np.testing.assert_allclose(ours.advantages, buffer.advantages, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.value_targets, buffer.returns, rtol=1e-5, atol=1e-5)
