"""A promise that no weight changes for a while: what depends on weights is then checked once, not at every step.

    with steady_weights():
        ...  # policies act

One promise inside another is another one: what was checked under the outer one is checked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PROMISE: ContextVar[object | None] = ContextVar("promise", default=None)


@contextmanager
def steady_weights() -> Iterator[None]:
    """Promise that no policy's weights change inside, in this thread."""
    token = _PROMISE.set(object())
    try:
        yield
    finally:
        _PROMISE.reset(token)


def promise() -> object | None:
    """Return the promise that holds now, told apart from all others by identity; None if there is none."""
    return _PROMISE.get()
