"""Behaviour cloning: a policy learns to do what a demonstrator did (Pomerleau 1991; here with the cross-entropy of its actions).

Axis legend: M demonstrated steps, B of them in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..policies import Policy
from ..run import Run
from ..seeds import generator_state, generators, restore_generator


@dataclass(frozen=True)
class CloningConfig:
    """What behaviour cloning may be told."""

    num_epochs: int = 20  # passes over the demonstrations
    batch_size: int = 256  # steps an update
    learning_rate: float = 1e-3  # of Adam, falling to 0 in a straight line
    max_grad_norm: float = 1.0  # gradients longer than this are cut to it

    def __post_init__(self) -> None:
        if self.num_epochs < 1 or self.batch_size < 1:
            raise ValueError(f"num_epochs and batch_size must be at least 1, got {self}.")


class Demonstrations(NamedTuple):
    """What was seen, and what was done then."""

    observations: NDArray[Any]  # [M, *]
    actions: NDArray[np.int64]  # [M]


def clone(
    policy: Policy,
    demonstrations: Demonstrations,
    heldout: Demonstrations,
    config: CloningConfig | None = None,
    *,
    seed: int = 0,
    evaluate: Callable[[np.random.Generator], Mapping[str, float]] | None = None,
    folder: Path | str | None = None,
    resume: bool = False,
    quiet: bool = False,
    title: str = "cloning",
) -> Run:
    """Train `policy` in place to repeat the demonstrations; return the run, one epoch an iteration.

    "loss" and "heldout_loss" are nats a step, "accuracy" and "heldout_accuracy" shares of steps whose most likely action is
    the demonstrated one; what `evaluate` returns after each epoch is logged as "eval/...". Policies that read sequences are refused.
    """
    config = config or CloningConfig()
    if policy.sequential:
        raise TypeError(f"{type(policy).__name__} reads sequences, demonstrations are single steps; train a language model by sft.train.")
    if not len(demonstrations.actions) or not len(heldout.actions):
        raise ValueError("There are no demonstrations, or none are held out.")
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    streams = generators(seed)

    def state() -> dict[str, Any]:
        drawn = {"minibatches": generator_state(streams.minibatches), "evaluation": generator_state(streams.evaluation)}
        return {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "generators": drawn}

    def restore(saved: dict[str, Any]) -> None:
        policy.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        for name, value in saved["generators"].items():
            restore_generator(getattr(streams, name), value)

    show = ("heldout_loss", "heldout_accuracy")
    run = Run(config.num_epochs, folder, state, restore, save_every=1, resume=resume, quiet=quiet, show=show, title=title, tensorboard=False)
    with run:
        for epoch in run:
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - epoch / config.num_epochs)
            order = streams.minibatches.permutation(len(demonstrations.actions))
            for first in range(0, len(order), config.batch_size):
                part = order[first : first + config.batch_size]
                loss, _ = _judge(policy, Demonstrations(demonstrations.observations[part], demonstrations.actions[part]))
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(list(policy.parameters()), config.max_grad_norm)
                optimizer.step()
            metrics = dict(zip(("loss", "accuracy"), _means(policy, demonstrations), strict=True))
            metrics |= zip(("heldout_loss", "heldout_accuracy"), _means(policy, heldout), strict=True)
            if evaluate is not None:
                metrics |= {f"eval/{name}": value for name, value in evaluate(streams.evaluation).items()}
            run.log(metrics, steps=len(order))
    return run


def _judge(policy: Policy, part: Demonstrations) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy, a scalar, and whether each step's best action is the demonstrated one, bool [B]."""
    observations, actions = torch.from_numpy(part.observations)[None], torch.from_numpy(part.actions)[None]
    log_probs = policy.evaluate(observations, actions).log_probs
    with torch.no_grad():  # temperature 0 leaves the best action only: its log-probability is 0, that of any other -inf
        right = torch.isfinite(policy.evaluate(observations, actions, None, 0.0).log_probs[0])
    return -log_probs.mean(), right


def _means(policy: Policy, demonstrations: Demonstrations, batch_size: int = 4096) -> tuple[float, float]:
    loss, right = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(demonstrations.actions), batch_size):
            part = Demonstrations(*(field[first : first + batch_size] for field in demonstrations))
            mean, correct = _judge(policy, part)
            loss, right = loss + float(mean) * len(part.actions), right + int(correct.sum())
    return loss / len(demonstrations.actions), right / len(demonstrations.actions)
