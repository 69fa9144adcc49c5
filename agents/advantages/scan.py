"""Sums that run backwards through time, done in blocks of steps that stay in a cache of the processor.

Where T x N is large, the time goes into memory and not into arithmetic: a block is read once, worked on in place and left for good.

Axis legend: T steps, N environments, K steps of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..rollout import BoolArray, FloatArray, IntArray

BLOCK = 1 << 17  # numbers of each array that are worked on at a time, 1 MiB: five arrays stay in the third level's cache, and there are few calls


def blocks(shape: tuple[int, ...], share: int = 1) -> list[slice]:
    """Return slices of the steps of an array [T, N], first to last, of about `BLOCK / share` numbers each."""
    height = _height(shape, share)
    return [slice(first, min(first + height, shape[0])) for first in range(0, shape[0], height)]


def workspace(shape: tuple[int, ...], share: int = 1) -> FloatArray:
    """Return memory [K, N] for one of the `blocks` of an array [T, N]."""
    return np.empty((min(shape[0], _height(shape, share)), shape[1]))


def _height(shape: tuple[int, ...], share: int) -> int:
    return max(1, BLOCK // share // max(1, shape[1]))


def scan(
    fill: Callable[[slice, FloatArray, FloatArray], object],
    after: FloatArray,
    out: FloatArray,
    then: Callable[[slice], object] | None = None,
    scratch: FloatArray | None = None,
) -> FloatArray:
    """Return y_t = x_t + c_t y_{t+1}, written into `out` [T, N], with y_T = `after` [N].

    `fill` writes the x and the c of a slice of steps into two arrays [K, N]; `then` is called with the slice when its y stand in `out`, and may write
    there as well. Until then the c stand in `scratch` [T, N]: what `then` will write into, for one, since the fewer arrays, the better they are cached.
    """
    for part in reversed(blocks(out.shape)):
        x = out[part]
        carry = np.empty(x.shape) if scratch is None else scratch[part]
        fill(part, x, carry)
        after = accumulate(x, carry, after).copy()
        if then is not None:
            then(part)
    return out


def accumulate(x: FloatArray, carry: FloatArray, after: FloatArray) -> FloatArray:
    """Write x_t + carry_t x_{t+1} + carry_t carry_{t+1} x_{t+2} + ... over `x` [K, N] and return its first row.

    `after` [N] is the sum that stands at step K. `carry` must be finite, and is written over; 0 does not stop a NaN.
    """
    multiply, add, following = np.multiply, np.add, after
    for row, factor in zip(x[::-1], carry[::-1], strict=True):  # where rows are short, this loop is all of the time
        following = add(row, multiply(factor, following, factor), row)
    return following


def open_bits(closed: BoolArray, memory: FloatArray) -> IntArray:
    """Return int64 [K, N] in the place of `memory`: all bits set where not `closed`, none where `closed`."""
    found = memory.view(np.int64)
    np.copyto(found, np.asarray(closed, dtype=np.bool_).view(np.int8) - np.int8(1))  # -1 is all bits; the copy widens it
    return found


def close(x: FloatArray, bits: IntArray) -> None:
    """Write 0 over `x` [K, N] where `open_bits` are not set, NaN and infinity included: in half the time of a product with truths."""
    seen = x.view(np.int64)
    np.bitwise_and(seen, bits, out=seen)


def float64(*arrays: np.ndarray[Any, Any]) -> list[FloatArray]:
    """Return arrays as float64 (themselves where they are); sums are carried over thousands of steps."""
    return [np.asarray(array, dtype=np.float64) for array in arrays]


def same_shape(*arrays: np.ndarray[Any, Any]) -> None:
    """Raise `ValueError` unless all arrays are [T, N]."""
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or len(arrays[0].shape) != 2:
        raise ValueError(f"The arrays of an estimator are all [T, N]; got {', '.join(map(str, sorted(shapes)))}.")
