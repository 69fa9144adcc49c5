"""Each benchmark runs and says what it promises; Stable-Baselines3 accepts every id; and, slowly, the promises themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import textgym  # noqa: F401 (registers the suite)

ROOT = Path(__file__).parents[1]
OURS = sorted(id for id, spec in gym.registry.items() if isinstance(spec.entry_point, str) and spec.entry_point.startswith("textgym."))


def need_sb3() -> None:
    """Leave the test out where Stable-Baselines3 is not installed; on the CI machine that is an error."""
    try:
        import stable_baselines3  # noqa: F401
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip('stable_baselines3 is not installed: pip install "textgym[sb3]"')


def run(module: str, *arguments: str, json_file: Path) -> tuple[str, dict[str, Any]]:
    """Run a benchmark from the command line and return what it printed and wrote."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--json", str(json_file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(json_file.read_text(encoding="utf-8"))


def test_environment_in_small(tmp_path: Path) -> None:
    printed, report = run("environment", "--num-envs", "4", "--seconds", "0.02", "--rounds", "2", json_file=tmp_path / "figures.json")
    names = [figure["name"] for figure in report["figures"]]
    assert names[:3] == [f"native, 4 rows, {mode}" for mode in ("SAME_STEP", "NEXT_STEP", "DISABLED")]
    assert len(names) == 8
    assert all(name in printed for name in names)
    assert all(figure["tokens_per_second"] > 0 for figure in report["figures"])
    assert [figure["bar"] for figure in report["figures"]] == [None] * 7 + [110_000]  # the other bars are for 1,024 rows
    assert report["machine"] in printed
    assert "numpy" in report["machine"]


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_only_actions_that_were_played_count_as_tokens(mode: str) -> None:
    from benchmarks.environment import STEPS, vector_player

    env = gym.make_vec("TextGen-v0", num_envs=5, autoreset_mode=mode, max_new_tokens=4)
    written, resets = [vector_player(env)() for _ in range(3)], STEPS // 5 * 5
    if mode == "NextStep":  # nearly every episode has 4 tokens, so nearly every fifth step only resets
        assert all(5 * STEPS - 1.5 * resets < tokens <= 5 * STEPS - 0.9 * resets for tokens in written)
    else:
        assert written == [5 * STEPS] * 3


def test_cartpole_in_small(tmp_path: Path) -> None:
    printed, report = run("cartpole", "--seeds", "2", "--total-timesteps", "2048", json_file=tmp_path / "figures.json")
    assert [(result["seed"], result["steps"]) for result in report["results"]] == [(0, 2048), (1, 2048)]
    assert "of 2 seeds solved within 200,000 steps" in printed


def test_estimators_in_small(tmp_path: Path) -> None:
    need_sb3()
    printed, report = run("estimators_speed", "--rounds", "1", json_file=tmp_path / "figures.json")
    assert [figure["shape"] for figure in report["figures"]] == [[128, 8], [128, 1024], [2048, 64], [32, 4096]]
    assert {"SB3 buffer", "gae()", "estimate(GAE)", "estimate(MonteCarlo)"} <= set(report["figures"][0]["seconds"])
    assert "[2048, 64]" in printed


@pytest.mark.parametrize("id", OURS)
def test_sb3s_checker_accepts_every_id_without_a_warning(id: str) -> None:
    need_sb3()
    from stable_baselines3.common.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(id))


@pytest.mark.slow
def test_environment_is_fast(tmp_path: Path) -> None:
    """Machines differ, and others may be busy on this one: a third of each bar."""
    _, report = run("environment", "--seconds", "1", json_file=tmp_path / "figures.json")
    slow = [figure for figure in report["figures"] if figure["bar"] is not None and figure["tokens_per_second"] < figure["bar"] / 3]
    assert not slow


@pytest.mark.slow
def test_ppo_solves_cartpole(tmp_path: Path) -> None:
    _, report = run("cartpole", "--seeds", "1", json_file=tmp_path / "figures.json")
    (result,) = report["results"]
    assert result["steps"] <= 200_000
    assert result["mean"] >= 475


@pytest.mark.slow
def test_two_states_are_learned_within_a_hundredth_of_the_best() -> None:
    from benchmarks import toy

    rows = toy.two_state(toy.Choices(seeds=1))
    assert [row[0] for row in rows] == ["slip 0.0, seed 0", "slip 0.2, seed 0"]
    assert all(float(share) > 0.99 for *_, share in rows)


@pytest.mark.slow
def test_the_map_of_four_rooms_is_learned() -> None:
    from benchmarks import toy

    assert float(toy.fixed_map(toy.Choices(seeds=1))[0][1]) >= 0.99


@pytest.mark.slow
def test_through_a_window_memory_wins() -> None:
    from benchmarks import toy

    (_, _, recurrent, _), (_, _, forgetful, _) = toy.window(toy.Choices(seeds=1, scale=0.4))
    assert float(recurrent) > float(forgetful) + 0.2


def test_toy_tables_in_small(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from benchmarks import toy

    toy.main(toy.Choices(tasks=("two_state", "fixed_map", "window"), seeds=1, scale=0.001, json=tmp_path / "toy.json"))
    printed = capsys.readouterr().out
    assert "TwoState" in printed
    assert "GRU" in printed
    assert len(json.loads((tmp_path / "toy.json").read_text())["tables"]["window"]) == 2
    with pytest.raises(SystemExit, match="no table 'fixed'"):
        toy.main(toy.Choices(tasks=("fixed",)))


@pytest.mark.slow
def test_ppo_finds_its_way_on_maps_it_has_never_seen() -> None:
    """The benchmark's own run of one seed: half of its steps reach only about 0.73."""
    from agents.policies import CNNPolicy, seeded
    from benchmarks import toy

    env = toy.make(toy.PATHS, toy.UNSEEN, **toy.EASY, num_maps=toy.UNSEEN, split="test", view="map")
    with seeded(0):
        policy = CNNPolicy.for_env(env)
    toy.trained(policy, 0, 1.0)
    assert toy.spl(policy, env, 0.0, 0) >= 0.9


@pytest.mark.slow
def test_a2c_solves_cartpole(tmp_path: Path) -> None:
    _, report = run("cartpole", "--algorithm", "a2c", "--seeds", "1", json_file=tmp_path / "figures.json")
    assert report["solved"] == 1
