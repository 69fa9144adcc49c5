"""The prefix tree of a token task, enumerated level by level through its own core.

Axis legend: S prefixes that are still open (the states), A actions, R roots, B rows of one batch, C parts of an action (the tokens of a chunk).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from numpy.typing import NDArray

from ..core import ALL_ROWS, BoolArray, Core, FloatArray, IntArray, Streams, take_rows
from .tables import LIMIT, Tabular, check_size, checked_start, scipy_module

ROWS = 1 << 19  # of one batch: a level is one batched `advance`, and several only where memory asks for it

_CoreState = Mapping[str, NDArray[Any]]


class _Level(NamedTuple):
    """What all actions do to one batch of prefixes; the children stand in the order of (parent, action)."""

    rewards: FloatArray  # [B * A]
    live: BoolArray  # [B * A] the episode goes on
    observations: NDArray[Any]  # [live rows, *]
    state: _CoreState  # of the live rows


class _NoDraws(Streams):
    """Streams that refuse to be drawn from: what is enumerated must not depend on chance."""

    def __init__(self) -> None:
        super().__init__([])

    def uniform(self, rows: IntArray) -> FloatArray:
        raise ValueError("This core draws random numbers, so it has no prefix tree; from_core needs a deterministic one. Use from_table if it keeps a table P.")


def from_core(
    core: Core, *, prompts: Sequence[int] | IntArray | None = None, weights: Any = None, truncation_ends: bool = False, limit: int = LIMIT
) -> Tabular:
    """Return the problem of a deterministic token task: every prefix that is still open is a state, the first R are the roots.

    The core itself is never touched: `core.like` makes its doubles. Actions are ids, so `core.action_space` must be Discrete(A), or
    MultiDiscrete for chunks of C ids, whose A = V^C actions are numbered as digits are: action a is `np.unravel_index(a, nvec)`.
    A budget that ends a text terminates it, as in every text task, and is part of the problem. A core's own step limit is a truncation:
    what lies behind it is not in the tree, so values under the limit are all that can be had here, and only if you say so.
    Prompts that read alike (a secret in their `data`) are states of their own here, as if the secret were known: `as_seen` makes them one.

    Args:
        core: any deterministic core, `gym.make(...).unwrapped.core` for one. A scorer that draws lots is on its author's conscience.
        prompts: numbers of the prompts that are roots; all those of `core.task` if None (a core without prompts has one root).
        weights: probabilities [R] of the roots; if None, those by which the task draws its prompts, and equal ones for `prompts` of your own.
        truncation_ends: let a truncated step end the episode, worth nothing further: values under the core's own limit.
        limit: raise if there are more states.

    Raises:
        ValueError: if the core draws, truncates without `truncation_ends`, or the weights are no probabilities.
        TooManyStates: if there are more prefixes than `limit`, as soon as that is known.
    """
    if hasattr(core, "unwrapped"):  # an environment, not its core
        raise TypeError("from_core takes a core: env.unwrapped.core; from_table takes an environment with a table.")
    choices = _choices(core, limit)
    actions = len(choices)
    roots = _roots(core, prompts)
    if not len(roots):
        raise ValueError("There are no prompts to begin with: prompts is empty.")
    root = core.like(len(roots))
    root.start(np.arange(len(roots)), _NoDraws(), {} if roots[0] is None else {"prompt": np.array(roots)})
    observations, rewards, live = [root.observe(ALL_ROWS)], [], []
    count, depth = len(roots), 0
    frontier: list[_CoreState] = [root.get_state()]
    check_size(count, actions, limit, "This task has at least")
    while frontier:
        depth, following = depth + 1, list[_CoreState]()
        for level in _expanded(core, frontier, choices, truncation_ends):
            rewards.append(level.rewards)
            live.append(level.live)
            observations.append(level.observations)
            count += len(level.observations)
            check_size(count, actions, limit, f"Up to {depth} actions deep, and perhaps deeper, this task has at least")
            following += [level.state] if len(level.observations) else []
        frontier = following
    start = np.zeros(count)
    start[: len(roots)] = checked_start(_own_weights(core, prompts, len(roots)) if weights is None else weights, len(roots))
    return _tree(np.concatenate(rewards), np.concatenate(live), start, np.concatenate(observations), actions)


def _choices(core: Core, limit: int) -> IntArray:
    """Return every action there is, [A] or [A, C]."""
    space = core.action_space
    sizes = [int(space.n)] if isinstance(space, Discrete) else space.nvec.tolist() if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1 else None
    if sizes is None or np.any(getattr(space, "start", 0)):
        raise ValueError(f"Only actions Discrete(A) or MultiDiscrete([A, ...]) that begin at 0 can be enumerated, got {space}.")
    check_size(1, math.prod(sizes), limit, "With actions of this size there are at least")
    every: IntArray = np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=-1).astype(np.int64)
    return every[:, 0] if isinstance(space, Discrete) else every


def _roots(core: Core, prompts: Sequence[int] | IntArray | None) -> list[int | None]:
    if prompts is not None:
        return [operator.index(prompt) for prompt in prompts]
    source = getattr(getattr(core, "task", None), "prompts", None)
    return [None] if source is None else list(range(len(source)))


def _own_weights(core: Core, prompts: Sequence[int] | IntArray | None, num_roots: int) -> FloatArray:
    """Return the probabilities [R] of the roots where nobody gives them."""
    given = None if prompts is not None else getattr(getattr(core, "task", None), "prompt_weights", None)
    weights = np.ones(num_roots) if given is None else np.asarray(given, dtype=np.float64)
    return weights / weights.sum()


def _expanded(core: Core, frontier: list[_CoreState], choices: IntArray, truncation_ends: bool) -> Iterator[_Level]:
    for state in frontier:
        size = len(next(iter(state.values())))
        step = max(1, ROWS // len(choices))
        for first in range(0, size, step):
            yield _children(core, take_rows(state, np.arange(first, min(first + step, size)).repeat(len(choices))), choices, truncation_ends)


def _children(core: Core, repeated: _CoreState, choices: IntArray, truncation_ends: bool) -> _Level:
    rows = len(next(iter(repeated.values())))
    double = core.like(rows)
    double.set_state(repeated)
    step = double.advance(ALL_ROWS, np.resize(choices, (rows, *choices.shape[1:])), _NoDraws())
    if not truncation_ends and (step.truncated & ~step.terminated).any():
        raise ValueError(
            "This core truncates episodes by a step limit of its own; what lies behind it is not in the tree. truncation_ends=True gives the values "
            "under the limit (nothing after it); for those without, make the core without a limit, or use from_table if it keeps a table P."
        )
    live = ~(step.terminated | step.truncated)
    index = np.flatnonzero(live)
    return _Level(step.rewards, live, double.observe(index), take_rows(double.get_state(), index))


def _tree(rewards: FloatArray, live: BoolArray, start: FloatArray, observations: NDArray[Any], actions: int) -> Tabular:
    """Return the problem of a tree whose states stand level by level: the children are numbered in the order of (parent, action)."""
    sparse, states = scipy_module("sparse"), len(start)
    bounds = np.concatenate([[0], np.cumsum(live)])
    children = np.arange(states - bounds[-1], states)
    shape = (states * actions, states)
    transitions = sparse.csr_array((np.ones(len(children)), children, bounds), shape=shape)
    reward_transitions = sparse.csr_array((rewards[live], children, bounds), shape=shape, copy=True)
    reward_transitions.eliminate_zeros()  # in place, hence the copy: the two matrices would share their indices
    by_action = rewards.reshape(states, actions)
    return Tabular(transitions, reward_transitions, by_action, by_action**2, (~live).reshape(states, actions).astype(np.float64), start, observations)
