"""Estimators of whole episodes, alone or compared within a group, against loops written from the papers."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rollouts import LAST, futures, make_rollout, masked, pieces, random_rollout

from agents import advantages as adv
from agents.advantages import GRPO, RLOO, DrGRPO, MonteCarlo, ReBN, SelfCritical, TotalReturn, estimate

SIZES = {"num_steps": st.integers(1, 12), "num_envs": st.integers(1, 4), "seed": st.integers(0, 2**32 - 1)}
GAMMA = st.floats(0, 1)


def episodes(rollout, gamma):
    """(row, first, last, discounted return, group) of each episode, by definition."""
    for i, first, last in pieces(rollout):
        future = futures(rollout, i)
        rewards = [rollout.rewards[t, i] for t in range(first, last + 1)]
        total = sum(gamma**k * reward for k, reward in enumerate(rewards)) + gamma ** len(rewards) * future[last]
        yield i, first, last, total, rollout.groups[first, i]


def reference(rollout, gamma, score):
    """`score(return, [returns of the group, this one included], its place among them)` at every step of each episode."""
    advantages, found = np.zeros(rollout.rewards.shape), list(episodes(rollout, gamma))
    for i, first, last, total, group in found:
        peers = [(row, start, other) for row, start, _, other, name in found if name == group]
        place = next(k for k, (row, start, _) in enumerate(peers) if (row, start) == (i, first))
        advantages[first : last + 1, i] = score(total, [other for _, _, other in peers], place)
    return advantages


def to_go(rollout, gamma):
    """The discounted returns from each step on, by definition."""
    returns = np.zeros(rollout.rewards.shape)
    for i, first, last in pieces(rollout):
        future = futures(rollout, i)
        for t in range(first, last + 1):
            left = last + 1 - t
            returns[t, i] = sum(gamma**k * rollout.rewards[t + k, i] for k in range(left)) + gamma**left * future[last]
    return returns


def others_mean(total, peers, place):
    others = peers[:place] + peers[place + 1 :]
    return total - sum(others) / len(others)


SCORES = {
    RLOO: others_mean,
    DrGRPO: lambda total, peers, place: total - sum(peers) / len(peers),
    GRPO: lambda total, peers, place: (total - sum(peers) / len(peers)) / (np.std(peers) + 1e-8),
}


@pytest.mark.parametrize("choice", SCORES)
@settings(max_examples=60, deadline=None)
@given(**SIZES, gamma=GAMMA)
def test_group_estimators_are_their_definitions(choice, num_steps, num_envs, seed, gamma):
    rollout = random_rollout(num_steps, num_envs, seed, whole=True)
    assume(len(list(pieces(rollout))) > 1)
    result = estimate(choice(gamma), rollout)
    np.testing.assert_allclose(result.advantages, reference(rollout, gamma, SCORES[choice]), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(result.value_targets, to_go(rollout, gamma), rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(**SIZES, gamma=GAMMA)
def test_the_others_are_their_definitions(num_steps, num_envs, seed, gamma):
    rollout = random_rollout(num_steps, num_envs, seed, whole=True)
    returns, whole = to_go(rollout, gamma), reference(rollout, gamma, lambda total, peers, place: total)
    totals = [total for *_, total, _ in episodes(rollout, gamma)]
    start_values, seen, valid = np.zeros(returns.shape), returns[rollout.valid], rollout.valid
    for i, first, last in pieces(rollout):
        start_values[first : last + 1, i] = rollout.values[first, i]
    given_ones = masked(rollout, rollout.baselines)
    expected = {
        MonteCarlo(gamma, "none"): returns,
        MonteCarlo(gamma, "batch_mean"): returns - seen.mean(),
        MonteCarlo(gamma, "given"): returns - given_ones,
        TotalReturn(gamma): whole,
        TotalReturn(gamma, "batch_mean"): whole - np.mean(totals),
        TotalReturn(gamma, "value"): whole - start_values,
        TotalReturn(gamma, "given"): whole - given_ones,
        SelfCritical(gamma): whole - given_ones,
        ReBN(gamma): (returns - seen.mean()) / (seen.std() + 1e-8),
    }
    for choice, advantages in expected.items():
        result = estimate(choice, rollout)
        np.testing.assert_allclose(result.advantages[valid], advantages[valid], rtol=1e-6, atol=1e-6, err_msg=str(choice))
        np.testing.assert_allclose(result.value_targets, returns, rtol=1e-9, atol=1e-9)
        assert not result.advantages[~valid].any()


# --- one example each, by hand: gamma = 1/2 --------------------------------------------------------------------------------------------------


def by_hand(**others):
    """Two steps of three rows that pay (1, 2), (3, 4) and (5, 6): returns 2, 5 and 8; the first two share a prompt, the last is with a fourth, 4."""
    rewards = np.array([[1.0, 3.0, 5.0, 4.0], [2.0, 4.0, 6.0, 0.0]])
    ends = np.array([[False] * 4, [True] * 4])
    return make_rollout(rewards, np.zeros((2, 4)), np.zeros((2, 4)), ends, groups=np.array([[1, 1, 0, 0]] * 2), **others)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (TotalReturn(0.5), [[2, 5, 8, 4]] * 2),
        (MonteCarlo(0.5, "none"), [[2, 5, 8, 4], [2, 4, 6, 0]]),
        (RLOO(0.5), [[-3, 3, 4, -4]] * 2),
        (DrGRPO(0.5), [[-1.5, 1.5, 2, -2]] * 2),
        (GRPO(0.5), [[-1, 1, 1, -1]] * 2),
        (SelfCritical(0.5), [[1, 3, 5, 0]] * 2),
        # the returns 2 5 8 4 2 4 6 0 have mean 31/8 and mean square 165/8
        (ReBN(0.5), (np.array([[2, 5, 8, 4], [2, 4, 6, 0]]) - 31 / 8) / np.sqrt(165 / 8 - (31 / 8) ** 2)),
    ],
    ids=str,
)
def test_by_hand(choice, expected):
    rollout = by_hand(baselines=np.array([[1.0, 2.0, 3.0, 4.0]] * 2))
    np.testing.assert_allclose(estimate(choice, rollout).advantages, expected, rtol=1e-7)


# --- what groups must and must not do -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [RLOO(0.9), GRPO(0.9), DrGRPO(0.9)], ids=str)
def test_names_of_groups_do_not_matter(choice):
    rollout = random_rollout(30, 5, seed=1, whole=True)
    names = np.random.default_rng(0).permutation(1000)
    renamed = rollout._replace(groups=names[rollout.groups])
    np.testing.assert_allclose(estimate(choice, renamed).advantages, estimate(choice, rollout).advantages, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("choice", [RLOO(0.9), GRPO(0.9), DrGRPO(0.9)], ids=str)
def test_a_group_knows_nothing_of_the_others(choice):
    rollout = random_rollout(30, 5, seed=1, whole=True)
    others = rollout.groups != rollout.groups[0, 0]
    changed = rollout._replace(rewards=np.where(others, 100 * rollout.rewards, rollout.rewards))
    own = ~others & rollout.valid
    np.testing.assert_allclose(estimate(choice, changed).advantages[own], estimate(choice, rollout).advantages[own], rtol=1e-12)
    assert own.sum() > 1


def test_the_baseline_of_rloo_is_independent_of_the_own_return():
    """What is subtracted, return - advantage, does not move with the own reward; the group's mean does."""
    rollout = by_hand()
    rewards = rollout.rewards.copy()
    rewards[0, 0] += 100.0
    richer = rollout._replace(rewards=rewards)
    for choice, moved in ((RLOO(0.5), 0.0), (DrGRPO(0.5), 50.0)):
        baselines = [estimate(TotalReturn(0.5), each).advantages - estimate(choice, each).advantages for each in (rollout, richer)]
        assert (baselines[1] - baselines[0])[:, 0] == pytest.approx(moved)


def test_rloo_is_dr_grpo_on_another_scale():
    rollout = random_rollout(2, 6, seed=3, whole=True)._replace(valid=np.ones((2, 6), dtype=bool), groups=np.zeros((2, 6), dtype=np.int64))
    rewards, values = np.random.default_rng(0).normal(size=(2, 2, 6))
    rollout = make_rollout(rewards, values, values, np.array([[False] * 6, [True] * 6]), groups=rollout.groups)
    np.testing.assert_allclose(estimate(RLOO(), rollout).advantages, 6 / 5 * estimate(DrGRPO(), rollout).advantages, rtol=1e-12)


@pytest.mark.parametrize("choice", [RLOO(1.0), GRPO(1.0), DrGRPO(1.0)], ids=str)
@pytest.mark.parametrize("reward", [0.1, 1e9 + 0.1, 1e-30])
def test_equal_returns_are_worth_exactly_nothing(choice, reward):
    """Not NaN, and not the rounding error of a mean divided by that of a deviation."""
    rewards = np.full((1, 7), reward)
    rollout = make_rollout(rewards, rewards, rewards, np.ones((1, 7), dtype=bool), groups=np.zeros((1, 7), dtype=np.int64))
    assert not estimate(choice, rollout).advantages.any()


def test_groups_are_refused_with_the_reason():
    rollout = by_hand()
    for choice in (RLOO(), GRPO(), DrGRPO()):
        name = type(choice).__name__
        with pytest.raises(ValueError, match=rf"{name} compares episodes .* no groups \(rollout\.groups is None\).*such as monte_carlo"):
            choice(rollout._replace(groups=None))
        with pytest.raises(ValueError, match=rf"{name} needs at least 2 episodes a group.*2 of 3 groups hold one \(group 0, for one\)"):
            choice(rollout._replace(groups=np.array([[1, 1, 0, 2]] * 2)))
        with pytest.raises(ValueError, match=f"{name}: rollout.groups changes within an episode"):
            choice(rollout._replace(groups=np.array([[1, 1, 0, 0], [1, 1, 0, 1]])))
    with pytest.raises(ValueError, match=r"rollout\.baselines"):
        SelfCritical()(rollout)


def test_a_batch_without_a_step_is_nothing():
    nothing = make_rollout(*np.ones((3, 3, 1)), LAST, valid=np.zeros((3, 1), dtype=bool), groups=np.zeros((3, 1), dtype=np.int64))
    for choice in (MonteCarlo(baseline="batch_mean"), TotalReturn(1.0, "batch_mean"), ReBN(), RLOO(), GRPO(), DrGRPO()):
        assert not estimate(choice, nothing).advantages.any()


def test_rebn_is_normalised_monte_carlo():
    rollout = random_rollout(30, 5, seed=1, whole=True)
    plain = estimate(MonteCarlo(0.9, "none"), rollout)
    np.testing.assert_array_equal(estimate(ReBN(0.9), rollout).advantages, adv.normalise(plain.advantages, rollout.valid))
