"""Sparse, masked, banned and shared parts: each answer of `Allowed` against the flags written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textgym.allowed import Allowed, small

pytestmark = pytest.mark.core

V, B = 7, 4


def parts(random: np.random.Generator) -> Allowed:
    """Return any mixture of parts."""
    ids = random.integers(V + 1, size=(B, random.integers(1, 6))) if random.random() < 0.5 else None
    banned = random.integers(V + 1, size=(B, random.integers(1, 9))) if random.random() < 0.5 else None
    kind, share = random.integers(4), random.choice([0.1, 0.5])
    mask = [None, random.random(V) < share, random.random((B, V)) < share, random.random((3, V)) < share][kind]
    which = random.integers(3, size=B) if kind == 3 else None
    least = 0
    if random.random() < 0.5:
        if mask is not None and ids is None:
            least = int((mask if which is None else mask[which]).sum(axis=-1).min())
        elif ids is not None and mask is None:
            least = min(len(set(row) - {V}) for row in ids.tolist())
    return Allowed(ids, mask, banned, which, least)


def flags(allowed: Allowed) -> np.ndarray:
    """Return the meaning of the parts, id by id: what the fast ways are held to."""
    found = np.ones((B, V), dtype=bool)
    for b in range(B):
        for v in range(V):
            if allowed.ids is not None:
                found[b, v] &= v in allowed.ids[b].tolist()
            if allowed.mask is not None:
                row = allowed.mask if allowed.mask.ndim == 1 else allowed.mask[b if allowed.which is None else allowed.which[b]]
                found[b, v] &= row[v]
            if allowed.banned is not None:
                found[b, v] &= v not in allowed.banned[b].tolist()
    return found


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_every_answer_follows_from_the_parts(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = parts(random), parts(random)
    expected = flags(one)
    dense = one.dense(B, V)
    assert np.array_equal(dense, expected)
    tokens = random.integers(V, size=B)
    assert np.array_equal(one.has(tokens), expected[np.arange(B), tokens])
    assert np.array_equal(one.nothing(B, V), ~expected.any(axis=1))
    rows = random.integers(B, size=B)
    assert np.array_equal(one.take(rows).dense(B, V), expected[rows])
    both = one.both(other, V)
    assert np.array_equal(both.dense(B, V), expected & flags(other))
    assert np.array_equal(both.has(tokens), (expected & flags(other))[np.arange(B), tokens])
    assert np.array_equal(both.nothing(B, V), ~(expected & flags(other)).any(axis=1))
    dense[:] = False  # fresh memory: nothing of the parts is written to
    assert np.array_equal(one.dense(B, V), expected)


def test_many_rows_and_small_ids_give_the_same_answer() -> None:
    random = np.random.default_rng(0)
    ids = random.integers(50_258, size=(200, 30))
    tokens = np.where(random.random(200) < 0.5, ids[:, 3] % 50_257, random.integers(50_257, size=200))
    expected = [token in row for token, row in zip(tokens.tolist(), ids.tolist(), strict=True)]
    for kind in (np.int64, np.int32, np.uint16):
        assert Allowed(ids=ids.astype(kind)).has(tokens).tolist() == expected
    assert small(ids, 50_257).dtype == np.uint16
    assert small(ids, 70_000).dtype == np.uint32
