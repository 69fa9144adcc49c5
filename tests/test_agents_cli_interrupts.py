"""Ctrl-C in real processes: twice in the warm-up and twice in the training, and going on from what was saved."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONS = ["--num-envs", "8", "--num-eval", "16", "--num-steps", "6", "--total-timesteps", str(48 * 40), "--width", "16", "--layers", "1", "--heads", "2"]
OPTIONS += ["--save-every", "1", "--evaluate-every", "20", "--quiet"]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agents", "ppo", *OPTIONS, *more, "--folder", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupt_twice(process: subprocess.Popen[str], metrics: Path, rows: int) -> str:
    """Press Ctrl-C twice once so many rows are written; return what was said of it."""
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= rows):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert out == ""
    assert "Traceback" not in err
    return err


def rows_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "updates"), [("warmup/metrics.jsonl", "100"), ("metrics.jsonl", "3")])
def test_two_interrupts_stop_at_once_and_the_run_goes_on(where: str, updates: str, tmp_path: Path) -> None:
    """In the warm-up nothing has been saved by then, in the training the checkpoints have."""
    said = interrupt_twice(start(tmp_path / "run", "--warmup.num-updates", updates), tmp_path / "run" / where, 3)
    assert f"go on with: python -m agents resume {tmp_path / 'run'}" in said
    again = subprocess.run([sys.executable, "-m", "agents", "resume", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert start(tmp_path / "whole", "--warmup.num-updates", updates).wait(timeout=120) == 0
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
