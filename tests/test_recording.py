"""Every recorded episode replays bit for bit, and whatever was changed in a recording is found at its place."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import Autoreset, RecordEpisodeStatistics, TimeLimit, TransformObservation, TransformReward
from helpers import SmallCore, TwoParts

import textgym
from textgym import GymEnv, GymVectorEnv
from textgym.__main__ import main
from textgym.core import Streams
from textgym.recording import Record, RecordEpisode, RecordVectorEpisode, Unusable, Verdict, difference, first_difference, read, replay, verify
from textgym.recording.spelling import checksums, generator_of, stream_of
from textgym.toy.two_state import TwoState

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
SLIPPERY: dict[str, Any] = {"slip": 0.3, "reward_noise": 0.5, "horizon": 7}  # draws at the start and twice at every step
CORES: dict[str, Callable[[], Any]] = {
    "text": lambda: SmallCore(scorer=TwoParts(), gold=TwoParts(), info_text=True),
    "plain": SmallCore,
    "slippery": lambda: lambda num_rows: TwoState(num_rows, **SLIPPERY),
}


def records(path: Path) -> list[Record]:
    found = list(read(path))
    assert not [line for line in found if isinstance(line, Unusable)]
    return [line for line in found if isinstance(line, Record)]


def assert_replays(path: Path, core: str | None = None) -> list[Record]:
    """Every line comes out the same, each in an environment of its own, the last line first: no line leans on another."""

    def make(record: Record) -> gym.Env:
        env: gym.Env = GymEnv(CORES[core]()) if core else gym.make(record.id, **record.spec.get("kwargs", {}))
        limit = record.spec.get("max_episode_steps")
        return env if limit is None else TimeLimit(env, limit)

    found = records(path)
    for record in reversed(found):
        assert difference(record, replay(record, make(record))) is None, record.name
    return found


def play_single(env: gym.Env, steps: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    env.reset(seed=seed)
    for t in range(steps):
        ended = any(env.step(random.integers(env.action_space.n))[2:4])
        if ended or t % 31 == 30:  # a reset in mid-episode, too
            env.reset()


def play_vector(env: Any, steps: int, seed: int = 0, options: bool = False) -> None:
    """All kinds of restarts: by the mode, masked with and without options, full in mid-episode and with new seeds."""
    random, rows = np.random.default_rng(seed), env.num_envs
    env.reset(seed=seed)
    for t in range(steps):
        step = env.step(random.integers(env.single_action_space.n, size=rows))
        ended = step[2] | step[3]
        chosen = {"prompt": random.integers(6, size=rows)} if options and t % 3 else {}
        if env.unwrapped.autoreset_mode is AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended, **chosen})
        if t % 40 == 20:
            env.reset(options={"reset_mask": np.arange(rows) % 2 == 0, **chosen})
        if t % 97 == 50:
            env.reset(seed=random.integers(1000, size=rows).tolist())


class TestRoundTrips:
    @pytest.mark.parametrize("core", ["text", "slippery"])
    @pytest.mark.parametrize("limit", [None, 3])
    def test_single(self, core: str, limit: int | None, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        env: gym.Env = GymEnv(CORES[core]())
        env = RecordEpisode(env if limit is None else TimeLimit(env, limit), path)
        play_single(env, 600)
        env.close()
        if limit:  # without a spec nothing tells of the wrapper: say it as the vector form does
            path.write_text("".join(_with(line, spec={"max_episode_steps": limit}) for line in path.read_text().splitlines()))
        found = assert_replays(path, core)
        assert len(found) > 80
        assert any(record.cut for record in found)
        assert any(record.truncated for record in found) is (limit is not None or core == "slippery")
        assert [record.episode for record in found] == sorted({record.episode for record in found})

    @pytest.mark.parametrize("core", ["text", "slippery"])
    @pytest.mark.parametrize("limit", [None, 3])
    @pytest.mark.parametrize("copied", [True, False])
    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_vector(self, mode: AutoresetMode, core: str, limit: int | None, copied: bool, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        env = RecordVectorEpisode(GymVectorEnv(CORES[core](), 5, autoreset_mode=mode, max_episode_steps=limit, copy=copied), path)
        play_vector(env, 400, options=core == "text")
        env.close()
        found = assert_replays(path, core)
        assert len(found) > 200
        assert {record.row for record in found} == set(range(5))
        assert sum(record.cut for record in found) > 10
        assert any(record.options for record in found) is (core == "text")

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_it_records_what_happened(self, mode: AutoresetMode, tmp_path: Path) -> None:
        """Rewards, flags and infos against a plain environment that took the same actions."""
        env = RecordVectorEpisode(GymVectorEnv(CORES["text"](), 3, autoreset_mode=mode), tmp_path / "a.jsonl")
        play_vector(env, 200)
        env.close()
        for record in assert_replays(tmp_path / "a.jsonl", "text"):
            assert record.rewards[:-1] == [0.0] * (len(record.rewards) - 1)
            if record.terminated:
                assert record.rewards[-1] == record.info["score"] == 0.125 * record.info["length"] + record.info["share"]
                assert len(record.actions) == record.info["length"]
                assert isinstance(record.info["text"], str)
            else:
                assert record.cut
                assert record.info == {}

    @pytest.mark.parametrize("id", ["TextGen-v0", "textgym/TwoState-v0"])
    def test_registered_ids_through_files_alone(self, id: str, tmp_path: Path) -> None:
        changes: dict[str, Any] = {"max_new_tokens": 9, "info_text": True} if id == "TextGen-v0" else SLIPPERY
        single = RecordEpisode(gym.make(id, max_episode_steps=6, **changes), tmp_path / "a.jsonl")
        vector = RecordVectorEpisode(gym.make_vec(id, num_envs=3, autoreset_mode="SameStep", max_episode_steps=6, **changes), tmp_path / "a.jsonl")
        play_single(single, 200)
        play_vector(vector, 100)
        single.close()
        vector.close()
        verdicts = list(verify(tmp_path / "a.jsonl"))
        assert len(verdicts) > 60
        assert all(isinstance(verdict, Verdict) and verdict.difference is None and verdict.drawing for verdict in verdicts)
        assert {json.dumps(record.spec, sort_keys=True) for record in records(tmp_path / "a.jsonl")} == {
            json.dumps({"kwargs": changes, "max_episode_steps": 6}, sort_keys=True)
        }

    def test_wrappers_below_are_built_again(self, tmp_path: Path) -> None:
        from gymnasium.wrappers import ClipReward

        env = RecordEpisode(RecordEpisodeStatistics(ClipReward(gym.make("textgym/TwoState-v0", **SLIPPERY), 0.2, 0.4)), tmp_path / "a.jsonl")
        play_single(env, 100)
        env.close()
        verdicts = list(verify(tmp_path / "a.jsonl"))
        assert all(isinstance(verdict, Verdict) and verdict.difference is None for verdict in verdicts)
        assert {0.2, 0.4} <= {reward for record in records(tmp_path / "a.jsonl") for reward in record.rewards}

    def test_a_wrapper_that_tells_no_json_is_named(self, tmp_path: Path) -> None:
        env = RecordEpisode(TransformReward(gym.make("TextGen-v0"), lambda reward: 2 * reward), tmp_path / "a.jsonl")
        play_single(env, 30)
        env.close()
        verdict = next(verify(tmp_path / "a.jsonl"))
        assert isinstance(verdict, Unusable)
        assert "TransformReward" in verdict.reason

    def test_autoreset_below_and_sync_above(self, tmp_path: Path) -> None:
        below = RecordEpisode(Autoreset(GymEnv(CORES["slippery"]())), tmp_path / "a.jsonl")
        below.reset(seed=1)
        for t in range(60):
            below.step(t % 2)
        below.close()
        assert len(assert_replays(tmp_path / "a.jsonl", "slippery")) == 8
        above = SyncVectorEnv([lambda: RecordEpisode(GymEnv(CORES["slippery"]()), tmp_path / "b.jsonl")] * 3)
        above.reset(seed=1)
        for _ in range(40):
            above.step(np.zeros(3, dtype=np.int64))
        above.close()
        assert len(assert_replays(tmp_path / "b.jsonl", "slippery")) == 15

    def test_a_stream_in_the_middle_of_its_block(self) -> None:
        streams = Streams.from_seeds([3, 4])
        for n in range(150):
            spelled = json.loads(json.dumps(stream_of(streams, 1)))
            again = Streams([generator_of(*spelled)])
            state = streams.get_state()
            ahead = [streams.uniform(np.array([1]))[0] for _ in range(70)]
            assert [again.uniform(np.array([0]))[0] for _ in range(70)] == ahead, n
            streams = Streams.from_state(state)
            streams.uniform(np.array([1]))

    def test_floats_come_back_to_the_last_bit(self, tmp_path: Path) -> None:
        rewards = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, float("inf"), float("nan"), 1 / 3]

        class Odd(TwoState):
            def advance(self, rows: Any, actions: Any, streams: Any) -> Any:
                step = super().advance(rows, actions, streams)
                return step._replace(rewards=np.array([rewards[int(self._steps[0]) - 1]]))

        env = RecordEpisode(GymEnv(lambda num_rows: Odd(num_rows, horizon=7)), tmp_path / "a.jsonl")
        play_single(env, 7)
        env.close()
        assert np.array(records(tmp_path / "a.jsonl")[0].rewards).tobytes() == np.array(rewards).tobytes()


class TestForks:
    @pytest.mark.parametrize("seed", [None, 9])
    @pytest.mark.parametrize("core", ["text", "slippery"])
    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_a_recorded_fork_replays_from_the_true_beginning(self, mode: AutoresetMode, core: str, seed: int | None, tmp_path: Path) -> None:
        env = RecordVectorEpisode(GymVectorEnv(CORES[core](), 3, autoreset_mode=mode), tmp_path / "a.jsonl")
        env.reset(seed=2)
        env.step(np.array([1, 1, 1]))
        env.step(np.array([1, 0, 1]) if core == "text" else np.array([1, 1, 1]))
        fork = env.fork([2, 0], 3, seed=seed, path=tmp_path / "fork.jsonl")
        assert fork.num_envs == 6
        twin = fork.fork([1], 1, seed=17)  # a fork of a fork: two switches
        for each in (fork, twin, env):
            random = np.random.default_rng(0)
            for _ in range(30):
                if mode is AutoresetMode.DISABLED and each.unwrapped._over.any():
                    each.reset(options={"reset_mask": each.unwrapped._over.copy()})
                each.step(random.integers(each.single_action_space.n, size=each.num_envs))
            each.close()
        found = assert_replays(tmp_path / "fork.jsonl", core)
        assert [len(record.streams) for record in found].count(3 - (seed is None)) >= 1
        assert all(record.actions[:2] == [1, 1] for record in found if record.episode == 0)
        assert_replays(tmp_path / "a.jsonl", core)

    def test_the_switch_of_streams_matters(self, tmp_path: Path) -> None:
        env = RecordVectorEpisode(GymVectorEnv(CORES["slippery"](), 1), tmp_path / "a.jsonl")
        env.reset(seed=2)
        env.step(np.array([1]))
        fork = env.fork([0], 1, seed=5)
        for _ in range(6):
            fork.step(np.array([1]))
        fork.close()
        (record,) = records(tmp_path / "a.jsonl")
        found = difference(record, replay(record._replace(streams=record.streams[:1]), GymEnv(CORES["slippery"]())))
        assert found is not None
        assert found.step == 1

    def test_a_plain_fork_of_a_recorded_environment_is_not_recorded(self, tmp_path: Path) -> None:
        env = RecordVectorEpisode(GymVectorEnv(CORES["text"](), 2), tmp_path / "a.jsonl")
        env.reset(seed=0)
        env.unwrapped.fork([0, 1], 4).step(np.zeros(8, dtype=np.int64))
        assert not (tmp_path / "a.jsonl").exists()

    def test_recording_begun_late_leaves_out_what_was_running(self, tmp_path: Path) -> None:
        plain = GymVectorEnv(CORES["slippery"](), 2)
        plain.reset(seed=0)
        plain.step(np.array([0, 1]))
        env = RecordVectorEpisode(plain, tmp_path / "a.jsonl")
        for _ in range(20):
            env.step(np.array([0, 1]))
        env.close()
        assert len(assert_replays(tmp_path / "a.jsonl", "slippery")) == 4


class TestTheFile:
    def test_two_runs_with_one_seed_write_the_same_file(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            env = RecordVectorEpisode(gym.make_vec("TextGen-v0", num_envs=4), tmp_path / name)
            play_vector(env, 200)
            env.close()
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert first_difference(tmp_path / "a", tmp_path / "b") is None

    def test_modes_write_the_same_episodes_in_another_order(self, tmp_path: Path) -> None:
        for mode in AutoresetMode:
            env = RecordVectorEpisode(GymVectorEnv(CORES["slippery"](), 3, autoreset_mode=mode), tmp_path / mode.name)
            random = [np.random.default_rng(row) for row in range(3)]
            env.reset(seed=0)
            while env._begun.min() < 5:
                live = ~env.unwrapped._over
                actions = np.array([int(random[row].integers(2)) if live[row] else 0 for row in range(3)])
                ended = np.logical_or(*env.step(actions)[2:4])
                if mode is AutoresetMode.DISABLED and ended.any():
                    env.reset(options={"reset_mask": ended})
            env.close()
        assert first_difference(tmp_path / "NEXT_STEP", tmp_path / "SAME_STEP") is None
        assert first_difference(tmp_path / "NEXT_STEP", tmp_path / "DISABLED") is None

    def test_every_line_is_whole_as_soon_as_its_episode_ends(self, tmp_path: Path) -> None:
        env = RecordEpisode(GymEnv(CORES["text"]()), tmp_path / "a.jsonl")
        for n in range(5):
            env.reset()
            assert len(records(tmp_path / "a.jsonl") if n else []) == n
            env.step(0)
        assert (tmp_path / "a.jsonl").read_bytes().endswith(b"}\n")

    def test_what_follows_a_line_cut_by_a_crash_stands_on_its_own(self, tmp_path: Path) -> None:
        path, whole = tmp_path / "a.jsonl", 0
        for _ in range(2):
            env = RecordEpisode(GymEnv(CORES["text"]()), path)
            play_single(env, 20)
            env.close()
            whole = whole or len(records(path))
            path.write_bytes(path.read_bytes()[:-40])
        found = list(read(path))
        bad = [line for line in found if isinstance(line, Unusable)]
        assert len(bad) == 2
        assert "cut here" in bad[1].reason
        assert bad[1].line == len(found)
        assert all(isinstance(verdict, Verdict | Unusable) for verdict in verify(path, lambda record: GymEnv(CORES["text"]())))
        assert sum(isinstance(line, Record) for line in found) == 2 * whole - 2, "a line after the crash was lost"

    def test_environments_of_one_file_do_not_mix_their_lines(self, tmp_path: Path) -> None:
        envs = [RecordEpisode(GymEnv(CORES["slippery"]()), tmp_path / "a.jsonl") for _ in range(3)]
        for seed, env in enumerate(envs):
            env.reset(seed=seed)
        for _ in range(7):
            for env in envs:
                env.step(1)
        assert [record.seed for record in assert_replays(tmp_path / "a.jsonl", "slippery")] == [0, 1, 2]

    def test_lines_are_small(self, tmp_path: Path) -> None:
        env = RecordEpisode(gym.make("TextGen-v0"), tmp_path / "a.jsonl")
        play_single(env, 200)
        assert max(map(len, (tmp_path / "a.jsonl").read_text().splitlines())) < 700


class TestTheWrapper:
    def test_passes_gymnasiums_checker_and_changes_nothing(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
            env = RecordEpisode(gym.make("TextGen-v0"), tmp_path / "a.jsonl")
            check_env(env)
            env.close()
        ours, theirs = RecordEpisode(gym.make("TextGen-v0"), tmp_path / "b.jsonl"), gym.make("TextGen-v0")
        assert data_equivalence(ours.reset(seed=3), theirs.reset(seed=3), exact=True)
        for t in range(200):
            one, other = ours.step(t % 30), theirs.step(t % 30)
            assert data_equivalence(one, other, exact=True)
            if one[2]:
                assert data_equivalence(ours.reset(), theirs.reset(), exact=True)
        assert gym.make(ours.spec).spec == ours.spec

    def test_close_takes_the_watch_off_and_may_come_twice(self, tmp_path: Path) -> None:
        plain = GymEnv(CORES["text"]())
        core = plain.core
        env = RecordEpisode(plain, tmp_path / "a.jsonl")
        with pytest.raises(ValueError, match="recorded already"):
            RecordEpisode(plain, tmp_path / "b.jsonl")
        env.reset()
        env.step(1)
        env.close()
        env.close()
        assert plain.core is core
        assert [record.cut for record in assert_replays(tmp_path / "a.jsonl", "text")] == [True]

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
    def test_a_copy_records_too(self, duplicate: Callable[[Any], Any], tmp_path: Path) -> None:
        for env in (
            RecordEpisode(GymEnv(SmallCore()), tmp_path / "a.jsonl"),
            RecordVectorEpisode(GymVectorEnv(SmallCore(), 1, autoreset_mode="SameStep"), tmp_path / "a.jsonl"),
        ):
            env.reset(seed=1)
            action: Any = 1 if env.unwrapped.core.num_rows == 1 and isinstance(env, gym.Env) else np.array([1])
            env.step(0 * action)  # an episode, so that the file is open
            env.reset()
            env.step(action)
            other = duplicate(env)
            for each in (env, other):
                each.step(action)
                each.close()
        assert len(assert_replays(tmp_path / "a.jsonl", "plain")) == 6

    def test_the_core_behind_the_watch_is_still_the_task(self, tmp_path: Path) -> None:
        env = RecordEpisode(GymEnv(CORES["text"](), render_mode="ansi"), tmp_path / "a.jsonl")
        env.reset(options={"prompt": 0})
        env.step(2)
        assert env.render().startswith("a | b")
        assert env.unwrapped.texts() == ["b"]
        assert env.unwrapped.core.task.max_new_tokens == 5

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="of textgym"):
            RecordEpisode(gym.make("CartPole-v1"), tmp_path / "a")
        with pytest.raises(TypeError, match="directly on a GymVectorEnv"):
            RecordVectorEpisode(SyncVectorEnv([lambda: GymEnv(SmallCore())]), tmp_path / "a")
        as_dict = TransformObservation(GymEnv(SmallCore()), lambda it: {"ids": it}, gym.spaces.Dict(ids=GymEnv(SmallCore()).observation_space))
        with pytest.raises(TypeError, match="record below the wrapper"):
            RecordEpisode(as_dict, tmp_path / "a")
        with pytest.raises(TypeError, match="JSON"):
            RecordEpisode(GymEnv(SmallCore()), tmp_path / "a").reset(options={"prompt": object()})

    def test_a_reset_that_is_refused_cuts_nothing(self, tmp_path: Path) -> None:
        env = RecordVectorEpisode(GymVectorEnv(SmallCore(), 2), tmp_path / "a")
        env.reset(seed=0)
        env.step(np.array([1, 1]))
        with pytest.raises(ValueError, match="prompt"):
            env.reset(options={"prompt": 99})
        with pytest.raises(ValueError, match="outside the action space"):
            env.step(np.array([1, 9]))
        env.step(np.array([0, 0]))
        assert [record.actions for record in records(tmp_path / "a")] == [[1, 0], [1, 0]]

    def test_objects_are_named_and_stand_in_the_way_of_the_command_line_only(self, tmp_path: Path) -> None:
        scorer = TwoParts()
        env = RecordEpisode(gym.make("TextGen-v0", scorer=scorer), tmp_path / "a")
        play_single(env, 60)
        assert records(tmp_path / "a")[0].spec == {"objects": {"scorer": "TwoParts"}}
        assert all(isinstance(verdict, Unusable) and "TwoParts" in verdict.reason for verdict in verify(tmp_path / "a"))
        assert all(isinstance(verdict, Verdict) for verdict in verify(tmp_path / "a", lambda record: gym.make("TextGen-v0", scorer=scorer)))

    @pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8, np.bool_])
    def test_checksums_see_every_bit_of_every_dtype(self, dtype: Any) -> None:
        array = np.random.default_rng(0).integers(2, size=(3, 5, 7)).astype(dtype)
        before = checksums(array)
        assert len(set(before.tolist())) == 3
        for place in np.ndindex(5, 7):
            changed = array.copy()
            changed[(1, *place)] = changed[(1, *place)] == 0
            assert (checksums(changed) != before).tolist() == [False, True, False]
        assert (checksums(array[:, :, ::-1][:, :, ::-1]) == before).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("id", ["TextGen-v0", "textgym/PathPlanning-v0"])
    def test_recording_costs_less_than_a_third(self, id: str, tmp_path: Path) -> None:
        """Measured: 0.26 and 0.16 of the steps per second of `gym.make`; a noisy neighbour gets a margin."""

        def speed(env: gym.Env, steps: int = 20_000) -> float:
            begun = time.perf_counter()
            play_single(env, steps)
            return steps / (time.perf_counter() - begun)

        plain, recorded = (max(speed(make()) for _ in range(5)) for make in (lambda: gym.make(id), lambda: RecordEpisode(gym.make(id), tmp_path / "a")))
        assert 1 - recorded / plain < 0.4


def _with(line: str, **changes: Any) -> str:
    return json.dumps({**json.loads(line), **changes}) + "\n"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Five episodes of TextGen-v0, the third of four steps or more."""
    env = RecordEpisode(gym.make("TextGen-v0", max_new_tokens=6), tmp_path / "a.jsonl")
    for _ in range(5):
        env.reset(seed=_ or 11)
        for action in (5, 6, 7, 8, 9, 10):
            env.step(action)
    env.close()
    return tmp_path / "a.jsonl"


def edited(path: Path, line: int, edit: Callable[[dict[str, Any]], Any], name: str = "edited.jsonl") -> Path:
    """Return a copy of a recording in which `edit` has changed one line (from 1)."""
    lines = path.read_text().splitlines(keepends=True)
    value = json.loads(lines[line - 1])
    edit(value)
    lines[line - 1] = json.dumps(value) + "\n"
    other = path.with_name(name)
    other.write_text("".join(lines))
    return other


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], int | None, str]] = {
    "reward": (lambda value: value["rewards"].__setitem__(2, 0.5), 2, "reward"),
    "reward by one bit": (lambda value: value["rewards"].__setitem__(5, np.nextafter(value["rewards"][5], 9).item()), 5, "reward"),
    "id": (lambda value: value["actions"].__setitem__(3, 44), 3, "the observation's checksum"),
    "id outside the space": (lambda value: value["actions"].__setitem__(4, 10**6), 4, "action"),
    "eos": (lambda value: value["actions"].__setitem__(1, 0), 1, ""),
    "terminated": (lambda value: value.update(terminated=False), 5, "terminated"),
    "truncated": (lambda value: value.update(truncated=True), 5, "truncated"),
    "cut": (lambda value: value.update(cut=True), 5, "cut"),
    "score": (lambda value: value["info"].update(score=7.0), 5, "info['score']"),
    "no score": (lambda value: value["info"].clear(), 5, "info['score']"),
    "observation": (lambda value: value.update(observed=value["observed"][:8] + "ffff" + value["observed"][12:]), 1, "the observation's checksum"),
    "last observation": (lambda value: value.update(observed=value["observed"][:-1] + "0"), 5, "the observation's checksum"),
    "stream": (lambda value: value["streams"].__setitem__(0, [0, "0" * 63 + "1", 0]), None, "the first observation's checksum"),
    "prompt": (lambda value: value.update(options={"prompt": 10**6}), None, "options"),
    "steps left out": (lambda value: [value["actions"].pop(), value["rewards"].pop(), value.update(observed=value["observed"][4:])], None, ""),
}


class TestVerify:
    @pytest.mark.parametrize("name", EDITS)
    def test_a_change_is_found_at_its_place(self, name: str, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
        edit, step, what = EDITS[name]
        path = edited(recording, 3, edit)
        verdicts = [verdict for verdict in verify(path) if isinstance(verdict, Verdict)]
        assert [verdict.difference is None for verdict in verdicts] == [True, True, False, True, True]
        found = verdicts[2].difference
        assert found is not None
        if what:
            assert (found.step, found.what) == (step, what)
        assert main(["replay", str(path), "--verify"]) == 1
        out = capsys.readouterr().out
        assert "line 3 (row 0, episode 2): DIFFERS" in out
        assert f"{'before the first step' if found.step is None else f'at step {found.step}'}, {found.what}" in out
        assert "4 equal, 1 different" in out

    def test_an_untouched_file(self, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["replay", str(recording), "--verify"]) == 0
        assert "5 episodes replayed: 5 equal, 0 different" in capsys.readouterr().out
        assert main(["replay", str(recording)]) == 0
        out = capsys.readouterr().out
        assert out.count(" | ") == 5
        assert out.count("return") == 5

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda value: value.update(format=99, textgym="9.9.9"), "format is 99, written by textgym 9.9.9; this version reads 1"),
            (lambda value: value.update(id="TextGenn-v0"), "TextGenn-v0 could not be made"),
            (lambda value: value.update(id="CartPole-v1", spec={}), "Only environments of textgym"),
            (lambda value: value.update(id=None, spec={}), "no registered id"),
            (lambda value: value.update(spec={"kwargs": {"max_new_token": 3}}), "max_new_token"),
            (lambda value: value.update(spec={"kwargs": {"scorer": "sentimen"}}), "sentiment"),
            (lambda value: value.pop("rewards"), "'rewards' is missing"),
            (lambda value: value["rewards"].pop(), "'rewards' must be 6 floats"),
            (lambda value: value["rewards"].__setitem__(0, 1), "'rewards' must be 6 floats"),
            (lambda value: value.update(observed="00"), "'observed' must have 40 digits"),
            (lambda value: value.update(streams=[[0, "xyz", 0]]), "'streams' must be"),
            (lambda value: value.update(terminated=1), "'terminated' is missing or of the wrong type"),
            (lambda value: value.pop("format"), "no record"),
        ],
    )
    def test_a_line_that_cannot_be_used_is_named_and_the_others_are(
        self, edit: Callable[[dict[str, Any]], Any], message: str, recording: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = edited(recording, 2, edit)
        assert main(["replay", str(path), "--verify"]) == 2
        printed = capsys.readouterr()
        assert f"{path}, line 2: " in printed.err
        assert message in printed.err
        assert "4 episodes replayed: 4 equal, 0 different; 1 unusable lines" in printed.out

    def test_another_registered_task_differs(self, recording: Path) -> None:
        path = edited(recording, 1, lambda value: value.update(id="textgym/TwoState-v0", spec={}))
        found = next(verify(path))
        assert isinstance(found, Verdict)
        assert found.difference is not None
        assert found.difference.step is None

    def test_a_file_cut_in_mid_line(self, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recording.write_bytes(recording.read_bytes()[:-30])
        assert main(["replay", str(recording), "--verify"]) == 2
        printed = capsys.readouterr()
        assert "line 5: no JSON" in printed.err
        assert "the file was cut here" in printed.err
        assert "4 equal" in printed.out

    def test_without_an_environment_the_ids_are_shown(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        env = RecordEpisode(GymEnv(SmallCore()), tmp_path / "a")
        env.reset()
        env.step(0)
        assert main(["replay", str(tmp_path / "a")]) == 0
        assert "actions 0  (not replayed: its environment had no registered id" in capsys.readouterr().out
        assert main(["replay", str(tmp_path / "a"), "--verify"]) == 2


class TestDiff:
    @pytest.mark.parametrize(("one", "other", "equal"), [(float("nan"), float("nan"), True), (0.0, -0.0, False), (0.1, 0.1, True), (1, 1.0, False)])
    def test_equal_means_every_bit(self, one: Any, other: Any, equal: bool, recording: Path) -> None:
        record = records(recording)[0]
        pair = [record._replace(rewards=[*record.rewards[:-1], value], info={"score": value}) for value in (one, other)]
        assert (difference(*pair) is None) is equal

    def test_names_the_token_and_both_values(self, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = edited(recording, 4, EDITS["id"][0])
        assert main(["diff", str(recording), str(other)]) == 1
        out = capsys.readouterr().out
        words = gym.make("TextGen-v0").unwrapped.core.task.tokenizer
        assert f"row 0, episode 3 (line 4 of {recording}, line 4 of {other}) differs at step 3, action: " in out
        assert f"8 ({words.decode([8])!r}) in {recording}, 44 ({words.decode([44])!r}) in {other}" in out
        assert main(["diff", str(recording), str(recording)]) == 0

    @pytest.mark.parametrize(("name", "step"), [("reward", 2), ("terminated", 5), ("score", 5), ("prompt", None), ("stream", None)])
    def test_names_the_step_of_everything_else(self, name: str, step: int | None, recording: Path) -> None:
        found = first_difference(recording, edited(recording, 4, EDITS[name][0]))
        assert found is not None
        assert found.difference is not None
        assert found.difference.step == step

    def test_pairs_by_row_and_number_and_names_what_is_missing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("a", "b"):
            env = RecordVectorEpisode(GymVectorEnv(SmallCore(), 2, autoreset_mode="SameStep"), tmp_path / name)
            env.reset(seed=0)
            for t in range(12):
                env.step(np.array([0 if t == 7 and name == "b" else 1, 0 if t % 2 else 1]))
        found = first_difference(tmp_path / "a", tmp_path / "b")
        assert found is not None
        assert found.one is not None
        assert found.difference is not None
        assert (found.one.row, found.one.episode, found.difference.step, found.difference.one, found.difference.other) == (0, 1, 2, 1, 0)
        lines = (tmp_path / "a").read_text().splitlines(keepends=True)
        (tmp_path / "c").write_text("".join(lines[:-1]))
        assert main(["diff", str(tmp_path / "a"), str(tmp_path / "c")]) == 1
        assert f"{tmp_path / 'c'} lacks an episode: line {len(lines)}" in capsys.readouterr().out
        (tmp_path / "c").write_text("".join(reversed(lines)))
        assert main(["diff", str(tmp_path / "a"), str(tmp_path / "c")]) == 0

    def test_damage_and_missing_files(self, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["diff", str(recording), str(tmp_path / "nowhere")]) == 2
        assert "nowhere cannot be read" in capsys.readouterr().err
        (tmp_path / "bad").write_text("{\n")
        assert main(["diff", str(recording), str(tmp_path / "bad")]) == 2
        assert "bad, line 1: no JSON" in capsys.readouterr().err


LIGHT = """
import sys
from textgym.__main__ import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "pandas", "scipy", "matplotlib", "agents", "tyro", "rich"} & set(sys.modules)
sys.exit(f"loaded {sorted(heavy)}" if heavy else code)
"""


def run(*arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-m", "textgym"] if script is None else ["-c", script]
    return subprocess.run([sys.executable, *start, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


class TestCommandLine:
    def test_list_as_a_table_and_as_json(self) -> None:
        table, data = run("list"), run("list", "--json")
        assert (table.returncode, data.returncode, table.stderr, data.stderr) == (0, 0, "", "")
        rows = {row["id"]: row for row in json.loads(data.stdout)}
        assert set(rows) == {id for id, spec in gym.registry.items() if spec.entry_point == "textgym.env:GymEnv"}
        assert rows["TextGen-v0"]["question"] == "Does the agent continue a text so that its scorer likes it?"
        assert rows["TextGen-v0"]["observation"] == str(gym.make("TextGen-v0").observation_space)
        assert (rows["TextGen-v0"]["best"], rows["TextGen-v0"]["random"], rows["TextGen-v0"]["scorer"]) == (1.0, 0.5, "Sentiment")
        assert all(row["error"] is None and row["question"] and row["actions"] and row["observation"] for row in rows.values())
        for id, row in rows.items():
            assert any(line.startswith(id) and line.endswith(row["question"]) for line in table.stdout.splitlines())
        if "textgym/Bandit-v0" in rows:
            assert (rows["textgym/Bandit-v0"]["best"], rows["textgym/Bandit-v0"]["random"]) == (1.0, 0.4375)

    def test_a_task_that_cannot_be_made_does_not_hide_the_others(self, capsys: pytest.CaptureFixture[str]) -> None:
        textgym.register("Broken-v0", "no_such_module:core")
        try:
            assert main(["list"]) == 0
        finally:
            del gym.registry["Broken-v0"]
        out = capsys.readouterr().out
        assert "No module named 'no_such_module'" in out
        assert "TextGen-v0" in out

    def test_it_loads_numpy_and_gymnasium_only(self, recording: Path) -> None:
        for arguments in (["list"], ["replay", str(recording), "--verify"], ["diff", str(recording), str(recording)]):
            done = run(*arguments, script=LIGHT)
            assert done.returncode == 0, done.stderr

    def test_exit_codes_and_messages(self, recording: Path) -> None:
        changed = edited(recording, 1, EDITS["reward"][0])
        assert run("replay", str(recording), "--verify").returncode == 0
        assert run("replay", str(changed), "--verify").returncode == 1
        assert run("diff", str(recording), str(changed)).returncode == 1
        assert run("replay", str(changed)).returncode == 0
        missing = run("replay", "nowhere.jsonl")
        assert (missing.returncode, missing.stdout) == (2, "")
        assert missing.stderr.splitlines() == [
            "error: nowhere.jsonl cannot be read: No such file or directory.",
            "Name a file that textgym.recording.RecordEpisode wrote.",
        ]
        assert run("replay", str(recording), "--import", "no_such_module").returncode == 2
        assert run("frobnicate").returncode == 2
        assert run().returncode == 2

    def test_an_empty_file_and_a_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty").touch()
        assert main(["replay", str(tmp_path / "empty")]) == 2
        assert "holds no episode" in capsys.readouterr().err
        assert main(["replay", str(tmp_path)]) == 2
        assert "cannot be read" in capsys.readouterr().err

    def test_import_registers_a_task_of_ones_own(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text('import textgym\ntextgym.register("Mine-v0", "textgym.toy.two_state:TwoState")\n')
        script = "import gymnasium as gym, mine; from textgym.recording import *\n"
        script += "env = RecordEpisode(gym.make('Mine-v0', slip=0.5), 'mine.jsonl'); env.reset(seed=0); [env.step(1) for _ in range(20)]"
        environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
        for arguments, code in (
            (["-c", script], 0),
            (["-m", "textgym", "replay", "mine.jsonl", "--verify", "--import", "mine"], 0),
            (["-m", "textgym", "replay", "mine.jsonl", "--verify"], 2),
        ):
            done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
            assert done.returncode == code, done.stderr

    def test_a_reader_that_has_seen_enough(self, recording: Path) -> None:
        with open(recording) as file:
            lines = file.readlines()
        recording.write_text("".join(lines * 400))
        with subprocess.Popen(
            [sys.executable, "-m", "textgym", "replay", str(recording)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.readline()
            child.stdout.close()
            assert child.stderr.read() == ""
