"""Random streams of a run: disjoint by role and rank, explicit, and part of the saved state."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_WORD = 2**32
# Row i of a vector environment is seeded with seed + i, and some environments take a signed 32-bit seed: this leaves room for a million rows.
_ENVIRONMENT_SEEDS = 2**31 - 2**20


class Generators(NamedTuple):
    """One stream for each role of a run."""

    environments: int  # the seed to pass to `reset`
    policy: np.random.Generator  # samples actions
    minibatches: np.random.Generator  # shuffles
    evaluation: np.random.Generator  # what an evaluation draws, so that evaluating more often changes nothing else
    prompts: np.random.Generator  # chooses prompts, where the environment is told which to play


def generators(run_seed: int, rank: int = 0) -> Generators:
    """Return the streams of a run's rank, from `np.random.SeedSequence([run_seed, role, rank])`.

    Raises `ValueError` unless both are in [0, 2**32): each is then one word of entropy, and no two (seed, role, rank) are the same words.
    """
    for name, value in (("run_seed", run_seed), ("rank", rank)):
        if not 0 <= value < _WORD:
            raise ValueError(f"{name} is {value}; it must be at least 0 and below 2**32.")
    environments, *others = (np.random.SeedSequence([int(run_seed), role, int(rank)]) for role in range(len(Generators._fields)))
    environment_seed = int(environments.generate_state(1, np.uint64)[0]) % _ENVIRONMENT_SEEDS
    return Generators(environment_seed, *(np.random.default_rng(sequence) for sequence in others))


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """Return the state of a generator as JSON values (128-bit integers among them)."""
    return {key: _plain(value) for key, value in generator.bit_generator.state.items()}


def restore_generator(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Put a generator into a state from `generator_state`; raises `ValueError` if it is of another kind."""
    kind = type(generator.bit_generator).__name__
    if state.get("bit_generator") != kind:
        raise ValueError(f"This state is of a {state.get('bit_generator')!r} generator, not of a {kind!r}; restore it into its own kind.")
    generator.bit_generator.state = {key: _arrays(value) for key, value in state.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    return np.array(value, dtype=np.uint64) if isinstance(value, list) else value
