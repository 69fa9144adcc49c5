"""Learning curves by estimator: a softmax policy with a table, the same episodes for all, and the oracle after every update.

Every update goes a step of the same length along the estimated gradient; the lengths fall linearly to 0. So what is compared is the direction: an
estimator that only scales the gradient (Dr. GRPO beside RLOO) gains and loses nothing.

Axis legend: U updates, K seeds, M problems, S states, A actions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agents.advantages import estimate
from textgym import oracle

from .contestants import (
    BASELINE_V,
    GAE_95,
    GROUP_MEAN,
    GROUP_SCALED,
    LEAVE_ONE_OUT,
    TD_ERROR,
    TO_GO,
    TOTAL,
    WITH_CRITIC,
    WITHOUT_CRITIC,
    Contestant,
    dressed,
    vine,
)
from .measures import gradients
from .policies import Critic, best, critic, expected, softmax, uniform, untrained
from .problems import FloatArray, Problem
from .sampling import Played, draw_starts, play

EPISODES, GROUP = 32, 4
FIRST_STEP = 1.0  # length of the first step, in logits
RATE = 0.5  # of the way to the mean target that a learned critic goes in an update


class Learner(NamedTuple):
    """An estimator that learns."""

    name: str
    contestant: Contestant
    exact: bool = False  # the critic is the oracle's, anew in each update; otherwise it is learned
    paid: bool = False  # continuations count: fewer episodes, so that an update has about as many steps as the others'


_NAMED = {one.name: one for one in (*WITHOUT_CRITIC, *WITH_CRITIC)}
LEARNERS = (
    *(Learner(one.name, one) for one in (TOTAL, TO_GO, _NAMED["ReBN"], _NAMED["self-critical"], LEAVE_ONE_OUT, GROUP_SCALED, GROUP_MEAN)),
    Learner("Vine, K = 4, forks for free", vine(4)),
    Learner("Vine, K = 1, forks paid", vine(1), paid=True),
    *(Learner(f"{one.name}, learned V", one) for one in (TD_ERROR, _NAMED["2-step"], GAE_95, BASELINE_V)),
    Learner("V-trace(0.95), learned V", _NAMED["V-trace(0.95)"]),
    Learner("Retrace(0.95), learned Q", _NAMED["Retrace(0.95)"]),
    Learner("TD, exact V", TD_ERROR, exact=True),
)


class Curve(NamedTuple):
    """One run: the share of the way from the uniform policy's return to the best one, and the steps that were played."""

    scores: FloatArray  # [U + 1]
    steps: float  # of the environment, those of continuations and greedy episodes included (as expected)


def learn(problem: Problem, learner: Learner, updates: int, generator: np.random.Generator) -> Curve:
    """Return the curve of one run of `updates` updates from the uniform policy."""
    shape = problem.tabular.rewards.shape
    logits, believed = np.zeros(shape), untrained(np.zeros(shape))
    low, high = expected(problem, uniform(problem)), best(problem)
    scores, steps, length = [0.0], 0.0, 1.0
    for update in range(updates):
        policy = softmax(logits)
        played = play(problem, policy, draw_starts(problem, _episodes(learner, length), GROUP, generator), generator)
        length = float(played.valid.sum()) / played.valid.shape[1]
        steps += _steps(learner, played)
        asked = _asked(learner, problem, policy, believed, generator)
        found = estimate(learner.contestant.advantage, dressed(learner.contestant, problem, policy, played, asked, GROUP, generator))
        believed = _taught(believed, played, found.value_targets)
        gradient = gradients(found.advantages, played, policy, 1).reshape(shape)
        size = float(np.linalg.norm(gradient))
        if size > 0:
            logits = logits + FIRST_STEP * (1 - update / updates) * gradient / size
        scores.append((oracle.expected_return(problem.tabular, softmax(logits), 1.0) - low) / (high - low))
    return Curve(np.array(scores), steps)


def _asked(learner: Learner, problem: Problem, policy: FloatArray, believed: Critic, generator: np.random.Generator) -> Critic:
    if learner.exact:
        return critic(oracle.evaluate(problem.tabular, policy, 1.0), policy, 0.0, generator)
    return believed._replace(mean_q=(policy * believed.q).sum(axis=1))


def _episodes(learner: Learner, length: float) -> int:
    if not learner.paid:
        return EPISODES
    share = 1 / (1 + learner.contestant.continuations * (length + 1) / 2)  # a prefix has half the episode before it
    return max(1, round(EPISODES * share / GROUP)) * GROUP


def _steps(learner: Learner, played: Played) -> float:
    """Return the steps of an update; a continuation is as long as the rest of its episode, on average."""
    own, left = float(played.valid.sum()), float(played.valid[::-1].cumsum(axis=0)[::-1][played.valid].sum())
    greedy = own if learner.contestant.reads == "greedy" else 0.0
    return own + greedy + learner.contestant.continuations * left


def _taught(believed: Critic, played: Played, targets: FloatArray) -> Critic:
    """Return a critic that has gone a part of the way to the mean target of each state, and of each pair, that was visited."""
    states, seen = played.states[played.valid], targets[played.valid]
    pairs = states * believed.q.shape[1] + played.actions[played.valid]
    q = _towards(believed.q.reshape(-1), pairs, seen).reshape(believed.q.shape)
    return Critic(_towards(believed.v, states, seen), q, believed.mean_q)


def _towards(table: FloatArray, index: np.ndarray, targets: FloatArray) -> FloatArray:
    counts = np.bincount(index, minlength=len(table))
    means = np.bincount(index, targets, minlength=len(table)) / np.maximum(counts, 1)
    return np.where(counts > 0, table + RATE * (means - table), table)


def curves(problems: list[Problem], updates: int, seeds: int, generator: np.random.Generator) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return of each learner the scores [K, M, U + 1], and the steps of a run [K, M]."""
    found: dict[str, tuple[FloatArray, FloatArray]] = {}
    for learner in LEARNERS:
        runs = [[learn(problem, learner, updates, draws) for problem in problems] for draws in generator.spawn(seeds)]
        found[learner.name] = np.array([[run.scores for run in row] for row in runs]), np.array([[run.steps for run in row] for row in runs])
    return found
