"""What is built and installed: the wheel and the source archive hold what they should, and a fresh environment without torch has both commands and the types.

The packages that are needed (setuptools, numpy, gymnasium) come from the registry.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import textgym

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


class Built(NamedTuple):
    """What the build backend made, as pip would have it make it."""

    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that knows nothing of this checkout."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env |= {} if path is None else {"PYTHONPATH": str(path)}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def done(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    finished = run(*command, cwd=cwd, path=path)
    assert finished.returncode == 0, f"{command}: {finished.stdout}{finished.stderr}"
    return finished.stdout


def tracked() -> list[str]:
    listed = run("git", "ls-files", "-z", cwd=ROOT)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing is tracked")
    return [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def names(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as file:
        return {name for name in file.namelist() if not name.endswith("/")}


def contents(wheel: Path, end: str) -> str:
    with zipfile.ZipFile(wheel) as file:
        return file.read(next(name for name in file.namelist() if name.endswith(end))).decode()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build in copies of the tracked files, so that nothing of a build is left in the checkout, and nothing untracked is built."""
    work = tmp_path_factory.mktemp("build")
    for name in tracked():
        for copy in ("for_wheel", "for_sdist"):
            (work / copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, work / copy / name)
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    done(sys.executable, "-m", "pip", "install", "--quiet", "--target", work / "tools", *needs, cwd=work)

    def build(what: str, source: Path, place: str) -> Path:
        return work / place / done(sys.executable, "-c", BUILD, what, work / place, cwd=source, path=work / "tools").splitlines()[-1]

    sdist = build("build_sdist", work / "for_sdist", "dist")
    with tarfile.open(sdist) as file:
        file.extractall(work / "unpacked", filter="data")
    (source,) = (work / "unpacked").iterdir()
    return Built(build("build_wheel", work / "for_wheel", "dist"), sdist, build("build_wheel", source, "again"))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the commands of a fresh environment, where the wheel is all that was asked for."""
    place = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(place, with_pip=True)
    commands = place / ("Scripts" if os.name == "nt" else "bin")
    done(commands / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", built.wheel, cwd=place)
    return commands


def test_the_wheel_holds_both_packages_whole_and_nothing_else(built: Built) -> None:
    packed = {name for name in names(built.wheel) if ".dist-info/" not in name}
    assert packed == {name for name in tracked() if name.startswith(("textgym/", "agents/"))}
    assert packed >= {"textgym/py.typed", "agents/py.typed", "agents/conformance/vectors/gae.json"}


def test_the_source_archive_builds_the_same_wheel(built: Built) -> None:
    assert names(built.wheel_of_sdist) == names(built.wheel)
    assert contents(built.wheel_of_sdist, "METADATA") == contents(built.wheel, "METADATA")


def test_the_source_archive_holds_what_a_reader_needs_and_no_half_of_the_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as file:
        packed = {name.partition("/")[2] for name in file.getnames()}
    assert packed >= {"README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "setup.cfg", "pyproject.toml"}
    assert not [name for name in packed if name.startswith(("tests", "benchmarks", "docs", "."))]


def test_metadata(built: Built) -> None:
    metadata = email.message_from_string(contents(built.wheel, "METADATA"))
    assert (metadata["Name"], metadata["Version"]) == ("textgym", textgym.__version__)
    assert {need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need} == {"numpy", "gymnasium>=1.1"}
    assert {"agents", "oracle", "sb3", "lora", "metrics", "regex", "test", "all"} <= set(metadata.get_all("Provides-Extra", []))
    assert "Text generation as a [Gymnasium]" in str(metadata.get_payload())
    scripts = [line.replace(" ", "") for line in contents(built.wheel, "entry_points.txt").splitlines() if "=" in line]
    assert sorted(scripts) == ["textgym-train=agents.__main__:main", "textgym=textgym.__main__:main"]
    assert any("licenses/LICENSE" in name for name in names(built.wheel))


def test_a_fresh_environment_makes_a_task_without_torch(installed: Path, tmp_path: Path) -> None:
    snippet = "import gymnasium, textgym; print(textgym.__file__); print(gymnasium.make_vec('TextGen-v0', num_envs=2).reset(seed=0)[0].shape)"
    file, shape = done(installed / "python", "-c", snippet, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(installed.parent)
    assert shape == "(2, 32)"
    assert "No module named 'torch'" in run(installed / "python", "-c", "import torch", cwd=tmp_path).stderr


def test_the_command_of_the_environments_works_from_anywhere(installed: Path, tmp_path: Path) -> None:
    assert done(installed / "textgym", "--version", cwd=tmp_path).strip() == f"textgym {textgym.__version__}"
    assert "textgym/Bandit-v0" in done(installed / "textgym", "list", cwd=tmp_path)
    judged = done(installed / "textgym", "check", "textgym/Bandit-v0", cwd=tmp_path)
    assert "a fork replays exactly: ok" in judged
    assert "does not apply (stable_baselines3 is not installed)" in judged


def test_the_command_of_the_learners_says_in_two_lines_what_to_install(installed: Path, tmp_path: Path) -> None:
    for command in ([installed / "textgym-train", "ppo"], [installed / "python", "-m", "agents", "--help"]):
        refused = run(*command, cwd=tmp_path)
        assert refused.returncode == 1
        first, second = refused.stderr.strip().splitlines()
        assert first.startswith("error: ")
        assert first.endswith(" is not installed.")
        assert 'pip install "textgym[agents]"' in second
    assert "gae" in done(installed / "python", "-m", "agents.conformance", "--help", cwd=tmp_path)


TYPED = """
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import textgym
from agents.advantages import GAE
from textgym.laws import Verdict, judge
from textgym.scorers import Keyword

env = textgym.GymVectorEnv("textgym.suite.textgen:text_gen", 2, scorer=Keyword(["good"]))
assert_type(env.texts(), list[str])
assert_type(env.action_masks(), NDArray[np.bool_])
assert_type(env.fork([0], 2), textgym.GymVectorEnv)
assert_type(judge(lambda: textgym.GymEnv("textgym.toy.tokens:even")), list[Verdict])
assert_type(GAE(gamma=1.0).gamma, float)
"""
WRONG = """
import textgym
from agents.advantages import GAE

textgym.register("Mine-v0", core=3)
env = textgym.GymVectorEnv("textgym.suite.textgen:text_gen", "two")
env.fork(0, 2)
GAE(gamma="one")
"""


def test_the_types_reach_whoever_installs_it(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    checker = [sys.executable, "-m", "mypy", "--strict", "--python-executable", installed / "python", "--cache-dir", tmp_path / "cache"]
    checked = run(*checker, "typed.py", "wrong.py", cwd=tmp_path)
    found = [line for line in checked.stdout.splitlines() if ": error: " in line]
    assert [line.partition(": error: ")[0] for line in found] == [f"wrong.py:{number}" for number in (5, 6, 7, 8)], checked.stdout + checked.stderr
    assert all("[arg-type]" in line for line in found)
