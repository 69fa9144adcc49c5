"""What a decoder promises.

Axis legend: N slots, B rows of one call, Q new tokens a row, V vocabulary, H hidden size.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Decoder(Protocol):
    """Turns new tokens into what the model says behind the last of them; keys and values are kept by slot."""

    name: str  # as it is printed

    def extend(self, ids: Tensor, starts: Tensor, new: Tensor | None = None, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Write new tokens into slots; return logits [B, V] and what the output layer reads, [B, H], at each row's last new token.

        `ids` [B, Q] are right-padded with any ids, `starts` [B] the positions of the first ones, that is how many tokens a slot keeps, `new` [B]
        how many of the Q are real (None: all), `rows` [B] the slots in ascending order (None: each slot, in order); all int64.
        What a slot held at or behind `starts` is overwritten or never attended to. Logits are float32 at least.
        Nothing here can be differentiated. Raises `ValueError` where tokens would not fit into a slot.
        """

    def copy_slots(self, source: Tensor, target: Tensor, of: Any = None) -> None:
        """Make the slots `target` [B] hold what the slots `source` [B] hold, its own or those `of` another decoder of this model and width: a fork."""

    def rebind(self) -> None:
        """Look the weights up again and empty the slots; call it when they may have been replaced (a `WeightsWatch` says so)."""
