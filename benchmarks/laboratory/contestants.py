"""Which estimators are measured, and what each is given to read; all go through `agents.advantages.estimate`.

Axis legend: T steps, N episodes, S states, A actions, K continuations.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from agents.advantages import (
    GAE,
    GRPO,
    RLOO,
    TD,
    Advantage,
    DrGRPO,
    MonteCarlo,
    NStep,
    ReBN,
    Retrace,
    SelfCritical,
    TDLambda,
    TotalReturn,
    Vine,
    VTrace,
    estimate,
)
from agents.rollout import Rollout

from .policies import Critic
from .problems import FloatArray, Problem
from .sampling import Played, rollout_of, with_greedy, with_mean_q, with_vine

Reads = Literal["nothing", "critic", "Q critic", "forks", "greedy"]


class Contestant(NamedTuple):
    """An estimator, and who fills what it reads."""

    name: str
    advantage: Advantage
    reads: Reads = "nothing"
    continuations: int = 0  # K, for those that read forks
    over_batch: bool = False  # the advantages of a batch depend on all of it
    value: float | None = None  # of what a sweep varies

    @property
    def asks(self) -> bool:
        """Return whether a critic is asked."""
        return self.reads in ("critic", "Q critic")


def vine(continuations: int, value: float | None = None) -> Contestant:
    """Return Vine with K continuations of each prefix."""
    return Contestant(f"Vine, K = {continuations}", Vine(1.0), "forks", continuations, value=value)


TD_ERROR = Contestant("TD", TD(1.0), "critic")
GAE_95 = Contestant("GAE(0.95)", GAE(1.0, 0.95), "critic")
BASELINE_V = Contestant("return to go - V", MonteCarlo(1.0), "critic")
TO_GO = Contestant("return to go", MonteCarlo(1.0, "none"))
TOTAL = Contestant("total return", TotalReturn(1.0))
LEAVE_ONE_OUT = Contestant("RLOO", RLOO(1.0))
GROUP_SCALED = Contestant("GRPO", GRPO(1.0))
GROUP_MEAN = Contestant("Dr. GRPO", DrGRPO(1.0))

WITHOUT_CRITIC = (
    TO_GO,
    Contestant("return to go - batch mean", MonteCarlo(1.0, "batch_mean"), over_batch=True),
    TOTAL,
    Contestant("ReBN", ReBN(1.0), over_batch=True),
    Contestant("self-critical", SelfCritical(1.0), "greedy"),
    LEAVE_ONE_OUT,
    GROUP_SCALED,
    GROUP_MEAN,
    vine(1),
    vine(4),
    vine(16),
)
WITH_CRITIC = (
    TD_ERROR,
    Contestant("2-step", NStep(1.0, 2), "critic"),
    Contestant("GAE(0.5)", GAE(1.0, 0.5), "critic"),
    GAE_95,
    Contestant("TD(lambda), 0.8", TDLambda(1.0, 0.8, 1.0), "critic"),
    BASELINE_V,
    Contestant("V-trace(0.95)", VTrace(1.0, 0.95), "critic"),
    Contestant("Retrace(0.95)", Retrace(1.0, 0.95), "Q critic"),
)
GROUPED = (LEAVE_ONE_OUT, GROUP_SCALED, GROUP_MEAN)
FEW = (TD_ERROR, GAE_95, BASELINE_V, TO_GO, TOTAL, LEAVE_ONE_OUT, GROUP_SCALED, vine(4))
LAMBDAS = tuple(Contestant("GAE", GAE(1.0, value), "critic", value=value) for value in (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0))
STEPS = tuple(Contestant("n-step", NStep(1.0, n), "critic", value=n) for n in (1, 2, 3, 4, 6, 8))


def dressed(
    contestant: Contestant, problem: Problem, policy: FloatArray, played: Played, critic: Critic, group: int, generator: np.random.Generator
) -> Rollout:
    """Return what was played by `policy` [S, A] as a rollout that holds what a contestant reads."""
    rollout = rollout_of(played, policy, critic, group)
    if contestant.reads == "Q critic":
        return with_mean_q(rollout, played, critic)
    if contestant.reads == "greedy":
        return with_greedy(rollout, problem, policy, played, generator)
    if contestant.reads == "forks":
        return with_vine(rollout, problem, policy, played, contestant.continuations, generator)
    return rollout


def judged(contestant: Contestant, rollout: Rollout, batches: int) -> FloatArray:
    """Return a contestant's advantages [T, N] of a rollout whose columns are that many batches, side by side."""
    if not contestant.over_batch:
        return estimate(contestant.advantage, rollout).advantages
    parts = np.array_split(np.arange(rollout.valid.shape[1]), batches)
    return np.concatenate([estimate(contestant.advantage, _columns(rollout, part)).advantages for part in parts], axis=1)


def _columns(rollout: Rollout, part: np.ndarray) -> Rollout:
    return Rollout._make(None if field is None else field[:, part] for field in rollout)
