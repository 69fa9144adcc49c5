"""What V-trace, Retrace and who looks away make of episodes that another policy played.

The gradient here is that of the present policy at the states which the other one visits, sum_s d_mu(s) sum_a pi(a | s) A(s, a) grad log pi(a | s):
the one that ratios of single actions can give (Degris et al. 2012, "Off-policy actor-critic"). It is the policy gradient where the two are one.

Axis legend: S states, A actions, T steps, N episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from agents.advantages import GAE, Advantage, Retrace, VTrace, estimate
from textgym import oracle

from .measures import Measures, advantage_errors, gradient_errors, gradients
from .policies import random_policy
from .problems import FloatArray
from .sampling import draw_starts, play, rollout_of, with_mean_q
from .sweeps import Case, Cell, Scale, asked, cases_of

WIDE = 1e6  # a clip that never binds


class Elsewhere(NamedTuple):
    """An estimator off-policy, and what is the matter with the ratio pi / mu of the present action."""

    name: str
    advantage: Advantage
    holds_ratio: bool  # its advantages are ratio * A; otherwise the loss multiplies
    knows_ratio: bool = True  # False: nobody multiplies
    reads_q: bool = False


CONTESTANTS = (
    Elsewhere("V-trace", VTrace(1.0, 0.95), holds_ratio=True),
    Elsewhere("V-trace, wide clips", VTrace(1.0, 0.95, WIDE, WIDE), holds_ratio=True),
    Elsewhere("Retrace", Retrace(1.0, 0.95), holds_ratio=False, reads_q=True),
    Elsewhere("GAE, ratio in the loss", GAE(1.0, 0.95), holds_ratio=False),
    Elsewhere("GAE, ratio ignored", GAE(1.0, 0.95), holds_ratio=False, knows_ratio=False),
)
CRITICS = {"exact": 0.0, "wrong": 0.5}


def over_distance(scale: Scale, generator: np.random.Generator, shares: Sequence[float]) -> Iterator[Cell]:
    """Yield the estimators where the policy that played is `share` another one: mu = (1 - share) pi + share other."""
    for one in cases_of(scale):
        other = random_policy(one.problem, np.random.default_rng(2))
        for share in shares:
            yield from _measured(one, (1 - share) * one.policy + share * other, share, scale, generator)


def _measured(one: Case, behaviour: FloatArray, share: float, scale: Scale, generator: np.random.Generator) -> list[Cell]:
    found: dict[tuple[str, str], list[Measures]] = {(name, each.name): [] for name in CRITICS for each in CONTESTANTS}
    visited = oracle.occupancy(one.problem.tabular, behaviour, 1.0)
    gradient = visited[:, None] * one.policy * one.values.a
    for draws in generator.spawn(scale.replications):
        starts = draw_starts(one.problem, scale.batches * scale.episodes, scale.group, draws)
        played = play(one.problem, behaviour, starts, draws)
        ratios = one.policy / behaviour
        for name, quality in CRITICS.items():
            opinion = asked(one, quality, draws)
            for each in CONTESTANTS:
                rollout = rollout_of(played, behaviour, opinion, scale.group, target=one.policy)
                judged = estimate(each.advantage, with_mean_q(rollout, played, opinion) if each.reads_q else rollout).advantages
                truth = ratios * one.values.a if each.holds_ratio else one.values.a
                weights = judged if each.holds_ratio or not each.knows_ratio else judged * ratios[played.states, played.actions]
                measures = advantage_errors(judged, played, truth, draws)
                found[name, each.name].append(measures | gradient_errors(gradients(weights, played, one.policy, scale.batches), gradient))
    return [
        Cell(
            "off_policy",
            one.problem.name,
            one.name,
            name,
            estimator,
            "share of another policy",
            share,
            {key: np.array([m[key] for m in many]) for key in many[0]},
        )
        for (name, estimator), many in found.items()
    ]
