"""Quicker operations for training: what a model multiplies by its weights is taken to oneDNN, forward and backward, and its GELU to a quicker function.

PyTorch takes float32 products to the BLAS that it was built with (MKL), which on processors of other makers reaches half of what oneDNN does
(see `decoders.matmul`, which does the same for acting). Nothing of a model is changed: its calls are met on their way.
Axis legend: B rows, I numbers in, O numbers out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from .gelu import gelu
from .onednn import ONEDNN_ROWS, ONEDNN_WORK, has_onednn

GELU_LEAST = 1 << 13  # numbers: for fewer, PyTorch's one kernel is called sooner than four


def quick_operations(weight: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which a model whose weights are like `weight` multiplies by oneDNN and has the quicker GELU.

    Where oneDNN is not at hand, nothing changes.
    """
    return _Operations() if has_onednn(weight, None) else nullcontext()


class _Operations(TorchFunctionMode):
    """Meets `F.linear`, `torch.addmm` (of the library's `Conv1D`) and `F.gelu`; all else passes by."""

    def __torch_function__(self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is F.linear and not kwargs and 2 <= len(args) <= 3:
            x, weight, bias = (*args, None)[:3]
            if _worth_it(x, weight):
                flat: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias)
                return flat.view(*x.shape[:-1], -1)
        elif func is torch.addmm and not kwargs and len(args) == 3:
            bias, x, weight = args
            if bias.shape == weight.shape[1:] and _worth_it(x, weight):
                return _Product.apply(x, weight.t(), bias)
        elif func is F.gelu and kwargs == {"approximate": "tanh"} and len(args) == 1 and _is_much(args[0]):
            return gelu(args[0])
        return func(*args, **(kwargs or {}))


def _worth_it(x: Tensor, weight: Tensor) -> bool:
    rows = x.numel() // max(1, x.shape[-1])
    plain = x.dtype == weight.dtype == torch.float32 and weight.dim() == 2 and x.device.type == weight.device.type == "cpu"
    return plain and rows >= ONEDNN_ROWS and rows * weight.numel() >= ONEDNN_WORK and not torch.is_autocast_enabled("cpu")


def _is_much(x: Tensor) -> bool:
    return x.numel() >= GELU_LEAST and x.dtype == torch.float32 and x.device.type == "cpu"


class _Product(torch.autograd.Function):
    """x W' + b for x [B, I], W [O, I] and b [O]; its gradients are products too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), (of_x, of_weight, of_bias) = ctx.saved_tensors, ctx.needs_input_grad
        gradient = gradient.contiguous()
        return (
            _linear(gradient, weight.t()) if of_x else None,
            _of_weight(gradient, x) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )


def _of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """Return gradient' x [O, I]: oneDNN copies the transposed factor that it is given first, so that is the smaller one."""
    return _linear(gradient.t(), x.t()) if gradient.shape[1] <= x.shape[1] else _linear(x.t(), gradient.t()).t()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dense = None if bias is None else bias.contiguous()  # oneDNN takes no notice of its stride
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, dense, "none", [], "")
    return product
