"""Law 9: the snippets of the README and of the pages run, and their commands exist.

All snippets run in one fresh process, each in a namespace and a folder of its own, and all commands explain themselves in another: importing
torch once for each would take longer than they do.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
SNIPPETS = {f"{name} {i}": snippet for name, text in TEXTS.items() for i, snippet in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL))}
COMMANDS = sorted({command for text in TEXTS.values() for command in re.findall(r"python -m ((?:agents|benchmarks)[\w.]*)", text)})

RUN_SNIPPETS = """
import json, os, sys, tempfile, traceback, warnings
found = {}
for name, snippet in json.load(sys.stdin).items():
    os.chdir(tempfile.mkdtemp(dir=sys.argv[1]))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="__main__")  # what the snippet itself does wrong, not what libraries say of each other
        try:
            exec(compile(snippet, name, "exec"), {"__name__": "__main__"})
        except BaseException:
            found[name] = traceback.format_exc()
json.dump(found, open(sys.argv[2], "w"))
"""

ASK_COMMANDS = """
import contextlib, io, json, runpy, sys
found = {}
for module in json.load(sys.stdin):
    said = io.StringIO()
    sys.argv = [module, "--help"]
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)
    found[module] = [code, said.getvalue()]
json.dump(found, open(OUT, "w"))
"""


def told(script: str, given: Any, arguments: list[str], out: Path, cwd: Path) -> dict[str, Any]:
    """Run a script that reads JSON and writes JSON."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], input=json.dumps(given), cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(out.read_text())
    return answer


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("snippets")
    return told(RUN_SNIPPETS, SNIPPETS, [str(folder), str(folder / "found.json")], folder / "found.json", folder)


@pytest.fixture(scope="module")
def helps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("helps") / "found.json"
    return told(f"OUT = {str(out)!r}\n{ASK_COMMANDS}", COMMANDS, [], out, ROOT)


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet_runs_as_it_stands(name: str, failures: dict[str, str]) -> None:
    assert name not in failures, failures[name]


@pytest.mark.parametrize("module", COMMANDS)
def test_command_exists_and_explains_itself(module: str, helps: dict[str, Any]) -> None:
    code, said = helps[module]
    assert code in (0, None), code
    assert "usage" in said


def test_there_is_something_to_test() -> None:
    assert len(SNIPPETS) >= 15
    assert len(COMMANDS) >= 6


def test_no_figure_is_left_out() -> None:
    assert not [name for name, text in TEXTS.items() if "<!-- figures" in text or "@@" in text]


@pytest.mark.parametrize("page", PAGES, ids=TEXTS)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", TEXTS[page.name])
    assert not [link for link in links if not (page.parent / link).exists()]
