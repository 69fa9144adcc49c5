"""A line of a table: what was measured of us and of a peer, their ratio, and the bar it is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..machine import print_table

COLUMNS = ("", "ours", "theirs", "unit", "ratio", "bar", "goal", "")


class Bar(NamedTuple):
    """What a ratio must reach, and what it should; with `below`, what it must not exceed."""

    bar: float
    goal: float
    below: bool = False

    def verdict(self, ratio: float) -> str:
        """Return what a ratio comes to: "goal", "bar" or "NO"."""
        sign = -1 if self.below else 1
        return "goal" if sign * ratio >= sign * self.goal else "bar" if sign * ratio >= sign * self.bar else "NO"


class Line(NamedTuple):
    """One comparison; without a peer the figure itself is held to the bar."""

    name: str
    ours: float
    theirs: float | None
    unit: str
    bar: Bar | None = None
    note: str = ""  # said instead of a verdict

    @property
    def ratio(self) -> float:
        """Return ours as a multiple of theirs, or ours alone."""
        return self.ours if self.theirs is None else self.ours / self.theirs

    @property
    def verdict(self) -> str:
        """Return "goal", "bar" or "NO"; the note where no bar is held against the ratio."""
        return self.note if self.bar is None else self.bar.verdict(self.ratio)

    def cells(self) -> list[str]:
        """Return it as `COLUMNS`."""
        theirs, ratio = ("", "") if self.theirs is None else (number(self.theirs), f"{self.ratio:.2f}")
        bars = ["", ""] if self.bar is None else [number(self.bar.bar), number(self.bar.goal)]
        return [self.name, number(self.ours), theirs, self.unit, ratio, *bars, self.verdict]

    def as_dict(self) -> dict[str, object]:
        """Return it for a JSON file."""
        told = self._asdict() | {"ratio": self.ratio, "verdict": self.verdict}
        return told | {"bar": None if self.bar is None else self.bar._asdict()}


class NotRun(NamedTuple):
    """A comparison that was left out, and why."""

    name: str
    why: str

    def as_dict(self) -> dict[str, object]:
        """Return it for a JSON file."""
        return {"name": self.name, "not_run": self.why}


def number(value: float) -> str:
    """Return a number in at most four figures behind which nobody should look."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(title: str, lines: Sequence[Line | NotRun]) -> list[dict[str, object]]:
    """Print a table of lines, and below it what was not run; return all for a JSON file."""
    if measured := [line.cells() for line in lines if isinstance(line, Line)]:
        print_table(f"\n{title}", COLUMNS, measured)
    for line in lines:
        if isinstance(line, NotRun):
            print(f"{line.name}: not run: {line.why}", flush=True)
    return [line.as_dict() for line in lines]
