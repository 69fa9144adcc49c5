"""Where the time goes: stages add up, the inner one counts for itself, and nobody pays who did not ask."""

from __future__ import annotations

import time

import pytest

from agents.timing import REST, stage, stopwatch


def work(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_stages_add_up_and_do_not_overlap() -> None:
    began = time.perf_counter()
    with stopwatch() as watch:
        for _ in range(3):
            with stage("outer"):
                work(0.004)
                with stage("inner"):
                    work(0.01)
        work(0.005)
    whole = time.perf_counter() - began
    assert sum(watch.seconds.values()) == pytest.approx(whole, rel=0.05)
    assert set(watch.seconds) == {"outer", "inner", REST}
    assert watch.seconds["inner"] > watch.seconds["outer"] > 0.01
    names, _, shares = zip(*watch.table(), strict=True)
    assert names[0] == "inner"
    assert sum(shares) == pytest.approx(1.0)


def test_a_stage_ends_with_an_exception_and_counts_nowhere_else() -> None:
    def fail() -> None:
        work(0.002)
        raise ValueError("no")

    with stopwatch() as watch:
        with pytest.raises(ValueError, match="no"), stage("failed"):
            fail()
        work(0.002)
    before = dict(watch.seconds)
    with stage("after"):
        work(0.001)
    assert watch.seconds == before
    assert set(before) == {"failed", REST}


def test_watches_do_not_see_one_another() -> None:
    with stopwatch() as outer:
        with stopwatch() as inner, stage("here"):
            work(0.002)
        with stage("there"):
            work(0.002)
    assert "here" in inner.seconds
    assert "here" not in outer.seconds
    assert "there" in outer.seconds
