"""Laws about what reset() and step() return, and about the end of an episode."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from .playing import LONGEST, Moment, over, play, shown, step
from .tokens import pad_of
from .verdicts import Make, NotApplicableError


def in_space(make: Make, steps: int) -> str:
    """Every observation lies in the observation space."""
    env = make()
    seen = (moment.observation for episode in play(env, steps, 0) for moment in episode)
    outside = [each for each in seen if each not in env.observation_space]
    return f"{outside[0]!r} is not in {env.observation_space}." if outside else ""


def flags_are_bools(make: Make, steps: int) -> str:
    """Both flags are Python bools."""
    flags = [flag for episode in play(make(), steps, 0) for moment in episode for flag in moment[2:4]]
    odd = next((flag for flag in flags if not isinstance(flag, bool)), None)  # NumPy's own is called bool too
    return "" if odd is None else f"a flag is {odd!r}, a {type(odd).__module__}.{type(odd).__name__}."


def fresh(make: Make, steps: int) -> str:
    """No observation shares its memory with the one before it."""
    episodes = play(make(), steps, 0, keep=lambda moment: moment)
    seen = [moment.observation for episode in episodes for moment in episode]
    if not all(isinstance(observation, np.ndarray) for observation in seen):
        raise NotApplicableError("observations are not arrays")
    shared = any(np.shares_memory(one, other) for one, other in itertools.pairwise(seen))
    return "two observations share their memory." if shared else ""


def stays_ended(make: Make, steps: int) -> str:
    """An ended episode stays ended: step() raises then, or says again that it is over."""
    env = make()
    end = _ends(env, steps)[-1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = step(env, end)
    except Exception:  # refused; in which way is the environment's to choose
        return ""
    return "" if over(after) else f"step() after the end went on, with reward {shown(after.reward)} and both flags down."


def finite_infos(make: Make, steps: int) -> str:
    """The info at the end holds finite numbers only, the score among them where observations are tokens."""
    env = make()
    ends = _ends(env, steps)
    odd = next((name for end in ends for name in _odd_numbers(end.info, "info")), None)
    if odd is not None:
        return f"{odd} is not a finite number at the end of an episode."
    try:
        pad_of(env)
    except NotApplicableError:
        return ""
    return "" if all("score" in end.info for end in ends) else f"the info at the end of a text has no score: it holds {shown(list(ends[-1].info))}."


def paid_at_the_end(make: Make, steps: int) -> str:
    """The reward is 0 before the end of an episode, unless the task is dense."""
    env = make()
    task = getattr(getattr(env.unwrapped, "core", None), "task", None)
    dense = getattr(task, "dense", None)
    if not isinstance(dense, bool):
        raise NotApplicableError("whether its rewards are dense cannot be known: it has no core.task.dense")
    if dense:
        raise NotApplicableError("the task is dense")
    if getattr(task, "constraint", None) is not None and not getattr(task, "forbidden_ends", True):
        raise NotApplicableError("forbidden actions cost something before the end")
    for number, episode in enumerate(play(env, steps, 0)):
        for t, moment in enumerate(episode):
            if moment.reward != 0 and not over(moment):
                return f"episode {number}, step {t} paid {shown(moment.reward)} before the end."
    return ""


def _ends(env: gym.Env[Any, Any], steps: int) -> list[Moment]:
    """Return the last moments of the episodes that ended; the environment stands where the last of them did."""
    ends = [episode[-1] for episode in play(env, steps, 0)]
    if not over(ends[-1]):
        raise NotApplicableError(f"an episode did not end within {LONGEST * steps} steps")
    return ends


def _odd_numbers(value: Any, place: str) -> Iterator[str]:
    """Yield the places of numbers that are not finite, at any depth."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _odd_numbers(part, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _odd_numbers(part, f"{place}[{i}]")
    elif isinstance(value, float | complex | np.ndarray | np.number):
        array = np.asarray(value)
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            yield place
