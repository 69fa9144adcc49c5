"""Products with weights, by the quickest kernel at hand.

Axis legend: B rows, I numbers in, O numbers out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..onednn import ONEDNN_ROWS, ONEDNN_WORK, UNCACHED, has_onednn


class Product:
    """x W + b for x [B, I], W [I, O] and b [O], and an activation; the weights are read where they are, not copied.

    PyTorch takes float32 products to the BLAS that it was built with (MKL), which on processors of other makers reaches half of what oneDNN does.
    oneDNN's operator is internal to PyTorch: where it is missing, all goes the usual way.
    With `coarse` large products are computed in that precision, on a copy of the weights.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: str | None = None, coarse: torch.dtype | None = None) -> None:
        self.weight, self.bias, self.gelu, self.num_out = weight.detach(), None if bias is None else bias.detach().contiguous(), gelu, weight.shape[1]
        self.coarse, self.read, self.added = coarse, self.weight.t(), self.bias  # what large products read
        self.onednn = has_onednn(weight, coarse)
        self.least = self._least_rows() if self.onednn or coarse is not None else None
        if coarse is not None:
            self.read, self.added = self.read.to(coarse).contiguous(), None if self.bias is None else self.bias.to(coarse)
        if coarse is not None and self.onednn:
            self.read = torch.ops.mkldnn._reorder_linear_weight(self.read)

    def __call__(self, x: Tensor) -> Tensor:
        """Return x W + b, [B, O], after the activation if there is one."""
        if self.least is not None and x.shape[0] >= self.least:
            return self._large(x) if self.coarse is None else self._large(x.to(self.coarse)).to(x.dtype)
        out = torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)
        return out if self.gelu is None else F.gelu(out, approximate=self.gelu)

    def _least_rows(self) -> int:
        size = self.weight.numel()
        work = ONEDNN_WORK if self.coarse is None and self.gelu is None else ONEDNN_WORK // 2
        return max(ONEDNN_ROWS if self.coarse is None and size < UNCACHED else 1, -(-work // size))

    def _large(self, x: Tensor) -> Tensor:
        if self.onednn:
            name, how = ("none", "") if self.gelu is None else ("gelu", self.gelu)
            return torch.ops.mkldnn._linear_pointwise(x, self.read, self.added, name, [], how)
        out = F.linear(x, self.read, self.added)
        return out if self.gelu is None else F.gelu(out, approximate=self.gelu)
