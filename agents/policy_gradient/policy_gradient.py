"""REINFORCE (Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning").

The story: play whole episodes; price what leaves the reference policy; judge every action by what its episode earned, less what
was to be expected; take one step along the gradient of log pi, weighted by that.
Axis legend: T steps, N environments, B rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..accumulating import accumulate, check_micro_batch
from ..advantages import Advantage, Estimate, MonteCarlo, Normalisation, estimate, normalise
from ..kl import FixedKL, KLPrice
from ..learner import Learner
from ..leaving import KLPlace, check_reference, priced
from ..losses import kl_loss, mean_entropy, policy_gradient_loss, value_loss
from ..metrics import critic_metrics, episode_metrics, mean_of
from ..optimizing import adam
from ..play import AnyVectorEnv
from ..policies import Memory, Policy
from ..prompting import Prompting
from ..providing import BaselineSource, check_numbers, planned, provided
from ..rollout import Batch, Rollout, minibatches
from ..run import Run
from ..schedules import linear
from ..timing import stage


@dataclass(frozen=True)
class Config:
    """What REINFORCE may be told."""

    total_timesteps: int = 120_000  # environment steps (on text: generated tokens), rounded down to whole iterations, but at least one
    num_steps: int = 24  # steps that an episode is taken for in total_timesteps: on text, its budget
    episodes_per_row: int | None = 1  # whole episodes each environment plays between two updates; None: a window of num_steps
    learning_rate: float = 3e-3  # of Adam, at the beginning
    anneal_lr: bool = True  # let the learning rate fall to 0 in a straight line
    advantage: Advantage = field(default_factory=lambda: MonteCarlo(gamma=1.0, baseline="batch_mean"))  # how actions are judged: any Advantage
    baselines: BaselineSource = "running_mean"  # who fills the baselines of an estimator with baseline="given": "greedy" is self-critical
    vine_samples: int = 0  # continuations of every prefix, for the estimator vine
    normalise: Normalisation = "none"  # of advantages, to mean 0 and deviation 1: over the "batch", each "group", or "none"
    ent_coef: float = 0.0  # weight of the entropy bonus, at the beginning
    ent_coef_final: float | None = None  # ... and at the end, in a straight line; None: the same
    vf_coef: float = 0.5  # weight of the value loss; 0 trains no critic
    supervised_coef: float = 0.0  # weight of the supervised loss in the mixture, at the beginning; the policy's own loss gets the rest
    supervised_coef_final: float = 0.0  # ... and at the end, in a straight line
    max_grad_norm: float = 0.5  # gradients longer than this are cut to it
    micro_batch: int | None = None  # columns (or steps, where a policy reads no sequences) read at a time; None: those of 4,096 steps; the step is the same
    temperature: float = 1.0  # of sampling, and so of the policy that is trained
    replay: int = 0  # older rollouts that are kept to learn from again; needs an estimator such as VTrace, and normalise="none"
    replayed: int = 1  # how many of them, drawn by lot, stand beside each new one
    epsilon: float = 0.0  # share of the actions that are drawn evenly from the allowed ones; needs the same
    bonus_coef: float = 0.0  # a step is paid this / sqrt(how often its action was tried in its state), in units of reward; where states can be counted
    kl: KLPrice = field(default_factory=lambda: FixedKL(0.0))  # price of a nat away from the reference policy, in units of reward; needs a reference
    kl_in: KLPlace = "reward"  # where it is paid: in the "reward", or in the "loss" (k3)
    kl_exact_every: int = 4  # iterations between two measurements of the KL divergence over all actions, "kl_step/exact"; 0: never

    def __post_init__(self) -> None:
        if not callable(self.advantage):
            raise TypeError(
                f"advantage must be an object such as MonteCarlo(), or a callable, got {self.advantage!r}; agents.advantages.parse reads a spelling."
            )
        check_numbers(self)
        check_micro_batch(self.micro_batch)
        if self.normalise not in ("batch", "group", "none"):  # one step takes the whole batch: there are no minibatches
            raise ValueError(f"normalise must be 'batch', 'group' or 'none', got {self.normalise!r}.")
        for name in ("supervised_coef", "supervised_coef_final"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share and must lie in [0, 1], got {getattr(self, name)}.")


def train(
    env: AnyVectorEnv,
    policy: Policy,
    config: Config | None = None,
    *,
    seed: int = 0,
    reference: Policy | None = None,
    prompting: Prompting | None = None,
    num_prompts: int | None = None,
    supervised_loss: Callable[[np.random.Generator], torch.Tensor] | None = None,
    evaluate: Callable[[np.random.Generator], Mapping[str, float]] | None = None,
    evaluate_every: int = 10,
    folder: Path | str | None = None,
    save_every: int | None = 10,
    resume: bool = False,
    quiet: bool = False,
    title: str = "policy gradient",
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
        supervised_loss: the loss of a random batch of what should be imitated, mixed in by `config.supervised_coef` as in MIXER (Ranzato et
            al. 2016, arXiv 1511.06732, which moves from imitation to reward over training); `sft.batch_loss` makes one.
        evaluate: called with its own generator every `evaluate_every` iterations and after the last; what it returns is logged as "eval/...".
        evaluate_every: see `evaluate`.
        folder: where metrics and checkpoints go; None keeps nothing.
        save_every: iterations between checkpoints.
        resume: go on from the newest checkpoint in `folder`.
        quiet: print nothing.
        title: what to call the run on the screen.
    """
    config = config or Config()
    learner = Learner.start(env, policy, adam(policy.parameters(), config.learning_rate), seed, prompting, num_prompts)
    check_company(config, reference, supervised_loss)
    fill = provided(config, env, policy, prompting)
    steps, total = planned(config, env)
    show = ("return", "kl" if reference else "length", "entropy", "value_error")
    run = Run(total, folder, learner.get_state, learner.set_state, save_every=save_every, resume=resume, quiet=quiet, show=show, title=title)
    with run:
        for iteration in run:
            done = iteration / total
            learner.optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - done if config.anneal_lr else 1)
            played = learner.play(config.num_steps, config.episodes_per_row, config.temperature, fill)
            rollout, metrics = played.rollout, episode_metrics(played)
            rollout, told = priced(rollout, policy, reference, config, learner.coefficients, iteration, metrics["episodes"]) if reference else (rollout, {})
            rollout, bonus = learner.experience.curious(rollout, env, config.bonus_coef)
            rollout, old = learner.experience.recall(played, rollout, policy, config, told.get("kl_price", 0.0), learner.generators.minibatches)
            judged = estimate(config.advantage, rollout)
            metrics |= told | bonus | old | update(learner, rollout, judged, config, done, told.get("kl_price", 0.0), supervised_loss)
            if evaluate is not None and ((iteration + 1) % evaluate_every == 0 or iteration + 1 == total):
                metrics |= {f"eval/{name}": value for name, value in evaluate(learner.generators.evaluation).items()}
            run.log(metrics, steps=steps if config.episodes_per_row is None else int(played.rollout.valid.sum()))
    return run


def check_company(config: Config, reference: Policy | None, supervised_loss: object) -> None:
    """Raise `ValueError` where a choice and what it needs are not both there."""
    check_reference(config, reference)
    if (supervised_loss is None) != (max(config.supervised_coef, config.supervised_coef_final) == 0):
        raise ValueError("supervised_loss= and supervised_coef belong together: what is imitated, and how much it counts.")


def loss(policy: Policy, batch: Batch, config: Config, ent_coef: float, kl_price: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of REINFORCE and what it is made of."""
    t = {name: torch.from_numpy(value) for name, value in batch._asdict().items() if value is not None}
    memory = Memory(t["memory"][0], t["starts"]) if "memory" in t else None
    now = policy.evaluate(t["observations"], t["actions"], t.get("action_masks"), config.temperature, memory)
    t = {name: value.to(now.log_probs.device) if value.dtype != torch.float64 else value.to(now.log_probs) for name, value in t.items()}
    gradient = policy_gradient_loss(now.log_probs, t["advantages"], t["valid"])
    critic = value_loss(now.values, t["value_targets"].to(now.values), t["valid"])
    entropy = mean_entropy(now.entropy, t["valid"])
    parts = {"policy_loss": gradient, "value_loss": critic, "entropy": entropy}
    parts["ratio_error"] = torch.where(t["valid"], (now.log_probs - t["log_probs"]).exp() - 1, 0.0).abs().max()
    objective = gradient + config.vf_coef * critic - ent_coef * entropy
    if config.kl_in == "loss" and "ref_log_probs" in t:
        parts["kl_loss"] = kl_loss(now.log_probs, t["ref_log_probs"], t["valid"])
        objective = objective + kl_price * parts["kl_loss"]
    return objective, parts


def update(
    learner: Learner,
    rollout: Rollout,
    judged: Estimate,
    config: Config,
    done: float,
    kl_price: float,
    supervised_loss: Callable[[np.random.Generator], torch.Tensor] | None,
) -> dict[str, float]:
    """Take one step along the policy gradient, `done` of the way through training; return the losses and their diagnostics."""
    advantages = normalise(judged.advantages, rollout.valid, config.normalise, rollout.groups)
    (batch,) = minibatches(rollout, advantages, judged.value_targets, 1, learner.generators.minibatches, by_column=learner.policy.sequential)
    ent_coef = linear(config.ent_coef, config.ent_coef_final, done)
    share = linear(config.supervised_coef, config.supervised_coef_final, done)
    learner.optimizer.zero_grad()
    parts = accumulate(batch, config.micro_batch, lambda part: loss(learner.policy, part, config, ent_coef, kl_price), 1 - share)
    if supervised_loss is not None:
        with stage("supervised loss"):
            parts["supervised_loss"] = supervised_loss(learner.generators.minibatches)
            (share * parts["supervised_loss"]).backward()
    parts["grad_norm"] = learner.step(config.max_grad_norm)
    metrics = mean_of([{name: float(value.detach()) for name, value in parts.items()}])
    return metrics | critic_metrics(rollout, judged) | {"learning_rate": learner.optimizer.param_groups[0]["lr"]}
