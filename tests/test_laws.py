"""The laws of environments: ours keep them, and an environment broken on purpose is caught by the right one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textgym  # noqa: F401 (registers the tasks)
from textgym.__main__ import main
from textgym.laws import judge

pytestmark = [pytest.mark.core, pytest.mark.filterwarnings("ignore::UserWarning")]


class Sound(gym.Env[Any, Any]):
    """Counts to three in an array; `fault` names what is broken."""

    observation_space = gym.spaces.Box(0, 9, (2,), np.int64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.seen = np.zeros(2, dtype=np.int64)
        self.rng = np.random.default_rng()
        self.hook = (lambda: None) if fault == "lambda" else None

    def _observed(self) -> np.ndarray:
        if self.fault == "random":
            self.seen[1] = self.rng.integers(10)
        return self.seen if self.fault == "shared" else self.seen + (10 if self.fault == "outside" else 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.seen[:] = 0, self.np_random.integers(10)
        return self._observed(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, Any, bool, dict[str, Any]]:
        self.seen[0] += 1
        over = self.seen[0] >= 3
        return self._observed(), 0.0, over if self.fault == "flags" else bool(over), False, {}


class Flagged(Sound):
    """A stranger's class with a fault."""

    def __init__(self) -> None:
        super().__init__("flags")


def failing(fault: str) -> set[str]:
    return {verdict.law for verdict in judge(lambda: Sound(fault)) if verdict.holds is False}


def test_a_sound_environment_keeps_all() -> None:
    assert failing("") == set()


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("random", "deterministic under its seed"),
        ("outside", "observations in their space"),
        ("flags", "flags are bools"),
        ("shared", "observations are fresh copies"),
        ("lambda", "pickles in mid-episode"),
    ],
)
def test_each_fault_is_caught_by_its_law(fault: str, law: str) -> None:
    assert law in failing(fault)


@pytest.mark.parametrize("id", ["TextGen-v0", "textgym/TwoState-v0", "textgym/PathPlanning-v0"])
def test_ours_keep_all(id: str) -> None:
    assert [verdict for verdict in judge(lambda: gym.make(id).unwrapped) if verdict.holds is False] == []


def test_a_law_that_does_not_apply_says_why() -> None:
    assert [verdict.reason for verdict in judge(lambda: gym.make("textgym/TwoState-v0").unwrapped) if verdict.holds is None] == ["observations are not arrays"]


def test_the_command_tells_each_verdict_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "textgym/TwoState-v0"]) == 0
    assert "does not apply (observations are not arrays)" in capsys.readouterr().out
    assert main(["check", "test_laws:Flagged"]) == 1
    assert "flags are bools: FAILS: a flag is np." in capsys.readouterr().out


@pytest.mark.parametrize("target", ["Nothing-v0", "no_such_module:Env", "test_laws:Nobody"])
def test_what_cannot_be_made_is_told_in_two_lines(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", target]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
