"""Proximal policy optimisation with a clipped surrogate (Schulman et al. 2017, "Proximal policy optimization algorithms").

The story: play a window of steps, or whole episodes; price what leaves the reference policy; judge every action by the
advantage; move the policy a few epochs towards what was better than expected, and no further than the clip lets it.
Axis legend: T steps, N environments, B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..advantages import GAE, Advantage, Estimate, estimate, explained_variance, normalise
from ..kl import adapt_kl_coef, kl_penalised
from ..learner import Learner
from ..losses import clipped_surrogate, mean_entropy, value_loss
from ..play import AnyVectorEnv, Played, log_probs_under
from ..policies import Memory, Policy
from ..prompting import Prompting
from ..rollout import Batch, Rollout, minibatches
from ..run import Run


@dataclass(frozen=True)
class Config:
    """What PPO may be told; the defaults suit the default text task."""

    total_timesteps: int = 120_000  # environment steps (on text: generated tokens), rounded down to whole iterations, but at least one
    num_steps: int = 24  # steps each environment plays between two updates
    episodes_per_row: int | None = None  # whole episodes each environment plays instead, begun anew, each counted as num_steps in total_timesteps
    learning_rate: float = 1e-3  # of Adam, at the beginning
    anneal_lr: bool = True  # let the learning rate fall to 0 in a straight line
    advantage: Advantage = field(default_factory=lambda: GAE(gamma=1.0, gae_lambda=0.95))  # how actions are judged: any Advantage
    normalise_advantages: bool = True  # to mean 0 and deviation 1 over each rollout
    num_epochs: int = 2  # passes over each rollout
    num_minibatches: int = 4  # optimiser steps a pass
    clip_coef: float = 0.2  # how far the probability ratio may leave 1
    value_clip_coef: float | None = None  # clip the value's move likewise (in units of reward)
    ent_coef: float = 0.0  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # gradients longer than this are cut to it
    target_kl: float | None = None  # stop the epochs of an iteration once approx_kl exceeds this
    temperature: float = 1.0  # of sampling, and so of the policy that is trained
    kl_coef: float = 0.0  # price of a nat away from the reference policy, in reward; needs a reference
    kl_target: float | None = None  # adapt kl_coef so that an episode's KL comes to this many nats
    kl_horizon: int = 10_000  # episodes over which kl_coef may change by about 20 %

    def __post_init__(self) -> None:
        if not callable(self.advantage):
            raise TypeError(f"advantage must be an object such as GAE(), or a callable, got {self.advantage!r}; agents.advantages.parse reads a spelling.")
        for name in ("total_timesteps", "num_steps", "num_epochs", "num_minibatches", "kl_horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.episodes_per_row is not None and self.episodes_per_row < 1:
            raise ValueError(f"episodes_per_row must be at least 1, or None for windows of num_steps, got {self.episodes_per_row}.")
        for name in ("learning_rate", "clip_coef", "max_grad_norm", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.kl_target is not None and not (self.kl_target > 0 and self.kl_coef > 0):
            raise ValueError(f"kl_target must be positive and needs a positive kl_coef to begin with, got {self.kl_target} and {self.kl_coef}.")


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
        reference: a frozen policy whose KL divergence is measured, and priced by `config.kl_coef`.
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
    if reference is None and (config.kl_coef or config.kl_target is not None):
        raise ValueError("kl_coef and kl_target price the distance from a reference policy: pass reference=, a frozen copy of the policy, say.")
    learner = Learner.start(env, policy, torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=1e-5), seed, prompting, num_prompts)
    learner.coefficients["kl_coef"] = config.kl_coef
    steps = config.num_steps * env.num_envs * (config.episodes_per_row or 1)
    total = max(1, config.total_timesteps // steps)
    show = ("return", "kl", "entropy", "value_error") if reference else ("return", "length", "entropy", "value_error")
    run = Run(total, folder, learner.get_state, learner.set_state, save_every=save_every, resume=resume, quiet=quiet, show=show, title=title)
    with run:
        for iteration in run:
            learner.optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - iteration / total if config.anneal_lr else 1)
            played = learner.play(config.num_steps, config.episodes_per_row, config.temperature)
            rollout, metrics = played.rollout, episode_metrics(played)
            if reference is not None:
                rollout = rollout._replace(ref_log_probs=log_probs_under(reference, rollout, config.temperature))
                metrics |= price_of_leaving(rollout, metrics, learner.coefficients, config)
                price, ref_log_probs = metrics["kl_coef"], rollout.require("ref_log_probs")
                rollout = rollout._replace(rewards=kl_penalised(rollout.rewards, rollout.log_probs, ref_log_probs, price, rollout.valid))
            judged = estimate(config.advantage, rollout)
            metrics |= update(learner, rollout, judged, config)
            if evaluate is not None and ((iteration + 1) % evaluate_every == 0 or iteration + 1 == total):
                metrics |= {f"eval/{name}": value for name, value in evaluate(learner.generators.evaluation).items()}
            run.log(metrics, steps=steps if config.episodes_per_row is None else int(rollout.valid.sum()))
    return run


def loss(policy: Policy, batch: Batch, config: Config) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return PPO's loss on a minibatch (equation 9 of the paper, as a loss to minimise) and what it is made of."""
    t = {name: torch.from_numpy(value) for name, value in batch._asdict().items() if value is not None}
    memory = Memory(t["memory"][0], t["starts"]) if "memory" in t else None
    now = policy.evaluate(t["observations"], t["actions"], t.get("action_masks"), config.temperature, memory)
    t = {name: value.to(now.log_probs.device) if value.dtype != torch.float64 else value.to(now.log_probs) for name, value in t.items()}
    surrogate = clipped_surrogate(now.log_probs, t["log_probs"], t["advantages"], t["valid"], config.clip_coef)
    old_values = t["values"].to(now.values) if config.value_clip_coef is not None else None
    critic = value_loss(now.values, t["value_targets"].to(now.values), t["valid"], old_values, config.value_clip_coef)
    entropy = mean_entropy(now.entropy, t["valid"])
    parts = {"policy_loss": surrogate.loss, "value_loss": critic, "entropy": entropy}
    parts |= {"clip_fraction": surrogate.clip_fraction, "approx_kl": surrogate.approx_kl}
    parts["ratio_error"] = torch.where(t["valid"], (now.log_probs - t["log_probs"]).exp() - 1, 0.0).abs().max()
    return surrogate.loss + config.vf_coef * critic - config.ent_coef * entropy, parts


def update(learner: Learner, rollout: Rollout, judged: Estimate, config: Config) -> dict[str, float]:
    """Move the policy a few epochs towards what was judged better; return the means of the losses and their diagnostics."""
    advantages = normalise(judged.advantages, rollout.valid) if config.normalise_advantages else judged.advantages
    parameters = list(learner.policy.parameters())
    seen: list[dict[str, float]] = []
    for _ in range(config.num_epochs):
        for batch in minibatches(
            rollout, advantages, judged.value_targets, config.num_minibatches, learner.generators.minibatches, by_column=learner.policy.sequential
        ):
            objective, parts = loss(learner.policy, batch, config)
            learner.optimizer.zero_grad()
            objective.backward()
            parts["grad_norm"] = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            learner.optimizer.step()
            seen.append({name: float(value.detach()) for name, value in parts.items()})
        if config.target_kl is not None and seen[-1]["approx_kl"] > config.target_kl:
            break
    metrics = {name: float(np.mean([one[name] for one in seen])) for name in seen[0]}
    # Before the first optimiser step what acted and what is evaluated are the same weights: anything but 0 here is a bug (or bfloat16).
    metrics["ratio_error"] = seen[0]["ratio_error"]
    valid = rollout.valid
    metrics["value_error"] = float(np.sqrt(np.mean((rollout.values - judged.value_targets)[valid] ** 2)))
    explained = explained_variance(rollout.values, judged.value_targets, valid)
    return metrics | ({"explained_variance": explained} if np.isfinite(explained) else {}) | {"learning_rate": learner.optimizer.param_groups[0]["lr"]}


def episode_metrics(played: Played) -> dict[str, float]:
    """Return how many episodes ended, and the means of their returns, their lengths and what the environment told of them ("info/...")."""
    means = {name: float(np.nanmean(values)) for name, values in played.ends.items() if not np.isnan(values).all()}
    named = {name if name in ("return", "length") else f"info/{name}": value for name, value in means.items()}
    return {"episodes": float(np.isfinite(played.ends["return"]).sum())} | named


def price_of_leaving(rollout: Rollout, metrics: Mapping[str, float], coefficients: dict[str, float], config: Config) -> dict[str, float]:
    """Return the KL of this rollout from the reference and the price used on it; adapt the next iteration's price."""
    episodes = max(1, int(metrics["episodes"]))  # in the long run as many begin as end, so the cut ones need no care
    nats = float((rollout.log_probs - rollout.require("ref_log_probs"))[rollout.valid].sum())
    found = {"kl": nats / episodes, "kl_coef": coefficients["kl_coef"]}
    if config.kl_target is not None:
        coefficients["kl_coef"] = adapt_kl_coef(coefficients["kl_coef"], found["kl"], config.kl_target, episodes, config.kl_horizon)
    return found
