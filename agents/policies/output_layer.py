"""The output layer of a language model, made to read only where somebody asks.

Over a large vocabulary it is most of the work and most of the memory. What a library does to its logits behind that layer (some models cap or
scale them) stays the library's: it is called as ever, with fewer hidden states.
Axis legend: S sequences, W tokens, K kept positions, M chosen positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from .products import quick_operations

Choose = Callable[[Tensor], Tensor]  # from the hidden states that the output layer would read to those that it shall read


def forward(model: nn.Module, choose: Choose | None = None, **inputs: Any) -> tuple[Tensor, Tensor]:
    """Return a model's logits [..., V] and the hidden states [..., H] that its output layer read: all, or those that `choose` makes of them.

    Raises `TypeError` if the model has an output layer and never calls it.
    """
    read: list[Tensor] = []
    ours = get_ident()  # another thread may call the same model meanwhile: what it reads is no matter of ours

    def keep(module: nn.Module, states: tuple[Tensor, ...]) -> Tensor | None:
        if get_ident() != ours:
            return None
        read.append(states[0] if choose is None else choose(states[0]))
        return read[0]

    layer = layer_of(model)
    hook = layer.register_forward_pre_hook(keep)  # the one place where every decoder shows its final hidden states
    try:
        with quick_operations(layer.weight):  # type: ignore[arg-type]
            logits: Tensor = model(**inputs).logits
    finally:
        hook.remove()
    if not read:
        raise TypeError(f"{type(model).__name__} did not call its output embeddings; a causal language model is needed.")
    return logits, read[0]


def logits_at(model: nn.Module, inputs: Mapping[str, Any], where: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits [M, V] and hidden states [M, H] at places `where` [M] (row * W + column) of what the model is called with, ids [S, W]."""
    logits, hidden = forward(model, lambda states: states.flatten(0, -2).index_select(0, where)[None], **inputs)
    return logits[0], hidden[0]


def hidden_at(model: nn.Module, inputs: Mapping[str, Any], where: Tensor) -> Tensor:
    """Return the hidden states alone [M, H] at places `where` [M], as `logits_at`."""
    chosen: list[Tensor] = []

    def choose(states: Tensor) -> Tensor:
        chosen.append(states.flatten(0, -2).index_select(0, where))
        return states[:1, :1].detach()  # the library wants to compute some logits: those of one token

    forward(model, choose, **inputs)
    return chosen[0]


@torch.no_grad()
def is_alone(model: nn.Module, ids: Tensor) -> bool:
    """Return whether logits are what the output layer says and nothing else, so that it can be asked without the rest of the model.

    The library is run on ids [1, 1] with an output layer that says known numbers from -100 to 100: they must come back bit by bit.
    """
    head = layer_of(model)
    told: list[Tensor] = []
    ours = get_ident()

    def say(module: nn.Module, states: tuple[Tensor, ...], said: Tensor) -> Tensor | None:
        if get_ident() != ours:
            return None
        told.append(torch.linspace(-100, 100, said.shape[-1], dtype=said.dtype, device=said.device).expand_as(said))
        return told[0]

    hook = head.register_forward_hook(say)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return bool(told) and logits.shape == told[0].shape and bool((logits == told[0]).all())


def close(found: Tensor, expected: Tensor) -> bool:
    """Return whether logits that were found in two ways are the same but for rounding; what is nan is not."""
    rounding = 0.1 if found.dtype.itemsize < 4 else 1e-3
    return bool((found - expected).abs().max() <= rounding * expected.abs().max())


def layer_of(model: nn.Module) -> nn.Module:
    """Return the layer that makes logits [..., V] of hidden states [..., H]."""
    layer: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    return layer


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's output layer stands."""
    weight: Tensor = layer_of(model).weight  # type: ignore[assignment]
    return weight.device
