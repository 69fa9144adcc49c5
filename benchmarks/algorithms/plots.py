"""The table as a picture: a panel for each task, a dot and its interval for each algorithm and estimator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agents import files

from .entrants import ALGORITHMS
from .tables import Cell
from .tasks import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"ppo": "#1f5fa8", "a2c": "#d1662b", "policy_gradient": "#3b8f5a"}
INK, FAINT = "#2b2f36", "#8a9099"


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Draw the score of every cell into a PNG, written atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    cells = [cell for cell in cells if cell.scores]
    panels = list(dict.fromkeys((cell.task, cell.figure) for cell in cells))
    heights = [len({cell.estimator for cell in cells if (cell.task, cell.figure) == panel}) for panel in panels]
    columns = min(3, len(panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    ratios = [max(heights[panels.index(panel)] for panel in row) + 1.6 for row in rows]
    figure = Figure(figsize=(4.6 * columns, 0.33 * sum(ratios) + 0.6), dpi=160, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), columns, height_ratios=ratios)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(grid[i // columns, i % columns])
        _panel(axes, [cell for cell in cells if (cell.task, cell.figure) == panel])
        name = TASKS[panel[0]].name
        axes.set_title(name if panel[1] == "score" else f"{name}, {panel[1]}", loc="left", fontsize=10.5, fontweight="bold", color=INK)
        if i == 0:
            axes.legend(fontsize=8, frameon=False, labelcolor=INK, loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(path) as temporary:
        figure.savefig(temporary, format="png")


def _panel(axes: Axes, cells: Sequence[Cell]) -> None:
    names = list(dict.fromkeys(cell.estimator for cell in cells))
    for j, algorithm in enumerate(ALGORITHMS):
        drawn = [cell for cell in cells if cell.algorithm == algorithm]
        places = [names.index(cell.estimator) + 0.24 * (j - 1) for cell in drawn]
        centres = [cell.interval.estimate if cell.interval else cell.scores[0] for cell in drawn]
        ends = [(cell.interval.low, cell.interval.high) if cell.interval else (cell.scores[0], cell.scores[0]) for cell in drawn]
        axes.hlines(places, [low for low, _ in ends], [high for _, high in ends], color=COLOURS[algorithm], linewidth=1.6)
        axes.plot(centres, places, "o", color=COLOURS[algorithm], markersize=4, label=algorithm.replace("_", " "))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8, colors=FAINT, length=0)
    axes.grid(color="#e7e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c9cdd2")
