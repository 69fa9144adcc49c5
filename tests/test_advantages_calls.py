"""The one call that all estimators go through: what it refuses, what it says, and how estimators are named."""

import json

import numpy as np
import pytest
from rollouts import BEGIN, LAST, NAN, NO, V_NEXT, R, V, column, make_rollout

from agents import advantages as adv
from agents.advantages import GAE, Estimate, MonteCarlo, NStep, estimate, gae, n_step_returns, td_errors

# --- whole episodes, checks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rollout", "where"),
    [
        (make_rollout(R, V, V_NEXT), "step 2, row 0"),  # the end is missing
        (make_rollout(R, V, V_NEXT, LAST, starts=NO), "step 0, row 0"),  # the beginning is missing
        (make_rollout(R, V, V_NEXT, LAST, starts=BEGIN, valid=~np.array([[False], [True], [False]])), "step 0, row 0"),  # the middle is missing
        (make_rollout(R, V, V_NEXT, LAST, starts=np.array([[True], [True], [False]])), "step 0, row 0"),  # reset in mid-episode
        (make_rollout(R, V, V_NEXT, LAST, starts=BEGIN, valid=np.array([[False], [True], [True]])), "step 1, row 0"),  # a beginning that is not valid
        (make_rollout(R, V, V_NEXT, ~NO, starts=np.array([[True], [False], [True]])), "step 1, row 0"),  # the second one does not begin
    ],
)
def test_monte_carlo_refuses_cut_episodes(rollout, where):
    with pytest.raises(ValueError, match=rf"MonteCarlo needs whole episodes; 1 rows hold a cut one \(first at {where}\).*episodes_per_row=k"):
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


def test_what_is_not_finite_is_found_beside_zeros_and_what_is_large_is_not_it():
    rollout = make_rollout(R, V, V_NEXT)
    huge, zeros = 1e200 * R, np.zeros(R.shape)
    assert estimate(lambda _: (huge, huge), rollout).advantages is huge  # whose product would overflow
    for bad in (np.inf, -np.inf, NAN):
        for pair in ((column(0, bad, 0), zeros), (zeros, column(0, bad, 0))):
            with pytest.raises(ValueError, match=f"are {bad} at step 1, row 0"):
                estimate(lambda _, pair=pair: pair, rollout)


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


@pytest.mark.parametrize("choice", [*(choice() for choice in adv.ADVANTAGES.values()), NStep(gamma=1, n=np.int64(7)), MonteCarlo(np.float32(0.5), "none")])
def test_round_trips(choice):
    assert adv.parse(adv.spell(choice)) == choice
    assert adv.from_json(json.loads(json.dumps(adv.to_json(choice)))) == choice


def test_spelling():
    assert adv.spell(GAE()) == "gae(gamma=0.99, gae_lambda=0.95)"
    assert adv.to_json(GAE()) == {"name": "gae", "gamma": 0.99, "gae_lambda": 0.95}
    assert adv.parse(" gae ") == adv.parse("gae()") == GAE()
    assert adv.parse("gae(0.9, gae_lambda=1)") == GAE(0.9, 1.0)
    assert adv.parse("n_step(n = 3)") == NStep(n=3)
    assert adv.parse("monte_carlo(baseline='batch_mean')") == MonteCarlo(baseline="batch_mean")


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
        ("gea", r"Unknown advantage 'gea'; did you mean 'gae'\? Known are dr_grpo, gae, grpo, monte_carlo, .*, vine, or \"module:function\""),
        ("zzz", r"Unknown advantage 'zzz'\. Known are"),
        ("gae(lam=0.9)", r"unexpected keyword argument 'lam'. It takes gamma \(a number in \[0, 1\]\), gae_lambda \(a number in \[0, 1\]\)"),
        ("gae(1, 2, 3)", "gae: too many positional arguments. It takes gamma"),
        ("gae(0.9, gamma=0.9)", "gae: multiple values for argument 'gamma'"),
        ("gae(gamma='high')", r"GAE: gamma must be a number in \[0, 1\], not 'high'"),
        ("gae(gamma=True)", r"GAE: gamma must be a number in \[0, 1\], not True"),
        ("gae(gamma=1.5)", r"GAE: gamma must be a number in \[0, 1\], not 1.5"),
        ("gae(gae_lambda=-0.1)", r"GAE: gae_lambda must be a number in \[0, 1\], not -0.1"),
        ("v_trace(rho_bar=0.5)", "VTrace: c_bar must be at most rho_bar .* got 1.0 and 0.5"),
        ("monte_carlo(baseline='mean')", "MonteCarlo: baseline must be one of 'none', 'value', 'batch_mean', 'given', not 'mean'"),
        ("total_return(baseline=0)", "TotalReturn: baseline must be one of"),
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


# --- what they need -------------------------------------------------------------------------------------------------------------------------

NEEDS = {
    "monte_carlo": {"needs_whole_episodes"},
    "total_return": {"needs_whole_episodes"},
    "rebn": {"needs_whole_episodes"},
    "self_critical": {"needs_whole_episodes", "needs_baselines", "needs_greedy"},
    "rloo": {"needs_whole_episodes", "needs_groups"},
    "grpo": {"needs_whole_episodes", "needs_groups"},
    "dr_grpo": {"needs_whole_episodes", "needs_groups"},
    "td": {"bootstraps"},
    "n_step": {"bootstraps"},
    "td_lambda": {"bootstraps"},
    "gae": {"bootstraps"},
    "vine": {"needs_forks"},
    "v_trace": {"bootstraps", "needs_target_log_probs"},
    "retrace": {"bootstraps", "needs_target_log_probs", "needs_action_values"},
}


def test_what_each_estimator_says_it_needs():
    found = {name: {need for need, needed in adv.needs(choice())._asdict().items() if needed} for name, choice in adv.ADVANTAGES.items()}
    assert found == NEEDS


def test_a_baseline_that_is_given_is_needed_and_a_callable_needs_nothing():
    assert adv.needs(MonteCarlo(baseline="given")).needs_baselines
    assert adv.needs(adv.TotalReturn(baseline="given")).needs_baselines
    assert adv.needs(good) == adv.Needs()


@pytest.mark.parametrize("name", NEEDS)
def test_what_is_missing_is_named(name):
    """An estimator that needs a field refuses a rollout without it, whole episodes or not."""
    choice = adv.ADVANTAGES[name]()
    whole, window = make_rollout(R, V, V_NEXT, LAST), make_rollout(R, V, V_NEXT)
    fields = [need.removeprefix("needs_") for need in NEEDS[name] - {"bootstraps", "needs_whole_episodes", "needs_forks"}]
    if fields:
        with pytest.raises(ValueError, match="|".join(rf"rollout\.{field}" for field in fields)):
            estimate(choice, whole)
    if "needs_whole_episodes" in NEEDS[name]:
        with pytest.raises(ValueError, match=f"{type(choice).__name__} needs whole episodes; 1 rows"):
            estimate(choice, window)
    elif not fields:
        assert np.isfinite(estimate(choice, window).advantages).all()
