"""The gradient of one optimiser step, read a few columns at a time: less memory for the same step.

Axis legend: T steps, B columns of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from .rollout import Batch
from .timing import stage

AT_ONCE = 4096  # steps read together unless somebody says otherwise: on a CPU more are no faster, and each takes memory until the backward pass


def accumulate(batch: Batch, micro_batch: int | None, loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]], weight: float = 1.0) -> dict[str, Tensor]:
    """Add the gradient of `weight` times a batch's loss to that of the parameters; return what the loss is made of, detached.

    A mean over the valid steps of a batch is the sum of those of its parts, each times its share of these steps, whatever the parts are.

    Args:
        batch: what one optimiser step sees; advantages are normalised already.
        micro_batch: how many columns of it are read at a time, at most; None: as many as have `AT_ONCE` steps.
        loss: returns of a part the loss and what it is made of: means over valid steps all of them, but "ratio_error", which is their largest.
        weight: of the loss, where another one stands beside it.
    """
    num_valid, told = max(1, int(batch.valid.sum())), dict[str, Tensor]()
    for part in parts(batch, micro_batch):
        share = float(part.valid.sum()) / num_valid
        with stage("forward"):
            objective, made_of = loss(part)
        with stage("backward"):
            (weight * share * objective).backward()
        for name, value in made_of.items():
            value = value.detach() if name == "ratio_error" else share * value.detach()
            before = told.get(name)
            told[name] = value if before is None else before.maximum(value) if name == "ratio_error" else before + value
    return told


def parts(batch: Batch, micro_batch: int | None) -> Iterator[Batch]:
    """Yield parts of a batch that hold all its valid steps, of `micro_batch` columns at most, the longest columns first: those of a part are alike.

    As little as can be stands in them beside the valid steps: what is not valid repeats what is, which costs a policy that notices it nothing.
    """
    lengths = batch.valid.sum(0)
    columns = np.flatnonzero(lengths)
    size = max(1, AT_ONCE // len(batch.valid)) if micro_batch is None else micro_batch
    if not len(columns):
        columns = np.arange(len(lengths))
    elif micro_batch is not None or len(columns) > size:
        columns = columns[np.argsort(-lengths[columns], kind="stable")]
    for first in range(0, len(columns), size):
        chosen = columns[first : first + size]
        whole = len(chosen) == len(lengths) and bool((chosen == np.arange(len(lengths))).all())
        yield _filled(batch if whole else Batch._make(None if field is None else field[:, chosen] for field in batch))


def check_micro_batch(micro_batch: int | None) -> None:
    """Raise `ValueError` unless `micro_batch` is None or at least 1."""
    if micro_batch is not None and micro_batch < 1:
        raise ValueError(f"micro_batch must be at least 1, or None for as many columns as have {AT_ONCE:,} steps, got {micro_batch}.")


def _filled(part: Batch) -> Batch:
    """Return a part whose invalid steps see and do what the valid step before them (or the first one) does; those behind the last valid one are left out."""
    valid = part.valid
    if valid.all() or not valid.any():
        return part
    num_steps = int(np.flatnonzero(valid.any(1))[-1]) + 1
    kept = part._replace(**{name: field[:num_steps] for name, field in part._asdict().items() if field is not None and name != "memory"})
    last = np.maximum.accumulate(np.where(kept.valid, np.arange(num_steps)[:, None], -1))
    like = np.where(last < 0, kept.valid.argmax(0), last), np.arange(valid.shape[1])  # [T, B] each
    masks = kept.action_masks
    return kept._replace(observations=kept.observations[like], actions=kept.actions[like], action_masks=None if masks is None else masks[like])
