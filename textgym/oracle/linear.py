"""The linear systems behind exact values: x = b + gamma P x, and who can end at all.

Axis legend: S states, A actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core import FloatArray, IntArray
from .tables import Tabular, scipy_module

DIRECT = 5_000  # states up to which a factorisation is cheap, however the problem is knit


def mixed(problem: Tabular, matrix: Any, probabilities: FloatArray) -> Any:
    """Return the rows [S*A, S] of `matrix` averaged over the actions of each state, sparse [S, S]."""
    sparse, (states, actions) = scipy_module("sparse"), probabilities.shape
    flat = np.ascontiguousarray(probabilities).reshape(-1)
    weights = sparse.csr_array((flat, np.arange(states * actions), np.arange(0, states * actions + 1, actions)), shape=(states, states * actions))
    found = weights @ matrix
    found.eliminate_zeros()  # an action never taken is no way to go
    return found


def linear_solution(matrix: Any, constant: FloatArray, factor: float) -> FloatArray:
    """Return x [S] with x = constant + factor * matrix @ x, for a sparse `matrix` [S, S].

    States that stand in order of time (a prefix tree) need one backward (or forward) pass. Small problems are factorised. Large ones may fill
    in without bound when factorised, so an iteration (BiCGSTAB, van der Vorst 1992) goes first, and its answer counts only if its residual vanishes.
    """
    sparse, linalg = scipy_module("sparse"), scipy_module("sparse.linalg")
    if factor == 0 or matrix.nnz == 0 or not constant.any():
        return constant.copy()
    system = (sparse.eye_array(matrix.shape[0], format="csr") - factor * matrix).tocsr()
    way = _order(matrix)
    if way:
        solved: FloatArray = linalg.spsolve_triangular(system, constant, lower=way < 0, unit_diagonal=True)
        return solved
    iterated = _iterated(linalg, system, constant) if matrix.shape[0] > DIRECT else None
    return linalg.splu(system.tocsc()).solve(constant) if iterated is None else iterated


def _order(matrix: Any) -> int:
    """Return 1 if every state leads to later ones only, -1 if to earlier ones only, 0 otherwise."""
    entries = matrix.tocoo()
    row, column = entries.coords
    return 1 if (column > row).all() else -1 if (column < row).all() else 0


def _iterated(linalg: Any, system: Any, constant: FloatArray) -> FloatArray | None:
    found, residual = np.zeros_like(constant), constant
    small = 1e-14 * max(float(np.abs(constant).max()), 1e-300)
    for _ in range(4):  # each round refines what the last one left over
        found = found + linalg.bicgstab(system, residual, rtol=1e-12, atol=0.0, maxiter=300)[0]
        residual = constant - system @ found
        size = np.abs(residual).max()
        if not size < 1e-3 * np.abs(constant).max():
            return None
        if size <= small * max(1.0, float(np.abs(found).max()) / float(np.abs(constant).max())):
            return found
    return None


def _ways_to_end(matrix: Any, ends: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the states from which an end can be reached, and the next state [S] on a shortest way there (S itself is the end)."""
    sparse, graph, states = scipy_module("sparse"), scipy_module("sparse.csgraph"), matrix.shape[0]
    entries = matrix.tocoo()
    row, column = entries.coords
    last = np.flatnonzero(ends > 0)
    backwards = np.concatenate([column, np.full(len(last), states)]), np.concatenate([row, last])  # from the end to where one came from
    reversed_graph = sparse.csr_array((np.ones(len(backwards[0])), backwards), shape=(states + 1, states + 1))
    reached, towards = graph.breadth_first_order(reversed_graph, states)
    return reached[reached < states], towards[:states]


def never_end(matrix: Any, ends: FloatArray) -> IntArray:
    """Return the states from which a chain with transitions `matrix` [S, S] can reach no end; `ends` [S] are the probabilities of ending at once.

    In a finite chain, to be able to end from everywhere is to end with probability one from everywhere (Bertsekas & Tsitsiklis 1991: proper).
    """
    reached, _ = _ways_to_end(matrix, ends)
    return np.setdiff1d(np.arange(matrix.shape[0]), reached)


def ending_actions(problem: Tabular) -> IntArray:
    """Return actions [S] that end from everywhere with probability one: those most likely to step forward on a shortest way to an end.

    Raises `ValueError` if there is a state from which no policy can end.
    """
    states, actions = problem.rewards.shape
    uniform = mixed(problem, problem.transitions, np.full((states, actions), 1 / actions))
    reached, towards = _ways_to_end(uniform, problem.ends.mean(axis=1))
    if len(reached) < states:
        raise ValueError(endless(np.setdiff1d(np.arange(states), reached), "no policy can end"))
    pairs = np.arange(states * actions)
    inside = np.minimum(towards, states - 1).repeat(actions)
    chances = np.asarray(problem.transitions[pairs, inside]).reshape(states, actions)
    return np.where((towards == states)[:, None], problem.ends, chances).argmax(axis=1)


def endless(states: IntArray, what: str) -> str:
    """Return the complaint that from `states` something can go on for ever."""
    return (
        f"From {len(states)} states (the first: {states[0]}) {what}, so with gamma = 1 there is no value without a limit. "
        "Give gamma < 1, or horizon= for the value under a limit of that many steps."
    )
