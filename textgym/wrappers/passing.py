"""What every wrapper of the native vector environment passes on.

Axis legend: N rows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from gymnasium.vector import VectorEnv, VectorWrapper

from ..core import BoolArray, IntArray, State
from ..vector import GymVectorEnv

AnyVector = VectorEnv[Any, Any, Any]
if TYPE_CHECKING:
    _Wrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _Wrapper = VectorWrapper  # no generic class in gymnasium 1.1


class Passing(_Wrapper):
    """A wrapper that passes on what textgym's vector environment can do beside Gymnasium."""

    def __init__(self, env: AnyVector) -> None:
        if not isinstance(env.unwrapped, GymVectorEnv):
            raise TypeError(f"{_name(self)} stands on textgym's own vector environment, not on {env}: wrap its single environments instead.")
        super().__init__(env)

    def _below(self, name: str) -> Any:
        if not hasattr(self.env, name):
            raise TypeError(f"{_name(self.env)}, below {_name(self)}, does not pass {name}() on: let {_name(self)} stand below it, or on textgym's own.")
        return getattr(self.env, name)

    def texts(self) -> list[str]:
        """Return the continuations as they stand, decoded, one a row."""
        found: list[str] = self._below("texts")()
        return found

    def action_masks(self) -> BoolArray:
        """Return which actions are allowed now, bool [N, A] (constrained tasks only)."""
        found: BoolArray = self._below("action_masks")()
        return found

    def get_state(self) -> State:
        """Return all that changes, random streams included, as a dict of arrays and JSON values."""
        found: State = self._below("get_state")()
        return found

    def set_state(self, state: State) -> None:
        """Continue exactly where `get_state` stood."""
        self._below("set_state")(state)

    def fork(self, rows: Sequence[int] | IntArray, n: int, seed: int | None = None) -> Self:
        """Return a new environment of len(rows) * n live rows, wrapped alike; copy j of rows[i] is its row i * n + j (see `GymVectorEnv.fork`)."""
        below = self._below("fork")(rows, n, seed)
        fork = copy.copy(self)
        fork.env = below
        return fork


def _name(thing: Any) -> str:
    return type(thing).__name__
