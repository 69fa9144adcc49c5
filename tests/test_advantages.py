"""Law 4: the estimators agree with their definitions, with each other, with SB3, and in expectation with exact values."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import advantages as adv
from agents.advantages import GAE, TD, Estimate, MonteCarlo, NStep, estimate, gae, monte_carlo_returns, n_step_returns, td_errors
from agents.kl import adapt_kl_coef, kl_penalised
from agents.rollout import Rollout

NAN = float("nan")
SIZES = {"num_steps": st.integers(1, 12), "num_envs": st.integers(1, 4), "seed": st.integers(0, 2**32 - 1)}
GAMMA = st.floats(0, 1)


def column(*numbers):
    return np.array(numbers, dtype=np.float64)[:, None]


def make_rollout(rewards, values, next_values, terminated=None, truncated=None, starts=None, valid=None):
    """A rollout [T, N] of the fields an estimator reads; nothing ends and everything counts unless it is said."""
    none = np.zeros(rewards.shape, dtype=bool)
    terminated, truncated = none if terminated is None else terminated, none if truncated is None else truncated
    valid = ~none if valid is None else valid
    if starts is None:
        starts = np.vstack([~none[:1], (terminated | truncated)[:-1]])
    zeros = np.zeros(rewards.shape)
    return Rollout(zeros, zeros, zeros, values, next_values, rewards, terminated, truncated, starts, valid, np.cumsum(starts, axis=0))


def random_rollout(num_steps, num_envs, seed, whole=False, poison=True):
    """Episodes of random length, ended either way, with gaps and quotas; whatever must not be read is NaN.

    Inside an episode next_values are the values of the next step, as a critic's are. With `whole` no episode is cut.
    """
    rng = np.random.default_rng(seed)
    shape = (num_steps, num_envs)
    rewards, values, next_values = (rng.normal(size=shape) for _ in range(3))
    terminated, truncated, starts = (np.zeros(shape, dtype=bool) for _ in range(3))
    valid = np.ones(shape, dtype=bool)
    for i in range(num_envs):
        fresh, gap, t = bool(whole or rng.random() < 0.5), rng.random() < 0.5, 0
        while t < num_steps:
            length = int(rng.integers(1, 6))
            stop = min(t + length, num_steps)
            starts[t, i] = fresh
            next_values[t : stop - 1, i] = values[t + 1 : stop, i]
            if stop == t + length or whole:
                (terminated if rng.random() < 0.5 else truncated)[stop - 1, i] = True
                terminated[stop - 1, i] |= rng.random() < 0.2  # both at once: termination counts
            fresh, t = True, stop
            pause = (num_steps - t) if rng.random() < 0.1 else int(gap)  # a finished quota, or a step that only resets
            valid[t : t + pause, i] = False
            t += pause
    if poison:
        next_values[terminated] = NAN
        for array in (rewards, values, next_values):
            array[~valid] = NAN
        terminated[~valid], truncated[~valid] = rng.random((~valid).sum()) < 0.5, rng.random((~valid).sum()) < 0.5
    return make_rollout(rewards, values, next_values, terminated, truncated, starts, valid)


def pieces(rollout):
    """The (row, first, last) of every run of valid steps that belongs to one episode."""
    for i in range(rollout.valid.shape[1]):
        first = None
        for t in range(rollout.valid.shape[0]):
            if not rollout.valid[t, i]:
                continue
            first = t if first is None else first
            last_step = t + 1 == rollout.valid.shape[0] or not rollout.valid[t + 1, i]
            if last_step or rollout.terminated[t, i] or rollout.truncated[t, i]:
                yield i, first, t
                first = None


def reference(rollout, gamma, gae_lambda, n):
    """GAE, n-step returns and Monte Carlo returns by their definitions: sums over each episode, no recursion."""
    advantages, n_step, returns = (np.zeros(rollout.rewards.shape) for _ in range(3))
    for i, first, last in pieces(rollout):
        r, v = rollout.rewards[:, i], rollout.values[:, i]
        future = [0.0 if rollout.terminated[t, i] else rollout.next_values[t, i] for t in range(last + 1)]
        for t in range(first, last + 1):
            deltas = [r[k] + gamma * future[k] - v[k] for k in range(t, last + 1)]
            advantages[t, i] = sum((gamma * gae_lambda) ** k * delta for k, delta in enumerate(deltas))
            for out, m in ((n_step, min(n, last + 1 - t)), (returns, last + 1 - t)):
                out[t, i] = sum(gamma**k * r[t + k] for k in range(m)) + gamma**m * future[t + m - 1]
    return advantages, n_step, returns


def masked(rollout, array):
    return np.where(rollout.valid, array, 0.0)


# --- one example each, by hand: gamma = lambda = 1/2 ---------------------------------------------------------------------------------------

R, V, V_NEXT = column(1, 2, 3), column(4, 2, 1), column(2, 1, 8)
NO = np.zeros((3, 1), dtype=bool)
LAST = np.array([[False], [False], [True]])


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


CHOICES = [MonteCarlo(0.9), TD(0.9), NStep(0.9, 3), GAE(0.9, 0.8)]


@pytest.mark.parametrize("choice", CHOICES)
def test_columns_commute(choice):
    rollout = random_rollout(40, 7, seed=1, whole=True)
    order = np.random.default_rng(0).permutation(7)
    shuffled = Rollout(*(None if field is None else field[:, order] for field in rollout))
    for ours, other in zip(estimate(choice, shuffled), estimate(choice, rollout), strict=True):
        np.testing.assert_array_equal(ours, other[:, order])


@pytest.mark.parametrize("choice", CHOICES)
def test_splitting_at_an_episode_boundary_changes_nothing(choice):
    rollout = random_rollout(60, 1, seed=2, whole=True)
    whole, splits = estimate(choice, rollout), np.flatnonzero(rollout.starts[:, 0])
    assert len(splits) > 5
    for first, stop in itertools.pairwise([*splits, 60]):
        part = estimate(choice, Rollout(*(None if field is None else field[first:stop] for field in rollout)))
        for ours, other in zip(part, whole, strict=True):
            np.testing.assert_allclose(ours, other[first:stop], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_not_valid_changes_nothing(choice):
    rollout = random_rollout(60, 5, seed=4, whole=True)
    assert (~rollout.valid).sum() > 10
    noise = np.random.default_rng(5).normal(size=rollout.rewards.shape)
    loud = rollout._replace(**{key: np.where(rollout.valid, getattr(rollout, key), noise) for key in ("rewards", "values", "next_values")})
    for ours, other in zip(estimate(choice, loud), estimate(choice, rollout), strict=True):
        np.testing.assert_array_equal(ours, other)
        assert not ours[~rollout.valid].any()


@pytest.mark.parametrize("choice", CHOICES)
def test_inputs_are_left_alone(choice):
    rollout = random_rollout(30, 3, seed=6, whole=True)
    before = [None if field is None else field.copy() for field in rollout]
    estimate(choice, rollout)
    for field, copy in zip(rollout, before, strict=True):
        np.testing.assert_array_equal(field, copy)


def test_a_reset_without_an_end_is_a_cut():
    """Somebody reset a row in mid-episode: no reward of the new episode may reach the old one."""
    starts = np.array([[True], [False], [True]])
    rollout = make_rollout(R, V, V_NEXT, starts=starts)
    assert estimate(GAE(0.5, 1.0), rollout).value_targets.ravel().tolist() == [1 + (2 + 1 / 2) / 2, 2 + 1 / 2, 3 + 8 / 2]


@pytest.mark.parametrize("formula", [lambda end: td_errors(R, V, column(2, 1, NAN), end, 0.5), lambda end: gae(R, V, column(2, 1, NAN), end, NO, 0.5, 0.5)])
def test_nan_behind_a_terminal_step_does_not_leak(formula):
    assert np.isfinite(formula(LAST)).all()
    assert np.isnan(formula(NO)).any()


def test_nan_behind_a_terminal_step_does_not_leak_into_returns():
    assert np.isfinite(monte_carlo_returns(R, column(NAN, NAN, NAN), LAST, NO, 0.5)).all()
    assert np.isfinite(n_step_returns(R, column(2, 1, NAN), LAST, NO, 0.5, 2)).all()


# --- truncation is not termination ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", CHOICES)
def test_truncation_is_not_termination(choice):
    """A reward of 1 for ever is worth 10 at gamma 0.9: a critic that knows this has nothing to learn from a time limit."""
    stop = np.array([[False], [True], [False], [True]])
    ten = np.full((4, 1), 10.0)
    right = make_rollout(np.ones((4, 1)), ten, ten, truncated=stop)
    np.testing.assert_allclose(estimate(choice, right).advantages, 0.0, atol=1e-12)
    wrong = right._replace(terminated=stop, truncated=np.zeros_like(stop))  # the twin that must fail
    assert estimate(choice, wrong).advantages[1, 0] == pytest.approx(-9.0)
    assert (estimate(choice, wrong).advantages < -0.1).any()


# --- others ---------------------------------------------------------------------------------------------------------------------------------


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


class Chain:
    """State 0: stay (reward 0) or go to 1 (reward 1). State 1: stay (reward 2) or end (reward 0). Action 0 always has probability 0.6.

    V(1) = 0.6 (2 + g V(1)) and V(0) = 0.6 g V(0) + 0.4 (1 + g V(1)), in closed form below.
    """

    gamma, stay = 0.9, 0.6
    v1 = 2 * stay / (1 - gamma * stay)
    v0 = (1 - stay) * (1 + gamma * v1) / (1 - gamma * stay)
    values = np.array([v0, v1])
    q = np.array([[gamma * v0, 1 + gamma * v1], [2 + gamma * v1, 0.0]])

    @classmethod
    def play(cls, num_envs, seed, critic):
        """Whole episodes, one a row: the rollout, and the states and actions."""
        rng = np.random.default_rng(seed)
        state, alive, steps = np.zeros(num_envs, dtype=int), np.ones(num_envs, dtype=bool), []
        while alive.any():
            action = (rng.random(num_envs) > cls.stay).astype(int)
            end = (state == 1) & (action == 1)
            after = np.maximum(state, action)
            reward = np.array([[0.0, 1.0], [2.0, 0.0]])[state, action]
            steps.append((reward, critic[state], critic[after], end, alive.copy(), state, action))
            alive, state = alive & ~end, after
        reward, value, next_value, end, valid, states, actions = map(np.array, zip(*steps, strict=True))
        starts = np.zeros(valid.shape, dtype=bool)
        starts[0] = True
        return make_rollout(reward, value, next_value, end & valid, starts=starts, valid=valid), states, actions


def first_visits(rollout, states, state):
    """Per row the step at which `state` is first seen, so that the samples are independent."""
    seen = rollout.valid & (states == state)
    rows = np.flatnonzero(seen.any(axis=0))
    return seen.argmax(axis=0)[rows], rows


def test_the_chain_is_what_it_says():
    assert Chain.values == pytest.approx((Chain.q * [[0.6, 0.4], [0.6, 0.4]]).sum(axis=1))


@pytest.mark.parametrize("choice", [MonteCarlo(0.9), TD(0.9), NStep(0.9, 2), GAE(0.9, 0.8)])
def test_with_an_exact_critic_the_mean_is_q_minus_v(choice):
    rollout, states, actions = Chain.play(20_000, 8, Chain.values)
    result = estimate(choice, rollout).advantages
    for state, action in itertools.product((0, 1), (0, 1)):
        steps, rows = first_visits(rollout, states, state)
        chosen = actions[steps, rows] == action
        sample = result[steps[chosen], rows[chosen]]
        error = 4 * sample.std() / np.sqrt(len(sample)) + 1e-12
        assert abs(sample.mean() - (Chain.q[state, action] - Chain.values[state])) <= error, (state, action)


def test_a_wrong_critic_biases_td_and_not_monte_carlo():
    critic = Chain.values + np.array([0.0, 1.0])
    rollout, states, actions = Chain.play(20_000, 9, critic)
    steps, rows = first_visits(rollout, states, 0)
    chosen = actions[steps, rows] == 1  # go: what follows is state 1, which this critic overrates by 1
    truth = Chain.q[0, 1] - Chain.values[0]
    sample = estimate(MonteCarlo(0.9), rollout).advantages[steps[chosen], rows[chosen]]
    assert abs(sample.mean() - truth) < 4 * sample.std() / np.sqrt(len(sample))
    assert estimate(TD(0.9), rollout).advantages[steps[chosen], rows[chosen]] == pytest.approx(truth + 0.9)


# --- whole episodes, checks -----------------------------------------------------------------------------------------------------------------

BEGIN = np.array([[True], [False], [False]])


@pytest.mark.parametrize(
    ("rollout", "where"),
    [
        (make_rollout(R, V, V_NEXT), "step 2, row 0"),  # the end is missing
        (make_rollout(R, V, V_NEXT, LAST, starts=NO), "step 0, row 0"),  # the beginning is missing
        (make_rollout(R, V, V_NEXT, LAST, starts=BEGIN, valid=~np.array([[False], [True], [False]])), "step 0, row 0"),  # the middle is missing
        (make_rollout(R, V, V_NEXT, LAST, starts=np.array([[True], [True], [False]])), "step 0, row 0"),  # reset in mid-episode
        (make_rollout(R, V, V_NEXT, ~NO, starts=np.array([[True], [False], [True]])), "step 1, row 0"),  # the second one does not begin
    ],
)
def test_monte_carlo_refuses_cut_episodes(rollout, where):
    with pytest.raises(ValueError, match=rf"whole episodes; 1 rows hold a cut one \(first at {where}\).*episodes_per_row=k"):
        MonteCarlo(0.9)(rollout)


def test_monte_carlo_takes_truncated_episodes_and_idle_rows():
    idle = make_rollout(R, V, V_NEXT, truncated=np.array([[True], [False], [False]]), starts=BEGIN, valid=np.array([[True], [False], [False]]))
    assert estimate(MonteCarlo(0.5), idle) == Estimate(*(pytest.approx(column(*numbers)) for numbers in ((-2, 0, 0), (2, 0, 0))))


def good(rollout):
    return rollout.rewards.copy(), rollout.values.copy()


@pytest.mark.parametrize(
    ("advantage", "error", "message"),
    [
        (lambda r: r.rewards, TypeError, r"<lambda> must return \(advantages, value_targets\), two arrays \[T, N\]; it returned ndarray"),
        (lambda r: (r.rewards,), TypeError, "must return"),
        (lambda r: (r.rewards, r.values[:2]), ValueError, r"returned value_targets of shape \(2, 1\); \[T, N\] is \(3, 1\) here"),
        (lambda r: (r.rewards / np.array([[1], [0], [1]]), r.values), ValueError, r"advantages that are inf at step 1, row 0, a valid step \(rewards 2.0"),
    ],
)
def test_estimate_says_what_is_wrong(advantage, error, message):
    with np.errstate(divide="ignore"), pytest.raises(error, match=message):
        estimate(advantage, make_rollout(R, V, V_NEXT))


def test_estimate_takes_any_callable_and_masks():
    valid = np.array([[True], [True], [False]])
    result = estimate(good, make_rollout(R, V, V_NEXT, valid=valid))
    assert isinstance(result, Estimate)
    assert result.advantages.ravel().tolist() == [1, 2, 0]


def test_a_nan_is_reported_where_it_began():
    with pytest.raises(ValueError, match="nan at step 2, row 0"):
        estimate(GAE(), make_rollout(column(1, 2, NAN), V, V_NEXT))


@pytest.mark.parametrize("call", [lambda: td_errors(R, V.ravel(), V_NEXT, NO, 0.5), lambda: gae(R, V, V_NEXT, NO, NO.ravel(), 0.5, 0.5)])
def test_shapes_must_agree(call):
    with pytest.raises(ValueError, match=r"all \[T, N\]; got \(3,\), \(3, 1\)"):
        call()


def test_n_must_be_positive():
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        n_step_returns(R, V_NEXT, NO, NO, 0.5, 0)


# --- names ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [*CHOICES, GAE(), NStep(gamma=1, n=np.int64(7)), MonteCarlo(np.float32(0.5))])
def test_round_trips(choice):
    assert adv.parse(adv.spell(choice)) == choice
    assert adv.from_json(json.loads(json.dumps(adv.to_json(choice)))) == choice


def test_spelling():
    assert adv.spell(GAE()) == "gae(gamma=0.99, gae_lambda=0.95)"
    assert adv.to_json(GAE()) == {"name": "gae", "gamma": 0.99, "gae_lambda": 0.95}
    assert adv.parse(" gae ") == adv.parse("gae()") == GAE()
    assert adv.parse("gae(0.9, gae_lambda=1)") == GAE(0.9, 1.0)
    assert adv.parse("n_step(n = 3)") == NStep(n=3)


@pytest.fixture
def my_module(tmp_path, monkeypatch):
    source = """
from dataclasses import dataclass

def flat(rollout):
    return rollout.rewards, rollout.values

@dataclass(frozen=True)
class Scaled:
    scale: float = 2.0

    def __call__(self, rollout):
        return self.scale * rollout.rewards, rollout.values

number = 3
"""
    (tmp_path / "my_advantages.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_advantages", raising=False)


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize("text", ["my_advantages:flat", "my_advantages:Scaled(scale=3.0)"])
def test_ones_own_advantage_by_module_and_name(text):
    advantage = adv.parse(text)
    assert adv.spell(advantage) == text
    assert adv.spell(adv.from_json(adv.to_json(advantage))) == text
    assert estimate(advantage, make_rollout(R, V, V_NEXT)).advantages[0, 0] in (1.0, 3.0)


def test_ones_own_class_in_the_registry(monkeypatch):
    monkeypatch.setitem(adv.ADVANTAGES, "ours", good)
    with pytest.raises(ValueError, match="finished advantage"):
        adv.parse("ours(1)")
    assert adv.parse("ours") is good


def test_a_lambda_is_logged_and_not_read_back():
    saved = json.loads(json.dumps(adv.to_json(lambda rollout: good(rollout))))
    assert "lambda" in saved["unnamed"]
    with pytest.raises(ValueError, match="without an importable name; pass the object itself again"):
        adv.from_json(saved)
    with pytest.raises(ValueError, match="has no importable name; define it at the top level"):
        adv.spell(lambda rollout: good(rollout))


@pytest.mark.usefixtures("my_module")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gea", r"Unknown advantage 'gea'; did you mean 'gae'\? Known are gae, monte_carlo, n_step, td, or \"module:function\""),
        ("zzz", r"Unknown advantage 'zzz'\. Known are"),
        ("gae(lam=0.9)", r"unexpected keyword argument 'lam'. It takes gamma \(a number in \[0, 1\]\), gae_lambda \(a number in \[0, 1\]\)"),
        ("gae(1, 2, 3)", "gae: too many positional arguments. It takes gamma"),
        ("gae(0.9, gamma=0.9)", "gae: multiple values for argument 'gamma'"),
        ("gae(gamma='high')", r"GAE: gamma must be a number in \[0, 1\], not 'high'"),
        ("gae(gamma=True)", r"GAE: gamma must be a number in \[0, 1\], not True"),
        ("gae(gamma=1.5)", r"GAE: gamma must be a number in \[0, 1\], not 1.5"),
        ("gae(gae_lambda=-0.1)", r"GAE: gae_lambda must be a number in \[0, 1\], not -0.1"),
        ("n_step(n=0)", "NStep: n must be an integer >= 1, not 0"),
        ("n_step(n=2.0)", r"NStep: n must be an integer >= 1, not 2\.0"),
        ("gae(gamma=0.9", "cannot be read; write name"),
        ("gae(gamma=1)(2)", "is not one call"),
        ("gae(gamma=1) + 1", "is not one call"),
        ("gae(gamma=print('x'))", "not a literal"),
        ("gae(**{'gamma': 1})", "not a literal"),
        ("no_such_module:f", "cannot be imported"),
        ("my_advantages:nothing", "my_advantages has no 'nothing'"),
        ("my_advantages:number", "is int, which cannot be called"),
        ("my_advantages:flat(1)", "my_advantages:flat is a finished advantage and takes no arguments here"),
    ],
)
def test_parse_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        adv.parse(text)


@pytest.mark.parametrize(
    ("saved", "message"), [({}, "A saved advantage is"), ({"name": 3}, "A saved advantage is"), ({"name": "gae", "n": 3}, "gae: got an unexpected")]
)
def test_from_json_says_what_is_wrong(saved, message):
    with pytest.raises(ValueError, match=message):
        adv.from_json(saved)


# --- statistics and KL ----------------------------------------------------------------------------------------------------------------------

VALID = np.array([[True], [True], [False]])


def test_normalise():
    assert adv.normalise(column(1, 3, NAN), VALID).ravel() == pytest.approx([-1, 1, 0])
    assert adv.normalise(column(5, 5, 5), VALID).ravel().tolist() == [0, 0, 0]
    assert adv.normalise(column(5, 5, 5), NO).ravel().tolist() == [0, 0, 0]


def test_explained_variance():
    targets = column(1, 3, NAN)
    assert adv.explained_variance(targets, targets, VALID) == 1.0
    assert adv.explained_variance(column(2, 2, 9), targets, VALID) == 0.0
    assert adv.explained_variance(column(3, 1, 9), targets, VALID) == -3.0
    assert np.isnan(adv.explained_variance(targets, column(4, 4, 1), VALID))
    assert np.isnan(adv.explained_variance(targets, targets, NO))


def test_kl_penalised():
    rewards = kl_penalised(column(1, 2, NAN), column(-1, -2, -np.inf), column(-1.5, -1, -np.inf), 0.5, VALID)
    assert rewards.ravel().tolist() == [1 - 0.5 * 0.5, 2 + 0.5 * 1, 0]
    with pytest.raises(ValueError, match=r"ref_log_probs \(2, 1\)"):
        kl_penalised(R, R, R[:2], 0.5, VALID)


def test_adapt_kl_coef():
    assert adapt_kl_coef(0.2, kl=6.6, target=6.0, num_episodes=512, horizon=10_000) == pytest.approx(0.2 * (1 + 0.1 * 0.0512))
    assert adapt_kl_coef(0.2, kl=60.0, target=6.0, num_episodes=512, horizon=10_000) == pytest.approx(0.2 * (1 + 0.2 * 0.0512))  # clipped
    assert adapt_kl_coef(0.2, kl=0.0, target=6.0, num_episodes=512, horizon=10_000) == pytest.approx(0.2 * (1 - 0.2 * 0.0512))
    for kl, target, horizon in ((1.0, 0.0, 1), (1.0, 1.0, 0), (NAN, 1.0, 1)):
        with pytest.raises(ValueError, match="target and horizon must be positive and kl finite"):
            adapt_kl_coef(0.2, kl, target, 1, horizon)
