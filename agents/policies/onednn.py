"""When products with weights are taken to oneDNN, as PyTorch brings it along."""

from __future__ import annotations

import torch
from torch import Tensor

# Where oneDNN beats the BLAS, as measured. Its 10 microseconds a call must be earned by so many multiplications, by half of them in bfloat16 or
# with an activation in the same pass; and by four rows, unless the weights are too many for a cache.
ONEDNN_WORK, ONEDNN_ROWS, UNCACHED = 2**22, 4, 2**24


def has_onednn(weight: Tensor, coarse: torch.dtype | None) -> bool:
    """Return whether oneDNN multiplies by such a weight on this processor, in bfloat16 if that is asked for."""
    usable = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    exact = weight.device.type == "cpu" and weight.dtype == torch.float32
    return usable and exact and (coarse is None or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))
