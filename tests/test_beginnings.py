"""Sequences that begin alike: what is cut off, and when that is worth it.

Axis legend: S sequences, W their tokens.
"""

import numpy as np

from agents.policies.beginnings import rests


def test_a_few_long_prompts_make_no_long_keys_for_all() -> None:
    sizes = np.repeat([20, 220], [100, 4])
    tokens = np.ones((104, 220), np.int64)
    rows, places = np.nonzero(np.arange(220) == sizes[:, None] - 5)
    assert rests(tokens, sizes, rows, places).beginnings is None
    assert rests(tokens[:100], sizes[:100], rows[:100], places[:100]).beginnings is not None


def test_a_cut_holds_every_token() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(18, 30, 40)
    tokens = np.where(np.arange(sizes.max()) < sizes[:, None], rng.integers(1, 9, (40, sizes.max())), 0)
    first = np.array([9, 14, 15])[np.arange(40) % 3]
    for number in range(3):
        tokens[number::3, : first[number]] = tokens[number, : first[number]]
    rows, places = np.nonzero((np.arange(sizes.max()) >= first[:, None]) & (np.arange(sizes.max()) < sizes[:, None]))
    cut = rests(tokens, sizes, rows, places)
    assert cut.beginnings is not None
    assert sorted(cut.beginnings.sizes) == [9, 14, 15]
    np.testing.assert_array_equal(cut.tokens[rows, places - cut.starts[rows]], tokens[rows, places])
    np.testing.assert_array_equal(cut.starts + cut.sizes, sizes)
    for row, number in enumerate(cut.beginnings.of):
        size = cut.beginnings.sizes[number]
        np.testing.assert_array_equal(cut.beginnings.tokens[number, :size], tokens[row, :size])
