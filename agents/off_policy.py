"""Learning from steps that the present policy did not play alone: what noise chose, and what older rollouts hold.

Such steps are weighed by the ratio rho = pi / mu of the present policy pi over mu, whoever played, and only an estimator can do that for all that
follows a step as well: V-trace. Its advantages hold the factor rho already. The loss -A log pi of policy gradient and A2C takes them as they are;
PPO's surrogate multiplies by how far pi has moved since the iteration began, not by pi / mu, so that nothing is counted twice:

    rho min(r A, clip(r, 1 - c, 1 + c) A),  r = pi now / pi at the beginning of the iteration

Hilton et al. 2022, "Batch size-invariance for policy optimization" (arXiv 2110.00641), section 2: the decoupled objective, with rho truncated as in
Espeholt et al. 2018. That is why `minibatches` hands on `target_log_probs` where a rollout has them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .advantages import Advantage, Normalisation, needs
from .exploration import Noisy, Visits
from .kl import FixedKL, KLPrice
from .leaving import KLPlace
from .play import AnyVectorEnv
from .policies import Policy


class OffPolicy(Protocol):
    """The choices of an algorithm that say how it explores, and what of it is learned from again."""

    @property
    def epsilon(self) -> float:
        """Return the share of the actions that are drawn evenly."""

    @property
    def replay(self) -> int:
        """Return how many older rollouts are kept to learn from again; 0: none."""

    @property
    def replayed(self) -> int:
        """Return how many of them stand beside each new one."""

    @property
    def bonus_coef(self) -> float:
        """Return what a first try is worth, in units of reward."""

    @property
    def advantage(self) -> Advantage:
        """Return the estimator."""

    @property
    def normalise(self) -> Normalisation:
        """Return what advantages are normalised over."""

    @property
    def episodes_per_row(self) -> int | None:
        """Return how many whole episodes a row plays; None: windows."""

    @property
    def temperature(self) -> float:
        """Return that of sampling."""

    @property
    def kl(self) -> KLPrice:
        """Return the price of leaving a reference policy."""

    @property
    def kl_in(self) -> KLPlace:
        """Return whether the reward or the loss pays it."""


def check_exploring(config: OffPolicy) -> None:
    """Raise `ValueError` naming the first of the numbers above that is out of range."""
    if not 0 <= config.epsilon <= 1:
        raise ValueError(f"epsilon is a share and must lie in [0, 1], got {config.epsilon}.")
    if not 0 <= config.bonus_coef < np.inf:
        raise ValueError(f"bonus_coef must be a number of at least 0, in units of reward, got {config.bonus_coef}.")
    if config.replay < 0 or config.replayed < 1 or 0 < config.replay < config.replayed:
        raise ValueError(f"replay={config.replay} older rollouts are kept and replayed={config.replayed} of them learned from: give 1 <= replayed <= replay.")


def check_off_policy(config: OffPolicy, env: AnyVectorEnv, policy: Policy) -> None:
    """Raise where noise, older rollouts or a bonus cannot be had, or would make what is learned wrong.

    Raises:
        ValueError: if the estimator, the normalisation, the price in the loss or the memory of the policy takes all steps for the policy's own.
        TypeError: if noise is asked for and actions are no single choices, or a bonus where there is no table to count in.
    """
    if config.bonus_coef:
        Visits.for_env(env)
    if config.epsilon:
        Noisy.for_env(env, policy, config.epsilon)
    if not (config.epsilon or config.replay):
        return
    wanted, name, who = needs(config.advantage), repr(config.advantage), f"epsilon={config.epsilon}, replay={config.replay}"
    if not wanted.needs_target_log_probs:
        raise ValueError(f"{who}: the present policy did not choose all that is learned from, and {name} takes it so: set advantage=VTrace(gamma=...).")
    if wanted.needs_groups or wanted.needs_baselines or wanted.needs_forks:
        raise ValueError(f"{who}: what {name} compares with was measured of one policy, and several played: set advantage=VTrace(gamma=...).")
    if config.normalise != "none":
        raise ValueError(f"{who}: the advantages hold the ratios, and a mean taken off them is no baseline any more: set normalise='none'.")
    if config.kl_in == "loss" and config.kl != FixedKL(0.0):
        raise ValueError(f"{who}: the penalty in the loss is an estimate over the policy's own actions only: set kl_in='reward'.")
    if config.replay and config.episodes_per_row is None and isinstance(policy.initial_state(1), np.ndarray):
        raise ValueError(f"{who}: an old window begins with what older weights remembered: set episodes_per_row=1, or use a policy without memory.")
