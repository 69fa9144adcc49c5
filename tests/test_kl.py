"""How far a policy is from its reference, and what a nat costs."""

import numpy as np
import pytest

from agents import kl
from agents.kl import AdaptiveKL, FixedKL, ThresholdKL, adapt_kl_coef, exact_kl, k1, k2, k3, kl_panel, kl_penalised

pytestmark = pytest.mark.core

NAN = float("nan")
VALID = np.array([[True], [True], [False]])
R = np.array([[1.0], [2.0], [3.0]])


def column(*numbers):
    return np.array(numbers, dtype=np.float64)[:, None]


def test_kl_penalised():
    rewards = kl_penalised(column(1, 2, NAN), column(-1, -2, -np.inf), column(-1.5, -1, -np.inf), 0.5, VALID)
    assert rewards.ravel().tolist() == [1 - 0.5 * 0.5, 2 + 0.5 * 1, 0]
    with pytest.raises(ValueError, match=r"ref_log_probs \(2, 1\)"):
        kl_penalised(R, R, R[:2], 0.5, VALID)


def test_adapt_kl_coef():
    assert adapt_kl_coef(0.2, kl=6.6, target=6.0, num_episodes=512, horizon=10_000) == pytest.approx(0.2 * (1 + 0.1 * 0.0512))
    assert adapt_kl_coef(0.2, kl=60.0, target=6.0, num_episodes=512, horizon=10_000) == pytest.approx(0.2 * (1 + 0.2 * 0.0512))  # clipped
    assert adapt_kl_coef(0.2, kl=0.0, target=6.0, num_episodes=512, horizon=10_000) == pytest.approx(0.2 * (1 - 0.2 * 0.0512))
    for nats, target, horizon in ((1.0, 0.0, 1), (1.0, 1.0, 0), (NAN, 1.0, 1)):
        with pytest.raises(ValueError, match="target and horizon must be positive and kl finite"):
            adapt_kl_coef(0.2, nats, target, 1, horizon)


def tables(seed, shape=(4, 6)):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, *shape))
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_kl_by_hand():
    # r = ref / pi = (1/4) / (1/2) = 1/2: k1 = log 2, k2 = log(2)^2 / 2, k3 = 1/2 - 1 + log 2
    pi, ref = np.log(column(0.5)), np.log(column(0.25))
    assert k1(pi, ref).item() == pytest.approx(np.log(2))
    assert k2(pi, ref).item() == pytest.approx(np.log(2) ** 2 / 2)
    assert k3(pi, ref).item() == pytest.approx(np.log(2) - 0.5)
    # 1/2 log 2 + 1/2 log(2/3)
    assert exact_kl(np.log([0.5, 0.5]), np.log([0.25, 0.75])) == pytest.approx(0.5 * np.log(4 / 3))


def test_k1_and_k3_have_the_exact_mean_and_k2_has_not():
    """The mean over all actions, weighed by their probabilities, needs no samples."""
    pi, ref = tables(0)
    exact = exact_kl(pi, ref)
    means = {f.__name__: (np.exp(pi) * f(pi, ref)).sum(axis=-1) for f in (k1, k2, k3)}
    np.testing.assert_allclose(means["k1"], exact, rtol=1e-12)
    np.testing.assert_allclose(means["k3"], exact, rtol=1e-12)
    assert np.abs(means["k2"] - exact).min() > 1e-3
    assert (k2(pi, ref) >= 0).all()
    assert (k3(pi, ref) >= 0).all()
    assert (k1(pi, ref) < 0).any()


def test_near_the_reference_all_agree():
    pi, _ = tables(1)
    ref = pi + 1e-4 * np.random.default_rng(2).normal(size=pi.shape)
    ref -= np.log(np.exp(ref).sum(axis=-1, keepdims=True))
    expected = exact_kl(pi, ref)
    for estimator in (k1, k2, k3):
        np.testing.assert_allclose((np.exp(pi) * estimator(pi, ref)).sum(axis=-1), expected, rtol=1e-2)
    assert not k3(pi, pi).any()


def test_what_the_policy_never_does_costs_nothing_and_what_the_reference_never_does_costs_everything():
    minus = -np.inf
    assert exact_kl(np.array([0.0, minus]), np.log([0.5, 0.5])) == pytest.approx(np.log(2))
    assert exact_kl(np.array([0.0, minus]), np.array([0.0, minus])) == 0
    assert exact_kl(np.log([0.5, 0.5]), np.array([0.0, minus])) == np.inf
    with pytest.raises(ValueError, match=r"both tables must be \[\.\., V\]|Both tables must be \[\.\.\., V\]; got \(2,\) and \(3,\)"):
        exact_kl(np.zeros(2), np.zeros(3))


def test_single_precision_is_summed_in_double():
    pi, ref = tables(3, (2, 50_000))
    np.testing.assert_allclose(exact_kl(pi.astype(np.float32), ref.astype(np.float32)), exact_kl(pi, ref), rtol=1e-5)
    assert exact_kl(pi.astype(np.float32), ref.astype(np.float32)).dtype == np.float64


def test_the_panel_counts_valid_steps_only():
    pi, ref, exact = np.log(column(0.5, 0.25, NAN)), np.log(column(0.25, 0.25, NAN)), column(0.1, 0.3, NAN)
    panel = kl_panel(pi, ref, VALID, exact)
    assert panel == pytest.approx({"k1": np.log(2) / 2, "k2": np.log(2) ** 2 / 4, "k3": (np.log(2) - 0.5) / 2, "exact": 0.2})
    assert list(kl_panel(pi, ref, VALID)) == ["k1", "k2", "k3"]
    assert all(np.isnan(value) for value in kl_panel(pi, ref, ~VALID & VALID, exact).values())


def run(price, kls, episodes=512):
    prices = [price.first()]
    for nats in kls:
        prices.append(price.after(prices[-1], nats, episodes))
    return prices


def test_the_three_prices():
    assert run(FixedKL(0.1), [0, 100]) == [0.1, 0.1, 0.1]
    assert run(ThresholdKL(0.1, 6.0), [5.9, 6.1, 100, 6.0]) == [0, 0, 0.1, 0.1, 0]
    up = run(AdaptiveKL(0.1, 6.0), [60, 60])
    assert up == pytest.approx([0.1, 0.1 * (1 + 0.2 * 0.0512), 0.1 * (1 + 0.2 * 0.0512) ** 2])
    assert run(AdaptiveKL(0.1, 6.0), [0])[1] < 0.1
    for price in (ThresholdKL(), AdaptiveKL()):
        with pytest.raises(ValueError, match="finite"):
            price.after(0.1, np.inf, 10)


@pytest.mark.parametrize("price", [FixedKL(0.3), AdaptiveKL(0.2, 3.0, 50), ThresholdKL(0.1, 0.0)])
def test_prices_have_names(price):
    assert kl.kl_price_from_json(kl.kl_price_to_json(price)) == price
    assert kl.parse_kl_price("threshold(coef=0.2, threshold=1)") == ThresholdKL(0.2, 1.0)
    with pytest.raises(ValueError, match="Unknown KL price 'fix'; did you mean 'fixed'"):
        kl.parse_kl_price("fix")
    with pytest.raises(ValueError, match="FixedKL: coef must be a number"):
        FixedKL(-1.0)
