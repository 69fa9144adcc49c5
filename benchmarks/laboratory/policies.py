"""Whom the estimators judge, and whom they ask: policies, fixed and along training, and critics.

Axis legend: S states, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from textgym import oracle

from .problems import FloatArray, Problem

STEP = 0.3  # length of a step of the exact ascent, in logits
ROUNDS = 3_000  # of it at most


class Critic(NamedTuple):
    """What is believed of V, of Q, and of V by who only knows Q; in units of reward."""

    v: FloatArray  # [S]
    q: FloatArray  # [S, A]
    mean_q: FloatArray  # [S] sum_a pi(a | s) q(s, a)


def softmax(logits: FloatArray) -> FloatArray:
    """Return probabilities [S, A] of logits [S, A]."""
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: FloatArray = odds / odds.sum(axis=-1, keepdims=True)
    return found


def uniform(problem: Problem) -> FloatArray:
    """Return the policy [S, A] that has no preference."""
    return np.full(problem.tabular.rewards.shape, 1 / problem.num_actions)


def random_policy(problem: Problem, generator: np.random.Generator, scale: float = 1.0) -> FloatArray:
    """Return the softmax [S, A] of normal logits with standard deviation `scale`."""
    return softmax(scale * generator.normal(size=problem.tabular.rewards.shape))


def expected(problem: Problem, policy: FloatArray) -> float:
    """Return the expected return of an episode, in units of reward."""
    return oracle.expected_return(problem.tabular, policy, 1.0)


def best(problem: Problem) -> float:
    """Return the expected return of the best policy."""
    return float(problem.tabular.start @ oracle.solve(problem.tabular, 1.0).v)


def along_training(problem: Problem, shares: Sequence[float]) -> list[FloatArray]:
    """Return policies of an ascent along the exact gradient, from the uniform one: the first to have gone each of `shares` of the way to the best return.

    Raises `ValueError` if the ascent does not come that far.
    """
    logits, low, high = np.zeros(problem.tabular.rewards.shape), expected(problem, uniform(problem)), best(problem)
    found: list[FloatArray] = []
    for _ in range(ROUNDS):
        policy = softmax(logits)
        while len(found) < len(shares) and expected(problem, policy) >= low + shares[len(found)] * (high - low):
            found.append(policy)
        if len(found) == len(shares):
            return found
        gradient = oracle.policy_gradient(problem.tabular, policy, 1.0)
        logits += STEP * gradient / np.linalg.norm(gradient)
    raise ValueError(f"The exact ascent on {problem.name} did not come to {shares[len(found)]} of the way in {ROUNDS} steps; give a smaller share.")


def unlike_prompts(problem: Problem) -> FloatArray:
    """Return a policy [S, A] that is halfway to the best one after the first of a prefix tree's prompts, and near the uniform one after the others."""
    seen = problem.tabular.observations
    known = (seen[:, 0] == seen[0, 0])[:, None]
    return np.where(known, *(along_training(problem, [share])[0] for share in (0.5, 0.02)))


def untrained(policy: FloatArray) -> Critic:
    """Return the critic that says 0."""
    return Critic(np.zeros(len(policy)), np.zeros(policy.shape), np.zeros(len(policy)))


def critic(exact: oracle.Values, policy: FloatArray, size: float, generator: np.random.Generator) -> Critic:
    """Return a critic that is wrong by normal numbers of standard deviation `size`, in units of reward; 0 is the exact one.

    There is one such error for each state, and one for each pair, for Q: it is drawn once and does not average out over episodes.
    """
    q = exact.q + size * generator.normal(size=exact.q.shape)
    return Critic(exact.v + size * generator.normal(size=exact.v.shape), q, (policy * q).sum(axis=-1))
