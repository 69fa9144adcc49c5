"""Normalisation, the critic's explained variance, and baselines that a training loop keeps."""

import numpy as np
import pytest
from rollouts import NAN, NO, column

from agents import advantages as adv

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


@pytest.mark.parametrize("how", ["none", "minibatch"])
def test_what_is_not_normalised_here(how):
    assert adv.normalise(column(1, 3, NAN), VALID, how).ravel().tolist() == [1, 3, 0]


def test_normalise_within_groups():
    advantages, groups = np.array([[1.0, 10.0], [3.0, 30.0], [NAN, 20.0]]), np.array([[7, 2], [7, 2], [2, 2]])
    valid = ~np.isnan(advantages)
    deviation = np.sqrt(200 / 3)
    expected = [[-1, -10 / deviation], [1, 10 / deviation], [0, 0]]
    np.testing.assert_allclose(adv.normalise(advantages, valid, "group", groups), expected, rtol=1e-7)
    assert not adv.normalise(np.full((3, 2), 0.1), valid, "group", groups).any()
    assert not adv.normalise(advantages, valid & False, "group", groups).any()


def test_normalise_refuses():
    with pytest.raises(ValueError, match="normalised by 'batch', 'minibatch', 'group', 'none', not 'row'"):
        adv.normalise(column(1, 3, NAN), VALID, "row")
    with pytest.raises(ValueError, match=r'"group" needs groups \[T, N\], .* normalise by "batch"'):
        adv.normalise(column(1, 3, NAN), VALID, "group")


def test_running_mean():
    assert adv.running_mean(None, np.array([1.0, 3.0])) == 2.0
    assert adv.running_mean(2.0, np.array([12.0]), decay=0.75) == 4.5
    for decay, returns in ((1.5, [1.0]), (0.5, [])):
        with pytest.raises(ValueError, match=r"decay in \[0, 1\] and at least one return"):
            adv.running_mean(0.0, np.array(returns), decay)
