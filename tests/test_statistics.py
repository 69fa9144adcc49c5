"""What benchmark tables report over seeds: against published numbers, against all resamples, and against the truth that it should cover."""

import itertools

import numpy as np
import pytest
from scipy.stats import trim_mean

from benchmarks.statistics import Interval, interquartile_mean, mean, median, paired_difference, stratified_bootstrap

MICE = [94, 197, 16, 38, 99, 141, 23]  # Efron & Tibshirani 1993, table 2.1: survival of the treated mice, in days


def rng(seed=0):
    return np.random.default_rng(seed)


def all_resamples(table):
    """[R, K, M] every resample of a table, each as likely as the others: runs drawn with replacement, on their own in each task."""
    runs, tasks = table.shape
    columns = [[table[list(chosen), j] for chosen in itertools.product(range(runs), repeat=runs)] for j in range(tasks)]
    return np.array([np.stack(parts, axis=1) for parts in itertools.product(*columns)])


def quantiles(values, confidence=0.95):
    """The percentile interval of equally likely values, with nothing between two of them: the ends are values that occur."""
    return np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")


# --- the statistics ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "published"),
    [
        ([5, 8, 4, 38, 8, 6, 9, 7, 7, 3, 1, 6], 6.5),  # Wikipedia, "Interquartile mean"
        ([1, 3, 5, 7, 9, 11, 13, 15, 17], 9),  # the same, 9 values
        ([[1, 2], [2, 2], [1, 1], [2, 1]], 1.5),  # rliable's tests/rliable/metrics_test.py
        ([[1, 1], [2, 2], [3, 3]], 2),  # the same
    ],
)
def test_published_interquartile_means(scores, published):
    assert interquartile_mean(scores) == published


def test_rliables_other_numbers():
    x, y = [[1, 2], [2, 2], [1, 1], [2, 1]], [[1, 1], [2, 2], [3, 3]]
    assert (mean(x), median(x), mean(y), median(y)) == (1.5, 1.5, 2, 2)


@pytest.mark.parametrize("runs", range(1, 14))
def test_interquartile_mean_is_scipys_trimmed_mean(runs):
    scores = rng(runs).normal(size=(runs, 3))
    np.testing.assert_allclose(interquartile_mean(scores), trim_mean(scores, 0.25, axis=None), rtol=1e-12)


def test_interquartile_mean_by_hand_forgets_the_extremes():
    assert interquartile_mean([0, 1, 2, 3]) == interquartile_mean([-1e9, 1, 2, 1e9]) == 1.5
    assert interquartile_mean([[0, 3], [2, 1]]) == 1.5  # runs and tasks together
    assert interquartile_mean([1, 2, 4]) == pytest.approx(7 / 3)  # a fourth of 3 is none


def test_statistics_reduce_the_last_two_axes():
    stack = rng().normal(size=(4, 5, 6, 3))
    for statistic in (interquartile_mean, mean, median):
        assert statistic(stack).shape == (4, 5)
        assert statistic(stack)[1, 2] == pytest.approx(statistic(stack[1, 2]), rel=1e-12)


# --- the bootstrap -------------------------------------------------------------------------------------------------------------------------------


def spread(statistic, num_resamples):
    """The standard deviation over resamples of the mice."""
    seen = []

    def watched(tables):
        seen.append(np.atleast_1d(statistic(tables)))
        return seen[-1]

    stratified_bootstrap(MICE, lambda tables: watched(tables) if tables.ndim > 2 else statistic(tables), rng(), num_resamples)
    return np.concatenate(seen).std()


def test_efron_and_tibshiranis_standard_errors():
    """Table 2.2, last column (all resamples): 23.36 for the mean, 37.83 for the median."""
    assert spread(mean, 100_000) == pytest.approx(23.36, rel=0.01)
    assert spread(median, 100_000) == pytest.approx(37.83, rel=0.01)


def test_efron_and_tibshiranis_percentiles():
    """Table 13.1: of 1000 resampled means 2.5 % lie below 45.9 and above 135.4, 5 % below 49.7 and above 126.7."""
    found = stratified_bootstrap(MICE, mean, rng(), 20_000)
    assert found.estimate == pytest.approx(86.857, abs=5e-4)
    assert (found.low, found.high) == (pytest.approx(45.9, abs=4), pytest.approx(135.4, abs=4))  # 1000 resamples know these ends to about 2
    found = stratified_bootstrap(MICE, mean, rng(), 20_000, confidence=0.9)
    assert (found.low, found.high) == (pytest.approx(49.7, abs=3), pytest.approx(126.7, abs=3))


@pytest.mark.parametrize("statistic", [interquartile_mean, mean, median])
def test_the_interval_is_that_of_all_resamples(statistic):
    table = np.array([[0.0, 10.0], [1.0, 14.0], [5.0, 11.0]])
    exact = quantiles(statistic(all_resamples(table)), confidence=0.9)  # 27 x 27 of them
    found = stratified_bootstrap(table, statistic, rng(3), 40_000, confidence=0.9)
    assert found.estimate == statistic(table)
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=1e-9)


def test_two_runs_by_hand():
    """0 and 1: the mean is 0, 1/2, 1/2 or 1, so that 25 % lie at each end."""
    found = stratified_bootstrap([0, 1], mean, rng(), 1000, confidence=0.4)
    assert found == Interval(0.5, 0.5, 0.5)
    assert stratified_bootstrap([0, 1], mean, rng(), 1000, confidence=0.6) == Interval(0.5, 0, 1)


def test_tasks_keep_their_runs_and_are_drawn_on_their_own():
    """Tasks 100 apart stay so in every resample; if the runs of both were drawn together, the opposite scores would always cancel."""
    table = np.array([[0.0, 101.0], [1.0, 100.0]])
    seen = []
    stratified_bootstrap(table, lambda tables: seen.append(tables) or mean(tables), rng(), 500)
    resamples = seen[0]
    assert set(resamples[..., 0].ravel()) == {0, 1}
    assert set(resamples[..., 1].ravel()) == {100, 101}
    found = stratified_bootstrap(table, mean, rng(), 2000)
    assert (found.low, found.high) == (50, 51)


def test_resamples_in_parts_are_all_there(monkeypatch):
    whole = stratified_bootstrap(MICE, mean, rng(5), 1000)
    monkeypatch.setattr("benchmarks.statistics.CHUNK", 7 * 33)
    sizes = []
    parts = stratified_bootstrap(MICE, lambda tables: sizes.append(tables.shape[0]) or mean(tables), rng(5), 1000)
    assert parts == whole
    assert sizes[:2] == [33, 33]
    assert sum(sizes[:-1]) == 1000  # the last call is the estimate itself


@pytest.mark.parametrize(("runs", "tasks", "least", "most"), [(50, 1, 0.92, 0.965), (10, 6, 0.86, 0.95), (10, 1, 0.86, 0.93)])
def test_intervals_cover_the_truth(runs, tasks, least, most):
    """Scores of each task are normal around its own mean. 500 experiments know a share of 95 % to about 1 %."""
    generator = rng(1)
    truth = np.arange(tasks).mean()
    covered = []
    for _ in range(500):
        found = stratified_bootstrap(generator.normal(np.arange(tasks), 1.0, size=(runs, tasks)), mean, generator, 400)
        covered.append(found.low <= truth <= found.high)
    assert least < np.mean(covered) < most


def test_more_confidence_is_wider_and_the_generator_decides():
    narrow, wide = (stratified_bootstrap(MICE, interquartile_mean, rng(), 2000, confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert stratified_bootstrap(MICE, mean, rng(1), 100) == stratified_bootstrap(MICE, mean, rng(1), 100)
    assert stratified_bootstrap(MICE, mean, rng(1), 100) != stratified_bootstrap(MICE, mean, rng(2), 100)


# --- pairs ---------------------------------------------------------------------------------------------------------------------------------------


def test_what_the_seed_does_to_both_cancels():
    theirs = rng().normal(size=(10, 4)) * 100
    for statistic in (interquartile_mean, mean, median):
        found = paired_difference(theirs + 3, theirs, statistic, rng(), 500)
        assert found == (pytest.approx(3), pytest.approx(3), pytest.approx(3))


def test_the_paired_interval_of_the_mean_is_that_of_the_differences():
    ours, theirs = rng(1).normal(size=(8, 2)), rng(2).normal(size=(8, 2))
    assert paired_difference(ours, theirs, mean, rng(), 1000) == pytest.approx(stratified_bootstrap(ours - theirs, mean, rng(), 1000))


def test_the_paired_interval_is_that_of_all_resamples():
    ours, theirs = np.array([[0.0], [4.0], [9.0], [1.0]]), np.array([[2.0], [3.0], [3.0], [0.0]])
    chosen = np.array(list(itertools.product(range(4), repeat=4)))
    exact = quantiles(interquartile_mean(ours[chosen]) - interquartile_mean(theirs[chosen]), 0.8)
    found = paired_difference(ours, theirs, interquartile_mean, rng(), 40_000, confidence=0.8)
    assert (found.low, found.high) == pytest.approx(tuple(exact))


def test_the_paired_difference_is_antisymmetric():
    ours, theirs = rng(1).normal(size=9), rng(2).normal(size=9)
    a, b = paired_difference(ours, theirs, median, rng(), 500), paired_difference(theirs, ours, median, rng(), 500)
    assert (a.estimate, a.low, a.high) == pytest.approx((-b.estimate, -b.high, -b.low))


# --- words ---------------------------------------------------------------------------------------------------------------------------------------


def test_an_interval_reads_aloud():
    assert str(Interval(0.5, 0.25, 0.8126)) == "0.500 [0.250, 0.813]"


@pytest.mark.parametrize(
    ("scores", "settings", "message"),
    [
        ([], {}, r"need scores \[K\] or \[K, M\]; got shape \(0,\)"),
        (3.0, {}, r"got shape \(\)"),
        (np.zeros((2, 2, 2)), {}, r"runs by tasks, or \[K\]; got shape \(2, 2, 2\)"),
        ([[1.0, 2.0], [np.nan, 1.0]], {}, r"at \[1, 0\] is not finite"),
        ([1.0], {}, "at least 2 runs"),
        ([1.0, 2.0], {"num_resamples": 0}, "num_resamples is at least 1"),
        ([1.0, 2.0], {"confidence": 95}, "confidence in"),
    ],
)
def test_wrong_use(scores, settings, message):
    with pytest.raises(ValueError, match=message):
        stratified_bootstrap(scores, mean, rng(), **settings)
    with pytest.raises(ValueError, match=message):
        paired_difference(scores, scores, mean, rng(), **settings)


def test_pairs_need_one_shape():
    with pytest.raises(ValueError, match="the same seeds in the same rows"):
        paired_difference([1, 2, 3], [1, 2], mean, rng())
