"""What every text of these comparisons is worth, in NumPy alone, so that the peers' own environments can load it.

Axis legend: B texts, G tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def evenness(tokens: NDArray[Any], lengths: NDArray[Any]) -> NDArray[np.float64]:
    """Return the share of even ids among the first `lengths` [B] of tokens [B, G], float64 [B]."""
    written = np.arange(tokens.shape[1]) < lengths[:, None]
    share: NDArray[np.float64] = (written & (tokens % 2 == 0)).sum(1) / np.maximum(lengths, 1)
    return share
