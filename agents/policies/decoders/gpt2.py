"""GPT-2 by plain tensor operations over slots.

Axis legend: B rows of one call, Q new tokens a row, E hidden size, H heads, W width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .matmul import Product
from .plain import GELUS
from .slots import Place, Slots


class Norm(NamedTuple):
    """A layer norm's own weights."""

    shape: tuple[int, ...]
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return x [B, E] normalised."""
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class Block(NamedTuple):
    """One layer's own weights."""

    before: Norm
    qkv: Product
    out: Product
    between: Norm
    up: Product
    down: Product


class GPT2:
    """The layers of a GPT-2 and the slots they write to."""

    name = "gpt2 (fast)"

    def __init__(self, model: nn.Module, num_slots: int, width: int, dtype: torch.dtype | None) -> None:
        config: Any = model.config
        self.model, self.dtype, self.activation = model, dtype, str(config.activation_function)
        self.size, self.scale = config.hidden_size, (config.hidden_size // config.num_attention_heads) ** -0.5 if config.scale_attn_weights else 1.0
        heads, like = config.num_attention_heads, model.get_parameter("transformer.wte.weight").detach()
        self.slots = Slots(config.num_hidden_layers, num_slots, width, heads, config.hidden_size // heads, like)
        # One copy writes queries, keys and values: cheaper than cutting apart what one product returns.
        count, origin = self.slots.num_lines, self.slots.origin
        queries = torch.arange(2 * count, 2 * count + origin.numel(), device=origin.device).view_as(origin)
        self.table = torch.cat([queries, origin, origin + count], 1)  # [N, 3 H]
        self.moves = torch.arange(3 * heads, device=origin.device).ge(heads).long()  # [3 H] a query's place is the same at all positions
        self.bind()

    def bind(self) -> None:
        """Look the weights up in the modules."""
        body: Any = self.model.transformer
        self.tokens, self.places = body.wte.weight.detach(), body.wpe.weight.detach()
        self.blocks = [self._block(layer) for layer in body.h]
        self.norm, head = _norm(body.ln_f), self.model.lm_head
        self.head = Product(head.weight.t(), head.bias, coarse=self.dtype)  # type: ignore[arg-type, union-attr, operator]

    def _block(self, layer: Any) -> Block:
        attention, mlp = layer.attn, layer.mlp
        modules = {"qkv": attention.c_attn, "out": attention.c_proj, "up": mlp.c_fc, "down": mlp.c_proj}
        products = {name: Product(each.weight, each.bias, GELUS.get(self.activation) if name == "up" else None, self.dtype) for name, each in modules.items()}
        return Block(before=_norm(layer.ln_1), between=_norm(layer.ln_2), **products)

    def hidden(self, ids: Tensor, place: Place) -> Tensor:
        """Do what `Architecture.hidden` promises."""
        slots = self.slots
        lines = slots.lines(self.table, self.moves, place)
        x = self.tokens.index_select(0, ids)
        x += self.places.index_select(0, place.positions if place.last is None else place.positions.clamp(max=len(self.places) - 1))
        for layer, block in enumerate(self.blocks):
            qkv = block.qkv(block.before(x))
            slots.stores[layer].index_copy_(0, lines, qkv.view(-1, slots.head_size))
            query = None if place.num_new == 1 else qkv.narrow(1, 0, self.size)
            if query is not None and layer == len(self.blocks) - 1:
                place, x, query = slots.at_ends(place, x, query)
            x += block.out(slots.attend(layer, query, place, self.scale))
            wide = block.up(block.between(x))
            x += block.down(wide if block.up.gelu is not None else F.relu_(wide))
        return x

    def final(self, x: Tensor) -> Tensor:
        """Return what the output layer reads, [B, E]."""
        return self.norm(x)


def _norm(module: Any) -> Norm:
    return Norm(module.normalized_shape, module.weight.detach(), module.bias.detach(), module.eps)
