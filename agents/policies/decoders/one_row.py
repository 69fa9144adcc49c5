"""One token of one row of a small GPT-2, in NumPy: a call of it costs a fraction of one of torch, and its BLAS multiplies a vector in a third of the time.

It reads the model's own weights and writes the slots' own keys and values: the arrays are views of the tensors.
Axis legend: N slots, H heads, D head size, E hidden size, U positions in use, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .gpt2 import GPT2, Block, Norm
from .matmul import Product

Array = NDArray[Any]

LARGEST = 1 << 23  # weights that are read for a token: beyond, arithmetic takes so long that calls do not matter
SLOPE, CUBE = math.sqrt(2 / math.pi), 0.044715  # of GELU's approximation by tanh (Hendrycks & Gimpel 2016, arXiv 1606.08415, section 2)


class Layer(NamedTuple):
    """One layer's weights, keys and values."""

    before: tuple[Array, Array, float]  # weight [E], bias [E], epsilon
    qkv: tuple[Array, Array]  # weight [E, 3 E], bias [3 E]
    out: tuple[Array, Array]
    between: tuple[Array, Array, float]
    up: tuple[Array, Array]
    down: tuple[Array, Array]
    keys: Array  # [N * H, W + 1, D]
    values: Array


class OneRow:
    """The layers of a GPT-2 for one token of one row."""

    def __init__(self, model: GPT2) -> None:
        slots = model.slots
        self.heads, self.head_size, self.scale = slots.num_heads, slots.head_size, model.scale
        self.active = np.maximum if model.activation == "relu" else None
        self.tokens, self.places = model.tokens.numpy(), model.places.numpy()
        held = zip(slots.keys, slots.values, strict=True)
        self.layers = [_layer(block, keys.transpose(1, 2).numpy(), values.numpy()) for block, (keys, values) in zip(model.blocks, held, strict=True)]
        self.norm, self.head = _norm(model.norm), model.head.read.numpy()  # [V, E]
        self.head_bias = None if model.head.bias is None else model.head.bias.numpy()

    def __call__(self, token: int, position: int, slot: int) -> tuple[Tensor, Tensor]:
        """Write a token at a position of a slot; return logits [1, V] and what the output layer reads, [1, E]."""
        x = self.tokens[token] + self.places[position]
        size, rows, upto = len(x), slice(slot * self.heads, (slot + 1) * self.heads), position + 1
        for layer in self.layers:
            qkv = _product(_normed(x, layer.before), layer.qkv).reshape(3, self.heads, self.head_size)
            keys, values = layer.keys[rows, :upto], layer.values[rows, :upto]
            keys[:, position], values[:, position] = qkv[1], qkv[2]
            scores = np.matmul(qkv[0][:, None], keys.transpose(0, 2, 1))  # [H, 1, U]
            scores *= self.scale
            scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= np.add.reduce(scores, axis=-1, keepdims=True)
            x += _product(np.matmul(scores, values).reshape(size), layer.out)
            wide = _product(_normed(x, layer.between), layer.up)
            x += _product(_gelu(wide) if self.active is None else self.active(wide, 0, out=wide), layer.down)
        hidden = _normed(x, self.norm)
        logits = np.dot(self.head, hidden)
        if self.head_bias is not None:
            logits += self.head_bias
        return torch.from_numpy(logits[None]), torch.from_numpy(hidden[None])


def one_row(model: Any) -> OneRow | None:
    """Return what computes one token of one row of a model; None where torch does, for its size, its kind, its device or its precision."""
    if not isinstance(model, GPT2) or model.dtype is not None or model.tokens.device.type != "cpu" or model.activation == "gelu":
        return None
    if model.tokens.dtype not in (torch.float32, torch.float64):
        return None
    size = sum(product.weight.numel() for block in model.blocks for product in block if isinstance(product, Product)) + model.head.weight.numel()
    return OneRow(model) if size <= LARGEST else None


def _layer(block: Block, keys: Array, values: Array) -> Layer:
    qkv, out, up, down = (_weights(product) for product in (block.qkv, block.out, block.up, block.down))
    return Layer(_norm(block.before), qkv, out, _norm(block.between), up, down, keys, values)


def _weights(product: Product) -> tuple[Array, Array]:
    assert product.bias is not None  # GPT-2 has them all
    return product.weight.numpy(), product.bias.numpy()


def _norm(norm: Norm) -> tuple[Array, Array, float]:
    return norm.weight.numpy(), norm.bias.numpy(), norm.eps


def _product(x: Array, weights: tuple[Array, Array]) -> Array:
    found: Array = np.dot(x, weights[0])
    found += weights[1]
    return found


def _normed(x: Array, norm: tuple[Array, Array, float]) -> Array:
    """Return the layer norm of x [E]: the call of `numpy.mean` alone would take as long."""
    weight, bias, eps = norm
    centred: Array = x - np.add.reduce(x) / len(x)
    centred *= (np.dot(centred, centred) / len(x) + eps) ** -0.5
    centred *= weight
    centred += bias
    return centred


def _gelu(x: Array) -> Array:
    """Return x (1 + tanh(SLOPE (x + CUBE x^3))) / 2."""
    wide: Array = x * x
    wide *= SLOPE * CUBE
    wide += SLOPE
    wide *= x
    np.tanh(wide, out=wide)
    wide += 1
    wide *= x
    wide *= 0.5
    return wide
