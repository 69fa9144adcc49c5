"""Laws about chance: the seed decides everything, and a copy goes on as its original does."""

from __future__ import annotations

import pickle

from .playing import middle, parting, play, play_on
from .verdicts import Make, NotApplicableError

SEEDS = (3, 4, 5, 6)


def deterministic(make: Make, steps: int) -> str:
    """Two environments with one seed and the same actions give the same episodes, bit for bit."""
    found = parting(play(make(), steps, SEEDS[0]), play(make(), steps, SEEDS[0]))
    return f"two environments with one seed and the same actions differ: {found}." if found else ""


def another_seed(make: Make, steps: int) -> str:
    """Another seed gives another episode, where anything is random."""
    first, *others = (play(make(), steps, seed) for seed in SEEDS)
    if any(parting(first, other) for other in others):
        return ""
    env = make()
    unseeded = [play(env, steps, seed) for seed in (SEEDS[0], *[None] * len(SEEDS))]
    if any(parting(first, other) for other in unseeded):
        return f"the seeds {SEEDS} give the same episodes, though a reset without a seed gives others."
    raise NotApplicableError("nothing in it is random, as far as can be seen")


def pickles(make: Make, steps: int) -> str:
    """A pickled copy goes on as its original does, from the middle of an episode."""
    env = make()
    now = middle(env)
    copy = pickle.loads(pickle.dumps(env))
    found = parting(play_on(env, now, steps), play_on(copy, now, steps))
    return f"the copy goes on differently: {found}." if found else ""
