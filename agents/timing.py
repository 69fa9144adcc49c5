"""Where the time of training goes, by stages: free of charge until somebody asks.

    with stopwatch() as watch:
        ppo.train(env, policy)
    print(watch.seconds)

A stage within another one is counted for itself alone, so that the seconds of all stages add up to the whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType

REST = "everything else"


@dataclass
class Stopwatch:
    """Seconds of each stage so far; `REST` is what no stage claims."""

    seconds: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=lambda: [REST])
    _since: float = field(default_factory=time.perf_counter)

    def turn(self, to: str | None) -> None:
        """Begin a stage, or end the present one (None)."""
        now, name = time.perf_counter(), self._open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now
        if to is None:
            self._open.pop()
        else:
            self._open.append(to)

    def table(self) -> list[tuple[str, float, float]]:
        """Return stages, their seconds and their shares of all, the longest first."""
        total = sum(self.seconds.values()) or 1.0
        return [(name, seconds, seconds / total) for name, seconds in sorted(self.seconds.items(), key=lambda pair: -pair[1])]


_WATCH: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time the stages of what happens inside, in this thread."""
    watch = Stopwatch()
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        watch.turn(None)
        _WATCH.reset(token)


class stage:
    """A part of training that is timed if a `stopwatch` runs: `with stage("environment"): ...`; a class, because it is entered at every step."""

    __slots__ = ("_name", "_watch")

    def __init__(self, name: str) -> None:
        self._name, self._watch = name, _WATCH.get()

    def __enter__(self) -> None:
        if self._watch is not None:
            self._watch.turn(self._name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._watch is not None:
            self._watch.turn(None)
