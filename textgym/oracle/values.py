"""Exact values, distributions, variances, gradients and divergences of a finite problem.

Every function takes `gamma` in [0, 1] and `horizon`, which mean different things:

    horizon=None   no limit: the episode goes on until it ends. With this value a step *truncated* by a time limit is bootstrapped.
    horizon=H      at most H steps, and nothing after them: what an agent under `TimeLimit(H)` is paid (Pardo et al. 2018, "Time limits in
                   reinforcement learning"). Values then depend on the t steps already spent: arrays begin with an axis for it.
    gamma = 1      undiscounted. Without a horizon this is solved where the policy ends with probability one from every state, and refused elsewhere.

Axis legend: S states, A actions, H steps of a horizon, t steps already spent, K = 1 or H.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core import FloatArray
from .linear import endless, linear_solution, mixed, never_end
from .tables import Policy, Tabular, probabilities_of, scipy_module


class Values(NamedTuple):
    """The values of a policy. Under a horizon v is [H+1, S] and q is [H, S, A]: v[t] with t steps spent, v[H] = 0."""

    v: FloatArray  # [S]
    q: FloatArray  # [S, A]

    @property
    def a(self) -> FloatArray:
        """Return the advantages q - v, [S, A] or [H, S, A]."""
        return self.q - self.v[: len(self.q), ..., None]


class Divergence(NamedTuple):
    """How far one policy is from another, in nats."""

    per_state: FloatArray  # [S] KL(pi(.|s) || ref(.|s)) over the full vocabulary; [H, S] if a policy changes with time
    per_episode: float  # the expected (discounted) sum over the steps of an episode; with gamma = 1 the KL of whole trajectories
    per_step: float  # the same, divided by the expected (discounted) number of steps


def evaluate(problem: Tabular, policy: Policy, gamma: float, horizon: int | None = None) -> Values:
    """Return V^pi and Q^pi (and A^pi, as `.a`), in units of reward.

        Q(s, a) = E[r] + gamma sum_s' P(s' | s, a) V(s'),  V(s) = sum_a pi(a | s) Q(s, a)

    Sutton & Barto 2018, equations 4.3 and 4.4: one linear solve, or backward induction under a horizon.
    Raises `ValueError` if `policy` is none, or if it may never end and there is neither discount nor horizon.
    """
    chain = _chain(problem, policy, gamma, horizon)
    if horizon is None:
        v = linear_solution(chain.matrices[0], chain.rewards[0], gamma)
        return Values(v, q_values(problem, v, gamma))
    v = np.zeros((horizon + 1, problem.num_states))
    for t in reversed(range(horizon)):
        v[t] = chain.rewards[t % len(chain.rewards)] + gamma * (chain.matrices[t % len(chain.matrices)] @ v[t + 1])
    return Values(v, np.stack([q_values(problem, following, gamma) for following in v[1:]]))


def expected_return(problem: Tabular, policy: Policy, gamma: float, horizon: int | None = None) -> float:
    """Return the expected discounted return of an episode from the start distribution, in units of reward; raises as `evaluate` does."""
    v = evaluate(problem, policy, gamma, horizon).v
    return float(problem.start @ (v if horizon is None else v[0]))


def variances(problem: Tabular, policy: Policy, gamma: float, horizon: int | None = None) -> FloatArray:
    """Return the variance of the return from each state [S] ([H+1, S] under a horizon), in squared units of reward.

        Var(s) = E[(r + gamma V(s') - V(s))^2] + gamma^2 sum_s' P(s' | s) Var(s')

    Sobel 1982, "The variance of discounted Markov decision processes", theorem 1. Raises as `evaluate` does.
    """
    v, chain = evaluate(problem, policy, gamma, horizon).v, _chain(problem, policy, gamma, horizon)
    if horizon is None:
        return linear_solution(chain.matrices[0], _squared_errors(problem, chain.probabilities[0], v, v, gamma), gamma**2)
    found = np.zeros_like(v)
    for t in reversed(range(horizon)):
        local = _squared_errors(problem, chain.probabilities[t % len(chain.probabilities)], v[t], v[t + 1], gamma)
        found[t] = local + gamma**2 * (chain.matrices[t % len(chain.matrices)] @ found[t + 1])
    return found


def return_variance(problem: Tabular, policy: Policy, gamma: float, horizon: int | None = None) -> float:
    """Return the variance of an episode's discounted return, that of the start state included, in squared units of reward.

        Var[G] = E[Var(s_0)] + Var[V(s_0)]

    Raises as `evaluate` does.
    """
    v, within = evaluate(problem, policy, gamma, horizon).v, variances(problem, policy, gamma, horizon)
    if horizon is not None:
        v, within = v[0], within[0]
    return float(problem.start @ (within + (v - problem.start @ v) ** 2))


def occupancy(problem: Tabular, policy: Policy, gamma: float, horizon: int | None = None) -> FloatArray:
    """Return the expected discounted visits of each state, [S]; under a horizon [H, S], one line for each step.

        d(s) = sum_t gamma^t P(s_t = s)

    Its sum is the expected discounted length of an episode (1 / (1 - gamma) where none ends), and `d / d.sum()` is the discounted state
    distribution. Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation". Raises as `evaluate` does.
    """
    chain = _chain(problem, policy, gamma, horizon)
    if horizon is None:
        return np.maximum(linear_solution(chain.matrices[0].T.tocsr(), problem.start, gamma), 0.0)
    visits = np.zeros((horizon, problem.num_states))
    visits[:1] = problem.start
    for t in range(horizon - 1):
        visits[t + 1] = gamma * (visits[t] @ chain.matrices[t % len(chain.matrices)])
    return visits


def policy_gradient(problem: Tabular, policy: Policy, gamma: float, horizon: int | None = None) -> FloatArray:
    """Return the gradient of the expected return with respect to the logits [S, A] of a tabular softmax policy.

        dJ / dlogit(s, a) = d(s) pi(a | s) A(s, a)

    Sutton et al. 2000, theorem 1, for softmax (Agarwal et al. 2021, "On the theory of policy gradient methods", lemma C.1). `d` is not
    normalised and keeps gamma^t, which many implementations drop. Under a horizon the terms of all t are summed, since one table of logits acts at all
    times; a policy [H, S, A] has logits of its own at each t, and so a gradient [H, S, A]. Raises as `evaluate` does.
    """
    pi = probabilities_of(problem, policy, horizon)
    terms: FloatArray = occupancy(problem, pi, gamma, horizon)[..., None] * pi * evaluate(problem, pi, gamma, horizon).a
    return terms if terms.ndim == pi.ndim else terms.sum(axis=0)


def kl(problem: Tabular, policy: Policy, reference: Policy, gamma: float = 1.0, horizon: int | None = None) -> Divergence:
    """Return KL(pi || ref) of each state, expected over an episode of pi, and per step, in nats.

        KL(s) = sum_a pi(a | s) log(pi(a | s) / ref(a | s)),  per episode  sum_s d(s) KL(s)

    By the chain rule (Cover & Thomas 2006, theorem 2.5.3) the undiscounted sum is the KL of whole trajectories, which is what estimators made of
    sampled log-ratios estimate. It is infinite where ref never takes an action that pi may take. Raises as `evaluate` does.
    """
    pi, ref = probabilities_of(problem, policy, horizon), probabilities_of(problem, reference, horizon)
    per_state: FloatArray = scipy_module("special").rel_entr(pi, ref).sum(axis=-1)
    visits = occupancy(problem, pi, gamma, horizon)
    seen = visits > 0  # 0 * inf: a state never visited costs nothing
    total = float((visits[seen] * np.broadcast_to(per_state, visits.shape)[seen]).sum())
    return Divergence(per_state, total, total / float(visits.sum()) if seen.any() else 0.0)


def q_values(problem: Tabular, v: FloatArray, gamma: float) -> FloatArray:
    """Return E[r] + gamma E[v(s')] of each state and action [S, A]; what has ended is worth 0."""
    return problem.rewards + gamma * (problem.transitions @ v).reshape(problem.rewards.shape)


def check_discount(gamma: float, horizon: int | None) -> None:
    """Raise `ValueError` unless gamma lies in [0, 1] and the horizon, if any, is at least 1."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma}.")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be at least 1 step (or None for no limit), got {horizon}.")


class _Chain(NamedTuple):
    """What a policy makes of a problem; K is H for a policy that changes with time, else 1."""

    probabilities: FloatArray  # [K, S, A]
    matrices: list[Any]  # K sparse [S, S]
    rewards: FloatArray  # [K, S]


def _chain(problem: Tabular, policy: Policy, gamma: float, horizon: int | None) -> _Chain:
    check_discount(gamma, horizon)
    pi = probabilities_of(problem, policy, horizon)
    pi = pi.reshape(-1, *problem.rewards.shape)
    matrices = [mixed(problem, problem.transitions, at) for at in pi]
    if gamma == 1 and horizon is None:
        stuck = never_end(matrices[0], (pi[0] * problem.ends).sum(axis=1))
        if len(stuck):
            raise ValueError(endless(stuck, "this policy never ends"))
    return _Chain(pi, matrices, (pi * problem.rewards).sum(axis=-1))


def _squared_errors(problem: Tabular, pi: FloatArray, v: FloatArray, following: FloatArray, gamma: float) -> FloatArray:
    """Return E[(r + gamma following(s') - v(s))^2] of each state [S]."""
    c = float(problem.start @ v)  # squares are taken around a typical value, so that less of them cancels
    shape = problem.rewards.shape
    cross = (problem.reward_transitions @ following).reshape(shape)
    squares = problem.second_moments + 2 * gamma * cross + gamma**2 * (problem.transitions @ following**2).reshape(shape)
    target = q_values(problem, following, gamma)
    around = squares - 2 * c * target + c**2
    return np.maximum((pi * around).sum(axis=-1) - (v - c) ** 2, 0.0)
