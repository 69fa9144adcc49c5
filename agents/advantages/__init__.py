"""Advantage estimators: formulas on plain arrays, and the frozen choices that apply them to a rollout.

    advantages, value_targets = estimate(GAE(gamma=0.99, gae_lambda=0.95), rollout)  # [T, N] each
    estimate(parse("rloo"), rollout)                                                 # by name, from the command line
    estimate(lambda rollout: (my_advantages, my_targets), rollout)                   # any callable

An advantage is any callable `rollout -> (advantages, value_targets)`; `estimate` calls it and checks what it gives back; `needs` tells what it declares to
need, so that a training loop can refuse a wrong combination before it plays. Each estimator is pure: whoever plays fills what it reads.

    whole episodes, no critic    MonteCarlo, TotalReturn, ReBN (and SelfCritical, which reads rollout.baselines)
    groups of one prompt         RLOO, GRPO, DrGRPO
    a critic                     TD, NStep, TDLambda, GAE
    forked continuations         Vine
    an older policy's steps      VTrace, Retrace

Baselines (`baselines.py`) and normalisation (`normalise`) are choices of their own.

Axis legend: T steps, N environments.
"""

from .baselines import Baseline, running_mean
from .bootstrapped import GAE, TD, NStep, TDLambda, Vine
from .episodic import MonteCarlo, ReBN, SelfCritical, TotalReturn
from .estimating import Advantage, Estimate, Needs, estimate, needs
from .formulas import gae, monte_carlo_returns, n_step_returns, td_errors
from .grouped import GRPO, RLOO, DrGRPO, leave_one_out
from .normalising import Normalisation, explained_variance, group_deviations, group_standardised, normalise
from .off_policy import Retrace, VTrace, retrace, v_trace
from .registry import ADVANTAGES, from_json, parse, spell, to_json

__all__ = [
    "ADVANTAGES",
    "GAE",
    "GRPO",
    "RLOO",
    "TD",
    "Advantage",
    "Baseline",
    "DrGRPO",
    "Estimate",
    "MonteCarlo",
    "NStep",
    "Needs",
    "Normalisation",
    "ReBN",
    "Retrace",
    "SelfCritical",
    "TDLambda",
    "TotalReturn",
    "VTrace",
    "Vine",
    "estimate",
    "explained_variance",
    "from_json",
    "gae",
    "group_deviations",
    "group_standardised",
    "leave_one_out",
    "monte_carlo_returns",
    "n_step_returns",
    "needs",
    "normalise",
    "parse",
    "retrace",
    "running_mean",
    "spell",
    "td_errors",
    "to_json",
    "v_trace",
]
