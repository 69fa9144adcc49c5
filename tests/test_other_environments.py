"""What is called best of other people's environments is so, our agents get near it, and TextWorld's games are sound environments."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from benchmarks.third_party import best_known, other_environments
from benchmarks.third_party.other_cases import CASES, gymnasium
from textgym import oracle


def test_blackjacks_table_is_the_games() -> None:
    table, start = best_known.blackjack()
    assert best_known.dealer(10)[0] == pytest.approx(0.2121, abs=1e-3)  # a ten bursts, aces in the hole and all
    problem = oracle.from_table(table, start=start)
    uniform = oracle.expected_return(problem, np.full((problem.num_states, 2), 0.5), gamma=1.0)
    played = [other_environments.random_return(gymnasium("Blackjack-v1", 2048), seed) for seed in (0, 10_000)]
    assert np.mean(played) == pytest.approx(uniform, abs=0.05)  # 3.5 standard errors
    assert best_known.best_blackjack() == pytest.approx(-0.0466, abs=1e-3)


def test_the_best_of_tables_under_their_limits() -> None:
    assert best_known.best_return("CliffWalking-v1", 200) == pytest.approx(-13)
    assert best_known.best_return("FrozenLake-v1", 100) == pytest.approx(0.744, abs=1e-3)


def test_an_environment_that_is_not_there_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"no environment 'Chess' here\.\nGive one of FrozenLake-v1, "):
        other_environments.main(other_environments.Args(environment="Chess"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bar"), [("CliffWalking-v1", -20.0), ("Taxi-v4", 5.0), ("Acrobot-v1", -130.0)])
def test_our_agents_come_near_the_best(name: str, bar: float) -> None:
    case = next(case for case in CASES if case.environment == name)
    reached, _, _ = other_environments.learn(case, 0)
    assert other_environments.random_return(case.make(16)) < bar - 50
    assert reached > bar


@pytest.mark.slow
def test_a_game_of_textworld_is_a_sound_environment(tmp_path: Path) -> None:
    textworld = pytest.importorskip("textworld")
    from gymnasium.utils.env_checker import check_env

    from benchmarks.third_party.textworld_game import TextWorldGame, write_game

    path = write_game(tmp_path)
    env = TextWorldGame(path, max_steps=5)
    check_env(env, skip_render_check=True)
    observation, info = env.reset()
    assert env.observation_space.contains(observation)
    theirs = textworld.start(str(path), textworld.EnvInfos(admissible_commands=True)).reset()
    assert [env.commands[i] for i in np.flatnonzero(info["action_mask"])] == sorted(theirs["admissible_commands"])
    steps = [env.step(np.int64(env.commands.index("look"))) for _ in range(5)]
    assert [(reward, terminated, truncated) for _, reward, terminated, truncated, _ in steps] == [(0.0, False, i == 4) for i in range(5)]
    env.reset()
    quest = textworld.generator.Game.load(str(path.with_suffix(".json"))).metadata["walkthrough"]
    steps = [env.step(np.int64(env.commands.index(command))) for command in quest]
    assert [(reward, terminated, truncated) for _, reward, terminated, truncated, _ in steps] == [(0.0, False, False), (1.0, True, False)]
    assert isinstance(env, gym.Env)
