"""Coefficients that move while training goes on."""

from __future__ import annotations


def linear(first: float, last: float | None, done: float) -> float:
    """Return the value `done` in [0, 1] of the way from `first` to `last` in a straight line; `last` None: always `first`."""
    return first if last is None else first + (last - first) * done
