"""GPT-2 in NumPy, for work so small that calls matter: one of NumPy costs a fraction of one of torch, and its BLAS multiplies vectors in a third of the time.

It reads the model's own weights and writes the slots' own keys and values: the arrays are views of the tensors.
Axis legend: N slots, B rows of one call, Q new tokens a row, R = B * Q tokens, H heads, D head size, E hidden size, W width, U positions in use.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..gelu import CUBE, SLOPE
from .gpt2 import GPT2, Block, Norm
from .matmul import Product

Array = NDArray[Any]

LARGEST = 1 << 23  # weights that are read for a token: beyond, arithmetic takes so long that calls do not matter
MOST = 1 << 26  # weights that are multiplied by in one call, those of each token counted
SCORE = 200  # such multiplications take as long as one score of attention, with its softmax


class Scale(NamedTuple):
    """A layer norm's own weights."""

    weight: Array  # [E]
    bias: Array  # [E]
    eps: float
    mean: Array  # [E] 1 / E everywhere: a product with it is a mean, and sooner called than a sum


class Layer(NamedTuple):
    """One layer's weights, keys and values."""

    before: Scale
    qkv: tuple[Array, Array]  # weight [E, 3 E], bias [3 E]
    out: tuple[Array, Array]
    between: Scale
    up: tuple[Array, Array]
    down: tuple[Array, Array]
    keys: Array  # [N, H, W + 1, D]
    values: Array


class Small:
    """The layers of a GPT-2 for a few tokens of a few rows."""

    def __init__(self, model: GPT2, weights: int) -> None:
        slots = model.slots
        scores = len(slots.keys) * slots.num_heads * slots.width  # of a token, at most
        self.width, self.most, self.scale = slots.width, MOST // (weights + SCORE * scores), model.scale
        self.active = np.maximum if model.activation == "relu" else None
        self.tokens, self.places = model.tokens.numpy(), model.places.numpy()
        self.held = (slots.num_slots, slots.num_heads, slots.width + 1, slots.head_size)
        stores = [[kept.numpy().reshape(self.held) for kept in (keys.transpose(1, 2), values)] for keys, values in zip(slots.keys, slots.values, strict=True)]
        self.layers = [_layer(block, *store) for block, store in zip(model.blocks, stores, strict=True)]
        self.norm, self.head = _norm(model.norm), model.head.read.numpy().T  # [E, V]
        self.head_bias = None if model.head.bias is None else model.head.bias.numpy()
        self.masks = slots.masks.numpy()  # [W + 1, W + 1]

    @np.errstate(all="ignore")  # as in torch, what overflows is told by what comes of it
    def __call__(self, ids: Array, starts: Array, new: Array | None, rows: Array | None, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
        """Return logits [B, V] and what the output layer reads [B, E] of tokens [B, Q] at positions `lowest` to `highest`; see `Decoder.extend`."""
        (num_rows, num_new), (num_slots, heads, _, head_size) = ids.shape, self.held
        where: Any = slice(None) if rows is None else slice(int(rows[0]), int(rows[0]) + 1) if len(rows) == 1 else rows
        at: Any  # where keys and values are written, an index for [B, H, Q, D]
        mask: Any = None  # [Q, U] or [B, 1, Q, U]
        if new is None and lowest + num_new == highest + 1:  # all rows stand alike
            added, at = self.places[lowest : highest + 1], (where, slice(None), slice(lowest, highest + 1))
            if num_new > 1:
                mask = self.masks[self.width - np.arange(lowest, highest + 1), : highest + 1]
        else:
            places = np.minimum(starts[:, None] + np.arange(num_new), self.width)  # [B, Q]; pads may stand behind the end
            added = self.places[np.minimum(places, len(self.places) - 1)]
            at = (np.arange(num_slots)[where][:, None, None], np.arange(heads)[:, None], places[:, None])
            mask = self.masks[self.width - places, : highest + 1][:, None]
        x = (self.tokens[ids] + added).reshape(-1 if ids.size == 1 else (ids.size, -1))  # one token alone is a vector, which is quicker still
        for layer in self.layers:
            qkv = _product(_normed(x, layer.before), layer.qkv).reshape(num_rows, num_new, 3, heads, head_size)
            queries, layer.keys[at], layer.values[at] = qkv.transpose(2, 0, 3, 1, 4)  # [B, H, Q, D] each
            if num_new > 1 and layer is self.layers[-1]:  # nobody asks what it says of the other tokens
                ends = np.arange(num_rows), (num_new if new is None else new) - 1
                x, queries = x.reshape(num_rows, num_new, -1)[ends], queries[ends[0], :, ends[1]][:, :, None]
                mask = None if mask is None else mask[-1:] if mask.ndim == 2 else mask[ends[0], :, ends[1]][:, :, None]
            scores = np.matmul(queries * self.scale, layer.keys[where, :, : highest + 1].swapaxes(2, 3))  # [B, H, Q, U]
            if mask is not None:
                scores += mask
            found = np.matmul(_softmax(scores), layer.values[where, :, : highest + 1])
            x += _product(found.swapaxes(1, 2).reshape(x.shape), layer.out)
            wide = _product(_normed(x, layer.between), layer.up)
            x += _product(_gelu(wide) if self.active is None else self.active(wide, 0, out=wide), layer.down)
        hidden = _normed(x, self.norm)
        logits = np.dot(hidden, self.head)
        if self.head_bias is not None:
            logits += self.head_bias
        return torch.from_numpy(logits.reshape(num_rows, -1)), torch.from_numpy(hidden.reshape(num_rows, -1))


def small(model: Any) -> Small | None:
    """Return what computes small work of a model; None where torch does, for its size, its kind, its device or its precision."""
    if not isinstance(model, GPT2) or model.dtype is not None or model.tokens.device.type != "cpu" or model.activation == "gelu":
        return None
    if model.tokens.dtype not in (torch.float32, torch.float64):
        return None
    size = sum(product.weight.numel() for block in model.blocks for product in block if isinstance(product, Product)) + model.head.weight.numel()
    return Small(model, size) if size <= LARGEST else None


def _layer(block: Block, keys: Array, values: Array) -> Layer:
    qkv, out, up, down = (_weights(product) for product in (block.qkv, block.out, block.up, block.down))
    return Layer(_norm(block.before), qkv, out, _norm(block.between), up, down, keys, values)


def _weights(product: Product) -> tuple[Array, Array]:
    assert product.bias is not None  # GPT-2 has them all
    return product.weight.numpy(), product.bias.numpy()


def _norm(norm: Norm) -> Scale:
    weight = norm.weight.numpy()
    return Scale(weight, norm.bias.numpy(), norm.eps, np.full_like(weight, 1 / len(weight)))


def _product(x: Array, weights: tuple[Array, Array]) -> Array:
    found: Array = np.dot(x, weights[0])
    found += weights[1]
    return found


def _normed(x: Array, norm: Scale) -> Array:
    """Return the layer norm of x [R, E] or [E]."""
    size = len(norm.mean)
    if x.ndim == 1:
        centred: Array = x - np.dot(x, norm.mean)
        centred *= 1 / math.sqrt(float(np.dot(centred, centred)) / size + norm.eps)
    else:
        centred = x - np.dot(x, norm.mean)[:, None]
        centred *= ((np.vecdot(centred, centred) / size + norm.eps) ** -0.5)[:, None]
    centred *= norm.weight
    centred += norm.bias
    return centred


def _softmax(scores: Array) -> Array:
    """Return the softmax of scores [..., U], in their place."""
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=-1, keepdims=True)
    return scores


def _gelu(x: Array) -> Array:
    """Return GELU's approximation by tanh, as `gelu` does."""
    wide: Array = x * x
    wide *= -2 * SLOPE * CUBE
    wide -= 2 * SLOPE
    wide *= x
    np.exp(wide, out=wide)
    wide += 1
    return np.divide(x, wide, out=wide)
