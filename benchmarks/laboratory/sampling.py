"""Thousands of episodes at once, drawn from a problem's table, as rollouts that any estimator reads.

Axis legend: T steps, N rows, S states, A actions, K continuations of a prefix, G episodes of a group.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.rollout import Rollout

from .policies import Critic
from .problems import FloatArray, IntArray, Problem

BoolArray = NDArray[np.bool_]
LEAD = 64  # steps of play, the later half of which a window may begin in


class Played(NamedTuple):
    """What happened in N rows; nothing in it is an opinion."""

    states: IntArray  # [T, N]
    actions: IntArray  # [T, N]
    rewards: FloatArray  # [T, N]
    ended: BoolArray  # [T, N]
    valid: BoolArray  # [T, N]
    starts: BoolArray  # [T, N]
    following: IntArray  # [T, N] the state reached; of no meaning where ended


def draw_starts(problem: Problem, num_rows: int, group: int, generator: np.random.Generator) -> IntArray:
    """Return start states [N], `group` neighbours alike; raises `ValueError` unless the rows are whole groups."""
    if num_rows % group:
        raise ValueError(f"{num_rows} rows are not whole groups of {group} episodes; give a multiple of {group}.")
    return generator.choice(problem.num_states, size=num_rows // group, p=problem.tabular.start).repeat(group)


def play(problem: Problem, policy: FloatArray, starts: IntArray, generator: np.random.Generator, steps: int | None = None) -> Played:
    """Play one whole episode a row from `starts` [N], or windows of `steps` steps in which a row begins anew where its episode ended."""
    cumulative = policy.cumsum(axis=1)[:, :-1]
    states, alive, fresh = starts, np.ones(len(starts), np.bool_), np.ones(len(starts), np.bool_)
    log: list[tuple[NDArray[Any], ...]] = []
    while len(log) < steps if steps is not None else bool(alive.any()):
        actions = (generator.random(len(states))[:, None] >= cumulative[states]).sum(axis=1)
        following, rewards = _outcomes(problem, states * problem.num_actions + actions, generator)
        ended = following == problem.num_states
        log.append((states, actions, rewards, ended & alive, alive, fresh, np.where(ended, 0, following)))
        if steps is None:
            alive, fresh, states = alive & ~ended, np.zeros_like(fresh), log[-1][-1]
        else:
            fresh = ended
            states = np.where(ended, generator.choice(problem.num_states, size=len(states), p=problem.tabular.start), following)
    return Played(*(np.array(column) for column in zip(*log, strict=True)))


def windows(problem: Problem, policy: FloatArray, num_rows: int, steps: int, generator: np.random.Generator) -> Played:
    """Return windows [steps, N] out of play that has been going on: each row begins at a random step of it, so that rows are not in phase."""
    starts = draw_starts(problem, num_rows, 1, generator)
    played = play(problem, policy, starts, generator, steps=steps + LEAD)
    index = generator.integers(LEAD // 2, LEAD, size=num_rows) + np.arange(steps)[:, None]
    return Played._make(np.take_along_axis(np.asarray(field), index, axis=0) for field in played)


def _outcomes(problem: Problem, pairs: IntArray, generator: np.random.Generator) -> tuple[IntArray, FloatArray]:
    width = problem.chances.shape[1]
    flat = pairs * width
    if width > 1:
        flat += (generator.random(len(pairs))[:, None] >= problem.chances[pairs, :-1]).sum(axis=1)
    rewards = problem.rewards.reshape(-1)[flat]
    if problem.noise > 0:
        rewards = rewards + problem.noise * generator.normal(size=len(pairs))
    return problem.following.reshape(-1)[flat], rewards


def returns_from(problem: Problem, policy: FloatArray, states: IntArray, generator: np.random.Generator) -> FloatArray:
    """Return what one fresh continuation of each of `states` [N] was paid, [N]."""
    played = play(problem, policy, states, generator)
    found: FloatArray = (played.rewards * played.valid).sum(axis=0)
    return found


def rollout_of(played: Played, policy: FloatArray, critic: Critic, group: int, target: FloatArray | None = None) -> Rollout:
    """Return what was played as a rollout with a critic's opinions, in which `group` neighbours are a group.

    `next_values` are NaN where the episode ended: nobody may read them. `target` [S, A] is the present policy where `policy` is an older one.
    """
    at = played.states, played.actions
    ids = played.starts.T.cumsum().reshape(played.starts.T.shape).T - 1
    rows = np.arange(played.valid.shape[1]) // group
    next_values = np.where(played.ended, np.nan, critic.v[played.following])
    return Rollout(
        observations=played.states,
        actions=played.actions,
        log_probs=np.log(policy[at]),
        values=critic.v[played.states],
        next_values=next_values,
        rewards=played.rewards,
        terminated=played.ended,
        truncated=np.zeros_like(played.ended),
        starts=played.starts,
        valid=played.valid,
        episode_ids=ids,
        groups=np.broadcast_to(rows, ids.shape),
        target_log_probs=np.log((policy if target is None else target)[at]),
        action_values=critic.q[at],
    )


def with_mean_q(rollout: Rollout, played: Played, critic: Critic) -> Rollout:
    """Return a rollout whose values are those of a critic that knows Q only, as Retrace needs them."""
    return rollout._replace(values=critic.mean_q[played.states], next_values=np.where(played.ended, np.nan, critic.mean_q[played.following]))


def with_greedy(rollout: Rollout, problem: Problem, policy: FloatArray, played: Played, generator: np.random.Generator) -> Rollout:
    """Return a rollout whose baselines are the returns of greedy episodes, one for each of its (whole) episodes."""
    greedy = np.eye(problem.num_actions)[policy.argmax(axis=1)]
    found = returns_from(problem, greedy, played.states[0], generator)
    return rollout._replace(baselines=np.broadcast_to(found, played.valid.shape))


def with_vine(rollout: Rollout, problem: Problem, policy: FloatArray, played: Played, continuations: int, generator: np.random.Generator) -> Rollout:
    """Return a rollout of whole episodes whose values are means of K fresh continuations of each prefix."""
    seen = played.valid
    found = returns_from(problem, policy, played.states[seen].repeat(continuations), generator)
    values = np.zeros(seen.shape)
    values[seen] = found.reshape(-1, continuations).mean(axis=1)
    following = np.concatenate([values[1:], np.zeros((1, seen.shape[1]))])
    return rollout._replace(values=values, next_values=np.where(played.ended, np.nan, following))
