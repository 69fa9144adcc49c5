"""What an estimate costs: seconds of arithmetic beside GAE's, on arrays of several sizes.

Axis legend: T steps, N rows, R rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from agents.advantages import ADVANTAGES, GAE, Advantage, estimate
from agents.rollout import Rollout

from ..machine import median_seconds
from .problems import two_state
from .sampling import draw_starts, play, rollout_of
from .sweeps import Cell, asked, random_case

STEPS, HORIZON, GROUP = 128, 8, 4  # windows that hold 16 whole episodes a row
TIMINGS = 5  # behind each median


def rollout(num_rows: int, generator: np.random.Generator) -> Rollout:
    """Return whole episodes of 8 steps, [128, N], with all that any estimator reads."""
    one = random_case(two_state(HORIZON))
    played = play(one.problem, one.policy, draw_starts(one.problem, num_rows, GROUP, generator), generator, steps=STEPS)
    found = rollout_of(played, one.policy, asked(one, 0.5, generator), GROUP)
    return found._replace(baselines=np.zeros(found.valid.shape))


def costs(rounds: int, generator: np.random.Generator, rows: tuple[int, ...] = (8, 256)) -> Iterator[Cell]:
    """Yield the microseconds of each estimator, and their ratio to GAE's; every round is the median of a few timings in turns."""
    choices: dict[str, Advantage] = {name: kind() for name, kind in ADVANTAGES.items()}
    for num_rows in rows:
        material = rollout(num_rows, generator)
        functions: dict[str, Callable[[], object]] = {name: _call(advantage, material) for name, advantage in choices.items()}
        seconds = [median_seconds(functions, TIMINGS) for _ in range(rounds)]
        base = next(name for name, advantage in choices.items() if isinstance(advantage, GAE))
        for name in choices:
            measures = {"microseconds": np.array([1e6 * one[name] for one in seconds]), "times GAE": np.array([one[name] / one[base] for one in seconds])}
            yield Cell("cost", "TwoState", "random", "none", name, f"rows of {STEPS} steps", num_rows, measures)


def _call(advantage: Advantage, material: Rollout) -> Callable[[], object]:
    return lambda: estimate(advantage, material)
