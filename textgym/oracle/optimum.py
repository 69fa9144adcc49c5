"""Optimal values: backward induction under a horizon, policy iteration without one.

Axis legend: S states, A actions, H steps of a horizon, t steps already spent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core import FloatArray, IntArray
from .linear import ending_actions, endless, linear_solution, never_end
from .tables import Tabular
from .values import Values, check_discount, q_values

SWEEPS, LOOK = 5_000, 50  # of value iteration at most, before policy iteration makes the answer exact; so many between looks at the actions
ROUNDS = 10_000  # of policy iteration, of which a handful is usual


class Optimum(NamedTuple):
    """Optimal values and actions that attain them, shaped as `Values`: v [S], or [H+1, S] under a horizon."""

    v: FloatArray  # [S]
    q: FloatArray  # [S, A]
    actions: IntArray  # [S], or [H, S]

    @property
    def a(self) -> FloatArray:
        """Return the advantages q - v, none above 0."""
        return Values(self.v, self.q).a

    @property
    def policy(self) -> FloatArray:
        """Return `actions` as probabilities [S, A], or [H, S, A], for the functions that take a policy."""
        return np.eye(self.q.shape[-1])[self.actions]


def solve(problem: Tabular, gamma: float, horizon: int | None = None) -> Optimum:
    """Return V*, Q* and a greedy policy, in units of reward; gamma and horizon as in `values`.

        Q*(s, a) = E[r] + gamma sum_s' P(s' | s, a) max_a' Q*(s', a')

    Bellman 1957; Howard 1960, "Dynamic programming and Markov processes". With gamma = 1 and no horizon the best is sought among the policies that
    end with probability one (proper ones, Bertsekas & Tsitsiklis 1991): from such a policy, actions are changed only for strictly better
    ones, and that keeps it proper unless rewards can be collected for ever.

    Raises `ValueError` in that case, if gamma is not in [0, 1], and if there is neither discount nor horizon and some state has no way to an end.
    """
    check_discount(gamma, horizon)
    if horizon is not None:
        return _by_induction(problem, gamma, horizon)
    return _by_policies(problem, _first_actions(problem, gamma), gamma)


def _by_induction(problem: Tabular, gamma: float, horizon: int) -> Optimum:
    v, q = np.zeros((horizon + 1, problem.num_states)), np.zeros((horizon, *problem.rewards.shape))
    for t in reversed(range(horizon)):
        q[t] = q_values(problem, v[t + 1], gamma)
        v[t] = q[t].max(axis=-1)
    return Optimum(v, q, q.argmax(axis=-1))


def _first_actions(problem: Tabular, gamma: float) -> IntArray:
    """Return the greedy actions [S] of some sweeps of value iteration; where these need not end and must, actions that do."""
    sure = ending_actions(problem) if gamma == 1 else None
    greedy = _swept_actions(problem, gamma)
    return greedy if sure is None or not len(_stuck(problem, greedy)) else sure


def _swept_actions(problem: Tabular, gamma: float) -> IntArray:
    """Return the greedy actions [S] of value iteration, stopped when they no longer change: policy iteration needs few rounds from there."""
    v, actions = np.zeros(problem.num_states), np.full(problem.num_states, -1)
    for sweep in range(1, SWEEPS + 1):
        q = q_values(problem, v, gamma)
        before, v = v, q.max(axis=-1)
        done = np.array_equal(before, v)  # a prefix tree is done after as many sweeps as it has levels
        if done or sweep % LOOK == 0:
            earlier, actions = actions, q.argmax(axis=-1)
            if done or np.array_equal(earlier, actions):
                break
    return actions


def _by_policies(problem: Tabular, actions: IntArray, gamma: float) -> Optimum:
    states, best = np.arange(problem.num_states), None
    for _ in range(ROUNDS):
        v = _value(problem, actions, gamma)
        q = q_values(problem, v, gamma)
        scale = max(1.0, float(np.abs(q).max(initial=0.0)))
        better = q.max(axis=-1) > q[states, actions] + 1e-14 * scale
        if not better.any() or (best is not None and not (v > best + 1e-12 * scale).any()):  # the second: rounding goes round in circles
            return Optimum(v, q, actions)
        best, actions = v, np.where(better, q.argmax(axis=-1), actions)
        if gamma == 1 and len(stuck := _stuck(problem, actions)):
            raise ValueError(endless(stuck, "rewards can be collected for ever"))
    raise RuntimeError(f"Policy iteration did not settle in {ROUNDS} rounds; this is a defect of textgym.oracle, please report the problem.")


def _value(problem: Tabular, actions: IntArray, gamma: float) -> FloatArray:
    rows = np.arange(problem.num_states) * problem.num_actions + actions
    return linear_solution(problem.transitions[rows], problem.rewards.reshape(-1)[rows], gamma)


def _stuck(problem: Tabular, actions: IntArray) -> IntArray:
    states = np.arange(problem.num_states)
    return never_end(problem.transitions[states * problem.num_actions + actions], problem.ends[states, actions])
