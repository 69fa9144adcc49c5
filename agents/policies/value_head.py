"""The critic of a language model: one number from the hidden state that its output layer reads.

Axis legend: H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def value_head_for(output_layer: nn.Module) -> nn.Linear:
    """Return a linear layer [H -> 1] that begins at 0, on the device of a model's output layer; half precision gets float32: values are summed over time."""
    weight: Tensor = output_layer.weight  # type: ignore[assignment]
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    head = nn.utils.skip_init(nn.Linear, weight.shape[1], 1, dtype=dtype, device=weight.device)  # it draws nothing
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
