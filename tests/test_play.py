"""Motion: what `collect` says of the three autoreset modes, by a table; quotas, borders, masks, and what is told at the ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from helpers import PROMPTS, WORDS, SmallCore, tiny_language_model

from agents.advantages import GAE, MonteCarlo, estimate
from agents.play import Played, begin, collect, evaluate, log_probs_under
from agents.policies import Acted, CausalLMPolicy, Evaluated, MLPPolicy, seeded
from agents.rollout import Rollout
from textgym import GymEnv, GymVectorEnv
from textgym.core import Step, Streams

# Per row: the length of each episode and how it ends (T terminated, X truncated, B both at once), over and over.
SCHEDULES = ([(2, "T"), (3, "X")], [(1, "X"), (4, "T")])
# Each step as "episode step flags": s the first of its episode, - only a reset, T and X as above. Eight steps: two rollouts of four.
TABLE = {
    AutoresetMode.SAME_STEP: ("00s 01T 10s 11 12X 20s 21T 30s", "00sX 10s 11 12 13T 20sX 30s 31"),
    AutoresetMode.DISABLED: ("00s 01T 10s 11 12X 20s 21T 30s", "00sX 10s 11 12 13T 20sX 30s 31"),
    AutoresetMode.NEXT_STEP: ("00s 01T 02- 10s 11 12X 13- 20s", "00sX 01- 10s 11 12 13T 14- 20sX"),
}
MODES = list(AutoresetMode)
FACES = ("sync", "native", "native, lent memory")


class Counting(gym.Env[np.ndarray, int]):
    """Observation [row, episode, step], reward 10 episode + step; ends on schedule; knows the scores 0.5, 1.5, ... and a wrong "return"."""

    observation_space = gym.spaces.Box(0, 1000, (3,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, row: int, schedule: list[tuple[int, str]], masks: bool = False) -> None:
        self.row, self.schedule, self.masks, self.episode, self.count = row, schedule, masks, -1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.count = self.episode + 1, 0
        return self.seen()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        length, how = self.schedule[self.episode % len(self.schedule)]
        over = self.count == length
        observation, info = self.seen()
        if over:
            # Nothing is to be done in an ended episode: row 0 tells no mask, row 1 one that allows nothing.
            info = {"score": self.episode + 0.5, "return": -1.0} | ({"action_mask": np.zeros(3, np.int8)} if self.masks and self.row else {})
        return observation, 10.0 * self.episode + self.count, over and how in "TB", over and how in "XB", info

    def seen(self) -> tuple[np.ndarray, dict[str, Any]]:
        mask = np.arange(3) == (self.row + self.episode + self.count) % 3  # int8, as Gymnasium's spaces have it
        return np.array([self.row, self.episode, self.count], dtype=np.float64), {"action_mask": mask.astype(np.int8)} if self.masks else {}


class CountingCore:
    """The same task as a textgym core."""

    render_modes = ()
    observation_space, action_space = Counting.observation_space, Counting.action_space

    def __init__(self, schedules: tuple[list[tuple[int, str]], ...], num_rows: int) -> None:
        self.schedules, self.num_rows = schedules, num_rows
        self.seen = np.array([[row, -1, 0] for row in range(num_rows)], dtype=np.float64)

    def start(self, rows: np.ndarray, streams: Streams, options: Mapping[str, Any]) -> None:
        self.seen[rows] += [0, 1, 0]
        self.seen[rows, 2] = 0

    def advance(self, rows: Any, actions: np.ndarray, streams: Streams) -> Step:
        self.seen[rows] += [0, 0, 1]
        now = [self.schedules[int(row)][int(episode) % len(self.schedules[int(row)])] for row, episode, _ in self.seen[rows]]
        over = np.array([length for length, _ in now]) == self.seen[rows, 2]
        ways = [np.array([how in kinds for _, how in now]) for kinds in ("TB", "XB")]
        return Step(self.seen[rows] @ [0.0, 10.0, 1.0], over & ways[0], over & ways[1])

    def observe(self, rows: Any, copy: bool = True) -> np.ndarray:
        return self.seen[rows].copy() if copy else self.seen[rows]

    def live_info(self, rows: Any) -> dict[str, np.ndarray]:
        return {}

    def end_info(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"score": self.seen[rows, 1] + 0.5, "return": np.full(len(rows), -1.0)}


def counting(face: str, mode: AutoresetMode, schedules: tuple[list[tuple[int, str]], ...] = SCHEDULES) -> VectorEnv[Any, Any, Any]:
    if face == "sync":
        return SyncVectorEnv([lambda row=row: Counting(row, schedules[row]) for row in range(len(schedules))], autoreset_mode=mode)
    return GymVectorEnv(lambda num_rows: CountingCore(schedules, num_rows), len(schedules), autoreset_mode=mode, copy="lent" not in face)


def masked(mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([lambda row=row: Counting(row, SCHEDULES[row], masks=True) for row in range(2)], autoreset_mode=mode)


def known_value(observations: Any) -> np.ndarray:
    return np.asarray(observations) @ [1000.0, 100.0, 1.0]


class Known:
    """V = 1000 row + 100 episode + step; the log-probability and the action say where and when; the state counts the calls."""

    sequential = False

    def initial_state(self, num_envs: int) -> int:
        return 0

    def act(self, observations: np.ndarray, state: int, starts: np.ndarray, generator: np.random.Generator, masks: Any = None, temperature: float = 1) -> Acted:
        values = known_value(observations)
        return Acted(np.full(len(values), state % 3), -values, values, state + 1)

    def evaluate(self, observations: torch.Tensor, actions: torch.Tensor, masks: Any = None, temperature: float = 1) -> Evaluated:
        raise NotImplementedError

    def value(self, observations: np.ndarray, state: Any = None) -> np.ndarray:
        return known_value(observations)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def joined(parts: list[Played]) -> Rollout:
    fields = zip(*(part.rollout for part in parts), strict=True)
    return Rollout(*(None if values[0] is None else np.concatenate(values) for values in fields))


def valid_steps(rollout: Rollout, *arrays: np.ndarray) -> dict[tuple[float, ...], tuple[Any, ...]]:
    """Return what was seen on each valid step, by (row, episode, step)."""
    kept = (rollout.rewards, rollout.terminated, rollout.truncated, rollout.starts, rollout.values, *arrays)
    return {tuple(rollout.observations[t, i]): tuple(array[t, i] for array in kept) for t, i in np.argwhere(rollout.valid)}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("mode", MODES)
class TestTable:
    def played(self, face: str, mode: AutoresetMode) -> list[Played]:
        env, policy = counting(face, mode), Known()
        first = collect(env, policy, begin(env, policy, seed=0), random(), num_steps=4)
        return [first, collect(env, policy, first.position, random(), num_steps=4)]

    def test_every_field(self, face: str, mode: AutoresetMode) -> None:
        rollout = joined(self.played(face, mode))
        table = [row.split() for row in TABLE[mode]]
        for t, i in np.ndindex(8, 2):
            episode, step, flags = int(table[i][t][0]), int(table[i][t][1]), table[i][t][2:]
            where = f"step {t}, row {i}"
            assert rollout.observations[t, i].tolist() == [i, episode, step], where
            assert rollout.starts[t, i] == ("s" in flags), where
            assert rollout.valid[t, i] == ("-" not in flags), where
            assert rollout.terminated[t, i] == ("T" in flags), where
            assert rollout.truncated[t, i] == ("X" in flags), where
            assert rollout.rewards[t, i] == (0 if "-" in flags else 10 * episode + step + 1), where
            assert rollout.values[t, i] == -rollout.log_probs[t, i] == known_value([i, episode, step]), where
            assert rollout.actions[t, i] == t % 3, f"{where}: the policy's state was not carried on"
            if "-" not in flags and "T" not in flags:  # the state reached before any reset, at a cut and at a border too
                assert rollout.next_values[t, i] == known_value([i, episode, step + 1]), where
        assert rollout.action_masks is None

    def test_episode_ids_tell_episodes_apart_within_each_rollout(self, face: str, mode: AutoresetMode) -> None:
        for part in self.played(face, mode):
            rollout = part.rollout
            names = {tuple(rollout.observations[t, i, :2]): rollout.episode_ids[t, i] for t, i in np.argwhere(rollout.valid)}
            ids = [names[tuple(rollout.observations[t, i, :2])] for t, i in np.argwhere(rollout.valid)]
            assert ids == rollout.episode_ids[rollout.valid].tolist()
            assert len(set(names.values())) == len(names)

    def test_returns_and_lengths_run_across_the_border(self, face: str, mode: AutoresetMode) -> None:
        for part in self.played(face, mode):
            ended = part.rollout.ends
            assert set(part.ends) == {"return", "length", "score"}
            for t, i in np.ndindex(ended.shape):
                told = [part.ends[name][t, i] for name in ("return", "length", "score")]
                _, episode, step = part.rollout.observations[t, i]
                length = step + 1
                assert np.isnan(told).all() if not ended[t, i] else told == [10 * episode * length + length * (length + 1) / 2, length, episode + 0.5]

    def test_a_rollout_does_not_change_when_play_goes_on(self, face: str, mode: AutoresetMode) -> None:
        env, policy = counting(face, mode), Known()
        first = collect(env, policy, begin(env, policy, seed=0), random(), num_steps=4)
        before = [np.copy(field) for field in first.rollout if field is not None]
        collect(env, policy, first.position, random(), num_steps=4)
        for field, copy in zip((field for field in first.rollout if field is not None), before, strict=True):
            np.testing.assert_array_equal(field, copy)

    @pytest.mark.parametrize("quota", [1, 2, 3])
    def test_whole_episodes(self, face: str, mode: AutoresetMode, quota: int) -> None:
        env, policy = counting(face, mode), Known()
        rollout = collect(env, policy, begin(env, policy), random(), episodes_per_row=quota).rollout
        wanted = {
            (row, episode, step) for row, schedule in enumerate(SCHEDULES) for episode in range(quota) for step in range(schedule[episode % len(schedule)][0])
        }
        assert set(valid_steps(rollout)) == wanted
        assert rollout.valid.sum() == len(wanted)
        assert rollout.ends.sum(0).tolist() == [quota, quota]
        assert not rollout.ends[~rollout.valid].any()
        estimate(MonteCarlo(gamma=1.0), rollout)  # refuses anything but whole episodes


@pytest.mark.parametrize("face", FACES)
def test_the_three_modes_agree_on_valid_steps_and_their_advantages(face: str) -> None:
    schedules = ([(2, "T"), (3, "X"), (2, "B")], [(1, "X"), (4, "T")], [(5, "X")])
    found = []
    for mode in MODES:
        env, policy = counting(face, mode, schedules), Known()
        whole = collect(env, policy, begin(env, policy), random(), episodes_per_row=4).rollout
        env = counting(face, mode, schedules)
        window = collect(env, policy, begin(env, policy), random(), num_steps=30).rollout
        both = [valid_steps(rollout, *estimate(GAE(gamma=0.9, gae_lambda=0.8), rollout)) for rollout in (whole, window)]
        assert both[0] == {key: value for key, value in both[1].items() if key[1] < 4}
        found.append(both[0])
    assert found[0] == found[1] == found[2]
    # By hand, the last two steps of row 0's second episode, cut at its end: V(0, 1, 2) = 102, V of the state reached 103.
    advantages = {key: value[5] for key, value in found[0].items()}
    delta = 13 + 0.9 * 103 - 102
    assert advantages[0, 1, 2] == pytest.approx(delta)
    assert advantages[0, 1, 1] == pytest.approx(12 + 0.9 * 102 - 101 + 0.9 * 0.8 * delta)
    assert advantages[0, 2, 1] == pytest.approx(22 - 201), "terminated and truncated at once is terminated"


class TestErrors:
    def test_what_to_play_is_said_once(self) -> None:
        env, policy = counting("sync", AutoresetMode.SAME_STEP), Known()
        position = begin(env, policy)
        for choice in ({}, {"num_steps": 3, "episodes_per_row": 1}):
            with pytest.raises(ValueError, match="either num_steps or episodes_per_row"):
                collect(env, policy, position, random(), **choice)
        for choice in ({"num_steps": 0}, {"episodes_per_row": 0}):
            with pytest.raises(ValueError, match="nothing to play"):
                collect(env, policy, position, random(), **choice)

    @pytest.mark.parametrize("mode", MODES)
    def test_whole_episodes_begin_at_a_reset(self, mode: AutoresetMode) -> None:
        env, policy = counting("sync", mode), Known()
        played = collect(env, policy, begin(env, policy), random(), num_steps=1)  # row 1 is over, row 0 in the middle
        with pytest.raises(ValueError, match=r"begin\(env, policy\)"):
            collect(env, policy, played.position, random(), episodes_per_row=1)

    def test_a_mode_that_is_none(self) -> None:
        env = counting("sync", AutoresetMode.SAME_STEP)
        env.metadata = {"autoreset_mode": "sometimes"}
        with pytest.raises(ValueError, match="sometimes"):
            collect(env, Known(), begin(env, Known()), random(), num_steps=1)


@pytest.mark.parametrize("mode", MODES)
class TestMasks:
    def test_masks_stand_beside_the_observation_acted_on(self, mode: AutoresetMode) -> None:
        env = masked(mode)
        with seeded(0):
            policy = MLPPolicy.for_env(env)
        rollout = collect(env, policy, begin(env, policy), random(), num_steps=12).rollout
        masks = rollout.require("action_masks")
        assert masks.dtype == np.bool_
        expected = np.arange(3) == (rollout.observations.sum(-1) % 3)[..., None]
        np.testing.assert_array_equal(masks[rollout.valid], expected[rollout.valid])
        assert masks[~rollout.valid].all(), "what is not acted on needs no mask, and none may be empty"
        np.testing.assert_array_equal(rollout.actions[rollout.valid], rollout.observations.sum(-1)[rollout.valid] % 3)
        assert (rollout.log_probs[rollout.valid] == 0).all()
        np.testing.assert_allclose(log_probs_under(policy, rollout), rollout.log_probs, atol=1e-6)

    def test_masks_that_come_and_go(self, mode: AutoresetMode) -> None:
        class Sometimes(Counting):
            def seen(self) -> tuple[np.ndarray, dict[str, Any]]:
                observation, info = super().seen()
                return observation, info if self.count == 1 else {}

        env = SyncVectorEnv([lambda row=row: Sometimes(row, SCHEDULES[row], masks=True) for row in range(2)], autoreset_mode=mode)
        with seeded(0):
            policy = MLPPolicy.for_env(env)
        rollout = collect(env, policy, begin(env, policy), random(), num_steps=12).rollout
        told = rollout.valid & (rollout.observations[..., 2] == 1)
        assert told.sum() > 3
        assert (rollout.require("action_masks").sum(-1) == np.where(told, 1, 3)).all()
        np.testing.assert_array_equal(rollout.actions[told], rollout.observations.sum(-1)[told] % 3)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("mode", MODES)
def test_evaluation_is_not_biased_towards_short_episodes(face: str, mode: AutoresetMode) -> None:
    env = counting(face, mode, ([(1, "T")], [(9, "T")], [(2, "X"), (1, "T")]))
    found = evaluate(env, Known(), random(), episodes_per_row=3)
    assert found.lengths.tolist() == [1, 1, 1, 9, 9, 9, 2, 1, 2]  # row after row, in the order of time
    assert found.ends["score"].tolist() == [0.5, 1.5, 2.5] * 3
    assert found.returns.tolist() == [1, 11, 21, 45, 135, 225, 3, 11, 43]
    assert set(found.ends) == {"score"}


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_plays_exactly_the_prompts_asked_for(mode: AutoresetMode) -> None:
    env = GymVectorEnv(SmallCore(), 6, autoreset_mode=mode)
    with seeded(0):
        policy = MLPPolicy.for_env(env)
    asked = [5, 3, 3, 0, 1, 2]
    options = {"prompt": np.array(asked)}
    first = evaluate(env, policy, random(), options=options)
    again = evaluate(env, policy, random(), options=options)
    words = [[word for word in row if word < len(WORDS)] for row in first.rollout.observations[0, :, :3].tolist()]
    assert [" ".join(WORDS[word] for word in row) for row in words] == [PROMPTS[i] for i in asked]
    assert list(options) == ["prompt"]
    assert first.returns.shape == (6,)
    np.testing.assert_array_equal(first.rollout.actions, again.rollout.actions)


def text_policy() -> CausalLMPolicy:
    policy = tiny_language_model(3).double()
    with torch.no_grad():
        policy.value_head.weight[:] = torch.linspace(-1, 1, 16)
    return policy


@pytest.mark.parametrize("columns", [1, 2, 5, 256])
def test_log_probs_under_another_policy_do_not_depend_on_the_columns(columns: int) -> None:
    env, other = GymVectorEnv(SmallCore(), 5, autoreset_mode=AutoresetMode.SAME_STEP), text_policy()
    with seeded(0):
        policy = MLPPolicy.for_env(env).double()
    rollout = collect(env, policy, begin(env, policy, seed=1), random(), num_steps=20, temperature=0.7).rollout
    np.testing.assert_allclose(log_probs_under(policy, rollout, 0.7, columns), rollout.log_probs, atol=1e-12)
    whole = other.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions), temperature=0.7).log_probs.detach().numpy()
    assert np.abs(whole - rollout.log_probs).max() > 0.01
    np.testing.assert_allclose(log_probs_under(other, rollout, 0.7, columns), whole, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limit", [None, 3])
def test_native_and_sync_give_identical_rollouts(mode: AutoresetMode, limit: int | None) -> None:
    """Law 5, with a policy that keeps a cache."""

    def single() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = GymEnv(SmallCore())
        return env if limit is None else gym.wrappers.TimeLimit(env, limit)

    envs = (GymVectorEnv(SmallCore(), 4, autoreset_mode=mode, max_episode_steps=limit), SyncVectorEnv([single] * 4, autoreset_mode=mode))
    policy, results = text_policy(), []
    for env in envs:
        generator, position, parts = random(), begin(env, policy, seed=5), []
        for _ in range(3):
            parts.append(collect(env, policy, position, generator, num_steps=9))
            position = parts[-1].position
        results.append((joined(parts), [part.ends for part in parts]))
    for field, ours, theirs in zip(Rollout._fields, results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=field)
    assert results[0][0].truncated.any() == (limit is not None)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert ours.keys() == theirs.keys() == {"return", "length", "score"}
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
