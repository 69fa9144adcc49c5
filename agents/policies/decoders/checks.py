"""What is refused before anything is computed or allocated."""

from __future__ import annotations

from torch import Tensor


def check_fits(ids: Tensor, starts: Tensor, new: Tensor | None, rows: Tensor | None, num_slots: int, width: int) -> tuple[int, int]:
    """Return the lowest first and the highest last position of tokens [B, Q]; raise `ValueError` where they do not fit into slots of `width`."""
    first, num_new = starts.tolist(), ids.shape[1]
    lowest = min(first)
    highest = max(first) + num_new - 1 if new is None else max(start + count for start, count in zip(first, new.tolist(), strict=True)) - 1
    if rows is None and len(first) != num_slots:
        raise ValueError(f"There are {num_slots} slots and {len(first)} rows: say by `rows` which slots they are.")
    if lowest < 0 or highest >= width:
        raise ValueError(f"Tokens were given for positions {lowest} to {highest}, a slot holds positions 0 to {width - 1}: ask for wider slots.")
    return lowest, highest
