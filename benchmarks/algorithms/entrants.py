"""Who takes part: three algorithms, each with every estimator, on one configuration per algorithm and task.

What an estimator changes of it is only what it needs: whole episodes in place of windows, groups of episodes of one prompt, continuations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

from agents import a2c, policy_gradient, ppo
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
    needs,
)
from agents.prompting import Groups

ALGORITHMS: dict[str, ModuleType] = {"ppo": ppo, "a2c": a2c, "policy_gradient": policy_gradient}
LAMBDA, N, GROUP, CONTINUATIONS = 0.95, 5, 4, 1
ESTIMATORS: dict[str, Callable[[float], Advantage]] = {  # by name, of a discount
    "monte_carlo": lambda gamma: MonteCarlo(gamma),
    "td": lambda gamma: TD(gamma),
    "n_step": lambda gamma: NStep(gamma, N),
    "gae": lambda gamma: GAE(gamma, LAMBDA),
    "td_lambda": lambda gamma: TDLambda(gamma, LAMBDA, 1.0),
    "v_trace": lambda gamma: VTrace(gamma, LAMBDA),
    "vine": lambda gamma: Vine(gamma),
    "total_return": lambda gamma: TotalReturn(gamma),
    "rebn": lambda gamma: ReBN(gamma),
    "self_critical": lambda gamma: SelfCritical(gamma),
    "rloo": lambda gamma: RLOO(gamma),
    "grpo": lambda gamma: GRPO(gamma),
    "dr_grpo": lambda gamma: DrGRPO(gamma),
    "retrace": lambda gamma: Retrace(gamma, LAMBDA),
}
FOUR = ("monte_carlo", "td", "n_step", "gae")


class Entry(NamedTuple):
    """One algorithm on one task: everything but the estimator."""

    config: Any  # of the algorithm; with `episodes_per_row` it always plays whole episodes
    num_envs: int
    episodes: int = 1  # whole episodes a row plays where a window will not do


class Entrant(NamedTuple):
    """An entry with its estimator."""

    config: Any
    prompting: Groups | None


def entrant(entry: Entry, estimator: str, gamma: float, length: int) -> Entrant:
    """Return an entry with an estimator and what it needs; `length` is how many steps an episode is taken for when the budget is cut up."""
    advantage = ESTIMATORS[estimator](gamma)
    wanted = needs(advantage)
    config = replace(entry.config, advantage=advantage, vine_samples=CONTINUATIONS if wanted.needs_forks else 0)
    if config.episodes_per_row is None and wanted.needs_whole_episodes:
        config = replace(config, episodes_per_row=entry.episodes, num_steps=length)
    if wanted.needs_groups or wanted.needs_greedy:
        config = replace(config, episodes_per_row=1)
    return Entrant(config, Groups(GROUP) if wanted.needs_groups else None)
