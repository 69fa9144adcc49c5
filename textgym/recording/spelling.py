"""How observations, random streams, options and infos are spelled in a record.

Axis legend: B observations, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import PurePath
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..core import Streams

_ODD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: its powers are spread evenly, and an odd factor loses no bit


def checksums(observations: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a 64-bit checksum [B] of each observation [B, ...]: sum_i odd^(i+1) word_i mod 2**64, over its bytes as 64-bit words."""
    flat = np.ascontiguousarray(observations).reshape(len(observations), -1).view(np.uint8)
    if flat.shape[1] % 8:
        flat = np.concatenate([flat, np.zeros((len(flat), -flat.shape[1] % 8), dtype=np.uint8)], axis=1)
    words = flat.view(np.uint64)
    return cast("NDArray[np.uint64]", words @ powers(words.shape[1]))


@lru_cache(maxsize=64)
def powers(n: int) -> NDArray[np.uint64]:
    """Return odd^1 ... odd^n mod 2**64."""
    return np.cumprod(np.full(n, _ODD, dtype=np.uint64), dtype=np.uint64)


def spell_checksums(sums: NDArray[np.uint64]) -> str:
    """Return the hexadecimal of the checksums [T + 1]: 4 digits each, 16 of the last."""
    return (sums[:-1] >> np.uint64(48)).astype(">u2").tobytes().hex() + f"{int(sums[-1]):016x}"


def stream_of(streams: Streams, row: int) -> list[Any]:
    """Return what `row` draws next, as JSON: PCG64's state and increment in hexadecimal, and how many numbers of its block are still unread."""
    state = streams.generators[row].bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise TypeError(f"Row {row} draws from {state['bit_generator']}; only PCG64, NumPy's and Gymnasium's default, can be recorded.")
    inner = state["state"]
    return [f"{inner['state']:032x}{inner['inc']:032x}", streams.block_size - int(streams._cursors[row])]  # of one row: get_state() would copy them all


def generator_of(words: str, unread: int) -> np.random.Generator:
    """Return a generator whose next doubles are those that `stream_of` found still unread, and then those after them."""
    bits = np.random.PCG64(0)
    bits.state = {"bit_generator": "PCG64", "state": {"state": int(words[:32], 16), "inc": int(words[32:], 16)}, "has_uint32": 0, "uinteger": 0}
    return np.random.Generator(bits.advance(-unread))  # a double takes one step of PCG64, so those drawn ahead lie just behind


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it; raises `TypeError` for what it cannot."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"A {type(value).__name__} is nothing that JSON can hold.")


def facts_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers and texts of an info; arrays and nested dictionaries (`RecordEpisodeStatistics` puts the clock there) are left out."""
    facts = {key: value.item() if isinstance(value, np.generic) else value for key, value in info.items()}
    return {key: value for key, value in facts.items() if isinstance(value, bool | int | float | str)}
