"""The law about masks: what `info["action_mask"]` and `action_masks()` say of the actions that are allowed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .playing import Moment, over, reset, step
from .verdicts import Make, NotApplicableError


def masks(make: Make, steps: int) -> str:
    """Masks allow something at every step, and the info and `action_masks()` agree on what."""
    env = make()
    env.action_space.seed(0)
    now, given = reset(env, 0), None
    for t in range(steps):
        told, asked = _masks_of(env, now)
        if told is None and asked is None and given is None:
            raise NotApplicableError("nothing is masked: there is no action_mask in the info, and no action_masks()")
        given = given or (told is not None, asked is not None)
        if wrong := _wrong(told, asked, given) or _misshapen(told, env.action_space):
            return f"step {t}: {wrong}"
        now = step(env, now)
        now = reset(env) if over(now) else now
    return ""


def _masks_of(env: gym.Env[Any, Any], now: Moment) -> tuple[Any, Any]:
    """Return the mask in the info, and the one that is asked for; None where there is none."""
    method = getattr(env.unwrapped, "action_masks", None)
    try:
        asked = method() if callable(method) else None
    except TypeError:  # ours have the method always, and say so where nothing is ever forbidden
        asked = None
    return now.info.get("action_mask"), asked


def _wrong(told: Any, asked: Any, given: tuple[bool, bool]) -> str:
    if (told is not None, asked is not None) != given:
        return "there is a mask at some steps, and none at others."
    known: list[NDArray[Any]] = [np.asarray(mask) for mask in (told, asked) if mask is not None]
    if len(known) == 2 and not np.array_equal(known[0].astype(np.bool_), known[1].astype(np.bool_)):
        return 'info["action_mask"] and action_masks() disagree.'
    return "" if all(mask.any() for mask in known) else "the mask forbids every action."


def _misshapen(told: Any, space: gym.Space[Any]) -> str:
    if told is None or not isinstance(space, gym.spaces.Discrete) or np.shape(told) == (space.n,):
        return ""
    return f"the mask has the shape {np.shape(told)}, and there are {space.n} actions."
