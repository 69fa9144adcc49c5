"""A finite decision problem as arrays, and the door for Gymnasium's toy-text tables.

SciPy is loaded when a problem is made, not when this module is imported.

Axis legend: S states, A actions, B observations of one call, H steps of a horizon.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core import FloatArray, IntArray

LIMIT = 1_000_000  # states; each costs some hundred bytes an action
PAIRS_PER_STATE = 16  # a problem holds at most this many pairs of state and action for each state of its limit

Policy = Callable[[NDArray[Any]], Any] | NDArray[Any]  # observations [B, *] -> probabilities [B, A]; or probabilities [S, A] themselves


class TooManyStates(ValueError):
    """A problem that is too large to be solved exactly."""


class Tabular(NamedTuple):
    """A finite decision problem, known exactly. Row s * A + a of a sparse matrix belongs to action a in state s.

    The second moments are those of single rewards. Where a task adds noise of standard deviation sigma that is independent
    of everything else, `problem._replace(second_moments=problem.second_moments + sigma**2)` says so.
    """

    transitions: Any  # sparse [S*A, S] the probability of going on in each state; a row sums to 1 - ends
    reward_transitions: Any  # sparse [S*A, S] the same outcomes, each probability times the reward paid with it
    rewards: FloatArray  # [S, A] E[r | s, a]
    second_moments: FloatArray  # [S, A] E[r^2 | s, a]
    ends: FloatArray  # [S, A] the probability that the episode ends with this action: nothing follows
    start: FloatArray  # [S] where episodes begin
    observations: NDArray[Any]  # [S, *] what a policy sees in each state

    @property
    def num_states(self) -> int:
        """Return S."""
        return int(self.rewards.shape[0])

    @property
    def num_actions(self) -> int:
        """Return A."""
        return int(self.rewards.shape[1])


class _Outcomes(NamedTuple):
    """Every line of a table, laid flat."""

    pairs: IntArray  # s * A + a
    probabilities: FloatArray
    following: IntArray  # the next state
    rewards: FloatArray
    terminated: NDArray[np.bool_]


def scipy_module(name: str) -> Any:
    """Return a module of SciPy; raises `ImportError` that says how to install it."""
    try:
        return importlib.import_module(f"scipy.{name}")
    except ImportError as error:
        raise ImportError("textgym.oracle solves with SciPy, which is not installed: pip install scipy") from error


def check_size(states: int, actions: int, limit: int, what: str) -> None:
    """Raise `TooManyStates` with the number of states and the limit if a problem exceeds it."""
    if states > limit or states * actions > PAIRS_PER_STATE * limit:
        pairs = f" and {states * actions} pairs of state and action" if states <= limit else ""
        raise TooManyStates(
            f"{what} {states} states{pairs}; the limit is {limit} states and {PAIRS_PER_STATE * limit} pairs. "
            "Make the task smaller, or raise limit= if memory and patience allow (some hundred bytes a pair)."
        )


def from_table(
    env: gym.Env[Any, Any] | Mapping[int, Any],
    *,
    start: Any = None,
    observe: Callable[[int], Any] | None = None,
    limit: int = LIMIT,
) -> Tabular:
    """Return the problem of an environment that keeps Gymnasium's toy-text table (FrozenLake, CliffWalking, Taxi, TwoState).

    The table is `env.unwrapped.P` (or `env` itself, a mapping): {s: {a: [(probability, next state, reward, terminated), ...]}}.
    It knows no time limit: pass `horizon=` to the functions of this package for the values under one.

    Args:
        env: the environment, wrapped or not. Wrappers that change rewards or actions change the problem and are refused.
        start: probabilities [S] of where episodes begin; the environment's `initial_state_distrib` if None.
        observe: what a policy sees in state s; s itself if None.
        limit: raise if there are more states.

    Raises:
        TypeError: if there is no table, or a wrapper contradicts it.
        ValueError: if the table is no probability law (the state and action are named), or the start is unknown.
        TooManyStates: if there are more states than `limit`.
    """
    table = env if isinstance(env, Mapping) else _table_of(env, observe)
    states = len(table)
    actions = len(table[0]) if states and 0 in table else 0
    check_size(states, actions, limit, "This table has")
    outcomes = _outcomes(table, states, actions)
    probabilities = _start_of(env, start, states)
    seen = np.arange(states) if observe is None else np.array([observe(s) for s in range(states)])
    return _tabular(outcomes, states, actions, probabilities, seen)


def _table_of(env: gym.Env[Any, Any], observe: Callable[[int], Any] | None) -> Mapping[int, Any]:
    try:
        table = env.unwrapped.P  # type: ignore[attr-defined]
    except AttributeError as error:  # ours say why: several maps, real places
        raise TypeError(f"{env} has no table env.unwrapped.P ({error}). Text tasks are enumerated by from_core(env.unwrapped.core).") from error
    wrapper: Any = env
    while isinstance(wrapper, gym.Wrapper):
        if isinstance(wrapper, gym.RewardWrapper | gym.ActionWrapper) or (isinstance(wrapper, gym.ObservationWrapper) and observe is None):
            raise TypeError(
                f"The wrapper {type(wrapper).__name__} changes what the table says. Give the environment without it"
                f"{', or observe= for what a policy sees.' if isinstance(wrapper, gym.ObservationWrapper) else '.'}"
            )
        wrapper = wrapper.env
    return table if isinstance(table, Mapping) else dict(enumerate(table))


def _outcomes(table: Mapping[int, Any], states: int, actions: int) -> _Outcomes:
    for s in range(states):
        if s not in table or sorted(table[s] if isinstance(table[s], Mapping) else range(len(table[s]))) != list(range(actions)):
            raise ValueError(f"A table numbers its states 0 to {states - 1} and the actions of each 0 to {actions - 1}; state {s} is missing or differs.")
    flat = np.array([line for s in range(states) for a in range(actions) for line in table[s][a]], dtype=np.float64).reshape(-1, 4)
    pairs = np.repeat(np.arange(states * actions), [len(table[s][a]) for s in range(states) for a in range(actions)])
    outcomes = _Outcomes(pairs, flat[:, 0], flat[:, 1].astype(np.int64), flat[:, 2], flat[:, 3] != 0)
    _check(outcomes, states, actions)
    return outcomes


def _check(outcomes: _Outcomes, states: int, actions: int) -> None:
    sums = np.bincount(outcomes.pairs, outcomes.probabilities, minlength=states * actions)
    improper = np.zeros(states * actions, dtype=np.bool_)
    improper[outcomes.pairs[~(outcomes.probabilities >= 0)]] = True
    elsewhere = (outcomes.following < 0) | (outcomes.following >= states)
    for bad, complaint in (
        (np.flatnonzero(improper), "has a probability that is negative or no number"),
        (np.flatnonzero(~(np.abs(sums - 1) < 1e-6)), "has probabilities that do not sum to 1"),
        (outcomes.pairs[elsewhere], f"leads to a state outside 0 to {states - 1}"),
        (outcomes.pairs[~np.isfinite(outcomes.rewards)], "has a reward that is not finite"),
    ):
        if len(bad):
            s, a = divmod(int(bad[0]), actions)
            raise ValueError(f"The table's entry for state {s}, action {a} {complaint}.")


def _start_of(env: Any, start: Any, states: int) -> FloatArray:
    if start is None:
        start = getattr(getattr(env, "unwrapped", None), "initial_state_distrib", None)
    if start is None:
        raise ValueError(f"Where do episodes begin? There is no env.unwrapped.initial_state_distrib; give start=, {states} probabilities.")
    return checked_start(start, states)


def checked_start(start: Any, states: int) -> FloatArray:
    """Return start probabilities as float64 [S]; raises `ValueError` if they are none."""
    found = np.asarray(start, dtype=np.float64)
    if found.shape != (states,) or not (found >= 0).all() or abs(found.sum() - 1) > 1e-6:
        raise ValueError(f"The start needs {states} probabilities that sum to 1, got shape {found.shape} and sum {found.sum()}.")
    return found / found.sum()


def _tabular(outcomes: _Outcomes, states: int, actions: int, start: FloatArray, observations: NDArray[Any]) -> Tabular:
    sparse = scipy_module("sparse")
    p, r, pairs, on = outcomes.probabilities, outcomes.rewards, outcomes.pairs, ~outcomes.terminated

    def expected(values: FloatArray) -> FloatArray:
        sums: FloatArray = np.bincount(pairs, p * values, minlength=states * actions).astype(np.float64)
        return sums.reshape(states, actions)

    def matrix(values: FloatArray) -> Any:
        found = sparse.csr_array((values[on], (pairs[on], outcomes.following[on])), shape=(states * actions, states))
        found.eliminate_zeros()  # an outcome of probability 0 is no way to go
        return found

    return Tabular(matrix(p), matrix(p * r), expected(r), expected(r * r), expected(outcomes.terminated.astype(np.float64)), start, observations)


def probabilities_of(problem: Tabular, policy: Policy, horizon: int | None = None, batch_size: int = 4096) -> FloatArray:
    """Return a policy's probabilities [S, A], or [H, S, A] of one that changes with time, checked and normalised.

    A callable sees `batch_size` observations at a time. Probabilities in float32 sum to 1 within 1e-6 only, hence the normalising.
    Raises `ValueError` if the shape is wrong or a row is no distribution (the state is named).
    """
    if callable(policy):
        seen = problem.observations
        found = np.concatenate([np.asarray(policy(seen[i : i + batch_size]), dtype=np.float64) for i in range(0, len(seen), batch_size)])
    else:
        found = np.asarray(policy, dtype=np.float64)
    shape = problem.rewards.shape
    if found.shape != shape and (horizon is None or found.shape != (horizon, *shape)):
        timed = "" if horizon is None else f", or {(horizon, *shape)} if it changes with time"
        raise ValueError(f"A policy gives probabilities of shape {shape} (states, actions){timed}; this one gave {found.shape}.")
    sums = found.sum(axis=-1, keepdims=True)
    wrong = np.argwhere(~((found >= 0).all(axis=-1) & (np.abs(sums[..., 0] - 1) < 1e-4)))
    if len(wrong):
        where = tuple(wrong[0].tolist())
        raise ValueError(f"The policy gives no distribution in state {where[-1]}: {found[where]}; probabilities are not negative and sum to 1, logits do not.")
    normalised: FloatArray = found / sums
    return normalised


def finder(problem: Tabular) -> Callable[[NDArray[Any]], IntArray]:
    """Return a function from observations [*, ...] of the environment to state numbers [*]; it raises `KeyError` for one that is no state.

    `values.v[find(rollout.observations)]` is the exact critic. Where several states look alike, the first is found.
    """
    shape, dtype = problem.observations.shape[1:], problem.observations.dtype
    numbers: dict[bytes, int] = {}
    for state, seen in enumerate(problem.observations):
        numbers.setdefault(seen.tobytes(), state)

    def find(observations: NDArray[Any]) -> IntArray:
        flat = np.ascontiguousarray(observations, dtype=dtype).reshape(-1, *shape)
        lead = np.shape(observations)[: np.ndim(observations) - len(shape)]
        return np.array([numbers[seen.tobytes()] for seen in flat], dtype=np.int64).reshape(lead)

    return find
