"""Law 9: the README's snippets run, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = sorted(set(re.findall(r"python -m ((?:agents|benchmarks)[\w.]*)", TEXT)))


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet {i}" for i in range(len(SNIPPETS))])
def test_snippet_runs_as_it_stands(snippet: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error:::__main__", "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", COMMANDS)
def test_command_exists_and_explains_itself(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_there_is_something_to_test() -> None:
    assert len(SNIPPETS) >= 5
    assert len(COMMANDS) >= 3


def test_no_figure_is_left_out() -> None:
    assert "<!-- figures" not in TEXT


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))
def test_every_link_leads_somewhere(path: str) -> None:
    assert (ROOT / path).exists()
