"""What is best for who does not see everything: the states of a prefix tree that look alike become one.

Axis legend: S states of the tree, K of them that can be told apart, A actions.
"""

from __future__ import annotations

import numpy as np

from ..core import FloatArray
from .tables import Tabular, scipy_module


def as_seen(problem: Tabular) -> Tabular:
    """Return the problem of `from_core` as its agent meets it: prefixes that read alike are one state, and what differs behind them is chance.

    A prompt's `data` may hold a secret that only the responder and the scorer know. Then several states share one observation, and their values
    are those of an agent who knows the secret. A text shows all that was said, so the agent's belief at an observation is the share
    of the prompts from which the same words lead there, and the problem of beliefs is exact (Kaelbling, Littman & Cassandra 1998, "Planning and
    acting in partially observable stochastic domains", section 3). Raises `ValueError` if the problem is no tree: only there do words tell the past.
    """
    sparse, actions = scipy_module("sparse"), problem.rewards.shape[1]
    _, first, group = np.unique(problem.observations, axis=0, return_index=True, return_inverse=True)
    group, kinds, states = group.reshape(-1), len(first), len(problem.start)
    weights = _weights(problem, actions)
    of_kind = np.bincount(group, weights, minlength=kinds)
    alike = np.bincount(group, minlength=kinds)
    share = np.where(of_kind[group] > 0, weights / np.where(of_kind > 0, of_kind, 1)[group], 1 / alike[group])  # [S] the belief
    pairs = np.arange(states * actions)
    belief = sparse.csr_array((share.repeat(actions), (group.repeat(actions) * actions + pairs % actions, pairs)), shape=(kinds * actions, states * actions))
    member = sparse.csr_array((np.ones(states), (np.arange(states), group)), shape=(states, kinds))

    def mean(values: FloatArray) -> FloatArray:
        found: FloatArray = (belief @ values.reshape(-1)).reshape(kinds, actions)
        return found

    return Tabular(
        sparse.csr_array(belief @ problem.transitions @ member),
        sparse.csr_array(belief @ problem.reward_transitions @ member),
        mean(problem.rewards),
        mean(problem.second_moments),
        mean(problem.ends),
        np.bincount(group, problem.start, minlength=kinds).astype(np.float64),
        problem.observations[first],
    )


def _weights(problem: Tabular, actions: int) -> FloatArray:
    """Return the start probability [S] of the root above each state of a tree."""
    links = problem.transitions.tocoo()
    parents, children = links.row // actions, links.col
    roots = len(problem.start) - len(children)
    if len(np.unique(children)) != len(children) or problem.start[roots:].any() or (len(children) and children.min() < roots):
        raise ValueError("as_seen needs the tree of from_core, where each state has one past; in this problem states are reached in several ways.")
    weights: FloatArray = problem.start.copy()
    while (weights[children] != weights[parents]).any():
        weights[children] = weights[parents]
    return weights
