"""Laws that a single Gymnasium environment should keep, each judged by playing it.

`judge(make)` takes a function without arguments that makes the environment anew, and returns one `Verdict` for each law.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env, data_equivalence

Make = Callable[[], gym.Env[Any, Any]]
STEPS = 64


class Verdict(NamedTuple):
    """What one law says of one environment."""

    law: str
    holds: bool | None  # None: the law does not apply
    reason: str = ""  # what was seen, or why the law does not apply
    remedy: str = ""  # what to fix


class Law(NamedTuple):
    """One law: its name, who judges it, and what to fix where it fails."""

    name: str
    judge: Callable[[Make], str]  # returns what is wrong, "" if nothing is; raises `NotApplicableError`
    remedy: str


class NotApplicableError(Exception):
    """A law that is not about this kind of environment: the message says why."""


def judge(make: Make, steps: int = STEPS) -> list[Verdict]:
    """Return the verdict of every law on the environments of `make`, each played for `steps` steps."""
    return [_verdict(law, make) for law in laws(steps)]


def _verdict(law: Law, make: Make) -> Verdict:
    try:
        wrong = law.judge(make)
    except NotApplicableError as error:
        return Verdict(law.name, None, str(error))
    except Exception as error:  # a stranger's environment may raise anything, and a checker's assertion is its verdict
        wrong = f"{type(error).__name__}: {error}"
    return Verdict(law.name, not wrong, wrong, law.remedy if wrong else "")


def laws(steps: int = STEPS) -> list[Law]:
    """Return the laws, in the order in which they are told."""
    return [
        Law("deterministic under its seed", lambda make: _deterministic(make, steps), "Draw from self.np_random alone, and call super().reset(seed=seed)."),
        Law(
            "observations in their space",
            lambda make: _in_space(make, steps),
            "Agree on shape, dtype and bounds between observation_space and what is returned.",
        ),
        Law("flags are bools", lambda make: _flags(make, steps), "Return bool(terminated) and bool(truncated)."),
        Law(
            "observations are fresh copies", lambda make: _fresh(make, steps), "Return a copy of the observation, not the array that the next step overwrites."
        ),
        Law("pickles in mid-episode", lambda make: _pickles(make, steps), "Keep no lambdas, open files or modules in the environment."),
        Law("Gymnasium's check_env", _gymnasium, "See the message; gymnasium.utils.env_checker says more."),
    ]


def _play(env: gym.Env[Any, Any], steps: int, seed: int | None) -> list[Any]:
    """Return all that `steps` random steps give, resets included; with `seed` None the episode at hand goes on."""
    env.action_space.seed(0)
    seen: list[Any] = [] if seed is None else [env.reset(seed=seed)]
    for _ in range(steps):
        seen.append(env.step(env.action_space.sample()))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


def _deterministic(make: Make, steps: int) -> str:
    same = data_equivalence(_play(make(), steps, 3), _play(make(), steps, 3), exact=True)
    return "" if same else "two environments with one seed and the same actions gave different things."


def _in_space(make: Make, steps: int) -> str:
    env = make()
    outside = next((seen[0] for seen in _play(env, steps, 0) if seen[0] not in env.observation_space), None)
    return "" if outside is None else f"{outside!r} is not in {env.observation_space}."


def _flags(make: Make, steps: int) -> str:
    flags = [flag for seen in _play(make(), steps, 0) if len(seen) == 5 for flag in seen[2:4]]
    odd = next((flag for flag in flags if not isinstance(flag, bool)), None)  # NumPy's own is called bool too
    return "" if odd is None else f"a flag is {odd!r}, a {type(odd).__module__}.{type(odd).__name__}."


def _fresh(make: Make, steps: int) -> str:
    seen = [each[0] for each in _play(make(), steps, 0)]
    if not all(isinstance(observation, np.ndarray) for observation in seen):
        raise NotApplicableError("observations are not arrays")
    shared = any(np.shares_memory(one, other) for one, other in itertools.pairwise(seen))
    return "two observations share their memory." if shared else ""


def _pickles(make: Make, steps: int) -> str:
    env = make()
    env.reset(seed=0)
    copy = pickle.loads(pickle.dumps(env))
    return "" if data_equivalence(_play(env, steps, None), _play(copy, steps, None), exact=True) else "the copy goes on differently."


def _gymnasium(make: Make) -> str:
    check_env(make().unwrapped, skip_render_check=True)
    return ""
