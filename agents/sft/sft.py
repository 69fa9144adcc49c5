"""Next-token training of a language-model policy on token sequences, before any reward.

Axis legend: M sequences, B of them in a batch, W tokens (padded on the right), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..losses import next_token_loss
from ..run import Run
from ..seeds import generator_state, generators, restore_generator


class LanguageModel(Protocol):
    """A policy that can predict every next token of a sequence at once."""

    def next_token_logits(self, tokens: Tensor) -> Tensor:
        """Return logits [B, W, V] of tokens [B, W]."""

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

    def __post_init__(self) -> None:
        if self.num_updates < 0 or self.batch_size < 1 or self.evaluate_every < 1:
            raise ValueError(f"num_updates must be at least 0, batch_size and evaluate_every at least 1; got {self}.")


class Sequences(NamedTuple):
    """Token sequences side by side."""

    tokens: NDArray[np.int64]  # [M, W] padded on the right with 0
    lengths: NDArray[np.int64]  # [M]


def pad_sequences(sequences: Sequence[Sequence[int]], max_tokens: int) -> Sequences:
    """Return sequences side by side, each cut after `max_tokens`; those of fewer than two tokens teach nothing and are left out."""
    kept = [cut for cut in (list(sequence[:max_tokens]) for sequence in sequences) if len(cut) > 1]
    if not kept:
        raise ValueError(f"None of the {len(sequences)} sequences has two tokens or more (max_tokens={max_tokens}); there is no next token to learn.")
    lengths = np.array([len(sequence) for sequence in kept], dtype=np.int64)
    tokens = np.zeros((len(kept), int(lengths.max())), dtype=np.int64)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.concatenate([np.asarray(s, dtype=np.int64) for s in kept])
    return Sequences(tokens, lengths)


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
    """Train `policy` in place to predict every token after a sequence's first; return the run with its history.

    "loss" and "heldout_loss" are nats a token.
    """
    config = config or Config()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    generator = generators(seed).minibatches

    def state() -> dict[str, Any]:
        return {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "generator": generator_state(generator)}

    def restore(saved: dict[str, Any]) -> None:
        policy.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        restore_generator(generator, saved["generator"])

    run = Run(
        config.num_updates, folder, state, restore, save_every=200, resume=resume, quiet=quiet, show=("loss", "heldout_loss"), title=title, tensorboard=False
    )
    with run:
        for update in run:
            optimizer.param_groups[0]["lr"] = config.learning_rate * _schedule(update, config.num_updates)
            batch = generator.integers(len(sequences.tokens), size=config.batch_size)
            loss = _nats(policy, Sequences(sequences.tokens[batch], sequences.lengths[batch]))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(policy.parameters()), config.max_grad_norm)
            optimizer.step()
            metrics = {"loss": float(loss.detach())}
            if (update + 1) % config.evaluate_every == 0 or update + 1 == config.num_updates:
                metrics["heldout_loss"] = next_token_nats(policy, heldout)
            run.log(metrics, steps=int(sequences.lengths[batch].sum()))
    return run


def next_token_nats(policy: LanguageModel, sequences: Sequences, batch_size: int = 256) -> float:
    """Return the mean cross-entropy in nats a token, over every token after a sequence's first."""
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(sequences.tokens), batch_size):
            part = Sequences(*(field[first : first + batch_size] for field in sequences))
            total += float(_nats(policy, part)) * int((part.lengths - 1).sum())
    return total / int((sequences.lengths - 1).sum())


def _nats(policy: LanguageModel, batch: Sequences) -> Tensor:
    width = int(batch.lengths.max())
    tokens = torch.from_numpy(batch.tokens[:, :width])
    logits = policy.next_token_logits(tokens[:, :-1])
    valid = torch.from_numpy(np.arange(1, width) < batch.lengths[:, None]).to(logits.device)
    return next_token_loss(logits, tokens[:, 1:].to(logits.device), valid)


def _schedule(update: int, total: int) -> float:
    rising = max(1, total // 20)
    if update < rising:
        return (update + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (update - rising) / max(1, total - rising)))
