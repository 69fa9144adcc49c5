"""Llama and its kin (Qwen2, Qwen3, Mistral) by plain tensor operations over slots.

Axis legend: B rows of one call, Q new tokens a row, E hidden size, H query heads, K heads of keys, D head size, W width, R rotated heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .matmul import Product
from .slots import Place, Slots


class RootMeanSquare(NamedTuple):
    """A norm's own weights; it computes in float32 whatever the model's precision, as the library's does."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return x [..., E] divided by its root mean square and scaled."""
        if x.dtype == torch.float32:
            return torch.rms_norm(x, self.weight.shape, self.weight, self.eps)
        single = x.to(torch.float32)
        return self.weight * (single * torch.rsqrt(single.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Block(NamedTuple):
    """One layer's own weights; Qwen3 alone normalises queries and keys."""

    before: RootMeanSquare
    q: Product
    k: Product
    v: Product
    norms: tuple[RootMeanSquare, RootMeanSquare] | None
    out: Product
    between: RootMeanSquare
    gate: Product
    up: Product
    down: Product


class Llama:
    """The layers of a Llama and the slots they write to."""

    def __init__(self, model: nn.Module, num_slots: int, width: int, dtype: torch.dtype | None) -> None:
        config: Any = model.config
        self.model, self.dtype, self.name = model, dtype, f"{config.model_type} (fast)"
        body: Any = model.model
        self.size: int = body.layers[0].self_attn.head_dim
        self.scale, like = self.size**-0.5, body.embed_tokens.weight.detach()
        self.slots = Slots(config.num_hidden_layers, num_slots, width, config.num_key_value_heads, self.size, like)
        self.moves = torch.ones_like(self.slots.origin[0])
        self.bind()

    def bind(self) -> None:
        """Look the weights up in the modules."""
        body: Any = self.model.model
        self.tokens = body.embed_tokens.weight.detach()
        self.blocks = [self._block(layer) for layer in body.layers]
        self.norm, self.head = _norm(body.norm), self._product(self.model.lm_head)
        self.cos, self.sin = self._rotations(body.rotary_emb)

    def _block(self, layer: Any) -> Block:
        attention, mlp = layer.self_attn, layer.mlp
        return Block(
            before=_norm(layer.input_layernorm),
            q=self._product(attention.q_proj),
            k=self._product(attention.k_proj),
            v=self._product(attention.v_proj),
            norms=(_norm(attention.q_norm), _norm(attention.k_norm)) if hasattr(attention, "q_norm") else None,
            out=self._product(attention.o_proj),
            between=_norm(layer.post_attention_layernorm),
            gate=self._product(mlp.gate_proj),
            up=self._product(mlp.up_proj),
            down=self._product(mlp.down_proj),
        )

    def _product(self, module: Any) -> Product:
        return Product(module.weight.t(), module.bias, coarse=self.dtype)

    def _rotations(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the cosines and signed sines [W + 1, 1, D] of the model's own positions."""
        positions = torch.arange(self.slots.width + 1, device=self.tokens.device).unsqueeze(0)
        cos, sin = module(self.tokens, positions)
        half = self.size // 2
        return cos[0].unsqueeze(1), torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1).unsqueeze(1)

    def hidden(self, ids: Tensor, place: Place) -> Tensor:
        """Do what `Architecture.hidden` promises."""
        slots, size = self.slots, self.size
        keys = slots.lines(slots.origin, self.moves, place)
        values = keys + slots.num_lines
        cos, sin = self.cos.index_select(0, place.positions), self.sin.index_select(0, place.positions)
        x = self.tokens.index_select(0, ids)
        for layer, block in enumerate(self.blocks):
            y = block.before(x)
            query, key = self._rotated(block, y, cos, sin)
            store = slots.stores[layer]
            store.index_copy_(0, keys, key.reshape(-1, size))
            store.index_copy_(0, values, block.v(y).view(-1, size))
            if place.num_new > 1 and layer == len(self.blocks) - 1:
                place, x, query = slots.at_ends(place, x, query)
            x += block.out(slots.attend(layer, query, place, self.scale))
            y = block.between(x)
            x += block.down(F.silu(block.gate(y), inplace=True).mul_(block.up(y)))
        return x

    def final(self, x: Tensor) -> Tensor:
        """Return what the output layer reads, [B, E]."""
        return self.norm(x)

    def _rotated(self, block: Block, y: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries [B * Q, H * D] and keys [B * Q, K * D], turned by their positions."""
        query, key = block.q(y).view(len(y), -1, self.size), block.k(y).view(len(y), -1, self.size)
        if block.norms is not None:
            query, key = block.norms[0](query), block.norms[1](key)
        both = torch.cat([query, key], 1)  # [B * Q, R, D]
        swapped = both.roll(self.size // 2, -1)
        turned = both.mul_(cos).addcmul_(swapped, sin).view(len(y), -1)
        return turned.narrow(1, 0, block.q.num_out), turned.narrow(1, block.q.num_out, block.k.num_out)


def _norm(module: Any) -> RootMeanSquare:
    return RootMeanSquare(module.weight.detach(), module.variance_epsilon)
