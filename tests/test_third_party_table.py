"""The table of other people's agents: what passes, what is left out, and a stopped table that goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.third_party.__main__ import Args, jobs_of, summed_up
from benchmarks.third_party.judge import Random, returns
from benchmarks.third_party.tasks import TASKS, best_return

ROOT = Path(__file__).parents[1]


def results(task: str, *reached: float) -> list[dict[str, Any]]:
    first = {"library": "numpy", "version": "1", "algorithm": "none", "task": task, "steps": 10, "random": 0.4, "seconds": 1.0}
    return [{**first, "reached": one} for one in reached]


def test_on_even_half_of_the_distance_counts_and_elsewhere_the_interval():
    assert summed_up(results("even", 0.70, 0.70, 0.71))["passes"]
    assert not summed_up(results("even", 0.69, 0.70, 0.70))["passes"], "the mean is below (0.4 + 1) / 2"
    line = summed_up(results("textgen", 0.5, 0.6, 0.7))
    assert (line["low"], line["high"]) == pytest.approx((0.6 - 0.2484, 0.6 + 0.2484), abs=1e-4)  # 4.3027 * 0.1 / sqrt(3)
    assert not line["passes"], "its interval holds what random play earns"
    assert summed_up(results("textgen", 0.59, 0.6, 0.61))["passes"]
    assert not summed_up(results("textgen", 0.9))["passes"], "one run has no interval"


def test_the_best_way_is_the_exact_one():
    assert best_return(TASKS["path"]) == pytest.approx(9.1107, abs=1e-4)
    assert best_return(TASKS["even"]) == 1.0


def test_one_judge_plays_each_row_once_and_keeps_to_masks():
    earned = returns(TASKS["textgen_constrained"], Random(137), episodes=20)
    assert earned.shape == (20,)
    assert ((earned >= 0) & (earned <= 1)).all()
    assert (earned == returns(TASKS["textgen_constrained"], Random(137), episodes=20)).all()


def test_a_script_that_is_not_there_is_refused():
    with pytest.raises(SystemExit, match="there is no script 'sb4'"):
        list(jobs_of(Args(only=("sb4",))))


@pytest.mark.slow
def test_a_table_goes_on_where_it_was_stopped(tmp_path: Path):
    def table(*more: str) -> str:
        command = [sys.executable, "-m", "benchmarks.third_party", "--only", "cleanrl_entrant", "--seeds", "1", "--steps", "512", *more]
        command += ["--folder", str(tmp_path / "runs"), "--json", str(tmp_path / "table.json")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "in CleanRL's manner" in table()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(files) == 3
    next(iter(files)).unlink()
    table()
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert sum(files[path] == again[path] for path in files) == 2, "what was there was trained once more, or what was not was left out"
    assert [line["task"] for line in json.loads((tmp_path / "table.json").read_text())["lines"]] == ["even", "path", "textgen"]
