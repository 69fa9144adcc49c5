"""A memory for dear scorers: a text that was scored before is not scored again.

Axis legend: B completions.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core import FloatArray
from ..task import Completions, PromptSource, Tokenizer
from .around import Around, parts_of, row_arrays, take
from .registry import register

Key = tuple[int, int, bytes]


class Memory:
    """The parts of the texts seen last, by what makes a text what it is. Left out of pickles and copies; any two are equal."""

    def __init__(self) -> None:
        # An entry keeps source and tokenizer alive: the ids of objects in its key then stay theirs.
        self.known: OrderedDict[Key, tuple[dict[str, float], PromptSource, Tokenizer]] = OrderedDict()
        self.hits = self.misses = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Memory)

    def __hash__(self) -> int:
        return hash(Memory)

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        return Memory, ()


@register("cached")
@dataclass(frozen=True)
class Cached(Around):
    """The score of `scorer`, which must be deterministic; the `size` texts used last are remembered.

    A text is its prompt (which of the source, and the tokens), its tokens, and whether it ended. What is new in a batch is
    passed on as one smaller batch, each text once, so that the order of rows does not matter. The memory is one object's own:
    pickles and copies begin with an empty one.

    Looking a text up costs some microseconds. That pays for models and calls of other programs; scorers that are cheaper than
    that (`sentiment`, `length`) it slows down.
    """

    size: int = 65536
    _memory: Memory = field(default_factory=Memory, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"size={self.size} must be 1 or more texts.")

    @property
    def hits(self) -> int:
        """Return how many texts needed no scoring."""
        return self._memory.hits

    @property
    def misses(self) -> int:
        """Return how many texts were scored."""
        return self._memory.misses

    def parts(self, completions: Completions, /) -> dict[str, FloatArray]:
        """Return the inner scorer's parts, float64 [B], from memory where it has them."""
        if not len(completions):
            return parts_of(self.inner, completions)
        keys = _keys(completions)
        found = {key: self._memory.known[key][0] for key in keys if key in self._memory.known}
        new = {key: row for row, key in enumerate(keys) if key not in found}
        if new:
            found |= self._scored(take(completions, np.array(list(new.values()))), list(new))
        self._memory.hits += len(keys) - len(new)
        self._memory.misses += len(new)
        self._remember(found, completions)
        return {name: np.array([found[key][name] for key in keys], dtype=np.float64) for name in found[keys[0]]}

    def _scored(self, completions: Completions, keys: list[Key]) -> dict[Key, dict[str, float]]:
        parts = parts_of(self.inner, completions)
        if wrong := {name: np.shape(part) for name, part in parts.items() if np.shape(part) != (len(keys),)}:
            raise ValueError(f"{len(keys)} completions went in, so shape ({len(keys)},) must come out of the cached scorer, got {wrong}.")
        return {key: {name: float(part[row]) for name, part in parts.items()} for row, key in enumerate(keys)}

    def _remember(self, found: dict[Key, dict[str, float]], completions: Completions) -> None:
        known = self._memory.known
        for key, parts in found.items():
            known[key] = parts, completions.source, completions.tokenizer
            known.move_to_end(key)
        while len(known) > self.size:
            known.popitem(last=False)


def _keys(completions: Completions) -> list[Key]:
    """Return what makes each text what it is: every row of every array, and whose prompts and ids they are."""
    arrays: list[Any] = list(row_arrays(completions).values())
    widths = str([array.shape[1:] for array in arrays]).encode()  # so that no two layouts spell the same bytes
    widths += b"" if completions.hand_over is None else np.flatnonzero(completions.hand_over).tobytes()  # it parts the turns
    flat = np.concatenate([np.ascontiguousarray(array).view(np.uint8).reshape(len(completions), -1) for array in arrays], axis=1)
    return [(id(completions.source), id(completions.tokenizer), widths + row.tobytes()) for row in flat]
