"""What a task writes (`Core`), and the random streams that its rows draw from.

A task is written once, batched over rows. The two Gymnasium faces, `env.GymEnv` (a batch of one) and `vector.GymVectorEnv`
(N rows), add autoreset, seeding, infos, rendering and forks for every task alike.

Axis legend: N rows of a core, B rows of one call, K numbers in a block of random draws.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Rows = slice | IntArray  # `slice(None)` is every row and avoids a gather; otherwise row numbers, int64 [B]
State = dict[str, Any]  # arrays and JSON values only

ALL_ROWS = slice(None)


class Step(NamedTuple):
    """What one action did to each of the B rows that were advanced."""

    rewards: FloatArray  # [B]
    terminated: BoolArray  # [B]
    truncated: BoolArray  # [B] by the task's own step limit; limits around a task belong to the faces


class Core(Protocol):
    """All that a task writes: N independent episodes, advanced together.

    Rows never look at each other, so that N rows equal N environments of one row exactly.
    """

    num_rows: int
    observation_space: Space[Any]  # of one row
    action_space: Space[Any]  # of one row
    render_modes: tuple[str, ...]

    def start(self, rows: IntArray, streams: Streams, options: Mapping[str, Any]) -> None:
        """Begin a new episode on each of `rows`, drawing from their streams; `options` come from `reset`."""

    def advance(self, rows: Rows, actions: NDArray[Any], streams: Streams) -> Step:
        """Apply `actions` [B] to `rows`; raises `ValueError` if one lies outside `action_space`."""

    def observe(self, rows: Rows, copy: bool = True) -> NDArray[Any]:
        """Return the observations [B, *] of `rows`: fresh memory, unless `copy` is False and `rows` is a slice."""

    def live_info(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return facts [B, ...] that stand beside every observation (an action mask); empty for most tasks."""

    def end_info(self, rows: IntArray) -> dict[str, NDArray[Any]]:
        """Return facts [B, ...] of the episodes that have just ended on `rows`."""

    def render(self, row: int, mode: str) -> Any:
        """Return one row drawn in `mode`, one of `render_modes` ("ansi": a str, "rgb_array": uint8 [H, W, 3])."""

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return copies of everything that changes, as arrays whose first axis is the row."""

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become what `get_state` described; the number of rows must agree."""

    def like(self, num_rows: int) -> Core:
        """Return an unstarted core of the same task with another number of rows."""


CoreFactory = Callable[..., Core]  # core(num_rows=N, **options of the task)


class Streams:
    """One random stream a row; every draw is a uniform number in [0, 1), taken from a block of K drawn ahead.

    `generator.random(size=K)` yields the same numbers as K scalar draws, so blocks change no result, only the time:
    a scalar draw for each row would cost more than the rest of a step. One kind of draw keeps one block and one cursor.
    """

    block_size = 64

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self.generators = list(generators)
        self._blocks = np.zeros((len(self.generators), self.block_size))
        self._cursors = np.full(len(self.generators), self.block_size, dtype=np.int64)

    @classmethod
    def from_seeds(cls, seeds: Sequence[int | None]) -> Streams:
        """Return streams seeded as Gymnasium seeds single environments; None takes fresh entropy."""
        return cls([np.random.default_rng(seed) for seed in seeds])

    def reseed(self, row: int, generator: np.random.Generator) -> None:
        """Let `row` draw from `generator` from now on; what was drawn ahead is dropped."""
        self.generators[row] = generator
        self._cursors[row] = self.block_size

    def uniform(self, rows: IntArray) -> FloatArray:
        """Return the next number [B] of the stream of each row; `rows` [B] are distinct."""
        cursors = self._cursors[rows]
        for i in (cursors == self.block_size).nonzero()[0].tolist():
            self.generators[rows[i]].random(out=self._blocks[rows[i]])
            cursors[i] = 0
        self._cursors[rows] = cursors + 1
        return self._blocks[rows, cursors]

    def integers(self, rows: IntArray, high: int) -> IntArray:
        """Return a uniform integer in [0, high) for each row [B]; the bias of scaling a double is below high / 2**53."""
        return (self.uniform(rows) * high).astype(np.int64)

    def get_state(self) -> State:
        """Return generators (PCG64 words, uint64 [N, 4]), blocks [N, K] and cursors [N]."""
        words = np.array([_pcg64_words(g) for g in self.generators], dtype=np.uint64)
        return {"words": words.reshape(-1, 4), "blocks": self._blocks.copy(), "cursors": self._cursors.copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Streams:
        """Return streams that continue exactly where `get_state` stood."""
        streams = cls([_pcg64_from_words(words) for words in np.asarray(state["words"], dtype=np.uint64)])
        streams._blocks[:] = state["blocks"]
        streams._cursors[:] = state["cursors"]
        return streams


def take_rows(state: Mapping[str, NDArray[Any]], rows: IntArray) -> dict[str, NDArray[Any]]:
    """Return the state of `rows` [B] (repeats allowed) out of a state whose arrays all begin with the row axis."""
    return {key: np.asarray(value)[rows] for key, value in state.items()}


def refuse_unknown(options: Mapping[str, Any], known: str) -> None:
    """Raise `ValueError` if `options` of a reset has a key other than `known`: a misspelled one would silently begin a random episode."""
    if unknown := [key for key in options if key != known]:
        raise ValueError(f"reset(options=...) holds {unknown[0]!r}, but this task knows {known!r} (and vector environments reset_mask).")


class RenderModeError(ValueError, TypeError):
    """A drawing that this task does not know.

    A TypeError too: Stable-Baselines3's `make_vec_env` asks every id for "rgb_array", and takes a TypeError for a polite no.
    """


def make_core(core: str | CoreFactory, num_rows: int, options: dict[str, Any]) -> Core:
    """Return the core of a factory, or of the factory that "module:name" names."""
    if isinstance(core, str):
        module, _, name = core.partition(":")
        factory: CoreFactory = getattr(importlib.import_module(module), name)
    else:
        factory = core
    return factory(num_rows=num_rows, **options)


def checked_render_mode(core: Core, render_mode: str | None) -> str | None:
    """Return `render_mode`; raises `RenderModeError` if the core cannot draw it."""
    if render_mode is not None and render_mode not in core.render_modes:
        raise RenderModeError(f"render_mode {render_mode!r} is not one of {list(core.render_modes)}.")
    return render_mode


def core_texts(core: Core) -> list[str]:
    """Return the decoded continuations of a text core; raises `TypeError` for any other."""
    texts = getattr(core, "texts", None)
    if texts is None:
        raise TypeError(f"{type(core).__name__} is no text task: it has no texts.")
    found: list[str] = texts()
    return found


def core_masks(core: Core, after: IntArray | None = None) -> BoolArray:
    """Return which actions each row may take next, bool [N, A], or after the tokens `after` [N, j]; raises `TypeError` where nothing is ever forbidden."""
    masks = getattr(core, "action_masks", None)
    if masks is None:
        raise TypeError(f"{type(core).__name__} has no constraint, so it has no action masks.")
    found: BoolArray = masks() if after is None else masks(after)
    return found


_LOW = (1 << 64) - 1


def _pcg64_words(generator: np.random.Generator) -> tuple[int, int, int, int]:
    state = generator.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise TypeError(f"A row draws from {state['bit_generator']}; states are kept for PCG64, NumPy's and Gymnasium's default.")
    inner = state["state"]
    return inner["state"] >> 64, inner["state"] & _LOW, inner["inc"] >> 64, inner["inc"] & _LOW


def _pcg64_from_words(words: NDArray[np.uint64]) -> np.random.Generator:
    high, low, inc_high, inc_low = (int(word) for word in words)
    generator = np.random.Generator(np.random.PCG64(0))
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": 0,  # only doubles are drawn: no half word is ever kept back
        "uinteger": 0,
    }
    return generator
