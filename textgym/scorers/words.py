"""A number for each id of a word-level vocabulary, so that a batch of texts is scored by one gather instead of by decoding."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from ..core import IntArray
from ..task import Tokenizer, WordLevel


class WordTable:
    """The tables [V + 1] of a function from words to integers, one for each tokenizer in use, kept while that tokenizer lives.

    Entry V, the pad, and EOS are `blank`. Tables are a cache: they are left out of pickles, and any two WordTables are equal.
    """

    def __init__(self) -> None:
        self._tables: dict[int, tuple[weakref.ref[Tokenizer], IntArray | None]] = {}

    def of(self, tokenizer: Tokenizer, value: Callable[[str], int], blank: int) -> IntArray | None:
        """Return value(word) for each id of `tokenizer`, int64 [V + 1]; None if its text is not its words joined by blanks."""
        known = self._tables.get(id(tokenizer))
        if known is not None and known[0]() is tokenizer:  # an id may be used again after its object has gone
            return known[1]
        table = _table(tokenizer, value, blank)
        key = id(tokenizer)
        with suppress(TypeError):  # an object of slots takes no weak reference: its table is built each time
            self._tables[key] = weakref.ref(tokenizer, lambda _: self._tables.pop(key, None)), table
        return table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordTable)

    def __hash__(self) -> int:
        return hash(WordTable)

    def __getstate__(self) -> dict[str, Any]:
        return {"_tables": {}}


def _table(tokenizer: Tokenizer, value: Callable[[str], int], blank: int) -> IntArray | None:
    if not isinstance(tokenizer, WordLevel):
        return None
    table = np.array([*map(value, tokenizer.words), blank], dtype=np.int64)
    table[tokenizer.eos_id] = blank
    return table
