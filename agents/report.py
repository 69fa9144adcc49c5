"""What a finished run looks like: a picture of its learning curves and a page of samples before and after."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
_COLORS = ("#1f5fa8", "#d1662b", "#3b8f5a", "#8a4fa3")
_INK, _FAINT = "#2b2f36", "#8a9099"


class Panel(NamedTuple):
    """One small plot: those of `metrics` that were logged share its y axis."""

    title: str
    metrics: tuple[str, ...]


PANELS = (
    Panel("Return", ("return", "eval/score")),
    Panel("Held-out samples", ("eval/gold", "eval/eos", "eval/distinct")),
    Panel("KL from the reference", ("kl", "eval/kl")),
    Panel("Entropy", ("entropy",)),
    Panel("Value error", ("value_error",)),
    Panel("Explained variance", ("explained_variance",)),
)
SUPERVISED_PANELS = (  # of agents.sft: next tokens and demonstrations
    Panel("Loss, nats", ("loss", "heldout_loss")),
    Panel("Accuracy", ("accuracy", "heldout_accuracy", "heldout_exact")),
    Panel("Error of real actions", ("error", "heldout_error")),
)


class Sample(NamedTuple):
    """One prompt, what the policy made of it before and after training, and what that scored."""

    prompt: str
    before: str
    after: str
    score_before: float
    score_after: float


def learning_curve(history: Sequence[Row], path: Path | str, panels: Sequence[Panel] = PANELS, *, title: str = "", x: str = "steps") -> None:
    """Draw a run's metrics over its steps into a PNG, written atomically; panels without a logged metric are left out.

    A long series is drawn thin, under its running mean. Raises `ValueError` if nothing is left to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    series = [(panel.title, {name: points for name in panel.metrics if (points := _points(history, name, x))}) for panel in panels]
    drawn = [(heading, lines) for heading, lines in series if lines]
    if not drawn:
        wanted = ", ".join(name for panel in panels for name in panel.metrics)
        raise ValueError(f"None of {wanted} was logged in the {len(history)} iterations; pass panels=... with metrics that were.")
    columns = {4: 2, 7: 4, 8: 4}.get(len(drawn), min(3, len(drawn)))  # fewest holes
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(
        figsize=(4.2 * columns, 2.7 * rows + (0.45 if title else 0.0)), dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1), facecolor="white"
    )
    FigureCanvasAgg(figure)
    end = max(xs[-1] for _, lines in drawn for xs, _ in lines.values())
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=_INK)
    for position, (heading, lines) in enumerate(drawn):
        axes = figure.add_subplot(rows, columns, position + 1)
        _draw(axes, heading, lines)
        if end > 0:
            axes.set_xlim(-0.02 * end, 1.03 * end)
        if position + columns >= len(drawn):  # the lowest of its column
            axes.set_xlabel(x if x != "steps" else "environment steps", fontsize=9, color=_FAINT)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(path) as temporary:
        figure.savefig(temporary, format="png")


def samples_markdown(
    rows: Iterable[Sample | tuple[str, str, str, float, float]], path: Path | str, *, title: str = "Samples before and after training"
) -> None:
    """Write a Markdown page with one table row a prompt and the mean scores above it, atomically."""
    samples = [Sample(*row) for row in rows]
    lines = [f"# {title}", ""]
    if samples:
        before, after = (sum(scores) / len(samples) for scores in zip(*((s.score_before, s.score_after) for s in samples), strict=True))
        lines += [f"Mean score over {len(samples)} prompts: {before:.3f} before, **{after:.3f}** after ({after - before:+.3f}).", ""]
    lines += ["| prompt | before | score | after | score |", "|---|---|---:|---|---:|"]
    for s in samples:
        lines.append(f"| {_cell(s.prompt)} | {_cell(s.before)} | {s.score_before:.3f} | {_cell(s.after)} | {s.score_after:.3f} |")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, "\n".join(lines) + "\n")


def _points(history: Sequence[Row], name: str, x: str) -> tuple[list[float], list[float]] | None:
    """Return where and what was logged under a name, or None."""
    found = [(float(row[x]), float(row[name])) for row in history if name in row]
    return ([a for a, _ in found], [b for _, b in found]) if found else None


def _draw(axes: Axes, heading: str, lines: Mapping[str, tuple[list[float], list[float]]]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for (name, (xs, ys)), color in zip(lines.items(), _COLORS * len(lines), strict=False):
        window = max(1, len(ys) // 20)
        if window > 1:
            axes.plot(xs, ys, color=color, alpha=0.22, linewidth=0.8)
        marker = "o" if len(ys) <= 30 else ""
        axes.plot(xs, _running_mean(ys, window), color=color, linewidth=1.9, marker=marker, markersize=3, label=name, solid_capstyle="round")
    axes.set_title(heading, loc="left", fontsize=10.5, fontweight="bold", color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=8, colors=_FAINT, length=0)
    axes.grid(color="#e7e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02, y=0.1)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c9cdd2")
    if len(lines) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=_INK)


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean around each value; centred, and narrower near the ends, so that it does not lag behind."""
    reach = [min(window // 2, i, len(values) - 1 - i) for i in range(len(values))]
    return [sum(values[i - r : i + r + 1]) / (2 * r + 1) for i, r in enumerate(reach)]


def _cell(text: str) -> str:
    """Return the text so that a Markdown table shows it as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)
    return re.sub(r"\r\n|\r|\n", "<br>", text) or "*(empty)*"
