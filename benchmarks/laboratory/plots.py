"""Pictures of the figures, in colours that the colour-blind can tell apart (Okabe & Ito 2008), each line with a mark of its own.

Axis legend: K seeds, M problems, U updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agents import files

from ..statistics import Interval, interquartile_mean, stratified_bootstrap
from .tables import Curves, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
STROKES = ("-", "-", "--", "-", "-", "--", "-", "-")  # so that of two lines that coincide both are seen


class Line(NamedTuple):
    """A series with its band."""

    name: str
    xs: Sequence[float]
    intervals: Sequence[Interval]


class Panel(NamedTuple):
    """What stands on a pair of axes."""

    title: str
    lines: Sequence[Line]
    x: str
    y: str
    log: tuple[bool, bool] = (False, False)


def draw(path: Path, title: str, panels: Sequence[Panel], columns: int, *, legend_columns: int = 4, marks_every: int = 1, same_y: bool = False) -> None:
    """Draw panels row by row into a PNG, with one legend below for all, or one in each panel where there are more names than colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.0 * columns, 3.1 * rows + 1.0), dpi=110, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.1), facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, fontweight="bold")
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    shared = len(names) <= len(COLORS)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        styles = names if shared else [line.name for line in panel.lines]
        _panel(axes, panel, styles, marks_every)
        if not shared:
            axes.legend(fontsize=7.5, frameon=False, loc="lower right")
    if same_y:
        low, high = zip(*(axes.get_ylim() for axes in figure.axes), strict=True)
        for axes in figure.axes:
            axes.set_ylim(min(low), max(high))
    if shared:
        _legend(figure, legend_columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(path) as temporary:
        figure.savefig(temporary, format="png")


def _legend(figure: Figure, columns: int) -> None:
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def _panel(axes: Axes, panel: Panel, names: Sequence[str], marks_every: int) -> None:
    from matplotlib.ticker import LogFormatter

    for line in panel.lines:
        style = names.index(line.name)
        middle, low, high = np.array(line.intervals).T
        look: dict[str, Any] = {"color": COLORS[style], "marker": MARKS[style], "linestyle": STROKES[style], "markevery": marks_every}
        axes.plot(line.xs, middle, markersize=4.5, linewidth=1.5, label=line.name, **look)
        axes.fill_between(line.xs, low, high, color=COLORS[style], alpha=0.18, linewidth=0)
    if panel.log[0]:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    if panel.log[1]:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, high / 1e4), high)  # an error of nothing but rounding would squeeze all the others
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.3, 0.4)))
    axes.set_title(panel.title, loc="left", fontsize=10)
    axes.set_xlabel(panel.x, fontsize=9)
    axes.set_ylabel(panel.y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e3e5e8", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def lines_of(rows: Sequence[Row], measure: str) -> list[Line]:
    """Return a line for each estimator in rows of one problem and one critic."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.measure == measure and row.value is not None:
            found.setdefault(row.estimator, []).append(row)
    return [Line(name, [float(row.value or 0) for row in own], [row.interval for row in own]) for name, own in found.items()]


def of_lambda(rows: Sequence[Row], path: Path, critic: str) -> None:
    """Draw bias, variance and error over lambda: advantages above, gradients below."""
    own = [row for row in rows if row.sweep == "lambda" and row.critic == critic]
    kinds: dict[str, Mapping[str, str]] = {
        "advantage": {"bias": "squared bias", "variance": "variance", "error": "mean squared error", "bias of actions": "squared bias of actions"},
        "gradient": {"gradient bias": "squared bias", "gradient variance": "variance", "gradient error": "mean squared error"},
    }
    panels = []
    for kind, measures in kinds.items():
        unit = "in parts of E[A²]" if kind == "advantage" else "in parts of |gradient|²"
        for problem in dict.fromkeys(row.problem for row in own):
            here = [row for row in own if row.problem == problem]
            lines = [lines_of(here, measure)[0]._replace(name=name) for measure, name in measures.items()]
            panels.append(Panel(f"{problem}: {kind}", lines, "lambda", unit))
    draw(path, f"GAE over lambda, {critic} critic, with 95 % intervals", panels, len(panels) // 2)


def of_sweep(rows: Sequence[Row], path: Path, sweep: str, title: str, measures: Mapping[str, str], *, log: tuple[bool, bool] = (True, True)) -> None:
    """Draw measures over what a sweep varies, a column for each problem and a row for each measure."""
    own = [row for row in rows if row.sweep == sweep]
    problems = list(dict.fromkeys(row.problem for row in own))
    panels = [
        Panel(problem, lines_of([row for row in own if row.problem == problem], measure), own[0].variable, label, log)
        for measure, label in measures.items()
        for problem in problems
    ]
    draw(path, title, panels, len(problems) if len(problems) > 1 else len(panels))


def of_learning(curves: Curves, path: Path, generator: np.random.Generator, num_resamples: int) -> None:
    """Draw interquartile means over seeds and problems with 95 % stratified bootstrap intervals: without a critic, and with one."""
    asks = {name: "learned" in name or "exact" in name for name in curves}
    panels = []
    for title, wanted in (("without a critic", False), ("with a critic", True)):
        lines = []
        for name in (name for name in curves if asks[name] == wanted):
            scores, own = curves[name][0], []
            for update in range(scores.shape[-1]):
                own.append(stratified_bootstrap(scores[..., update], interquartile_mean, generator, num_resamples))
            lines.append(Line(name, range(len(own)), own))
        panels.append(Panel(title, lines, "updates of 32 episodes", "share of the way to the best return (IQM)"))
    draw(path, "Learning curves by estimator, with 95 % stratified bootstrap intervals", _halved(panels), 3, marks_every=8, same_y=True)


def _halved(panels: Sequence[Panel]) -> list[Panel]:
    """Return panels of which none has more lines than there are colours."""
    parts = []
    for panel in panels:
        count = -(-len(panel.lines) // len(COLORS))
        size = -(-len(panel.lines) // count)
        parts += [panel._replace(lines=panel.lines[i : i + size]) for i in range(0, len(panel.lines), size)]
    return parts
