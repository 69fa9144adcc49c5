"""A few tokens to choose from: what an action over a reference's best tokens means, batched over rows.

Axis legend: B rows, L columns, V vocabulary, K tokens to choose from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from ..core import BoolArray, IntArray
from .reading import AnyEnv, Reference, checked_count, model_of, tokens_of


class TopK:
    """The k tokens that a reference holds best after a prefix; action i is the i-th of them.

    Where an episode is over nothing is asked: the table is then 0, 1, ..., k - 1 and its mask is all ones, at no cost.
    """

    def __init__(self, env: AnyEnv, reference: str | Path | Reference | Any, k: int, keep_eos: bool) -> None:
        _, pad, tokenizer = tokens_of(env, "TopKActions")
        actions = env.single_action_space if isinstance(env, VectorEnv) else env.action_space
        if actions != Discrete(pad):
            raise TypeError(f"TopKActions chooses one token of {pad}, but an action here is {actions}: it takes tasks of chunk=1, and stands once.")
        self.k = checked_count("TopKActions: k", k, pad, "the size of the vocabulary", low=2 if keep_eos else 1)
        self._reference: Reference = model_of(reference, "top", pad, "TopKActions")
        self._pad, self._eos = pad, tokenizer.eos_id if keep_eos else None
        self.nothing: IntArray = self._with_eos(np.arange(self.k)[None])[0]  # [K] the table where an episode is over
        self.nothing.setflags(write=False)

    def ids(self, observations: IntArray) -> IntArray:
        """Return the table [B, K] of prefixes [B, L], best first."""
        ids = np.array(self._reference.top(observations, self.k), dtype=np.int64)
        if ids.shape != (len(observations), self.k) or ids.min(initial=0) < 0 or ids.max(initial=0) >= self._pad:
            raise ValueError(f"{self._reference}.top must give {self.k} ids of [0, {self._pad}) for each of {len(observations)} rows, got {ids.shape}: {ids}.")
        return self._with_eos(ids)

    def _with_eos(self, ids: IntArray) -> IntArray:
        if self._eos is not None:
            ids[~(ids == self._eos).any(axis=1), -1] = self._eos
        return ids

    def chosen(self, ids: IntArray, actions: Any) -> IntArray:
        """Return the tokens [B] that `actions` [B] stand for in the table [B, K]; raises `ValueError` if one lies outside [0, k)."""
        actions = np.asarray(actions)
        if actions.shape != (len(ids),) or actions.dtype.kind not in "iu":
            raise ValueError(f"An action is one integer a row: {len(ids)} of them are wanted, got {actions.dtype} of shape {actions.shape}.")
        if len(wrong := actions[(actions < 0) | (actions >= self.k)]):
            raise ValueError(f"Action {wrong[0]} is outside the action space Discrete({self.k}): actions are places in the table top_ids, not token ids.")
        tokens: IntArray = ids[np.arange(len(ids)), actions]
        return tokens

    def masks(self, masks: NDArray[Any], ids: IntArray, over: BoolArray) -> NDArray[Any]:
        """Return the part [B, K] of masks [B, V] that belongs to a table [B, K], ones where an episode is `over` [B].

        Raises `ValueError` where an episode goes on and none of its k tokens is allowed.
        """
        found = np.take_along_axis(masks, ids, axis=1)
        found[over] = 1
        if not (some := found.any(axis=1)).all():
            row = int(np.flatnonzero(~some)[0])
            raise ValueError(
                f"The constraint forbids all of the {self.k} best tokens of the reference (row {row}: ids {ids[row].tolist()}): "
                "raise k, loosen the constraint, or let keep_eos=True leave a way out where EOS is allowed."
            )
        return found
