"""Next-token training of a language-model policy on token sequences, before any reward.

Which tokens are learned is said by the sequences: all of a text, or a reference behind a prompt.
Axis legend: M sequences, B of them in a batch, W tokens (padded on the right), V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..losses import next_token_loss
from ..optimizing import fusable, step
from ..run import Run
from ..seeds import generator_state, generators, restore_generator
from .patience import Patience, check_patience
from .sequences import Sequences


class LanguageModel(Protocol):
    """A policy that can predict every next token of a sequence at once."""

    def next_token_logits(self, tokens: Tensor, asked: Tensor) -> Tensor:
        """Return logits [M, V] of those tokens [B, W] that are `asked` for, bool [B, W], row after row."""

    def parameters(self) -> Any:
        """Return what an optimiser may change."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put the weights back."""


@dataclass(frozen=True)
class Config:
    """What next-token training may be told; the defaults suit the default text task."""

    num_updates: int = 1200  # optimiser steps
    batch_size: int = 32  # sequences a step
    learning_rate: float = 6e-3  # of AdamW, at its highest; it rises over the first twentieth and falls as a cosine
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0  # gradients longer than this are cut to it
    evaluate_every: int = 300  # updates between two looks at the held-out sequences
    patience: int | None = None  # looks in a row without a lower held-out loss that end training; the best weights are kept. None: never, the last are

    def __post_init__(self) -> None:
        if self.num_updates < 0 or self.batch_size < 1 or self.evaluate_every < 1:
            raise ValueError(f"num_updates must be at least 0, batch_size and evaluate_every at least 1; got {self}.")
        if not (0 < self.learning_rate < math.inf and self.max_grad_norm > 0 and 0 <= self.weight_decay < math.inf):
            raise ValueError(f"learning_rate and max_grad_norm must be positive numbers, and weight_decay at least 0; got {self}.")
        check_patience(self.patience)


class Judged(NamedTuple):
    """How well a policy predicts the learned tokens of sequences, each after the true ones before it."""

    loss: float  # nats a token
    accuracy: float  # share of the tokens that were the most likely
    exact: float  # share of the sequences all of whose tokens were: of references, those that greedy decoding would write


def train(
    policy: LanguageModel,
    sequences: Sequences,
    heldout: Sequences,
    config: Config | None = None,
    *,
    seed: int = 0,
    folder: Path | str | None = None,
    resume: bool = False,
    quiet: bool = False,
    title: str = "warm-up",
) -> Run:
    """Train `policy` in place to predict the learned tokens of sequences; return the run with its history.

    "loss" and "heldout_loss" are nats a token, "heldout_accuracy" and (for references) "heldout_exact" are explained by `Judged`. With
    `config.patience` the policy has the weights of "best_iteration" in the end, whether it stopped early or not. Checkpoints hold both
    these and the last ones, so that a run can go on; an interrupted one leaves the policy with the last.
    """
    config = config or Config()
    if not sequences.targets().any() or not heldout.targets().any():
        raise ValueError("There are no tokens to learn, or none are held out: see the masks `learned` of the sequences.")
    fused = fusable(policy.parameters())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=fused)
    generator, patience = generators(seed).minibatches, Patience(policy, config.patience)

    def state() -> dict[str, Any]:
        drawn = generator_state(generator)
        return {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "generator": drawn, "patience": patience.get_state()}

    def restore(saved: dict[str, Any]) -> None:
        policy.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        restore_generator(generator, saved["generator"])
        patience.set_state(saved["patience"])

    show = ("loss", "heldout_loss", "heldout_accuracy")
    run = Run(config.num_updates, folder, state, restore, save_every=200, resume=resume, quiet=quiet, show=show, title=title, tensorboard=False)
    with run:
        patience.stop(run)  # what has stopped before stays so when it is resumed
        for update in run:
            optimizer.param_groups[0]["lr"] = config.learning_rate * _schedule(update, config.num_updates)
            batch = sequences.take(generator.integers(len(sequences.tokens), size=config.batch_size))
            loss = batch_loss(policy, batch)
            optimizer.zero_grad()
            loss.backward()
            step(optimizer, policy.parameters(), config.max_grad_norm)
            metrics = {"loss": float(loss.detach())}
            if (update + 1) % config.evaluate_every == 0 or update + 1 == config.num_updates:
                metrics |= _heldout(policy, heldout)
                metrics |= patience.look(metrics["heldout_loss"], update)
            run.log(metrics, steps=int(batch.lengths.sum()))
            patience.stop(run)
    patience.end(run)
    return run


def batch_loss(policy: LanguageModel, batch: Sequences) -> Tensor:
    """Return the mean cross-entropy of a batch's learned tokens, in nats a token: a scalar that has a gradient."""
    logits, targets = _predicted(policy, batch)
    return next_token_loss(logits, targets, torch.ones_like(targets))


def judge(policy: LanguageModel, sequences: Sequences, batch_size: int = 256) -> Judged:
    """Return loss and accuracies over all learned tokens, `batch_size` sequences at a time; raises `ValueError` if there are none."""
    nats, tokens, right, texts, exact = 0.0, 0, 0, 0, 0
    with torch.no_grad():
        for first in range(0, len(sequences.tokens), batch_size):
            batch = sequences.take(slice(first, first + batch_size))
            learned = batch.targets()
            logits, targets = _predicted(policy, batch)
            hits = (logits.argmax(-1) == targets).cpu().numpy()
            nats, tokens = nats + float(next_token_loss(logits, targets, torch.ones_like(targets))) * len(hits), tokens + len(hits)
            right += int(hits.sum())
            missed = learned.copy()
            missed[learned] = ~hits
            texts, exact = texts + int(learned.any(1).sum()), exact + int((learned.any(1) & ~missed.any(1)).sum())
    if not tokens:
        raise ValueError("There are no learned tokens in these sequences, and so nothing to judge: see their mask `learned`.")
    return Judged(nats / tokens, right / tokens, exact / texts)


def next_token_nats(policy: LanguageModel, sequences: Sequences, batch_size: int = 256) -> float:
    """Return the mean cross-entropy in nats a token, over every learned token after a sequence's first."""
    return judge(policy, sequences, batch_size).loss


def _predicted(policy: LanguageModel, batch: Sequences) -> tuple[Tensor, Tensor]:
    """Return the logits [M, V] of the learned tokens and these tokens [M]."""
    tokens, learned = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets())
    logits = policy.next_token_logits(tokens[:, :-1], learned)
    return logits, tokens[:, 1:][learned].to(logits.device)


def _heldout(policy: LanguageModel, heldout: Sequences) -> dict[str, float]:
    judged = judge(policy, heldout)
    metrics = {"heldout_loss": judged.loss, "heldout_accuracy": judged.accuracy}
    return metrics if heldout.learned is None else {**metrics, "heldout_exact": judged.exact}


def _schedule(update: int, total: int) -> float:
    rising = max(1, total // 20)
    if update < rising:
        return (update + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (update - rising) / max(1, total - rising)))
