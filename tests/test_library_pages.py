"""A page for each library: the versions that it names are those that are installed here, and its snippets run, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "libraries").glob("*.md"))}
SNIPPETS = [(name, i, snippet) for name, text in PAGES.items() for i, snippet in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))]
ELSEWHERE = {"rllib": "TEXTGYM_RLLIB_PYTHON"}  # whose pins do not fit into one environment with the rest: the variable names the Python that has it


def python_of(name: str) -> str:
    """The Python that runs a page's snippets: this one, or the one of an environment of its own, which CI makes."""
    variable = ELSEWHERE.get(name)
    if variable is None:
        return sys.executable
    if variable not in os.environ:
        assert not os.environ.get("CI"), f"CI makes an environment for {name} and names its Python in {variable}"
        pytest.skip(f"{variable} names no Python of an environment with {name}")
    return os.environ[variable]


def told_versions(text: str) -> dict[str, str]:
    """The packages and versions of a page's line "Tested with: name version, name version"; a full stop may end it."""
    line = re.search(r"^Tested with: (.+?)\.?$", text, re.MULTILINE)
    assert line is not None, "the page does not say what it was tested with"
    return dict(one.rsplit(" ", 1) for one in line.group(1).split(", "))


def test_there_are_pages():
    assert {"stable_baselines3", "sb3_contrib", "cleanrl", "tianshou", "torchrl", "skrl", "rllib", "trl", "pufferlib"} <= PAGES.keys()


@pytest.mark.parametrize("name", sorted({name for name, *_ in SNIPPETS} - ELSEWHERE.keys()))
def test_the_versions_are_those_that_are_installed(name: str):
    for package, told in told_versions(PAGES[name]).items():
        try:
            installed = version(package).partition("+")[0]  # what a build adds is not told
            assert installed == told or installed.startswith(f"{told}."), package
        except PackageNotFoundError:
            assert not os.environ.get("CI"), package
            pytest.skip(f"could not import {package}: it is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number", "snippet"), SNIPPETS, ids=[f"{name} {i}" for name, i, _ in SNIPPETS])
def test_the_snippets_run(name: str, number: int, snippet: str, tmp_path: Path):
    (tmp_path / "snippet.py").write_text(snippet, encoding="utf-8")
    done = subprocess.run([python_of(name), "snippet.py"], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip(), "it printed nothing"
