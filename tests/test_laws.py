"""The laws of environments: ours keep them, and an environment broken on purpose is caught by the right one, and by no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textgym  # registers the tasks, too
from textgym.__main__ import main
from textgym.laws import Verdict, judge, laws

pytestmark = pytest.mark.core

CHECKERS = {"Gymnasium's check_env", "Stable-Baselines3's check_env"}  # what they see beside our laws depends on their versions


class Sound(gym.Env[Any, Any]):
    """Counts to three in an array; `fault` names what is broken."""

    observation_space = gym.spaces.Box(0, 9, (2,), np.int64)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.seen = np.zeros(2, dtype=np.int64)
        self.rng = np.random.default_rng()
        self.hook = (lambda: None) if fault == "lambda" else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"seen": np.zeros(2, dtype=np.int64)} if self.fault == "forgets" else {})

    def _observed(self) -> np.ndarray:
        if self.fault == "random":
            self.seen[1] = self.rng.integers(10)
        return self.seen if self.fault == "shared" else self.seen + (10 if self.fault == "outside" else 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=7 if self.fault == "one seed" and seed is not None else seed)
        self.seen[:] = 0, self.np_random.integers(10)
        return self._observed(), {}

    def step(self, action: Any) -> tuple[np.ndarray, Any, Any, bool, dict[str, Any]]:
        self.seen[0] += 1
        over = self.seen[0] == 3 if self.fault == "goes on" else self.seen[0] >= 3
        info = {"mean": float("nan")} if over and self.fault == "nan" else {}
        reward = np.float32(0) if self.fault == "float32" else 0.0
        return self._observed(), reward, over if self.fault == "flags" else bool(over), False, info


class Late(Sound):
    """Is over after a hundred steps, and pays then what no seed decides."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.taken = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[np.ndarray, Any, Any, bool, dict[str, Any]]:
        self.taken += 1
        over = self.taken >= 100
        return self._observed(), self.rng.random() if over else 0.0, over, False, {}


class Writer(gym.Env[Any, Any]):
    """A stranger's text task of its own make: five words, prompts of one to three, four words to write; `fault` names what is broken."""

    observation_space = gym.spaces.Box(0, 5, (7,), np.int64)
    action_space = gym.spaces.Discrete(5)
    prompts = ((1,), (2, 3), (1, 2, 3), (4, 4))

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.core = SimpleNamespace(task=SimpleNamespace(dense=fault == "dense"))

    def action_masks(self) -> np.ndarray:
        none = self.fault == "nothing allowed" and self.place == 5
        return np.zeros(5, np.bool_) if none else np.arange(6 if self.fault == "wide mask" else 5) != 4

    def _info(self) -> dict[str, Any]:
        masks = self.action_masks()
        return {"action_mask": ~masks if self.fault == "two masks" else masks}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        prompt = self.prompts[self.np_random.integers(4)]
        self.place = len(prompt) if self.fault == "left" else 3
        begin = 0 if self.fault in ("left", "gap") else 3 - len(prompt)
        self.tokens = np.full(7, 5)
        self.tokens[begin : begin + len(prompt)] = prompt
        return self.tokens.copy(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.place == 7:
            raise RuntimeError("It is over.")
        self.tokens[self.place] = action
        self.place += 0 if self.fault == "stands still" and self.place == 4 and action else 1
        if self.fault == "rewrites" and self.place == 5:
            self.tokens[2] = 0
        over = bool(action == 0 or self.place == 7)
        score = {} if self.fault == "no score" or not over else {"score": 1.0}
        self.place = 7 if over else self.place
        return self.tokens.copy(), 1.0 if over else 0.5 * (self.fault in ("early", "dense")), over, False, self._info() | score


class Flagged(Sound):
    """A stranger's class with a fault."""

    def __init__(self) -> None:
        super().__init__("flags")


class Sized(textgym.GymEnv):
    """Takes a tuple, which JSON turns into a list."""

    def __init__(self, sizes: Any = (3, 1)) -> None:
        super().__init__("textgym.toy.tokens:even", max_new_tokens=sizes[0] if isinstance(sizes, tuple) else 4)


class Even(textgym.GymEnv):
    """A registered task."""

    def __init__(self) -> None:
        super().__init__("textgym.toy.tokens:even")


class Evens(textgym.GymVectorEnv):
    """Its native vector form, which the classes below break."""

    def __init__(self, num_envs: int, autoreset_mode: str = "NextStep") -> None:
        super().__init__("textgym.toy.tokens:even", num_envs, autoreset_mode=autoreset_mode)


class OneSeed(Evens):
    """Seeds all rows alike."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=[seed] * self.num_envs, options=options)


class NoFinals(Evens):
    """Loses the final observation where it begins anew at once."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        *rest, infos = super().step(actions)
        return rest[0], rest[1], rest[2], rest[3], {key: value for key, value in infos.items() if key != "final_obs"}


class ResetsAll(Evens):
    """Knows no reset of some rows alone."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return super().reset(seed=seed)


class Forgetful(Evens):
    """Forks with random streams of its own."""

    def fork(self, rows: Any, n: int, seed: int | None = None) -> textgym.GymVectorEnv:
        return super().fork(rows, n, seed=5)


def failing(verdicts: list[Verdict]) -> set[str]:
    return {verdict.law for verdict in verdicts if verdict.holds is False}


@pytest.mark.parametrize("make", [Sound, Writer, lambda: Writer("dense")])
def test_a_sound_environment_keeps_all(make: Any) -> None:
    assert failing(judge(make)) == set()


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("random", "deterministic under its seed"),
        ("one seed", "another seed, another episode"),
        ("outside", "observations in their space"),
        ("flags", "flags are bools"),
        ("shared", "observations are fresh copies"),
        ("lambda", "pickles in mid-episode"),
        ("forgets", "pickles in mid-episode"),
        ("goes on", "an ended episode stays ended"),
        ("nan", "finite infos at the end"),
    ],
)
def test_each_fault_is_caught_by_its_law_alone(fault: str, law: str) -> None:
    assert failing(judge(lambda: Sound(fault))) - CHECKERS == {law}


@pytest.mark.parametrize(
    ("fault", "law", "reason"),
    [
        ("no score", "finite infos at the end", "no score"),
        ("two masks", "masks agree and allow something", "step 0: .*disagree"),
        ("wide mask", "masks agree and allow something", r"step 0: the mask has the shape \(6,\), and there are 5 actions"),
        ("nothing allowed", "masks agree and allow something", "forbids every action"),
        ("early", "paid at the end", r"episode 0, step 1 paid 0\.5"),
        ("rewrites", "token observations grow", "step 2 changed column 2, which was filled before"),
        ("stands still", "token observations grow", "which was filled before|filled no column"),
        ("left", "the prompt is right-aligned", r"different columns: \[1, 2, 3\]"),
        ("gap", "the prompt is right-aligned", "pads between"),
    ],
)
def test_each_fault_of_a_text_is_caught_by_its_law_alone(fault: str, law: str, reason: str) -> None:
    verdicts = judge(lambda: Writer(fault))
    assert failing(verdicts) - CHECKERS == {law}
    assert re.search(reason, next(verdict.reason for verdict in verdicts if verdict.law == law))


def test_chance_at_the_end_of_a_long_episode_is_seen() -> None:
    verdicts = judge(Late)
    assert failing(verdicts) == {"deterministic under its seed"}
    assert re.search(r"episode 0, step 100, reward: 0\.\d+, and 0\.\d+", verdicts[0].reason)


@pytest.fixture
def registered(request: pytest.FixtureRequest) -> Iterator[str]:
    entry_point, vector_entry_point, kwargs = request.param
    gym.register("tests/Odd-v0", f"test_laws:{entry_point}", vector_entry_point=vector_entry_point and f"test_laws:{vector_entry_point}", kwargs=kwargs)
    yield "tests/Odd-v0"
    del gym.registry["tests/Odd-v0"]


@pytest.mark.parametrize(
    ("registered", "law", "where"),
    [
        (("Sized", None, {"sizes": (3, 1)}), "the spec goes through JSON", "the spaces differ"),
        (("Even", "OneSeed", {}), "the native vector form equals SyncVectorEnv", "mode NextStep, the reset differs"),
        (("Even", "NoFinals", {}), "the native vector form equals SyncVectorEnv", r"mode SameStep, step \d+ differs, infos"),
        (("Even", "ResetsAll", {}), "the native vector form equals SyncVectorEnv", r"mode Disabled, the reset after step \d+ differs"),
        (("Even", "Forgetful", {}), "a fork replays exactly", r"the fork differs at step \d+, observations"),
        (("Even", "Evens", {}), "", "^$"),
    ],
    indirect=["registered"],
)
def test_each_fault_of_an_id_is_caught_by_its_law_alone(registered: str, law: str, where: str) -> None:
    verdicts = judge(lambda: gym.make(registered).unwrapped)
    assert failing(verdicts) - CHECKERS == {law} - {""}
    assert re.search(where, "".join(verdict.reason for verdict in verdicts if verdict.law == law))


class Broken(Sound):
    """Cannot be played at all."""

    def step(self, action: Any) -> Any:
        if self.fault == "raises":
            raise RuntimeError("no\nway")
        return {"four": (np.zeros(2, dtype=np.int64), 0.0, True, {}), "no info": (np.zeros(2, dtype=np.int64), 0.0, True, False, None)}[self.fault]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", r"^step\(action\) raised RuntimeError: no way$"),
        ("four", r"^step\(action\) returned .*: a tuple of 5 is wanted"),
        ("no info", "whose last part is the info, a dict"),
    ],
)
def test_what_cannot_be_played_is_told_as_such_and_not_as_a_wrong_seed(fault: str, reason: str) -> None:
    deterministic = judge(lambda: Broken(fault))[0]
    assert deterministic.holds is False
    assert re.search(reason, deterministic.reason)
    assert deterministic.remedy.startswith("Mend that first: no law can be judged")


def test_what_only_stable_baselines3_refuses() -> None:
    pytest.importorskip("stable_baselines3")
    assert failing(judge(lambda: Sound("float32"))) == {"Stable-Baselines3's check_env"}


@pytest.mark.parametrize(
    ("id", "options"),
    [("TextGen-v0", {}), ("TextGen-v0", {"constraint": "film_grammar", "dense": True}), ("textgym/GuessNumber-v0", {}), ("textgym/PathPlanning-v0", {})],
)
def test_ours_keep_all_and_are_told_nothing_beside(id: str, options: dict[str, Any]) -> None:
    verdicts = judge(lambda: gym.make(id, **options).unwrapped)
    assert [verdict for verdict in verdicts if verdict.holds is False or (verdict.holds and verdict.reason)] == []


def test_a_law_that_does_not_apply_says_why() -> None:
    reasons = {verdict.law: verdict.reason for verdict in judge(lambda: gym.make("textgym/TwoState-v0").unwrapped) if verdict.holds is None}
    assert reasons["observations are fresh copies"] == "observations are not arrays"
    assert "not tokens" in reasons["token observations grow"]
    assert "the spec goes through JSON" not in reasons
    assert "registered id" in next(verdict.reason for verdict in judge(Sound) if verdict.law == "the spec goes through JSON")


def test_an_environment_without_an_end_and_one_that_is_not_random() -> None:
    reasons = {verdict.law: verdict.reason for verdict in judge(lambda: gym.make("MountainCar-v0").unwrapped)}
    assert "did not end within 256 steps" in reasons["an ended episode stays ended"]
    reasons = {verdict.law: verdict.reason for verdict in judge(lambda: gym.make("textgym/Bandit-v0").unwrapped)}
    assert "nothing in it is random" in reasons["another seed, another episode"]


def test_warnings_of_a_checker_are_part_of_its_verdict(recwarn: pytest.WarningsRecorder) -> None:
    said = next(verdict for verdict in judge(lambda: gym.make("Pendulum-v1").unwrapped) if verdict.law == "Gymnasium's check_env")
    assert said.holds
    assert "symmetric and normalized" in said.reason
    assert not [warning for warning in recwarn if "symmetric" in str(warning.message)]


def test_every_environment_that_was_made_is_closed() -> None:
    living = []

    class Counted(Sound):
        def __init__(self) -> None:
            super().__init__()
            living.append(self)

        def close(self) -> None:
            living.remove(self)

        def __getstate__(self) -> dict[str, Any]:
            raise TypeError("It holds an open file.")

    assert failing(judge(Counted)) == {"pickles in mid-episode"}
    assert living == []


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(TypeError, match=r"got Sound; write judge\(lambda"):
        judge(Sound())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        judge(Sound, steps=0)


def test_every_law_has_a_name_of_its_own_and_says_what_to_fix() -> None:
    found = laws()
    assert len({law.name for law in found}) == len(found)
    assert all(law.remedy.endswith(".") for law in found)


def test_the_command_tells_each_verdict_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "textgym/TwoState-v0"]) == 0
    assert "does not apply (observations are not arrays)" in capsys.readouterr().out
    assert main(["check", "test_laws:Flagged"]) == 1
    assert "flags are bools: FAILS: a flag is np." in capsys.readouterr().out
    assert main(["check", "Pendulum-v1"]) == 0
    assert "Gymnasium's check_env: ok (it warns | For Box action spaces" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["Nothing-v0", "no_such_module:Env", "test_laws:Nobody"])
def test_what_cannot_be_made_is_told_in_two_lines(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", target]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2
