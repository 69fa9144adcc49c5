"""Laws about token observations, Box(0, V, (L,), int64) beside Discrete(V): the prompt up to column P, the text behind it, and the pad id V elsewhere.

Axis legend: L columns of an observation, V vocabulary (V itself is the pad id).
"""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from .playing import play, reset, step
from .verdicts import Make, NotApplicableError

OPENINGS = 16  # episodes of which the first step is looked at


def pad_of(env: gym.Env[Any, Any]) -> int:
    """Return the pad id V of an environment with token observations; raises `NotApplicableError` for any other."""
    seen, acted = env.observation_space, env.action_space
    sizes = (
        {int(acted.n)} if isinstance(acted, gym.spaces.Discrete) else set(acted.nvec.ravel().tolist()) if isinstance(acted, gym.spaces.MultiDiscrete) else set()
    )
    if isinstance(seen, gym.spaces.Box) and seen.dtype == np.int64 and len(seen.shape) == 1 and not seen.low.any() and set(seen.high.tolist()) == sizes:
        return sizes.pop()
    raise NotApplicableError("observations are not tokens, Box(0, V, (L,), int64) beside Discrete(V)")


def grows(make: Make, steps: int) -> str:
    """Within an episode every step fills columns that were pads, and changes no other."""
    env = make()
    pad = pad_of(env)
    for number, episode in enumerate(play(env, steps, 0)):
        for t, (before, after) in enumerate(itertools.pairwise(moment.observation for moment in episode), 1):
            changed = np.flatnonzero(before != after)
            if not len(changed):
                return f"episode {number}, step {t} filled no column."
            if (before[changed] != pad).any():
                return f"episode {number}, step {t} changed column {changed[before[changed] != pad][0]}, which was filled before."
    return ""


def right_aligned(make: Make, steps: int) -> str:
    """The prompt stands right-aligned in the first P columns, and the text begins at column P, in every episode."""
    env = make()
    pad = pad_of(env)
    env.action_space.seed(0)
    begins = set()
    for number in range(OPENINGS):
        first = reset(env, 0 if number == 0 else None)
        after = step(env, first)
        prompt, filled = np.flatnonzero(first.observation != pad), np.flatnonzero(after.observation != pad)
        if not _without_gaps(filled):
            return f"episode {number} has pads between its tokens: columns {filled.tolist()} are filled."
        new = np.setdiff1d(filled, prompt)
        if not len(new) or (len(prompt) and new[0] <= prompt[-1]):
            return f"episode {number} begins with columns {prompt.tolist()} filled, and the first token does not go behind them."
        begins.add(int(new[0]))
    return "" if len(begins) == 1 else f"the text begins at different columns: {sorted(begins)}."


def _without_gaps(columns: NDArray[np.intp]) -> bool:
    return bool((np.diff(columns) == 1).all())
