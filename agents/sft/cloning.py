"""Behaviour cloning: a policy learns to do what a demonstrator did (Pomerleau 1991; here by the negative log-likelihood of its actions).

Axis legend: M demonstrated steps, B of them in a batch, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..optimizing import fusable, step
from ..policies import Policy
from ..run import Run
from ..seeds import generator_state, generators, restore_generator
from .demonstrations import Demonstrations
from .patience import Patience, check_patience


@dataclass(frozen=True)
class CloningConfig:
    """What behaviour cloning may be told."""

    num_epochs: int = 20  # passes over the demonstrations
    batch_size: int = 256  # steps an update
    learning_rate: float = 1e-3  # of Adam, falling to 0 in a straight line
    max_grad_norm: float = 1.0  # gradients longer than this are cut to it
    patience: int | None = None  # epochs in a row without a lower held-out loss that end training; the best weights are kept. None: never, the last are

    def __post_init__(self) -> None:
        if self.num_epochs < 1 or self.batch_size < 1:
            raise ValueError(f"num_epochs and batch_size must be at least 1, got {self}.")
        check_patience(self.patience)


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

    "loss" and "heldout_loss" are nats a step (of a density where actions are real numbers). "accuracy" and "heldout_accuracy" are shares of
    steps whose most likely action is the demonstrated one; for real numbers "error" and "heldout_error" are root mean squares of the
    distance to it, a number. What `evaluate` returns after each epoch is logged as "eval/...". With `config.patience` the policy has the
    weights of "best_iteration" in the end, as in `sft.train`. Policies that read sequences, or remember, are refused.
    """
    config = config or CloningConfig()
    _check(policy, demonstrations, heldout)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate, fused=fusable(policy.parameters()))
    streams, patience = generators(seed), Patience(policy, config.patience)

    def state() -> dict[str, Any]:
        drawn = {"minibatches": generator_state(streams.minibatches), "evaluation": generator_state(streams.evaluation)}
        return {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "generators": drawn, "patience": patience.get_state()}

    def restore(saved: dict[str, Any]) -> None:
        policy.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        for name, value in saved["generators"].items():
            restore_generator(getattr(streams, name), value)
        patience.set_state(saved["patience"])

    show = ("heldout_loss", "heldout_accuracy", "heldout_error")
    run = Run(config.num_epochs, folder, state, restore, save_every=1, resume=resume, quiet=quiet, show=show, title=title, tensorboard=False)
    with run:
        patience.stop(run)  # what has stopped before stays so when it is resumed
        for epoch in run:
            optimizer.param_groups[0]["lr"] = config.learning_rate * (1 - epoch / config.num_epochs)
            order = streams.minibatches.permutation(len(demonstrations.actions))
            for first in range(0, len(order), config.batch_size):
                loss = _nats(policy, demonstrations.take(order[first : first + config.batch_size]))
                optimizer.zero_grad()
                loss.backward()
                step(optimizer, policy.parameters(), config.max_grad_norm)
            metrics = imitation(policy, demonstrations) | {f"heldout_{name}": value for name, value in imitation(policy, heldout).items()}
            metrics |= patience.look(metrics["heldout_loss"], epoch)
            if evaluate is not None:
                metrics |= {f"eval/{name}": value for name, value in evaluate(streams.evaluation).items()}
            run.log(metrics, steps=len(order))
            patience.stop(run)
    patience.end(run)
    return run


def imitation(policy: Policy, demonstrations: Demonstrations, batch_size: int = 4096) -> dict[str, float]:
    """Return the mean "loss" in nats a step, and "accuracy" or (for real numbers) "error" of the most likely actions; see `clone`."""
    loss, squares, right, num = 0.0, 0.0, 0, len(demonstrations.actions)
    with torch.no_grad():
        for first in range(0, num, batch_size):
            part = demonstrations.take(slice(first, first + batch_size))
            likely = _most_likely(policy, part)
            loss += float(_nats(policy, part)) * len(part.actions)
            right += int((likely == part.actions).sum())
            squares += float(np.square(likely - part.actions, dtype=np.float64).sum())
    if demonstrations.actions.dtype.kind == "f":
        return {"loss": loss / num, "error": float(np.sqrt(squares / demonstrations.actions.size))}
    return {"loss": loss / num, "accuracy": right / num}


def _nats(policy: Policy, part: Demonstrations) -> Tensor:
    """Return the mean negative log-likelihood of the actions, a scalar."""
    masks = None if part.action_masks is None else torch.from_numpy(part.action_masks)[None]
    return -policy.evaluate(torch.from_numpy(part.observations)[None], torch.from_numpy(part.actions)[None], masks).log_probs.mean()


def _most_likely(policy: Policy, part: Demonstrations) -> NDArray[Any]:
    num = len(part.actions)
    generator = np.random.default_rng(0)  # nothing is drawn at temperature 0
    actions: NDArray[Any] = policy.act(part.observations, policy.initial_state(num), np.ones(num, np.bool_), generator, part.action_masks, 0.0).actions
    return actions


def _check(policy: Policy, *both: Demonstrations) -> None:
    """Raise where there is nothing to repeat, or it cannot be repeated by this policy."""
    if policy.sequential:
        raise TypeError(f"{type(policy).__name__} reads sequences, demonstrations are single steps; train a language model by sft.train.")
    for shown in both:
        if not len(shown.actions):
            raise ValueError("There are no demonstrations, or none are held out.")
        if wrong := {len(field) for field in shown if field is not None} - {len(shown.actions)}:
            raise ValueError(f"There are {len(shown.actions)} actions, but {wrong.pop()} observations, masks or episode ids: one of each a step.")
        if shown.action_masks is not None and shown.actions.dtype.kind != "f" and not np.take_along_axis(shown.action_masks, shown.actions[:, None], 1).all():
            raise ValueError("A demonstrated action is one that its action mask forbids, which no policy could repeat: correct the mask, or leave it out.")
