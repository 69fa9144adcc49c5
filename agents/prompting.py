"""Which prompts are played: choices that couple rows, or that remember how earlier episodes went.

An environment draws each row's prompt by itself, uniformly or by weights. What looks at all rows, or back, is decided here, and told
to it by `reset(options={"prompt": prompts})`. Choices are frozen; what they remember is a dict of arrays that nobody writes into.
Axis legend: N rows, M prompts, E episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from numbers import Integral, Real
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .rollout import FloatArray, IntArray

State = Mapping[str, NDArray[Any]]


class Chosen(NamedTuple):
    """What the rows are to play."""

    prompts: IntArray  # [N]
    groups: IntArray  # [N] equal for rows that share a prompt on purpose, counted from 0


class Prompting(Protocol):
    """Any way to choose the prompts of N rows."""

    def start(self, num_prompts: int) -> State:
        """Return what is known of M prompts before the first episode."""

    def choose(self, state: State, num_envs: int, generator: np.random.Generator) -> Chosen:
        """Return the prompts of N rows, drawn with replacement."""

    def learn(self, state: State, prompts: IntArray, scores: FloatArray) -> State:
        """Return what is known after E episodes on `prompts` [E] that came to `scores` [E]."""


@dataclass(frozen=True)
class Uniform:
    """Every prompt equally often."""

    def start(self, num_prompts: int) -> State:
        """Return the number of prompts, which is all there is to know."""
        return {"num_prompts": np.array(_checked_number(num_prompts))}

    def chances(self, state: State) -> FloatArray:
        """Return how likely each prompt is [M]."""
        num_prompts = int(state["num_prompts"])
        return np.full(num_prompts, 1 / num_prompts)

    def choose(self, state: State, num_envs: int, generator: np.random.Generator) -> Chosen:
        """Return a prompt for each row."""
        return _drawn(self.chances(state), num_envs, generator)

    def learn(self, state: State, prompts: IntArray, scores: FloatArray) -> State:
        """Return `state`: nothing is learned."""
        return state


@dataclass(frozen=True)
class Priority:
    """Prompts whose last episodes surprised most come most often: prioritised level replay (Jiang et al. 2021, arXiv 2010.03934).

        P(i) = u / U for the U prompts not played yet, u = U / M, and (1 - u) ((1 - rho) P_S(i) + rho P_C(i)) for the others, with
        P_S(i) proportional to rank(S_i)^(-1 / beta), rank 1 the largest, and P_C(i) proportional to c - C_i

    S_i is the mean |score - V_i| of the prompt's last episodes, where V_i is the running mean of its scores before them: the value loss of the
    paper, with a table for a critic. At its first episodes V_i is the mean over the prompts played before, or over the batch if it is the
    first. C_i is the number of episodes when i was played last, c the present one: it keeps surprises from growing stale. The paper's annealed
    u is the share of prompts not played yet. Equal surprises share what their ranks would get.
    """

    temperature: float = 1.0  # beta; the paper's 0.1 is for one prompt at a time: N rows drawn at once would nearly all get the first in rank
    staleness: float = 0.1  # rho
    rate: float = 0.5  # how far V_i moves to the newest scores

    def __post_init__(self) -> None:
        real = all(isinstance(value, Real) for value in (self.temperature, self.staleness, self.rate))
        if not real or not self.temperature > 0 or not 0 <= self.staleness <= 1 or not 0 < self.rate <= 1:
            raise ValueError(f"Priority needs temperature > 0, staleness in [0, 1] and rate in (0, 1], got {self}.")

    def start(self, num_prompts: int) -> State:
        """Return how often each prompt was played [M], V [M], S [M], when it was played last [M], and the count of episodes ()."""
        m = _checked_number(num_prompts)
        nothing = np.zeros(m, dtype=np.int64)
        return {"visits": nothing, "values": np.zeros(m), "surprises": np.zeros(m), "last": nothing, "episodes": np.array(0)}

    def chances(self, state: State) -> FloatArray:
        """Return how likely each prompt is [M]."""
        seen = state["visits"] > 0
        new = 1 - float(seen.mean())
        chances = np.where(seen, 0.0, 1 / len(seen))
        if seen.any():
            by_surprise = _by_rank(state["surprises"][seen], self.temperature)
            by_age = _shares(state["episodes"] - state["last"][seen])
            chances[seen] = (1 - new) * ((1 - self.staleness) * by_surprise + self.staleness * by_age)
        return chances

    def choose(self, state: State, num_envs: int, generator: np.random.Generator) -> Chosen:
        """Return a prompt for each row."""
        return _drawn(self.chances(state), num_envs, generator)

    def learn(self, state: State, prompts: IntArray, scores: FloatArray) -> State:
        """Return the state after E episodes; scores in units of reward."""
        if not len(prompts):
            return state
        played, which, counts = np.unique(prompts, return_inverse=True, return_counts=True)
        visits, values, surprises, last = (state[name].copy() for name in ("visits", "values", "surprises", "last"))
        known, seen = visits[played] > 0, visits > 0
        before = np.where(known, values[played], values[seen].mean() if seen.any() else scores.mean())
        surprises[played] = np.bincount(which, np.abs(scores - before[which])) / counts
        means = np.bincount(which, scores) / counts
        values[played] = np.where(known, before + self.rate * (means - before), means)
        episodes = state["episodes"] + len(prompts)
        visits[played] += counts
        last[played] = episodes
        return {"visits": visits, "values": values, "surprises": surprises, "last": last, "episodes": episodes}


@dataclass(frozen=True)
class Curriculum:
    """From easy to hard (Bengio et al. 2009, "Curriculum learning"): uniformly among the easiest prompts, whose share grows.

        share = min(1, first_share * growth^stage)

    the exponential pacing of Hacohen & Weinshall 2019, "On the power of curriculum learning in training deep networks", where a stage lasts
    `every` batches. With a threshold the next stage waits until the mean score of such a stretch reaches it; a stretch that does not is repeated.
    """

    # Of each prompt [M], or of the prompt of an index; equal ones: by index. None: a job on text takes the prompts' lengths.
    difficulty: Sequence[float] | Callable[[int], float] | None = field(default=None, repr=False)
    first_share: float = 0.1
    growth: float = 1.5
    every: int = 10  # batches
    threshold: float | None = None  # in units of the score

    def __post_init__(self) -> None:
        real = all(isinstance(value, Real) for value in (self.first_share, self.growth, self.threshold or 0)) and isinstance(self.every, Integral)
        if not real or not 0 < self.first_share <= 1 or not self.growth > 1 or self.every < 1:
            raise ValueError(f"Curriculum needs first_share in (0, 1], growth > 1, every >= 1 whole batches, and a number or None as threshold, got {self}.")

    def start(self, num_prompts: int) -> State:
        """Return the prompts from easy to hard [M], the stage (), and of the present stretch: its batches (), episodes () and sum of scores ()."""
        m = _checked_number(num_prompts)
        if self.difficulty is None:
            raise ValueError("Curriculum needs to know what is difficult: give difficulty=, a number for each prompt or a function of its index.")
        given = [self.difficulty(i) for i in range(m)] if callable(self.difficulty) else self.difficulty
        difficulty = np.asarray(given, dtype=np.float64)
        if difficulty.shape != (num_prompts,) or not np.isfinite(difficulty).all():
            raise ValueError(f"Curriculum needs a finite difficulty for each of the {num_prompts} prompts, got shape {difficulty.shape}.")
        return {"order": np.argsort(difficulty, kind="stable"), "stage": np.array(0), **_stretch()}

    def share(self, state: State) -> float:
        """Return the share of prompts that are open, in (0, 1]."""
        return float(min(1.0, self.first_share * self.growth ** int(state["stage"])))

    def chances(self, state: State) -> FloatArray:
        """Return how likely each prompt is [M]: equally, if it is open."""
        order = state["order"]
        num_open = ceil(round(len(order) * self.share(state), 9))  # 10 prompts of 100 and not 11, where the share is 0.1 and a rounding error
        chances = np.zeros(len(order))
        chances[order[:num_open]] = 1 / num_open
        return chances

    def choose(self, state: State, num_envs: int, generator: np.random.Generator) -> Chosen:
        """Return a prompt for each row."""
        return _drawn(self.chances(state), num_envs, generator)

    def learn(self, state: State, prompts: IntArray, scores: FloatArray) -> State:
        """Return the state after another batch of E episodes."""
        batches, episodes, total = state["batches"] + 1, state["scored"] + len(scores), state["total"] + scores.sum()
        if batches < self.every:
            return {"order": state["order"], "stage": state["stage"], "batches": batches, "scored": episodes, "total": total}
        passed = self.threshold is None or (episodes > 0 and total / episodes >= self.threshold)
        return {"order": state["order"], "stage": state["stage"] + int(passed and self.share(state) < 1), **_stretch()}


@dataclass(frozen=True)
class Groups:
    """Each prompt `size` times, on rows side by side: for methods that compare the answers to one prompt. `of` chooses which prompts."""

    size: int
    of: Prompting = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        if not isinstance(self.size, int | np.integer) or self.size < 1:
            raise ValueError(f"A group has at least 1 row, and a whole number of them, got size={self.size!r}.")

    def start(self, num_prompts: int) -> State:
        """Return what `of` starts with."""
        return self.of.start(num_prompts)

    def choose(self, state: State, num_envs: int, generator: np.random.Generator) -> Chosen:
        """Return N / size prompts, each `size` times; two groups that come to the same prompt stay two."""
        if num_envs % self.size:
            raise ValueError(f"{num_envs} rows cannot be cut into groups of {self.size}: make num_envs a multiple of {self.size}.")
        prompts = self.of.choose(state, num_envs // self.size, generator).prompts
        return Chosen(np.repeat(prompts, self.size), np.arange(num_envs) // self.size)

    def learn(self, state: State, prompts: IntArray, scores: FloatArray) -> State:
        """Return what `of` learns."""
        return self.of.learn(state, prompts, scores)


def _drawn(chances: FloatArray, num_envs: int, generator: np.random.Generator) -> Chosen:
    return Chosen(generator.choice(len(chances), size=num_envs, p=chances), np.arange(num_envs))


def _stretch() -> dict[str, NDArray[Any]]:
    return {"batches": np.array(0), "scored": np.array(0), "total": np.array(0.0)}


def _shares(weights: NDArray[Any]) -> FloatArray:
    """Return weights [M] as a distribution; the uniform one if all are 0."""
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), 1 / len(weights))


def _by_rank(scores: FloatArray, temperature: float) -> FloatArray:
    """Return rank^(-1 / temperature) as a distribution [M], rank 1 the largest; equal scores share their ranks' weights."""
    weights = np.arange(1, len(scores) + 1) ** (-1 / temperature)
    _, which, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    shared = np.add.reduceat(weights, np.cumsum(counts) - counts) / counts
    return _shares(shared[which])


def _checked_number(num_prompts: int) -> int:
    if num_prompts < 1:
        raise ValueError(f"There must be at least 1 prompt to choose from, got num_prompts={num_prompts}.")
    return num_prompts
