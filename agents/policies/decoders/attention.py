"""Attention of one new token a row in NumPy, for models that the library computes.

On a CPU PyTorch's fused kernel takes one query at a time and is slow at it: NumPy's products over the same keys and values take 0.5 to 0.9 of its time.
`transformers` has a register of attention functions, and a model's configuration says which of them it calls: ours, while it decodes.
Axis legend: B rows, H query heads, K heads of keys, G query heads for each, Q new tokens a row, U positions, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

Array = NDArray[Any]

NAME = "textgym_one_token"
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
    known = not dropout and all(others.get(name) is None for name in UNKNOWN) and (attention_mask is None or attention_mask.shape[1] == 1)
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
    """Return softmax(scale q k' + mask) v of queries [..., G, D], keys and values [..., U, D], for a mask [..., 1, U] to add or of what is seen."""
    scores = np.matmul(queries * scale, keys.swapaxes(-1, -2))
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=-1, keepdims=True)
    found: Array = np.matmul(scores, values)
    return found


@contextmanager
def one_token(model: nn.Module) -> Iterator[None]:
    """Have a model call `attend` inside, if it looks its attention up by name and is told to call PyTorch's."""
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if not getattr(model, "_supports_attention_backend", False) or config._attn_implementation not in ("sdpa", NAME):
        yield
        return
    try:
        config._attn_implementation = {"": NAME}  # its own, not that of configurations inside
        yield
    finally:
        config._attn_implementation = {"": "sdpa"}  # and not what stood there: that may be another thread's


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
