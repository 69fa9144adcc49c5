"""Recorded episodes run again, bit for bit, each by itself; and the first place where two recordings part."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from ..core import Streams
from ..env import GymEnv
from .records import Difference, Record, Unusable, difference, read
from .spelling import checksums, facts_of, generator_of, spell_checksums

Make = Callable[[Record], gym.Env[Any, Any]]


class NotReplayableError(ValueError):
    """A record whose environment cannot be made again."""


class Verdict(NamedTuple):
    """What came of running a record again."""

    record: Record
    replayed: Record | None  # None where the environment refused: `difference` says what
    difference: Difference | None  # None: equal to the last bit
    drawing: str  # of the end that was replayed, by the task itself; empty where it draws no text


def make_env(record: Record) -> gym.Env[Any, Any]:
    """Return the single environment that a record tells of; raises `NotReplayableError` that says why it cannot."""
    if record.id is None:
        raise NotReplayableError("its environment had no registered id. Register the task (textgym.register), or give `make` to textgym.recording.verify.")
    if "objects" in record.spec:
        raise NotReplayableError(f"its environment was made with objects that JSON cannot hold: {record.spec['objects']}. Use names, or `make` in Python.")
    try:
        env = gym.make(_spec_of(record), disable_env_checker=True)
    except (gym.error.Error, ImportError, AttributeError, TypeError, ValueError, OSError) as error:
        raise NotReplayableError(f"{record.id} could not be made: {error}") from error
    _face(env)
    return env


def _spec_of(record: Record) -> EnvSpec:
    assert record.id is not None
    spec = copy.deepcopy(gym.spec(record.id))
    spec.kwargs.update(record.spec.get("kwargs", {}))
    spec.max_episode_steps = record.spec.get("max_episode_steps")
    spec.additional_wrappers = tuple(WrapperSpec(*wrapper) for wrapper in record.spec.get("wrappers", []))
    return spec


class ReplayStoppedError(ValueError):
    """The environment refused a recorded start (`step` None) or action; `before` is what was replayed until then."""

    def __init__(self, step: int | None, error: Exception, before: Record | None) -> None:
        super().__init__(step, str(error))
        self.step, self.error, self.before = step, error, before


def replay(record: Record, env: gym.Env[Any, Any]) -> Record:
    """Return what happens when a record's actions are taken again from its own start, until the episode ends or the actions do.

    Raises `ReplayStoppedError` if the environment refuses the start or an action.
    """
    t: int | None = None
    rewards: list[float] = []
    sums: list[Any] = []
    try:
        sums.append(_checksum(_restart(record, env)))
        for t, action in enumerate(record.actions):
            _switch(record, t, env)
            observation, reward, terminated, truncated, info = env.step(_action(action, env))
            rewards.append(float(reward))
            sums.append(_checksum(observation))
            if terminated or truncated:
                return _replayed(record, rewards, sums, bool(terminated), bool(truncated), facts_of(info))
    except (ValueError, TypeError, IndexError, AssertionError) as error:
        raise ReplayStoppedError(t, error, _replayed(record, rewards, sums, False, False, {}) if sums else None) from error
    return _replayed(record, rewards, sums, False, False, {})


def _restart(record: Record, env: gym.Env[Any, Any]) -> Any:
    env.unwrapped.np_random = generator_of(*record.streams[0][1:])  # which a reset without a seed draws from
    return env.reset(options=record.options)[0]


def _switch(record: Record, t: int, env: gym.Env[Any, Any]) -> None:
    """Give the row another stream, where a fork did."""
    for step, words, unread in record.streams[1:]:
        if step == t:
            face = _face(env)
            face.set_state({**face.get_state(), "streams": Streams([generator_of(words, unread)]).get_state()})


def _face(env: gym.Env[Any, Any]) -> GymEnv:
    if not isinstance(env.unwrapped, GymEnv):
        raise NotReplayableError(f"Only environments of textgym can be replayed, not {type(env.unwrapped).__name__}.")
    return env.unwrapped


def _replayed(record: Record, rewards: list[float], sums: list[Any], terminated: bool, truncated: bool, info: dict[str, Any]) -> Record:
    ended, actions = terminated or truncated, record.actions[: len(rewards)]
    changes: dict[str, Any] = {"actions": actions, "rewards": rewards, "terminated": terminated, "truncated": truncated, "cut": not ended, "info": info}
    return record._replace(**changes, observed=spell_checksums(np.array(sums, dtype=np.uint64)))


def _action(action: Any, env: gym.Env[Any, Any]) -> Any:
    array = np.asarray(action, dtype=env.action_space.dtype)
    return array if array.ndim else array.item()


def _checksum(observation: Any) -> np.uint64:
    sums: np.uint64 = checksums(np.asarray(observation)[None])[0]
    return sums


def verify(path: str | Path, make: Make = make_env) -> Iterator[Verdict | Unusable]:
    """Yield a verdict on every line of a recording; `make(record)` builds environments, one for each id and spec that occurs.

    A line that is no record, or for which `make` raises `NotReplayableError`, is `Unusable`. Raises `OSError` if the file cannot be read.
    """
    made: dict[str, gym.Env[Any, Any] | NotReplayableError] = {}
    for record in read(path):
        if isinstance(record, Unusable):
            yield record
            continue
        key = repr((record.id, record.spec))
        env = made[key] if key in made else made.setdefault(key, _tried(make, record))
        yield Unusable(record.line, str(env), record) if isinstance(env, NotReplayableError) else verdict(record, env)


def _tried(make: Make, record: Record) -> gym.Env[Any, Any] | NotReplayableError:
    try:
        return make(record)
    except NotReplayableError as error:
        return error


def verdict(record: Record, env: gym.Env[Any, Any]) -> Verdict:
    """Return what came of running one record again in its environment."""
    try:
        replayed = replay(record, env)
    except ReplayStoppedError as stopped:
        return Verdict(record, None, _refusal(record, stopped), "")
    return Verdict(record, replayed, difference(record, replayed), _drawing(env))


def _refusal(record: Record, stopped: ReplayStoppedError) -> Difference:
    """Return what was refused, unless something had differed before."""
    earlier = None if stopped.before is None else difference(record, stopped.before)
    if earlier is not None and (earlier.step is None or stopped.step is None or earlier.step < stopped.step):
        return earlier
    what, given = ("options", record.options) if stopped.step is None else ("action", record.actions[stopped.step])
    return Difference(stopped.step, what, given, f"refused ({stopped.error})")


def _drawing(env: gym.Env[Any, Any]) -> str:
    core = _face(env).core
    return str(core.render(0, "ansi")) if "ansi" in core.render_modes else ""


class Parting(NamedTuple):
    """The first episode in which two recordings differ; `one` or `other` is None where a recording lacks it."""

    one: Record | None
    other: Record | None
    difference: Difference | None


def first_difference(one: str | Path, other: str | Path) -> Parting | None:
    """Return the first episode, in the order of `one`, that differs in `other`; None if both hold the same episodes.

    Episodes are paired by row and number, not by line: rows that end earlier would shift all lines after them. Raises `ValueError` on a damaged line.
    """
    ours, theirs = _by_name(one), _by_name(other)
    for key, record in ours.items():
        if key not in theirs:
            return Parting(record, None, None)
        found = difference(record, theirs[key])
        if found is not None:
            return Parting(record, theirs[key], found)
    extra = next((record for key, record in theirs.items() if key not in ours), None)
    return None if extra is None else Parting(None, extra, None)


def _by_name(path: str | Path) -> dict[tuple[int, int, int], Record]:
    """Return the records by (row, episode, occurrence): several runs may have been appended to one file."""
    found: dict[tuple[int, int, int], Record] = {}
    seen: dict[tuple[int, int], int] = {}
    for record in read(path):
        if isinstance(record, Unusable):
            raise ValueError(f"{path}, line {record.line}: {record.reason}")
        key = (record.row, record.episode)
        seen[key] = seen.get(key, -1) + 1
        found[(*key, seen[key])] = record
    return found
