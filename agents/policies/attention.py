"""Attention of our own for models that the library computes: one new token a row in NumPy, and sequences behind one another in one row.

`transformers` has a register of attention functions, and a model's configuration says which of them it calls: ours, inside `attending`.
Axis legend: B rows, H query heads, K heads of keys, G query heads for each, Q new tokens a row, U positions, D head size, T tokens of a stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .packing import NAME, Part, attends_by_name

Array = NDArray[Any]

LEAST = 64  # queries of one head: below, PyTorch's fused kernel is called sooner than four functions of NumPy
UNKNOWN = ("position_bias", "softcap", "cache", "s_aux")  # what some models add to attention and is left to the library


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,  # the library hands its functions whatever a model has to say
) -> tuple[Tensor, None]:
    """Return what queries [B, H, Q, D] find in keys and values [B, K, U, D], [B, Q, H, D]; the mask [B, 1, Q, U] is added to scores, or says what is seen."""
    plain = all(others.get(name) is None for name in UNKNOWN)
    if parts := _PARTS.get():
        if not plain:
            raise ValueError("This model adds to attention what sequences behind one another are not given.")
        return _by_parts(parts, module, query, key, value, dropout, scaling, **others), None
    known = plain and not dropout and (attention_mask is None or attention_mask.shape[1] == 1)
    enough = query.shape[2] == 1 and query.shape[0] * query.shape[1] >= LEAST
    alike = query.dtype == key.dtype == value.dtype in (torch.float32, torch.float64)  # autocast takes some of them to half precision
    if not (known and enough and alike and query.device.type == "cpu") or torch.is_grad_enabled():
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **others)
        return found
    by_key = query.unflatten(1, (key.shape[1], -1)).squeeze(3)  # [B, K, H / K, D]
    mask = None if attention_mask is None else attention_mask.numpy()
    told = attended(by_key.numpy(), key.numpy(), value.numpy(), query.shape[3] ** -0.5 if scaling is None else scaling, mask)
    return torch.from_numpy(told.reshape(len(told), 1, query.shape[1], -1)), None


@np.errstate(all="ignore")  # as in torch, what overflows is told by what comes of it
def attended(queries: Array, keys: Array, values: Array, scale: float, mask: Array | None) -> Array:
    """Return softmax(scale q k' + mask) v of queries [..., G, D], keys and values [..., U, D], for a mask [..., 1, U] to add or of what is seen.

    On a CPU PyTorch's fused kernel takes one query at a time and is slow at it: NumPy's products take 0.5 to 0.9 of its time.
    """
    scores = np.matmul(queries * scale, keys.swapaxes(-1, -2))
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=-1, keepdims=True)
    found: Array = np.matmul(scores, values)
    return found


def _by_parts(parts: Sequence[Part], module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *how: Any, **others: Any) -> Tensor:
    """Return what queries [1, H, T, D] of a stream find, [1, T, H, D]: each in keys and values [1, K, T, D] of its own sequence and of its beginning."""
    sizes, found = [part.num * part.width for part in parts], []
    sizes.append(query.shape[2] - sum(sizes))
    cut = [states[0].split(sizes, 1) for states in (query, key, value)]  # and not slices: the gradient of each would be as large as all of them
    rows = [[piece.unflatten(1, (part.num, part.width)).transpose(0, 1) for piece, part in zip(pieces, parts, strict=False)] for pieces in cut]
    for part, queries, *held in zip(parts, *rows, strict=True):  # [B, H or K, Q, D] each
        if part.of is not None:
            held = [torch.cat([begun[0].index_select(0, part.of), own], 2) for begun, own in zip(rows[1:], held, strict=True)]
        told, _ = sdpa_attention_forward(module, queries, *held, part.seen, *how, **others)
        found.append(told.flatten(0, 1))
    return torch.cat([*found, found[0].new_zeros(sizes[-1], *found[0].shape[1:])])[None]


_PARTS: ContextVar[Sequence[Part]] = ContextVar("parts", default=())
_INSIDE: Counter[int] = Counter()  # how often the configuration of this `id` is told of our attention at the moment: threads may share a model
_LOCK = Lock()


@contextmanager
def attending(model: nn.Module, parts: Sequence[Part] = ()) -> Iterator[None]:
    """Have a model call `attend` inside, if it looks its attention up by name and is told to call PyTorch's; this thread's calls hold such `parts`."""
    if not attends_by_name(model):
        yield
        return
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    _tell(config, 1)
    token = _PARTS.set(parts)
    try:
        yield
    finally:
        _PARTS.reset(token)
        _tell(config, -1)


def _tell(config: Any, more: int) -> None:
    with _LOCK:
        _INSIDE[id(config)] += more
        config._attn_implementation = {"": NAME if _INSIDE[id(config)] else "sdpa"}  # its own, not that of configurations inside
        if not _INSIDE[id(config)]:
            del _INSIDE[id(config)]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
