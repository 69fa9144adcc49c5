"""Learning curves and sample pages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.report import Panel, Sample, learning_curve, samples_markdown


def history(length: int) -> list[dict[str, Any]]:
    noise = np.random.default_rng(0).normal(size=length)
    rows: list[dict[str, Any]] = [{"iteration": i, "steps": 10 * i, "return": i + noise[i], "kl": 0.01, "time/seconds": float(i)} for i in range(length)]
    for row in rows[::10]:
        row["evaluation/return"] = 1.0
    return rows


@pytest.mark.parametrize("length", [1, 12, 100])
def test_a_picture_is_written(tmp_path: Path, length: int) -> None:
    path = tmp_path / "new" / "curve.png"
    learning_curve(history(length), path, title="ppo on TextGen-v0")
    from matplotlib.image import imread

    pixels = imread(path)
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > pixels.shape[0]
    assert pixels[..., :3].std() > 0.02  # something is drawn
    assert [file.name for file in path.parent.iterdir()] == ["curve.png"]
    assert "matplotlib.pyplot" not in sys.modules


def test_panels_and_the_x_axis_can_be_chosen(tmp_path: Path) -> None:
    learning_curve(history(5), tmp_path / "a.png", [Panel("Return", ("return",)), Panel("None", ("absent",))], x="iteration")
    with pytest.raises(ValueError, match="None of absent was logged in the 5 iterations"):
        learning_curve(history(5), tmp_path / "b.png", [Panel("None", ("absent",))])
    with pytest.raises(ValueError, match="was logged in the 0 iterations"):
        learning_curve([], tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_samples_become_a_table(tmp_path: Path) -> None:
    path = tmp_path / "new" / "samples.md"
    samples_markdown([("a|b\n*c*", "<b>", "", 0.0, 0.5), Sample("p", "q", "r `x`", 0.25, 1.0)], path)
    text = path.read_text()
    assert "Mean score over 2 prompts: 0.125 before, **0.750** after (+0.625)." in text
    assert r"| a\|b<br>\*c\* | &lt;b&gt; | 0.000 | *(empty)* | 0.500 |" in text
    assert r"| p | q | 0.250 | r \`x\` | 1.000 |" in text
    samples_markdown([], path, title="None yet")
    assert path.read_text().startswith("# None yet\n\n| prompt")
