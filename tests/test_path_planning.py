"""Path planning: the rules of the task, its views, its table, law 2 with every option, baselines, pictures, and the text variant."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from test_vector import assert_same

import textgym
from textgym.toy import baselines
from textgym.toy.map_families import generate
from textgym.toy.maps import MapError, load_maps
from textgym.toy.path_core import CHANNELS
from textgym.toy.path_drawing import AGENT, GOAL, WALL, draw
from textgym.toy.path_planning import path_planning
from textgym.toy.path_text import WORDS

pytestmark = pytest.mark.core

ID, TEXT = "textgym/PathPlanning-v0", "textgym/PathPlanningText-v0"
UP, RIGHT, DOWN, LEFT = range(4)
SMALL = "S..\n.#.\n..G"
WALLS: dict[str, Any] = {"family": "walls", "size": 5, "num_maps": 20, "min_moves": 2, "max_steps": 12}
OPTIONS: dict[str, dict[str, Any]] = {
    "one map": {"map": SMALL, "max_steps": 7},
    "cells": {"map": SMALL, "max_steps": 7, "view": "cell", "start": "random"},
    "slip and cost": {"map": SMALL, "slip": 0.3, "step_cost": 0.5, "goal_reward": 2.0, "max_steps": 9},
    "many maps": WALLS,
    "random ends": {**WALLS, "start": "random", "goal": "random", "slip": 0.1},
    "random start": {**WALLS, "start": "random"},
    "random goal, local view": {**WALLS, "goal": "random", "view": "local", "radius": 1},
    "whole map": {**WALLS, "view": "map", "slip": 0.2},
    "plane": {"map": SMALL, "continuous": True, "step_size": 0.3, "goal_radius": 0.22, "max_steps": 11},
    "plane with all": {**WALLS, "continuous": True, "start": "random", "goal": "random", "slip": 0.2, "view": "map", "step_size": 0.14, "max_steps": 25},
    "plane, local view": {**WALLS, "continuous": True, "start": "random", "view": "local", "step_size": 0.2, "goal_radius": 0.15},
}


def make(**options: Any) -> Any:
    return gym.make(ID, **options).unwrapped


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_native_equals_sync(mode: AutoresetMode, name: str, limit: int | None) -> None:
    def single() -> gym.Env:
        env = gym.make(ID, disable_env_checker=True, **OPTIONS[name])
        return env if limit is None else gym.wrappers.TimeLimit(env, limit)

    ours = textgym.GymVectorEnv("textgym.toy.path_planning:path_planning", 5, autoreset_mode=mode, max_episode_steps=limit, **OPTIONS[name])
    theirs = SyncVectorEnv([single] * 5, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    assert_same(ours.reset(seed=7), theirs.reset(seed=7), "reset")
    random, ends = np.random.default_rng(0), np.zeros(2)
    for t in range(700):
        actions = random.integers(4, size=5)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions), f"step {t}")
        ends += step[2].sum(), step[3].sum()
        if mode is AutoresetMode.DISABLED and (step[2] | step[3]).any():
            masks = [{"reset_mask": step[2] | step[3]} for _ in range(2)]
            assert_same(ours.reset(options=masks[0]), theirs.reset(options=masks[1]), f"reset {t}")
    assert (ends > 10).all(), "a test without goals and limits proves little"


class TestRules:
    def test_the_four_numbers_the_moves_and_the_reward(self) -> None:
        env = make(map=SMALL)
        ends = (2.5 / 3, 2.5 / 3)
        assert env.reset()[0] == pytest.approx((0.5 / 3, 0.5 / 3, *ends))
        assert env.reset()[0].dtype == np.float32
        for move, x, y in ((UP, 0, 0), (LEFT, 0, 0), (RIGHT, 1, 0), (DOWN, 1, 0), (RIGHT, 2, 0), (DOWN, 2, 1)):
            observation, reward, terminated, truncated, info = env.step(move)
            assert observation == pytest.approx(((x + 0.5) / 3, (y + 0.5) / 3, *ends))
            assert (reward, terminated, truncated, info) == (0.0, False, False, {})
        assert env.step(DOWN)[1:] == (10.0, True, False, {"success": True, "path_length": 7, "shortest_length": 4, "spl": 4 / 7})

    def test_step_cost_and_limit(self) -> None:
        env = make(map=SMALL, step_cost=0.25, max_steps=4)
        env.reset()
        assert [env.step(UP)[1:4] for _ in range(3)] == [(-0.25, False, False)] * 3
        assert env.step(UP)[1:] == (-0.25, False, True, {"success": False, "path_length": 4, "shortest_length": 4, "spl": 0.0})
        env.reset()
        ends = [env.step(move)[1:4] for move in (RIGHT, RIGHT, DOWN, DOWN)]
        assert ends[-1] == (9.75, True, False), "the goal reached with the last move is no truncation"

    def test_slips_go_sideways_as_often_as_told(self) -> None:
        env = textgym.GymVectorEnv(path_planning, 4000, map=".....\n.....\n..S..\n.....\n....G", slip=0.3)
        start = env.reset(seed=0)[0]
        moved = np.rint((env.step(np.full(4000, RIGHT))[0] - start)[:, :2] * 5).astype(int)
        shares = [(moved == way).all(axis=1).mean() for way in ((1, 0), (0, -1), (0, 1), (-1, 0))]
        assert shares[:3] == pytest.approx([0.7, 0.15, 0.15], abs=0.03)
        assert shares[3] == 0

    def test_random_starts_and_goals_are_even_joined_and_apart(self) -> None:
        text = "..#.\n..#.\n####\n.#.."
        env = textgym.GymVectorEnv(path_planning, 6000, map=text, start="random", goal="random")
        cells = np.floor(env.reset(seed=0)[0].reshape(-1, 2, 2) * 4).astype(int) @ [1, 4]
        parts = {0: 0, 1: 0, 4: 0, 5: 0, 3: 1, 7: 1, 14: 2, 15: 2}  # cell 12 is closed in
        assert {(s, g) for s, g in cells.tolist()} == {(s, g) for s in parts for g in parts if s != g and parts[s] == parts[g]}
        counts = np.unique(cells[:, 1], return_counts=True)[1]
        assert (abs(counts / 6000 - 1 / 8) < 0.02).all()

    def test_the_map_can_be_chosen(self) -> None:
        maps = generate("walls", num_maps=9)
        env = textgym.GymVectorEnv(path_planning, 3, map=maps)
        found = env.reset(options={"map": [8, 0, 3]})[0]
        assert (np.floor(found * 8).astype(int) @ [[1, 0], [8, 0], [0, 1], [0, 8]]).T.tolist() == [
            maps.starts[[8, 0, 3]].tolist(),
            maps.goals[[8, 0, 3]].tolist(),
        ]
        assert len(np.unique(env.reset(options={"map": 4})[0], axis=0)) == 1
        for wrong in (9, -1, 0.5, [0, 1], "a"):
            with pytest.raises(ValueError, match="map"):
                env.reset(options={"map": wrong})

    def test_in_the_plane_the_goal_is_reached_within_its_radius(self) -> None:
        env = make(map="S.........\n" + "..........\n" * 8 + ".........G", continuous=True)
        observation, _ = env.reset()
        assert observation == pytest.approx((0.05, 0.05, 0.95, 0.95))
        moves = [RIGHT] * 16 + [DOWN] * 18
        for move in moves[:-1]:
            observation, reward, terminated, _, _ = env.step(move)
            assert (reward, terminated) == (0.0, False)
            assert np.hypot(*(observation[:2] - observation[2:])) > 0.1
        # The gap is 36 moves, 18 along each side, and the goal's radius is 2 moves long: 0.1 across and nothing down.
        step = env.step(moves[-1])
        assert step[1:] == (10.0, True, False, {"success": True, "path_length": 34, "shortest_length": 34, "spl": 1.0})

    def test_in_the_plane_walls_stop_and_a_random_start_lies_anywhere_in_its_cell(self) -> None:
        env = textgym.GymVectorEnv(path_planning, 500, map=".#.\n...\n..G", start="random", continuous=True, step_size=0.3, goal_radius=0.22, max_steps=50)
        observation = env.reset(seed=0)[0]
        assert len(np.unique(observation[:, 0])) > 400
        random = np.random.default_rng(0)
        for _ in range(100):
            observation = env.step(random.integers(4, size=500))[0]
            assert (observation >= 0).all()
            assert (observation <= 1).all()
            assert not ((np.floor(observation[:, 0] * 3) == 1) & (np.floor(observation[:, 1] * 3) == 0)).any(), "somebody stands in the wall"

    def test_in_the_plane_the_shortest_length_is_that_of_an_independent_search(self) -> None:
        options: dict[str, Any] = {"family": "walls", "size": 5, "num_maps": 40, "continuous": True, "start": "random", "step_size": 0.13}
        core = path_planning(40, **options)
        env = textgym.GymVectorEnv(lambda num_rows: core, 40)
        observations = env.reset(seed=1, options={"map": np.arange(40)})[0].astype(np.float64)
        ours = core.end_info(np.arange(40))["shortest_length"]
        for row, (x, y, goal_x, goal_y) in enumerate(observations.tolist()):
            ring, seen, length = {(0, 0)}, {(0, 0)}, 0
            near = (goal_x - x) ** 2 + (goal_y - y) ** 2 <= 0.01
            while not near:
                length += 1
                around = {(i + di, j + dj) for i, j in ring for di, dj in ((0, 1), (1, 0), (0, -1), (-1, 0))} - seen
                places = {(i, j): (x + 0.13 * i, y + 0.13 * j) for i, j in around}
                ring = {k for k, (u, v) in places.items() if 0 <= u < 1 and 0 <= v < 1 and not core.task.maps.walls[row, int(v * 5), int(u * 5)]}
                seen |= ring
                near = any((places[k][0] - goal_x) ** 2 + (places[k][1] - goal_y) ** 2 <= 0.01 for k in ring)
            assert ours[row] == max(1, length)

    def test_state_fork_and_pickle_replay(self) -> None:
        for name in ("random ends", "plane with all"):
            env = textgym.GymVectorEnv("textgym.toy.path_planning:path_planning", 3, **OPTIONS[name])
            env.reset(seed=3)
            env.step(np.array([0, 1, 2]))
            fork, copy, state = env.fork([0, 1, 2], 1), pickle.loads(pickle.dumps(env)), env.get_state()
            moves = np.random.default_rng(0).integers(4, size=(60, 3))
            first = [env.step(move) for move in moves]
            env.set_state(state)
            for other in (fork, copy, env):
                for move, step in zip(moves, first, strict=True):
                    assert_same(other.step(move), step, name)


class TestViews:
    @pytest.mark.parametrize("name", OPTIONS)
    def test_gymnasium_checks_every_option(self, name: str) -> None:
        check_env(make(**OPTIONS[name]), skip_render_check=True)

    def test_the_whole_map(self) -> None:
        env = make(map=SMALL, view="map")
        env.reset()
        planes = env.step(RIGHT)[0]
        assert planes.shape == (len(CHANNELS), 3, 3)
        assert planes[0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
        assert planes[1].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
        assert planes[2].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
        assert planes[3:, 0, 0] == pytest.approx((0.5, 0.5 / 3, 2.5 / 3, 2.5 / 3))
        assert (planes[3:] == planes[3:, :1, :1]).all()

    def test_the_local_view(self) -> None:
        env = make(map=SMALL, view="local", radius=1)
        planes, _ = env.reset()
        assert planes[0].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 1]], "outside is wall"
        assert planes[1].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
        assert not planes[2].any(), "the goal is out of sight"
        for move in (RIGHT, RIGHT, DOWN):
            planes = env.step(move)[0]
        assert planes[0].tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 1]]
        assert planes[2].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]

    def test_a_local_view_is_a_window_of_the_map(self) -> None:
        options = {"family": "walls", "num_maps": 50, "start": "random", "goal": "random"}
        whole, part = (textgym.GymVectorEnv("textgym.toy.path_planning:path_planning", 50, view=view, **options) for view in ("map", "local"))
        planes, window = whole.reset(seed=0)[0], part.reset(seed=0)[0]
        for row in range(50):
            ((y, x),) = np.argwhere(planes[row, 1])
            padded = np.pad(planes[row, :3], ((0, 0), (2, 2), (2, 2)))
            padded[0] = np.pad(planes[row, 0], 2, constant_values=1)
            assert np.array_equal(window[row, :3], padded[:, y : y + 5, x : x + 5])
            assert np.array_equal(window[row, 3:, 0, 0], planes[row, 3:, 0, 0])

    def test_the_cell(self) -> None:
        env = make(map=SMALL, view="cell")
        assert env.observation_space == gym.spaces.Discrete(9)
        assert env.reset()[0] == 0
        assert env.step(DOWN)[0] == 3
        for wrong in ({**WALLS}, {"goal": "random"}, {"continuous": True}):
            with pytest.raises(ValueError, match="view='cell'"):
                make(view="cell", **wrong)


class TestTable:
    def test_it_is_what_the_environment_does(self) -> None:
        env = textgym.GymVectorEnv(path_planning, 2000, map=SMALL, slip=0.4, step_cost=0.5, start="random", view="cell")
        table = env.core.P
        assert sorted(table) == list(range(9))
        assert all(sum(p for p, *_ in outcomes) == pytest.approx(1) for moves in table.values() for outcomes in moves.values())
        before = env.reset(seed=0)[0]
        share = np.bincount(before, minlength=9) / 2000
        assert share == pytest.approx(env.core.initial_state_distrib, abs=0.03)
        for action in range(4):
            after, rewards, terminated, _, _ = env.step(np.full(2000, action))
            for s in np.unique(before):
                chances = np.zeros(9)
                for probability, there, reward, over in table[int(s)][action]:
                    chances[there] += probability
                    here = (before == s) & (after == there)
                    assert (rewards[here] == reward).all()
                    assert (terminated[here] == over).all()
                assert np.bincount(after[before == s], minlength=9) / (before == s).sum() == pytest.approx(chances, abs=0.12)
            before = env.reset(seed=action + 1)[0]

    def test_goal_and_walls_are_terminal(self) -> None:
        core = path_planning(1, map=SMALL)
        assert core.P[8] == {a: [(1.0, 8, 0.0, True)] for a in range(4)}
        assert core.P[4] == {a: [(1.0, 4, 0.0, True)] for a in range(4)}
        assert core.P[0][RIGHT] == [(1.0, 1, 0.0, False)]
        assert core.P[5][DOWN] == [(1.0, 8, 10.0, True)]
        assert core.initial_state_distrib.tolist() == [1, *[0] * 8]

    def test_value_iteration_finds_the_shortest_paths(self) -> None:
        table, maps = path_planning(1).P, load_maps("four_rooms")
        values = np.zeros(121)
        for _ in range(60):
            values = _sweep(table, values)
        found = maps.goal_distances.reshape(-1)
        assert values[found > 0] == pytest.approx(10 * 0.9 ** (found[found > 0] - 1.0))

    def test_without_one_map_there_is_none(self) -> None:
        for options in (WALLS, {"goal": "random"}, {"continuous": True}):
            core = path_planning(1, **options)
            assert not hasattr(core, "P")
            with pytest.raises(AttributeError, match="needs"):
                _ = core.initial_state_distrib


def _sweep(table: Any, values: np.ndarray) -> np.ndarray:
    return np.array([max(sum(p * (r + 0.9 * values[t] * (not o)) for p, t, r, o in outcomes) for outcomes in moves.values()) for moves in table.values()])


class TestBaselines:
    def test_the_easy_family_is_not_too_easy(self) -> None:
        maps = generate("walls", 8, 0.15, 200, "test")
        figures = {
            "random walk": baselines.spl(baselines.random_walk(), maps).mean(),
            "straight": baselines.spl(baselines.go_straight, maps).mean(),
            "straight, around walls": baselines.spl(baselines.go_straight_around, maps, view="map").mean(),
            "shortest": baselines.spl(baselines.shortest_path(maps), maps).mean(),
        }
        assert figures["random walk"] < 0.1 < figures["straight"] < figures["straight, around walls"] < 0.8, figures
        assert figures["shortest"] == 1

    def test_the_easy_family_is_the_default(self) -> None:
        assert np.array_equal(path_planning(1, family="walls").task.maps.walls, generate("walls", 8, 0.15, 1000, "train").walls)

    def test_slip_makes_even_the_shortest_path_longer(self) -> None:
        maps = generate("walls", 8, 0.15, 200, "test")
        assert 0.3 < baselines.spl(baselines.shortest_path(maps), maps, slip=0.2).mean() < 0.95


class TestPictures:
    def test_rgb_array_shows_walls_goal_agent_and_path(self) -> None:
        env = make(map=SMALL, render_mode="rgb_array")
        env.reset()
        before = env.render()
        assert before.dtype == np.uint8
        assert before.shape == (481, 481, 3)
        assert tuple(before[240, 240]) == WALL
        assert tuple(before[400, 400]) == GOAL
        assert tuple(before[80, 80]) == AGENT
        env.step(RIGHT)
        after = env.render()
        assert tuple(after[80, 240]) == AGENT
        assert after[80, 160].tolist() != before[80, 160].tolist(), "no path is drawn"
        assert tuple(before[80, 80]) == AGENT, "an old picture was drawn over"

    def test_ansi_shows_the_path(self) -> None:
        env = make(map=SMALL, render_mode="ansi")
        env.reset()
        for move in (UP, RIGHT, RIGHT, DOWN):
            env.step(move)
        assert env.render() == "S>v\n.#A\n..G\nmap: 4/9 moves"
        env.step(DOWN)
        assert env.render() == "S>v\n.#v\n..*\nmap: 5/9 moves, goal reached"

    def test_in_the_plane_too_and_values_and_arrows(self) -> None:
        env = make(**OPTIONS["plane with all"], render_mode="rgb_array")
        env.reset(seed=0)
        for _ in range(10):
            if any(env.step(env.action_space.sample())[2:4]):
                env.reset()
        assert env.render().shape[2] == 3
        assert len(env.core.render(0, "ansi").splitlines()) == 6
        picture = draw(np.zeros((2, 3), bool), goal=5, values=np.arange(6.0).reshape(2, 3), moves=np.array([[1, 1, 2], [1, 1, -1]]), cell=20)
        assert picture.shape == (41, 61, 3)
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 6


class TestText:
    def test_the_prompt_spells_the_map_and_a_shortest_path_is_worth_one(self) -> None:
        env: Any = gym.make(TEXT, map=SMALL, render_mode="ansi").unwrapped
        observation, _ = env.reset()
        assert [WORDS[i] for i in observation[:12]] == list("A..;.#.;..G;")
        reference = env.core.task.prompts[0].reference
        assert reference == "right right down down"
        for word in reference.split():
            assert env.step(WORDS.index(word))[1:4] == (0.0, False, False)
        assert env.step(0)[1:] == (1.0, True, False, {"score": 1.0, "success": 1.0, "path_length": 4.0, "shortest_length": 4.0, "spl": 1.0})
        assert env.render().startswith("A . . ; . # . ; . . G ; | right right down down")

    @pytest.mark.parametrize(
        ("text", "spl", "success"),
        [
            ("up right right down down", 0.8, 1),  # against the edge
            ("right down right down down", 0.8, 1),  # against a wall
            ("right G right down down", 0.8, 1),  # a word that is no move
            ("right right down down down", 0.8, 1),
            ("right right down down left", 0, 0),  # past the goal
            ("right right", 0, 0),
            ("", 0, 0),
        ],
    )
    def test_scores(self, text: str, spl: float, success: float) -> None:
        for measure, expected in (("spl", spl), ("success", success)):
            env: Any = gym.make(TEXT, map=SMALL, measure=measure).unwrapped
            env.reset()
            for word in [*text.split(), "<eos>"]:
                step = env.step(WORDS.index(word))
            assert step[1] == pytest.approx(expected)
            assert (step[4]["spl"], step[4]["success"]) == pytest.approx((spl, success))

    def test_the_budget_ends_a_text_on_the_goal_as_well(self) -> None:
        env: Any = gym.make(TEXT, map=SMALL, max_new_tokens=4).unwrapped
        env.reset()
        assert [env.step(WORDS.index(word))[1] for word in ("right", "right", "down", "down")] == [0, 0, 0, 1]

    def test_every_reference_is_a_shortest_path_for_the_environment_too(self) -> None:
        options: dict[str, Any] = {"family": "walls", "size": 6, "num_maps": 50, "split": "val"}
        text, grid = gym.make_vec(TEXT, num_envs=50, **options), make(**options)
        prompts = text.core.task.prompts  # type: ignore[attr-defined]
        for i in range(50):
            grid.reset(options={"map": i})
            steps = [grid.step(WORDS.index(word) - 1) for word in prompts[i].reference.split()]
            assert steps[-1][4]["spl"] == 1
        text.reset(options={"prompt": np.arange(50)})
        words = [[*prompts[i].reference.split(), "<eos>"] for i in range(50)]
        scores = np.zeros(50)
        for t in range(max(map(len, words))):
            scores += text.step(np.array([WORDS.index(line[t]) if t < len(line) else 0 for line in words]))[1]
        assert (scores >= 1).all()

    def test_maps_of_the_splits_differ_and_errors(self) -> None:
        prompts = [gym.make_vec(TEXT, num_maps=100, split=split).core.task.prompts for split in ("train", "test")]  # type: ignore[attr-defined]
        train, test = ({source[i].text.replace("A", ".").replace("G", ".") for i in range(100)} for source in prompts)
        assert not train & test
        with pytest.raises(ValueError, match="measure='length'"):
            gym.make(TEXT, measure="length")
        with pytest.raises(ValueError, match="neither a map nor a family"):
            gym.make(TEXT, family=None)


class TestErrors:
    @pytest.mark.parametrize("action", [-1, 4, 10**9])
    def test_a_move_that_is_none(self, action: int) -> None:
        env = make()
        env.reset()
        with pytest.raises(ValueError, match=rf"Move {action} is outside the action space Discrete\(4\)"):
            env.step(action)
        with pytest.raises(ValueError, match="integers"):
            env.step(0.5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"map": SMALL, "family": "walls"}, "give one of them"),
            ({"start": "anywhere"}, "start='anywhere': give 'map' or 'random'"),
            ({"view": "global"}, r"view='global': give one of \[None, 'local', 'map', 'cell'\]"),
            ({"slip": 1.5}, "slip=1.5"),
            ({"max_steps": 2.5}, "max_steps=2.5: give a probability, and integers"),
            ({"radius": 1.5, "view": "local"}, "radius=1.5"),
            ({"family": "walls", "size": "8"}, "size='8': give rows and columns"),
            ({"family": "walls", "size": [8]}, "as one integer or two"),
            ({"family": "walls", "num_maps": 2.5}, "2.5 is no integer"),
            ({"family": "walls", "map_seed": -1}, "-1 is no integer of at least 0"),
            ({"family": "rooms", "size": 3}, "draws; ask for a larger size"),
            ({"continuous": True, "step_size": 0.2}, "step_size=0.2 could leap over a wall"),
            ({"continuous": True, "goal_radius": 0.01}, "goal_radius=0.01 could be stepped over"),
            ({"map": "S..\n..."}, "without a goal"),
        ],
    )
    def test_options_that_cannot_be(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make(**options)
        assert issubclass(MapError, ValueError)

    def test_a_state_of_other_rows(self) -> None:
        with pytest.raises(ValueError, match="shape"):
            path_planning(2).set_state(path_planning(3).get_state())

    def test_specs_with_options_go_through_json(self) -> None:
        spec = gym.make(ID, family="walls", size=[5, 6], num_maps=3, view="map").spec
        assert spec is not None
        again = type(spec).from_json(spec.to_json())
        assert data_equivalence(gym.make(again).reset(seed=0), gym.make(spec).reset(seed=0), exact=True)
