"""What the machine itself allows: how fast it multiplies matrices and reads memory, and what that makes of a model's tokens.

Axis legend: B rows, H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..machine import median_seconds
from .shapes import Shape

SIZE = 1024  # of the matrices that are multiplied


def flops_per_second(dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the rate of a square matrix product, a multiplication and an addition being two operations."""
    a, b = (torch.ones(SIZE, SIZE, dtype=dtype, device=device) for _ in range(2))
    return 2 * SIZE**3 / _seconds(lambda: a @ b)


def bytes_per_second(num_bytes: int, device: str = "cpu") -> float:
    """Return the rate at which a block of that size is read again and again: small ones stay in the processor's caches."""
    block = torch.ones(max(1, num_bytes // 4), device=device)
    times = max(1, 2**26 // num_bytes)
    return times * num_bytes / _seconds(lambda: [block.sum() for _ in range(times)])


def _seconds(function: Callable[[], object]) -> float:
    return median_seconds({"": function}, 7)[""]


def step_flops(shape: Shape, rows: int, context: float) -> float:
    """Return the operations of one decoding step: 2 a weight and row, and 4 H a row, layer and position in sight."""
    return rows * (2 * (shape.layer_params + shape.head_params) + 4 * shape.layers * shape.width * context)


def step_bytes(shape: Shape, rows: int, context: float, bytes_per_number: int) -> float:
    """Return what one decoding step must read: each weight once, and the keys and values in sight of each row."""
    return bytes_per_number * (shape.layer_params + shape.head_params + 2 * rows * shape.layers * shape.width * context)


def tokens_per_second(shape: Shape, rows: int, context: float, dtype: torch.dtype = torch.float32) -> float:
    """Return the most tokens a second that this machine could decode: the slower of its arithmetic and its memory, nothing else costing anything."""
    read = step_bytes(shape, rows, context, torch.finfo(dtype).bits // 8)
    return rows / max(step_flops(shape, rows, context) / flops_per_second(dtype), read / bytes_per_second(int(read)))
