"""What is known of the estimators, and what is often said of them: claims that the figures bear out, or do not.

A claim says that a difference is above 0, or that a bias is 0. Differences are paired: both sides judged the same episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from ..statistics import Interval, mean, paired_difference, stratified_bootstrap
from .problems import FloatArray
from .sweeps import Cell

Verdict = Literal["yes", "no", "undecided"]
GROUP = 4  # the size of a group at which the estimators of groups are judged


class Fact(NamedTuple):
    """A claim on one problem, the figure that decides on it, and whether it is so."""

    kind: Literal["known", "said"]  # "known" must be borne out; "said" is a short way of putting it, which need not be
    claim: str
    problem: str
    figure: str
    interval: Interval
    verdict: Verdict


class Figures:
    """Cells, looked up by what they are."""

    def __init__(self, cells: Sequence[Cell], generator: np.random.Generator, num_resamples: int) -> None:
        self._cells = {(c.sweep, c.problem, c.policy, c.critic, c.estimator, c.value): c.measures for c in cells}
        self.problems = list(dict.fromkeys(c.problem for c in cells if c.sweep == "lambda"))
        self._settings = (generator, num_resamples)

    def of(self, sweep: str, problem: str, critic: str, estimator: str, value: float, measure: str, policy: str = "random") -> FloatArray:
        """Return the replications of a figure, [R]; raises `KeyError` if it was not measured."""
        return self._cells[sweep, problem, policy, critic, estimator, value][measure]

    def has(self, problem: str, policy: str) -> bool:
        """Return whether a policy was measured on a problem."""
        return any(key[1:3] == (problem, policy) for key in self._cells)

    def above(self, more: FloatArray, less: FloatArray) -> tuple[Interval, Verdict]:
        """Return the paired difference, and whether it is above 0."""
        found = paired_difference(more, less, mean, *self._settings)
        return found, "yes" if found.low > 0 else "no" if found.high < 0 else "undecided"

    def seen(self, figure: FloatArray) -> tuple[Interval, Verdict]:
        """Return the mean of what cannot be below 0, and whether it is above."""
        found, verdict = self.above(figure, np.zeros_like(figure))
        return found, "yes" if verdict == "yes" else "undecided"

    def zero(self, figure: FloatArray, expected: float = 0.0) -> tuple[Interval, Verdict]:
        """Return the mean, and whether it can be what is expected.

        Of many such claims one in twenty would fail by chance, and more as bootstrap intervals of 20 replications are narrow: 99.9 % decide.
        """
        wide = stratified_bootstrap(figure, mean, *self._settings, confidence=0.999)
        return stratified_bootstrap(figure, mean, *self._settings), "yes" if wide.low <= expected <= wide.high else "no"


def facts(cells: Sequence[Cell], generator: np.random.Generator, num_resamples: int = 10_000) -> list[Fact]:
    """Return every claim on every problem; raises `KeyError` if a sweep that it needs is not among the cells."""
    figures = Figures(cells, generator, num_resamples)
    parts: tuple[Callable[[Figures, str], list[Fact]], ...] = (_of_lambda, _of_an_exact_critic, _of_groups, _of_vine)
    return [fact for part in parts for problem in figures.problems for fact in part(figures, problem)]


def _of_lambda(figures: Figures, problem: str) -> list[Fact]:
    def gae(critic: str, value: float, measure: str) -> FloatArray:
        return figures.of("lambda", problem, critic, "GAE", value, measure)

    def rises(measure: str, low: float, high: float, critic: str = "wrong") -> tuple[Interval, Verdict]:
        return figures.above(gae(critic, high, measure), gae(critic, low, measure))

    falls, grows = "under a wrong critic GAE's bias falls with lambda", "and its variance grows with lambda"
    return [
        Fact("known", falls, problem, "gradient bias at lambda = 0, less that at 1", *rises("gradient bias", 1.0, 0.0)),
        Fact("known", falls, problem, "bias at lambda = 0, less that at 1", *rises("bias", 1.0, 0.0)),
        Fact("known", grows, problem, "variance at lambda = 1, less that at 0", *rises("variance", 0.0, 1.0)),
        Fact("said", "the variance grows from the first step of lambda on", problem, "variance at lambda = 0.4, less that at 0", *rises("variance", 0.0, 0.4)),
        Fact("said", "so does the variance of the gradient", problem, "gradient variance at lambda = 1, less that at 0", *rises("gradient variance", 0.0, 1.0)),
        Fact("said", "the bias falls under an untrained critic, too", problem, "bias at lambda = 0, less that at 1", *rises("bias", 1.0, 0.0, "untrained")),
    ]


def _of_an_exact_critic(figures: Figures, problem: str) -> list[Fact]:
    found = []
    for measure in ("error", "gradient error"):
        own = figures.of("lambda", problem, "exact", "GAE", 0.0, measure)
        others = {value: figures.of("lambda", problem, "exact", "GAE", value, measure) for value in (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)}
        closest = min(others, key=lambda value: float(others[value].mean()))
        text = f"{measure} at lambda = {closest:g}, the closest, less that at 0"
        found.append(Fact("known", "with an exact critic lambda = 0 is the best", problem, text, *figures.above(others[closest], own)))
    return found


def _of_groups(figures: Figures, problem: str) -> list[Fact]:
    def group(estimator: str, measure: str, policy: str = "random") -> FloatArray:
        return figures.of("group", problem, "none", estimator, GROUP, measure, policy)

    loo, grpo, of = "leave-one-out is unbiased", "division by the group's deviation is biased", f"groups of {GROUP}"
    shrinks = f"Dr. GRPO finds 1 - 1/{GROUP} of the gradient, and not 1"
    short, elsewhere = group("Dr. GRPO", "share"), "GRPO points elsewhere, on average"
    uneven = "unlike prompts"
    more = []
    if figures.has(problem, uneven):
        skew, bias = group("GRPO", "skew", uneven), group("RLOO", "gradient bias", uneven)
        more = [
            Fact("said", elsewhere, problem, f"skew of GRPO, {of}, {uneven}", *figures.seen(skew)),
            Fact("known", loo, problem, f"gradient bias of RLOO, {of}, {uneven}", *figures.zero(bias)),
        ]
    return [
        Fact("known", loo, problem, f"gradient bias of RLOO, {of}", *figures.zero(group("RLOO", "gradient bias"))),
        Fact("known", loo, problem, f"share of the gradient that RLOO finds less 1, {of}", *figures.zero(group("RLOO", "share") - 1)),
        Fact("known", shrinks, problem, f"share of the gradient less {1 - 1 / GROUP}, {of}", *figures.zero(short - (1 - 1 / GROUP))),
        Fact("known", shrinks, problem, f"1 less the share, {of}", *figures.above(np.ones_like(short), short)),
        Fact("known", grpo, problem, f"gradient bias of GRPO, {of}", *figures.seen(group("GRPO", "gradient bias"))),
        Fact("said", elsewhere, problem, f"skew of GRPO, {of}", *figures.seen(group("GRPO", "skew"))),
        *more,
    ]


def _of_vine(figures: Figures, problem: str) -> list[Fact]:
    found = []
    for quality, kind in ((1.0, "known"), (0.25, "said")):
        for continuations in (4, 1):
            for measure in ("error", "gradient error"):
                ours = figures.of("critic", problem, "none", f"Vine, K = {continuations}", quality, measure)
                theirs = figures.of("critic", problem, "wrong", "GAE(0.95)", quality, measure)
                claim = f"Vine beats a {'poor critic' if kind == 'known' else 'fair critic'}"
                text = f"{measure} of GAE(0.95), critic wrong by {quality:g}, less Vine's, K = {continuations}"
                named: Literal["known", "said"] = "known" if kind == "known" and continuations == 4 else "said"
                found.append(Fact(named, claim, problem, text, *figures.above(theirs, ours)))
    return found
