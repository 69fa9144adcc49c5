"""What a run shows while it goes: a live table in a terminal, a few plain lines in a pipe, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Row = Mapping[str, Any]
_BARS = "▁▂▃▄▅▆▇█"
_TREND = 32  # characters of a trend in the live table
_LINE_SECONDS = 5.0


class Display(Protocol):
    """Shows a run: `start` and `close` once, `update` after each iteration, `say` for a line that stays."""

    def start(self, history: Sequence[Row]) -> None:
        """Begin, with the rows of the iterations that were done before (by a run that is now resumed)."""

    def update(self, row: Row) -> None:
        """Show the row of the iteration just done."""

    def note(self, text: str) -> None:
        """Show a passing remark, if it can be done at once; called from a signal handler, so it must not print."""

    def say(self, text: str) -> None:
        """Print a line that stays."""

    def close(self) -> None:
        """Leave the last state on the screen and give the terminal back."""


def make_display(title: str, total: int, show: Sequence[str], quiet: bool = False) -> Display:
    """Return the display for where standard output goes."""
    if quiet:
        return Silent()
    return Live(title, total, show) if sys.stdout.isatty() else Lines(title, total, show)


class Silent:
    """Shows nothing."""

    def start(self, history: Sequence[Row]) -> None:
        """Do nothing."""

    def update(self, row: Row) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Lines:
    """Prints an aligned line for the first and the last iteration, about every 10 % between, and every 5 s where these are slower.

    The 5 s grow to a twentieth of the time gone by, so that a run of ten hours prints some 150 lines and not 7200.
    """

    def __init__(self, title: str, total: int, show: Sequence[str]) -> None:
        self._title, self._total, self._show = title, total, tuple(show)
        self._clock = Clock(total)
        self._printed_at = 0.0
        self._printed_done = 0
        self._first = True

    def start(self, history: Sequence[Row]) -> None:
        """Print the title and the names of the columns."""
        self._clock.start(len(history))
        self._printed_done = len(history)
        names = ["iteration", "steps", *self._show, "steps/s", "left"]
        self.say(f"{self._title or 'run'}: {self._total} iterations" + (f", going on after {len(history)}" if history else ""))
        if len(history) < self._total:
            self.say(self._aligned(names))

    def update(self, row: Row) -> None:
        """Print a line for the row if one is due."""
        done = row["iteration"] + 1
        elapsed = self._clock.elapsed()
        due = self._first or done >= self._total or (done - self._printed_done) * 10 >= self._total
        if not due and elapsed - self._printed_at < max(_LINE_SECONDS, elapsed / 20):
            return
        self._first, self._printed_at, self._printed_done = False, elapsed, done
        values = [number(row.get(name)) for name in self._show]
        speed = number(row.get("time/steps_per_second"))
        self.say(self._aligned([f"{done}/{self._total}", f"{row['steps']:,}", *values, speed, duration(self._clock.left(done))]))

    def note(self, text: str) -> None:
        """Do nothing: printing from a signal handler could interrupt another print."""

    def say(self, text: str) -> None:
        """Print the line at once, also into a pipe."""
        print(text, flush=True)

    def close(self) -> None:
        """Do nothing."""

    def _aligned(self, cells: Sequence[str]) -> str:
        widths = [max(9, 2 * len(str(self._total)) + 1), 13, *(max(10, len(name)) for name in self._show), 11, 8]
        return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


class Live:
    """Redraws a progress bar and a table of the latest metrics in a terminal."""

    def __init__(self, title: str, total: int, show: Sequence[str], console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._title, self._total, self._show = title, total, tuple(show)
        self._clock = Clock(total)
        self._rows: list[Row] = []
        self._note = ""
        self._console = console or Console()
        self._live = RichLive(console=self._console, get_renderable=self._render, refresh_per_second=4)

    def start(self, history: Sequence[Row]) -> None:
        """Begin to draw."""
        self._rows = list(history)
        self._clock.start(len(history))
        self._live.start()

    def update(self, row: Row) -> None:
        """Keep the row for the next redraw, a quarter of a second away at most."""
        self._rows.append(row)

    def note(self, text: str) -> None:
        """Show the text beneath the bar from the next redraw on."""
        self._note = text

    def say(self, text: str) -> None:
        """Print the line above the live part, or after it once that is closed."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Draw once more and stop."""
        self._note = ""
        self._live.stop()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [self._bar()]
        if self._rows:
            parts.append(self._table())
        if self._note:
            parts.append(Text(self._note, style="yellow"))
        return Group(*parts)

    def _bar(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done = len(self._rows)
        grid = Table.grid(padding=(0, 2))
        left = f"{duration(self._clock.left(done))} left" if done < self._total else f"{duration(self._clock.elapsed())}, done"
        bar = ProgressBar(total=max(self._total, 1), completed=done, width=30)
        grid.add_row(Text(self._title, style="bold"), bar, Text(f"{done}/{self._total}"), Text(left, style="cyan"))
        return grid

    def _table(self) -> RenderableType:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
        table.add_column("metric")
        table.add_column("latest", justify="right", min_width=10)
        table.add_column("trend", min_width=_TREND)
        table.add_row(
            Text("steps"), Text(f"{self._rows[-1]['steps']:,}"), Text(f"{number(self._rows[-1].get('time/steps_per_second'))} per second", style="dim")
        )
        for name in self._show:
            values = [row[name] for row in self._rows if name in row]
            table.add_row(Text(name), Text(number(values[-1] if values else None)), Text(sparkline(values, _TREND), style="green"))
        return table


class Clock:
    """Tells how long a run has gone and how long it has to go, from the iterations done in this process."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done_before = 0
        self._began = time.monotonic()

    def start(self, done_before: int) -> None:
        """Begin to count."""
        self._done_before, self._began = done_before, time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began

    def left(self, done: int) -> float | None:
        """Return the seconds that the rest will take at the mean speed so far, None before the first iteration."""
        here = done - self._done_before
        return (self._total - done) * self.elapsed() / here if here > 0 else None


def number(value: float | None) -> str:
    """Return a short text for a metric: four significant digits, a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.3e}"
    return f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """Return minutes:seconds or hours:minutes:seconds, a dash for none."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return a line of at most `width` block characters, each the mean of an equal share of the values."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [i * len(values) // width for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)
