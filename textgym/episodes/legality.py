"""What a constraint says of the rows of a core, kept up to date as they grow.

Axis legend: N rows, B rows of one call, M numbers remembered, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..allowed import Allowed
from ..core import ALL_ROWS, BoolArray, IntArray, Rows
from ..task import Prefixes, Rules

Part = TypeVar("Part", bound=NDArray[Any])


class Legality:
    """For each of N rows: what the rules remember of its text, and what they allow next."""

    def __init__(self, rules: Rules, num_rows: int, vocab_size: int, eos: int, prompt_columns: int, width: int) -> None:
        self.rules, self.num_rows, self.vocab_size, self.eos = rules, num_rows, vocab_size, eos
        nobody = Prefixes(np.zeros((0, width), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), prompt_columns)
        self.memory = np.zeros((num_rows, rules.begin(nobody).shape[1]), dtype=np.int64)  # [N, M]
        self._allowed = Allowed()  # of all rows
        self._open = np.zeros(num_rows, dtype=np.bool_)  # [N] the text goes on: only then does it matter what comes next

    def begin(self, rows: IntArray, prefixes: Prefixes) -> BoolArray:
        """Look at fresh prompts on `rows`; return where nothing at all is allowed [B]."""
        self.memory[rows] = self.rules.begin(prefixes)
        return self.look(rows, prefixes, np.ones(len(rows), dtype=np.bool_))

    def permits(self, rows: Rows, tokens: IntArray) -> BoolArray:
        """Return whether the token [B] of each row is one of those that were allowed."""
        return self._of(rows).has(tokens)

    def _of(self, rows: Rows) -> Allowed:
        return self._allowed if isinstance(rows, slice) else self._allowed.take(rows)

    def follow(self, rows: Rows, tokens: IntArray) -> None:
        """Remember the tokens [B] that the agent wrote on `rows`."""
        if self.memory.shape[1]:
            self.memory[rows] = self.rules.follow(self.memory[rows], tokens)

    def look(self, rows: Rows, prefixes: Prefixes, going_on: BoolArray) -> BoolArray:
        """Find what is allowed next on `rows`; return where the text goes on [B] but nothing is."""
        found = self.rules.allowed(self.memory[rows], prefixes)
        self._open[rows] = going_on
        self._allowed = found if isinstance(rows, slice) else self._written(found, rows)
        return found.nothing(len(going_on), self.vocab_size) & going_on

    def _written(self, new: Allowed, rows: IntArray) -> Allowed:
        """Return what is allowed on all rows, with `new` in the place of `rows`; what rows share needs no place."""
        old, n = self._allowed, self.num_rows
        shared = new.mask is None or new.mask.ndim == 1 or new.which is not None
        mask = new.mask if shared or new.mask is None else _put(old.mask, new.mask, rows, n)
        return Allowed(_put(old.ids, new.ids, rows, n), mask, _put(old.banned, new.banned, rows, n), _put(old.which, new.which, rows, n), new.least)

    def masks(self, rows: Rows = ALL_ROWS) -> BoolArray:
        """Return one flag an id [B, V]; all true where a text is over, since nothing is asked there."""
        going_on = self._open[rows]
        flags = self._of(rows).dense(len(going_on), self.vocab_size)
        if np.count_nonzero(going_on) < len(going_on):
            flags[~going_on] = True
        return flags

    def ahead(self, prefixes: Prefixes, tokens: IntArray) -> BoolArray:
        """Return one flag an id [N, V] after the agent would have written `tokens` [N, j] behind each text, without writing them.

        Where EOS is among them or they fill the budget nothing is asked, and all flags are true; so they are where the text is over.
        """
        memory, ends, left = self.memory.copy(), prefixes.ends.copy(), prefixes.left.copy()
        texts, rows, going_on = prefixes.tokens.copy(), np.arange(self.num_rows), self._open.copy()
        for token in tokens.T:
            memory[going_on] = self.rules.follow(memory[going_on], token[going_on]) if memory.shape[1] else memory[going_on]
            texts[rows[going_on], ends[going_on]] = token[going_on]
            ends += going_on
            left -= going_on
            going_on &= (token != self.eos) & (left > 0)
        index = np.flatnonzero(going_on)
        flags = np.ones((self.num_rows, self.vocab_size), dtype=np.bool_)
        if len(index):
            found = self.rules.allowed(memory[index], Prefixes(texts[index], ends[index], left[index], prefixes.prompt_columns))
            flags[index] = found.dense(len(index), self.vocab_size)
        return flags

    def get_state(self) -> dict[str, IntArray | BoolArray]:
        """Return what is remembered [N, M] and which texts go on [N]; what is allowed follows from them and the texts."""
        return {"memory": self.memory.copy(), "open": self._open.copy()}

    def set_state(self, state: Mapping[str, IntArray | BoolArray], prefixes: Prefixes) -> None:
        """Become what `get_state` described, on these texts."""
        if np.shape(state["memory"]) != self.memory.shape:
            raise ValueError(f"This state remembers {np.shape(state['memory'])} numbers of a constraint, this environment {self.memory.shape}: another task.")
        self.memory[:] = state["memory"]
        self.look(ALL_ROWS, prefixes, np.array(state["open"], dtype=np.bool_))


def _put(old: Part | None, new: Part | None, rows: IntArray, num_rows: int) -> Part | None:
    """Return the part `old` of all rows with `new` in the place of `rows`."""
    if new is None:
        return None
    if old is None:
        old = np.zeros((num_rows, *new.shape[1:]), dtype=new.dtype)  # type: ignore[assignment]
    assert old is not None
    old[rows] = new
    return old
