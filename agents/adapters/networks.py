"""A network that reads token ids, for libraries whose agents are built from torch modules.

Axis legend: B rows, L observation columns, E width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["mean", "gru", "transformer"]
KINDS: tuple[Kind, ...] = ("mean", "gru", "transformer")


class TokenNetwork(nn.Module):
    """Turns token observations [B, L] into features [B, E]: an embedding, and what is made of a prefix.

    Ids may come as floats, as some libraries hand them over. Columns before the prompt and behind the last token hold the pad id; they are embedded by
    zeros and left out. "mean" is the mean of the tokens' embeddings, each with its column's; "gru" a gated recurrent unit (Cho et al. 2014) read at
    the last token; "transformer" one causal layer (Vaswani et al. 2017) read there. In all of them the last token's embedding is added.

    Args:
        pad: the pad id V, that is `int(observation_space.high.max())`; token ids are below it.
        length: L, the columns of an observation.
        width: E, the number of features.
        kind: what is made of the prefix.
    """

    def __init__(self, pad: int, length: int, width: int = 64, kind: Kind = "gru") -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: give one of {list(KINDS)}.")
        if kind == "transformer" and width % 4:
            raise ValueError(f"width={width}: a transformer layer has 4 heads, give a width that 4 divides.")
        self.pad, self.width, self.kind = pad, width, kind
        self.embedding = nn.Embedding(pad + 1, width, padding_idx=pad)
        self.columns = nn.Parameter(torch.zeros(length, width))
        self.gru = nn.GRU(width, width, batch_first=True) if kind == "gru" else None
        self.layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True) if kind == "transformer" else None

    def forward(self, observations: Tensor) -> Tensor:
        """Return features [*, E] of observations [*, L]; some libraries hand over rows of steps, or a single observation."""
        return self._features(observations.long().reshape(-1, observations.shape[-1])).view(*observations.shape[:-1], self.width)

    def _features(self, ids: Tensor) -> Tensor:
        real = ids != self.pad
        x = self.embedding(ids) + self.columns * real[..., None]
        end = ids.shape[1] - 1 - real.flip(1).long().argmax(1)  # the column of the last token
        rows = torch.arange(len(ids), device=ids.device)
        last = x[rows, end]
        if self.gru is not None:
            return self.gru(x)[0][rows, end] + last
        if self.layer is not None:
            ahead = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).triu(1)
            hidden = ~real[:, None] | ahead  # [B, L, L]: no pad, and nothing that comes later
            hidden = hidden & ~torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)  # a pad looks at itself, or softmax is nan
            return self.layer(x, src_mask=hidden.repeat_interleave(4, 0))[rows, end]
        return x.sum(1) / real.sum(1, keepdim=True).clamp(min=1) + last
