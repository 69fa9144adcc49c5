"""Proximal policy optimisation with a clipped surrogate (Schulman et al. 2017, "Proximal policy optimization algorithms").

The story: play a window of steps, or whole episodes; price what leaves the reference policy; judge every action by the
advantage; move the policy a few epochs towards what was better than expected, and no further than the clip lets it. How far it has moved is
reckoned from the policy at the beginning of the iteration, whoever played: see `agents.off_policy` for steps of noise and of older rollouts.
Axis legend: T steps, N environments, B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch

from ..accumulating import accumulate, check_micro_batch
from ..advantages import GAE, Advantage, Estimate, Normalisation, estimate, normalise
from ..kl import FixedKL, KLPrice
from ..learner import Learner
from ..leaving import KLPlace, check_reference, priced
from ..losses import kl_loss, mean_entropy, value_loss
from ..masking import NLPO
from ..metrics import critic_metrics, episode_metrics, mean_of
from ..optimizing import adam
from ..play import AnyVectorEnv
from ..policies import Memory, Policy
from ..prompting import Prompting
from ..providing import BaselineSource, check_numbers, planned, provided
from ..rollout import Batch, Rollout, minibatches
from ..run import Run
from ..schedules import linear
from ..surrogates import Clip, Surrogate


@dataclass(frozen=True)
class Config:
    """What PPO may be told; the defaults suit the default text task."""

    total_timesteps: int = 120_000  # environment steps (on text: generated tokens), rounded down to whole iterations, but at least one
    num_steps: int = 24  # steps each environment plays between two updates
    episodes_per_row: int | None = None  # whole episodes each environment plays instead, begun anew, each counted as num_steps in total_timesteps
    learning_rate: float = 1e-3  # of Adam, at the beginning
    anneal_lr: bool = True  # let the learning rate fall to 0 in a straight line
    advantage: Advantage = field(default_factory=lambda: GAE(gamma=1.0, gae_lambda=0.95))  # how actions are judged: any Advantage
    baselines: BaselineSource = "running_mean"  # who fills the baselines of an estimator with baseline="given": "greedy" is self-critical
    vine_samples: int = 0  # continuations of every prefix, for the estimator vine
    normalise: Normalisation = "batch"  # of advantages, to mean 0 and deviation 1: over the "batch", each "minibatch" or "group", or "none"
    num_epochs: int = 2  # passes over each rollout
    num_minibatches: int = 4  # optimiser steps a pass
    surrogate: Surrogate = field(default_factory=Clip)  # what is climbed: clip(coef=0.2), clip(coef=0.2, high=0.28) or kl_penalty(target=0.01)
    value_clip_coef: float | None = None  # clip the value's move likewise (in units of reward)
    ent_coef: float = 0.0  # weight of the entropy bonus, at the beginning
    ent_coef_final: float | None = None  # ... and at the end, in a straight line; None: the same
    vf_coef: float = 0.5  # weight of the value loss
    value_warmup: int = 0  # iterations in which the critic alone learns, before the policy moves
    max_grad_norm: float = 0.5  # gradients longer than this are cut to it
    micro_batch: int | None = None  # columns (or steps, where a policy reads no sequences) read at a time; None: those of 4,096 steps; the step is the same
    target_kl: float | None = None  # stop the epochs of an iteration once approx_kl exceeds this
    temperature: float = 1.0  # of sampling, and so of the policy that is trained
    replay: int = 0  # older rollouts that are kept to learn from again; needs an estimator such as VTrace, and normalise="none"
    replayed: int = 1  # how many of them, drawn by lot, stand beside each new one
    epsilon: float = 0.0  # share of the actions that are drawn evenly from the allowed ones; needs the same
    bonus_coef: float = 0.0  # a step is paid this / sqrt(how often its action was tried in its state), in units of reward; where states can be counted
    nlpo: NLPO | None = None  # what is sampled must be likely under a copy of the policy that lags behind: nlpo(top_p=0.9, every=20)
    kl: KLPrice = field(default_factory=lambda: FixedKL(0.0))  # price of a nat away from the reference policy, in units of reward; needs a reference
    kl_in: KLPlace = "reward"  # where it is paid: in the "reward", or in the "loss" (k3)
    kl_exact_every: int = 4  # iterations between two measurements of the KL divergence over all actions, "kl_step/exact"; 0: never

    def __post_init__(self) -> None:
        if not callable(self.advantage):
            raise TypeError(f"advantage must be an object such as GAE(), or a callable, got {self.advantage!r}; agents.advantages.parse reads a spelling.")
        check_numbers(self, ("num_epochs", "num_minibatches"))
        check_micro_batch(self.micro_batch)
        if self.normalise not in get_args(Normalisation):
            raise ValueError(f"normalise must be one of {get_args(Normalisation)}, got {self.normalise!r}.")
        if self.value_warmup < 0:
            raise ValueError(f"value_warmup must be at least 0 iterations, got {self.value_warmup}.")
        for name in ("value_clip_coef", "target_kl"):
            if (limit := getattr(self, name)) is not None and not 0 < limit < np.inf:
                raise ValueError(f"{name} must be a positive number, or None, got {limit}.")
        if self.nlpo is not None and (self.epsilon or self.replay):
            raise ValueError("NLPO forbids what epsilon would try, and what older masks allowed: set epsilon=0 and replay=0, or nlpo=None.")


def train(
    env: AnyVectorEnv,
    policy: Policy,
    config: Config | None = None,
    *,
    seed: int = 0,
    reference: Policy | None = None,
    prompting: Prompting | None = None,
    num_prompts: int | None = None,
    evaluate: Callable[[np.random.Generator], Mapping[str, float]] | None = None,
    evaluate_every: int = 10,
    folder: Path | str | None = None,
    save_every: int | None = 10,
    resume: bool = False,
    quiet: bool = False,
    title: str = "ppo",
) -> Run:
    """Train `policy` on `env` in place and return the run, whose `history` holds one dict of metrics an iteration.

    Args:
        env: a vector environment with Gymnasium's interface, in any autoreset mode.
        policy: what acts and learns.
        config: the choices above.
        seed: of everything random here: environment, sampling, minibatches, evaluation.
        reference: a frozen policy whose KL divergence is measured, and priced by `config.kl`.
        prompting: chooses the prompts, such as Groups(8) or Priority(); needs `config.episodes_per_row=1`. None: the environment draws them.
        num_prompts: how many prompts the environment has, for `prompting`.
        evaluate: called with its own generator every `evaluate_every` iterations and after the last; what it returns is logged as "eval/...".
        evaluate_every: see `evaluate`.
        folder: where metrics and checkpoints go; None keeps nothing.
        save_every: iterations between checkpoints.
        resume: go on from the newest checkpoint in `folder`.
        quiet: print nothing.
        title: what to call the run on the screen.
    """
    config = config or Config()
    check_reference(config, reference)
    learner = Learner.start(env, policy, adam(policy.parameters(), config.learning_rate), seed, prompting, num_prompts)
    fill = provided(config, env, policy, prompting)
    steps, total = planned(config, env)
    show = ("return", "kl" if reference else "length", "entropy", "value_error")
    run = Run(total, folder, learner.get_state, learner.set_state, save_every=save_every, resume=resume, quiet=quiet, show=show, title=title)
    with run:
        for iteration in run:
            done = iteration / total
            learner.optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - done if config.anneal_lr else 1)
            learner.follow(config.nlpo, iteration)
            played = learner.play(config.num_steps, config.episodes_per_row, config.temperature, fill)
            rollout, metrics = played.rollout, episode_metrics(played)
            rollout, told = priced(rollout, policy, reference, config, learner.coefficients, iteration, metrics["episodes"]) if reference else (rollout, {})
            rollout, bonus = learner.experience.curious(rollout, env, config.bonus_coef)
            rollout, old = learner.experience.recall(played, rollout, policy, config, told.get("kl_price", 0.0), learner.generators.minibatches)
            judged = estimate(config.advantage, rollout)
            weights = weights_of(config, iteration, done, learner, told.get("kl_price", 0.0))
            metrics |= told | bonus | old | update(learner, rollout, judged, config, weights)
            if evaluate is not None and ((iteration + 1) % evaluate_every == 0 or iteration + 1 == total):
                metrics |= {f"eval/{name}": value for name, value in evaluate(learner.generators.evaluation).items()}
            run.log(metrics, steps=steps if config.episodes_per_row is None else int(played.rollout.valid.sum()))
    return run


class Weights(NamedTuple):
    """What counts how much in one iteration."""

    policy: float  # 0 while the critic alone learns
    entropy: float
    kl: float  # price of a nat, where the loss pays it
    surrogate: float  # the surrogate's own coefficient


def weights_of(config: Config, iteration: int, done: float, learner: Learner, kl_price: float) -> Weights:
    """Return the weights of an iteration, `done` of the way through training."""
    moving = 1.0 if iteration >= config.value_warmup else 0.0
    coef = learner.coefficients.setdefault("surrogate", config.surrogate.first())
    return Weights(moving, moving * linear(config.ent_coef, config.ent_coef_final, done), moving * kl_price, coef)


def loss(policy: Policy, batch: Batch, config: Config, weights: Weights) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return PPO's loss on a minibatch (equation 9 of the paper, as a loss to minimise) and what it is made of."""
    t = {name: torch.from_numpy(value) for name, value in batch._asdict().items() if value is not None}
    memory = Memory(t["memory"][0], t["starts"]) if "memory" in t else None
    now = policy.evaluate(t["observations"], t["actions"], t.get("action_masks"), config.temperature, memory)
    t = {name: value.to(now.log_probs.device) if value.dtype != torch.float64 else value.to(now.log_probs) for name, value in t.items()}
    surrogate = config.surrogate(now.log_probs, t["log_probs"], t["advantages"], t["valid"], weights.surrogate)
    old_values = t["values"].to(now.values) if config.value_clip_coef is not None else None
    critic = value_loss(now.values, t["value_targets"].to(now.values), t["valid"], old_values, config.value_clip_coef)
    entropy = mean_entropy(now.entropy, t["valid"])
    parts = {"policy_loss": surrogate.loss, "value_loss": critic, "entropy": entropy}
    parts |= {"clip_fraction": surrogate.clip_fraction, "approx_kl": surrogate.approx_kl}
    parts["ratio_error"] = torch.where(t["valid"], (now.log_probs - t["log_probs"]).exp() - 1, 0.0).abs().max()
    objective = weights.policy * surrogate.loss + config.vf_coef * critic - weights.entropy * entropy
    if config.kl_in == "loss" and "ref_log_probs" in t:
        parts["kl_loss"] = kl_loss(now.log_probs, t["ref_log_probs"], t["valid"])
        objective = objective + weights.kl * parts["kl_loss"]
    return objective, parts


def update(learner: Learner, rollout: Rollout, judged: Estimate, config: Config, weights: Weights) -> dict[str, float]:
    """Move the policy a few epochs towards what was judged better; return the means of the losses and their diagnostics."""
    advantages = normalise(judged.advantages, rollout.valid, config.normalise, rollout.groups)
    seen: list[dict[str, float]] = []
    for _ in range(config.num_epochs):
        for batch in minibatches(
            rollout, advantages, judged.value_targets, config.num_minibatches, learner.generators.minibatches, by_column=learner.policy.sequential
        ):
            if config.normalise == "minibatch":
                batch = batch._replace(advantages=normalise(batch.advantages, batch.valid))
            learner.optimizer.zero_grad()
            parts = accumulate(batch, config.micro_batch, lambda part: loss(learner.policy, part, config, weights))
            parts["grad_norm"] = learner.step(config.max_grad_norm)
            seen.append({name: float(value.detach()) for name, value in parts.items()})
        if config.target_kl is not None and seen[-1]["approx_kl"] > config.target_kl:
            break
    if weights.policy:
        learner.coefficients["surrogate"] = config.surrogate.after(weights.surrogate, seen[-1]["approx_kl"])
    return mean_of(seen) | critic_metrics(rollout, judged) | {"surrogate_coef": weights.surrogate, "learning_rate": learner.optimizer.param_groups[0]["lr"]}
