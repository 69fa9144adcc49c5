"""What an estimator needs and play must provide: checked before the first step, so that a wrong combination is refused and never trained on.

Axis legend: N rows, K continuations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, get_args

from .advantages import needs
from .forks import forkable
from .off_policy import OffPolicy, check_exploring, check_off_policy
from .play import AnyVectorEnv
from .policies import Policy
from .prompting import Groups, Prompting

BaselineSource = Literal["running_mean", "greedy"]


class Provided(NamedTuple):
    """What play fills into a rollout beyond what happened."""

    gamma: float = 1.0  # the estimator's discount
    vine: int = 0  # K continuations of every prefix, in place of the critic's values; 0: the critic's
    baselines: BaselineSource | None = None  # who fills `rollout.baselines`
    target_log_probs: bool = False  # what the present policy alone says of what was just played; without noise its ratios are 1
    epsilon: float = 0.0  # share of the actions that are drawn evenly


class Judging(OffPolicy, Protocol):
    """The choices of an algorithm that say how actions are judged."""

    @property
    def vf_coef(self) -> float:
        """Return the weight of the critic's loss; without it a critic is never trained."""

    @property
    def vine_samples(self) -> int:
        """Return how many continuations of each prefix are played, for estimators that need forks."""

    @property
    def baselines(self) -> BaselineSource:
        """Return who fills `rollout.baselines`, for estimators that read them."""


def provided(config: Judging, env: AnyVectorEnv, policy: Policy, prompting: Prompting | None) -> Provided:
    """Return what play must provide for the estimator that `config` names.

    Raises:
        ValueError: if the combination cannot work: whole episodes or groups are needed and not played, a critic is needed and not trained.
        TypeError: if the environment or the policy cannot be forked and that is needed.
    """
    wanted, name = needs(config.advantage), repr(config.advantage)
    if config.baselines not in get_args(BaselineSource):
        raise ValueError(f"baselines must be one of {get_args(BaselineSource)}, not {config.baselines!r}.")
    if wanted.needs_whole_episodes and config.episodes_per_row is None:
        raise ValueError(f"{name} adds up whole episodes, and windows of num_steps cut them: set episodes_per_row=1, or use gae.")
    if wanted.needs_groups and not (isinstance(prompting, Groups) and prompting.size > 1):
        raise ValueError(f"{name} compares episodes of one prompt: set prompting=Groups(8), with episodes_per_row=1 and num_prompts=the number of prompts.")
    if wanted.bootstraps and not config.vf_coef > 0:
        raise ValueError(f"{name} trusts a critic, and vf_coef={config.vf_coef} never trains one: set vf_coef=0.5, or use monte_carlo(baseline='none').")
    if wanted.needs_action_values:
        raise ValueError(f"{name} needs action values Q(s, a), and a policy here has state values only; use v_trace for off-policy steps.")
    greedy = wanted.needs_baselines and (config.baselines == "greedy" or wanted.needs_greedy)
    if greedy and config.episodes_per_row != 1:
        raise ValueError(f"{name} compares each episode with a greedy one from the same start: set episodes_per_row=1.")
    if wanted.needs_forks or greedy:
        forkable(env, policy, name)
    if wanted.needs_forks and config.vine_samples < 1:
        raise ValueError(f"{name} measures what prefixes are worth: set vine_samples to 1 or more continuations.")
    check_off_policy(config, env, policy)
    return Provided(
        gamma=float(getattr(config.advantage, "gamma", 1.0)),
        vine=config.vine_samples if wanted.needs_forks else 0,
        baselines=("greedy" if greedy else "running_mean") if wanted.needs_baselines else None,
        target_log_probs=wanted.needs_target_log_probs,
        epsilon=config.epsilon,
    )


class Budget(Protocol):
    """The choices of an algorithm that say how much is played."""

    @property
    def total_timesteps(self) -> int:
        """Return how many environment steps are played in all."""

    @property
    def num_steps(self) -> int:
        """Return how many steps a row plays, or how many an episode is taken for."""

    @property
    def episodes_per_row(self) -> int | None:
        """Return how many whole episodes a row plays; None: windows."""


class Planned(NamedTuple):
    """How a budget is cut up."""

    steps: int  # of one iteration
    iterations: int


def planned(config: Budget, env: AnyVectorEnv) -> Planned:
    """Return the steps of an iteration and how many iterations the budget has, rounded down, but at least one."""
    steps = config.num_steps * env.num_envs * (config.episodes_per_row or 1)
    return Planned(steps, max(1, config.total_timesteps // steps))


class Numbers(Budget, Judging, Protocol):
    """The choices of an algorithm that every algorithm has."""


def check_numbers(config: Numbers, at_least_one: Sequence[str] = ()) -> None:
    """Raise `ValueError` naming the first number that every algorithm has, or that `at_least_one` names, which is too small."""
    for name in ("total_timesteps", "num_steps", *at_least_one):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}.")
    if config.episodes_per_row is not None and config.episodes_per_row < 1:
        raise ValueError(f"episodes_per_row must be at least 1, or None for windows of num_steps, got {config.episodes_per_row}.")
    for name in ("learning_rate", "max_grad_norm", "temperature"):
        if not getattr(config, name) > 0 or (name != "max_grad_norm" and math.isinf(getattr(config, name))):  # no gradient is cut to infinity
            raise ValueError(f"{name} must be positive and finite, got {getattr(config, name)}.")
    for name in ("ent_coef", "ent_coef_final"):
        if not math.isfinite(getattr(config, name) or 0.0):
            raise ValueError(f"{name} must be a number, got {getattr(config, name)}.")
    if not 0 <= config.vf_coef < math.inf:
        raise ValueError(f"vf_coef must be a number of at least 0, got {config.vf_coef}.")
    check_exploring(config)
