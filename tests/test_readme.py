"""Law 9: the snippets of the README and of the pages run, and their commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
SNIPPETS = {f"{name} {i}": snippet for name, text in TEXTS.items() for i, snippet in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))}
COMMANDS = sorted({command for text in TEXTS.values() for command in re.findall(r"python -m ((?:agents|benchmarks)[\w.]*)", text)})


@pytest.mark.parametrize("snippet", SNIPPETS.values(), ids=SNIPPETS)
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
    assert not [name for name, text in TEXTS.items() if "<!-- figures" in text]


@pytest.mark.parametrize("page", PAGES, ids=TEXTS)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXTS[page.name])
    assert not [link for link in links if not (page.parent / link).exists()]
