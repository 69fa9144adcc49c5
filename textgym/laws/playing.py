"""How the laws play an environment, and how they compare what they saw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

LONGEST = 4  # an episode is followed to its end, but not beyond this many times the steps asked for


class Moment(NamedTuple):
    """What one step gave, or a reset (which pays nothing and ends nothing)."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]


class UnplayableError(Exception):
    """`reset` or `step` raised, or returned something else than Gymnasium asks for; the message says which, and what."""


Episode = list[Moment]  # the first moment is the reset


def over(moment: Moment) -> bool:
    """Tell whether the episode ended here."""
    return bool(moment.terminated or moment.truncated)


def reset(env: gym.Env[Any, Any], seed: int | None = None) -> Moment:
    """Return what a reset gives."""
    observation, info = _returned("reset(seed=...)", 2, lambda: env.reset(seed=seed))
    return Moment(observation, 0.0, False, False, info)


def step(env: gym.Env[Any, Any], before: Moment) -> Moment:
    """Return what a random action gives, an allowed one if `before` has a mask."""
    return Moment(*_returned("step(action)", 5, lambda: env.step(choose(env.action_space, before.info.get("action_mask")))))


def _returned(name: str, parts: int, call: Callable[[], Any]) -> Any:
    """Return what `call` returns: a tuple of so many parts, an info at its end; raises `UnplayableError` for anything else."""
    try:
        found = call()
    except Exception as error:  # a stranger's environment may raise anything
        raise UnplayableError(f"{name} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(found, tuple) or len(found) != parts or not isinstance(found[-1], dict):
        raise UnplayableError(f"{name} returned {shown(found)}: a tuple of {parts} is wanted, whose last part is the info, a dict.")
    return found


def choose(space: gym.Space[Any], mask: Any) -> Any:
    """Return a random action, an allowed one where `mask` is a mask of the actions; what is wrong with a mask is its own law's to say."""
    if isinstance(space, gym.spaces.Discrete) and isinstance(mask, np.ndarray) and mask.shape == (space.n,) and mask.any():
        return space.sample(mask.astype(np.bool_).astype(np.int8))
    return space.sample()


def play(env: gym.Env[Any, Any], steps: int, seed: int | None, keep: Callable[[Moment], Moment] = copy.deepcopy) -> list[Episode]:
    """Return whole episodes of at least `steps` steps together; every moment is copied, unless `keep` does otherwise."""
    env.action_space.seed(0)
    return _episodes(env, keep(reset(env, seed)), steps, keep)


def play_on(env: gym.Env[Any, Any], before: Moment, steps: int) -> list[Episode]:
    """Return what `play` does, from the middle of an episode on."""
    env.action_space.seed(0)
    return _episodes(env, before, steps, copy.deepcopy)


def _episodes(env: gym.Env[Any, Any], first: Moment, steps: int, keep: Callable[[Moment], Moment]) -> list[Episode]:
    episodes: list[Episode] = [[first]]
    for taken in range(LONGEST * steps):
        if over(episodes[-1][-1]):
            if taken >= steps:
                break
            episodes.append([keep(reset(env))])
        episodes[-1].append(keep(step(env, episodes[-1][-1])))
    return episodes


def middle(env: gym.Env[Any, Any], steps: int = 2) -> Moment:
    """Play up to `steps` steps into an episode, and return the last moment; an episode that is over before has only begun."""
    now = reset(env, seed=0)
    for _ in range(steps):
        now = step(env, now)
        if over(now):
            return reset(env)
    return now


def parting(ones: list[Episode], others: list[Episode]) -> str:
    """Return where two plays differ first, and how; "" where they are equal, bit for bit."""
    for number, (one, other) in enumerate(zip(ones, others, strict=False)):
        for t, (moment, twin) in enumerate(zip(one, other, strict=False)):
            if found := difference(moment, twin):
                return f"episode {number}, step {t}{found}"
        if len(one) != len(other):
            return f"episode {number} has {len(one) - 1} steps, and {len(other) - 1}"
    return "" if len(ones) == len(others) else f"{len(ones)} episodes, and {len(others)}"


def difference(one: Any, other: Any) -> str:
    """Return where two values differ first, at any depth, types and dtypes included; "" where they are equal, bit for bit."""
    if type(one) is not type(other):
        return f": {shown(one)}, and {shown(other)}"
    parts, others = _parts(one), _parts(other)
    if parts is None or others is None:
        return "" if _equal(one, other) else f": {shown(one)}, and {shown(other)}"
    if parts.keys() != others.keys():
        return f": {shown(list(parts))}, and {shown(list(others))}"
    return next((f"{place}{found}" for place, part in parts.items() if (found := difference(part, others[place]))), "")


def _parts(value: Any) -> dict[str, Any] | None:
    """Return what a value consists of, by its place in it; None for a leaf."""
    if isinstance(value, Mapping):
        return {f"[{key!r}]": part for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {f", {name}": part for name, part in zip(value._fields, value, strict=True)}
    if isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.dtype == object and value.ndim):
        return {f"[{i}]": part for i, part in enumerate(value)}
    return None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
    return bool(one == other) or bool(one != one and other != other)


def shown(value: Any) -> str:
    """Return a value in one short line."""
    line = " ".join(f"{value!r}".split())
    return line if len(line) <= 80 else f"{line[:77]}..."
