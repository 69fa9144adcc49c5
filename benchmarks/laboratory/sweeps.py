"""What is varied: estimators and policies, lambda, n, batch and group sizes, the critic, the horizon, the noise, the window.

Every cell holds one figure a replication. In a replication all contestants judge the same episodes with the same critics, so that their
differences are paired; replications share nothing, and each draws critics of its own.
Axis legend: R replications, T steps, N episodes, S states, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from textgym import oracle

from .contestants import BASELINE_V, FEW, GAE_95, GROUPED, LAMBDAS, STEPS, TD_ERROR, WITH_CRITIC, WITHOUT_CRITIC, Contestant, dressed, judged, vine
from .measures import Measures, advantage_errors, gradient_errors, gradients
from .policies import Critic, along_training, critic, random_policy, uniform, unlike_prompts, untrained
from .problems import PROBLEMS, FloatArray, Problem, grid, two_state
from .sampling import Played, draw_starts, play, windows

CRITICS: dict[str, float | None] = {"exact": 0.0, "wrong": 0.5, "untrained": None}  # qualities: see `policies.critic`
ALONG = {"near random": 0.05, "halfway": 0.5, "near the best": 0.95}  # shares of the way to the best return


@dataclass(frozen=True)
class Scale:
    """How much is sampled: R replications of some batches of some episodes, in groups."""

    replications: int = 20
    batches: int = 32
    episodes: int = 32
    group: int = 4
    steps: int | None = None  # windows of so many steps instead of whole episodes
    problems: tuple[str, ...] = tuple(PROBLEMS)


class Cell(NamedTuple):
    """Figures of one estimator in one situation."""

    sweep: str
    problem: str
    policy: str
    critic: str  # "none" if it asks none
    estimator: str
    variable: str  # what the sweep varies; "" if nothing
    value: float | None
    measures: dict[str, FloatArray]  # [R] each


class Case(NamedTuple):
    """A policy on a problem, and what is exact of it."""

    problem: Problem
    name: str  # of the policy
    policy: FloatArray  # [S, A]
    values: oracle.Values
    gradient: FloatArray  # [S, A]
    deviation: float  # of the return without the noise on rewards, in units of reward


def case(problem: Problem, name: str, policy: FloatArray) -> Case:
    """Return a case with what the oracle says of it."""
    calm = problem.tabular._replace(second_moments=problem.tabular.second_moments - problem.noise**2)
    values, gradient = oracle.evaluate(problem.tabular, policy, 1.0), oracle.policy_gradient(problem.tabular, policy, 1.0)
    return Case(problem, name, policy, values, gradient, oracle.return_variance(calm, policy, 1.0) ** 0.5)


def asked(one: Case, quality: float | None, generator: np.random.Generator) -> Critic:
    """Return a critic of a case: exact (0), untrained (None), or wrong by `quality` deviations of the return."""
    return untrained(one.policy) if quality is None else critic(one.values, one.policy, quality * one.deviation, generator)


def random_case(problem: Problem) -> Case:
    """Return the case of a random policy; a problem has always the same one."""
    return case(problem, "random", random_policy(problem, np.random.default_rng(1)))


def measure(
    sweep: str,
    one: Case,
    contestants: Sequence[Contestant],
    critics: Mapping[str, float | None],
    scale: Scale,
    generator: np.random.Generator,
    variable: str = "",
    value: float | None = None,
) -> list[Cell]:
    """Return a cell for each contestant, and for each critic where it asks one."""
    found: dict[tuple[str, int], list[Measures]] = {}
    for draws in generator.spawn(scale.replications):
        played = _played(one, scale, draws)
        opinions = {name: asked(one, quality, draws) for name, quality in critics.items()}
        for i, contestant in enumerate(contestants):
            for name in critics if contestant.asks else ("none",):
                opinion = opinions.get(name, next(iter(opinions.values())))
                found.setdefault((name, i), []).append(_measured(one, contestant, played, opinion, scale, draws))
    cells = []
    for (name, i), many in found.items():
        own = contestants[i].value
        columns = {key: np.array([each[key] for each in many]) for key in many[0] if all(key in each for each in many)}
        cells.append(Cell(sweep, one.problem.name, one.name, name, contestants[i].name, variable, value if own is None else own, columns))
    return cells


def _problems(scale: Scale) -> list[Problem]:
    return [PROBLEMS[name]() for name in scale.problems]


def cases_of(scale: Scale) -> list[Case]:
    """Return a random policy on each problem of a scale."""
    return [random_case(problem) for problem in _problems(scale)]


def _played(one: Case, scale: Scale, generator: np.random.Generator) -> Played:
    rows = scale.batches * scale.episodes
    if scale.steps is not None:
        return windows(one.problem, one.policy, rows, scale.steps, generator)
    return play(one.problem, one.policy, draw_starts(one.problem, rows, scale.group, generator), generator)


def _measured(one: Case, contestant: Contestant, played: Played, opinion: Critic, scale: Scale, generator: np.random.Generator) -> Measures:
    rollout = dressed(contestant, one.problem, one.policy, played, opinion, scale.group, generator)
    found = judged(contestant, rollout, scale.batches)
    measures = advantage_errors(found, played, one.values.a, generator)
    if scale.steps is None:  # a window begins and ends anywhere: its gradient is that of no episode
        measures |= gradient_errors(gradients(found, played, one.policy, scale.batches), one.gradient)
    return measures


def overview(scale: Scale, generator: np.random.Generator, training: bool = True) -> Iterator[Cell]:
    """Yield every estimator on every problem, for fixed policies and (with `training`) for those along training."""
    for problem in _problems(scale):
        cases = [case(problem, "uniform", uniform(problem))] if training else []
        cases.append(random_case(problem))
        if training:
            cases += [case(problem, name, policy) for name, policy in zip(ALONG, along_training(problem, list(ALONG.values())), strict=True)]
        for one in cases:
            yield from measure("estimators", one, (*WITHOUT_CRITIC, *WITH_CRITIC), CRITICS, scale, generator)


def over_lambda(scale: Scale, generator: np.random.Generator) -> Iterator[Cell]:
    """Yield GAE over lambda and the n-step return over n, with critics of several qualities."""
    critics = {"exact": 0.0, "wrong by 0.25": 0.25, "wrong": 0.5, "wrong by 1": 1.0, "untrained": None}
    for one in cases_of(scale):
        yield from measure("lambda", one, LAMBDAS, critics, scale, generator, "lambda")
        yield from measure("n", one, STEPS, CRITICS, scale, generator, "n")


def over_samples(scale: Scale, generator: np.random.Generator, sizes: Sequence[int]) -> Iterator[Cell]:
    """Yield the error of gradients over the episodes of a batch."""
    for one in cases_of(scale):
        for size in sizes:
            yield from measure(
                "batch", one, FEW, {"wrong": 0.5}, replace(scale, episodes=size, batches=min(16, scale.batches)), generator, "episodes of a batch", size
            )


def over_groups(scale: Scale, generator: np.random.Generator, sizes: Sequence[int]) -> Iterator[Cell]:
    """Yield the estimators of groups over the size of a group, with as many groups in a batch."""
    for one in (*cases_of(scale), *_uneven(scale)):
        for size in sizes:
            grouped = replace(scale, group=size, episodes=8 * size, batches=2 * scale.batches)
            yield from measure("group", one, GROUPED, {"exact": 0.0}, grouped, generator, "episodes of a group", size)


def _uneven(scale: Scale) -> list[Case]:
    """Return the cases in which prompts are not equally hard."""
    trees = [PROBLEMS[name]() for name in scale.problems if name in ("Even", "Recall")]
    return [case(problem, "unlike prompts", unlike_prompts(problem)) for problem in trees]


def over_quality(scale: Scale, generator: np.random.Generator, qualities: Sequence[float]) -> Iterator[Cell]:
    """Yield what a critic's error does to those that ask it, beside Vine, which does not."""
    contestants = (TD_ERROR, GAE_95, BASELINE_V, vine(1), vine(4))
    for one in cases_of(scale):
        for quality in qualities:
            yield from measure("critic", one, contestants, {"wrong": quality}, scale, generator, "error of the critic, in deviations of the return", quality)


def over_horizon(scale: Scale, generator: np.random.Generator, horizons: Sequence[int]) -> Iterator[Cell]:
    """Yield what longer episodes do."""
    for horizon in horizons:
        yield from measure("horizon", random_case(two_state(horizon)), FEW, {"wrong": 0.5}, scale, generator, "steps of an episode", horizon)


def over_noise(scale: Scale, generator: np.random.Generator, sigmas: Sequence[float]) -> Iterator[Cell]:
    """Yield what noise on each reward does; the critic's error does not grow with it."""
    for make in (two_state, grid):
        for sigma in sigmas:
            yield from measure(
                "noise", random_case(make(noise=sigma)), FEW, {"wrong": 0.5}, scale, generator, "deviation of a reward's noise, in units of reward", sigma
            )


def over_windows(scale: Scale, generator: np.random.Generator, lengths: Sequence[int]) -> Iterator[Cell]:
    """Yield what windows that cut episodes do to those that can work on them."""
    contestants = tuple(one for one in WITH_CRITIC if one is not BASELINE_V)
    for make in (two_state, grid):
        for length in lengths:
            yield from measure(
                "window",
                random_case(make()),
                contestants,
                CRITICS,
                replace(scale, steps=length, batches=max(2, 4 * scale.batches // length)),
                generator,
                "steps of a window",
                length,
            )
