"""Which decoder a model gets, and what it allocates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .contract import Decoder
from .fast import FastDecoder
from .generic import LibraryDecoder, check_decodes
from .gpt2 import GPT2
from .llama import Llama
from .plain import LIBRARY, why_not_fast

MEMORY = Path("/proc/meminfo")  # only Linux tells


def decoder_for(model: nn.Module, num_slots: int, width: int, *, fast: bool = True, dtype: torch.dtype | None = None, limit: int | None = None) -> Decoder:
    """Return a decoder with `num_slots` slots of `width` positions: the quick one where the model is known in and out, else the library's forward.

    `dtype` is what large products are computed in: None is the model's own, torch.bfloat16 is quicker and coarser (the quick decoder keeps a copy
    of the weights for it, which `rebind` refreshes). Raises `MemoryError` where it would allocate more than `limit` bytes, or more than is free,
    and `ValueError` for another `dtype` and for a model that cannot be played over slots.
    """
    own: torch.dtype = model.dtype  # type: ignore[assignment]
    if dtype not in (None, own) and (dtype, own) != (torch.bfloat16, torch.float32):
        raise ValueError(f"A model of {own} computes in that, and one of torch.float32 in torch.bfloat16 too; got dtype={dtype}.")
    quick = fast and why_not_fast(model, width) is None
    needed, free = _bytes(model, num_slots, width, dtype, quick), free_bytes(model.device)  # type: ignore[arg-type]
    allowed = min((number for number in (limit, free) if number is not None), default=needed)
    if needed > allowed:
        raise MemoryError(
            f"{num_slots} slots of {width} tokens need {needed:,} bytes, {allowed:,} are allowed or free: use fewer environments or a shorter budget, "
            "or pass use_cache=False to the policy."
        )
    if not quick:
        check_decodes(model)
        return LibraryDecoder(model, num_slots, width, dtype)
    coarse = None if dtype == own else dtype
    if LIBRARY[type(model).__name__] == "gpt2":
        return FastDecoder(GPT2(model, num_slots, width, coarse))
    return FastDecoder(Llama(model, num_slots, width, coarse))


def cache_bytes(model: nn.Module, num_slots: int, width: int, dtype: torch.dtype | None = None, *, fast: bool = True) -> int:
    """Return how many bytes `decoder_for` allocates for long: keys and values, and the quick decoder's coarse copy of the weights."""
    return _bytes(model, num_slots, width, dtype, fast and why_not_fast(model, width) is None)


def _bytes(model: nn.Module, num_slots: int, width: int, dtype: torch.dtype | None, quick: bool) -> int:
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    if not hasattr(config, "num_attention_heads"):
        raise ValueError(f"{type(model).__name__} keeps no keys and values of heads, so it cannot be played over slots: pass use_cache=False to the policy.")
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    own: torch.dtype = model.dtype  # type: ignore[assignment]
    coarse = own if dtype is None else dtype
    lines = 2 * (width + 1) + int(quick)  # keys, values, and a query
    kept = config.num_hidden_layers * num_slots * heads * lines * size * (own if quick else coarse).itemsize
    if not quick or coarse == own:
        return int(kept)
    products = [module for module in model.modules() if type(module).__name__ in ("Conv1D", "Linear")]
    return int(kept) + sum(weight.numel() * coarse.itemsize for module in products for weight in module.parameters())


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory a device has left; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not MEMORY.exists():
        return None
    lines = (line.split() for line in MEMORY.read_text(encoding="utf-8").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)
