"""The wrappers of the native vector environment, in every autoreset mode.

They know no mode. Where `infos` hold final observations, those rows have begun anew already, and the flags speak of the episodes before;
where they do not, a row whose flag is set is over.

Axis legend: N rows, L columns, V vocabulary (V itself is the pad id), K tokens, H features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from ..core import IntArray
from ..vector import VectorStep
from . import views
from .passing import AnyVector, Passing
from .reading import Features
from .vector_actions import TopKActions
from .views import View, rows_of

__all__ = ["DictObservation", "FloatObservation", "HiddenState", "LastTokens", "OneHotObservation", "TextObservation", "TopKActions"]


class _Viewed(Passing):
    """A vector environment seen through a view; final observations, too."""

    def __init__(self, env: AnyVector, view: View) -> None:
        super().__init__(env)
        self._view = view
        self.single_observation_space = view.space
        self.observation_space = batch_space(view.space, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes on all rows, or on those of `options["reset_mask"]`."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._view(observations), infos

    def step(self, actions: Any) -> VectorStep:
        """Apply one action a row [N]."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            infos = {**infos, "final_obs": self._finals(infos["final_obs"], np.flatnonzero(infos["_final_obs"]))}
        return self._view(observations), rewards, terminated, truncated, infos

    def _finals(self, finals: NDArray[Any], rows: IntArray) -> NDArray[Any]:
        seen = np.full(len(finals), None, dtype=object)
        for row, final in zip(rows.tolist(), rows_of(self._view(np.stack(finals[rows].tolist()))), strict=True):
            seen[row] = final
        return seen

    def fork(self, rows: Sequence[int] | IntArray, n: int, seed: int | None = None) -> Self:
        """Return a fork that is seen through the same view."""
        fork = super().fork(rows, n, seed)
        fork.observation_space = batch_space(self._view.space, fork.num_envs)
        return fork


class DictObservation(_Viewed):
    """Observe a dict: `tokens` int64 [N, L], `length` [N] (how many of them are no pads) and `mask` int8 [N, L], which is 0 at pads."""

    def __init__(self, env: AnyVector) -> None:
        super().__init__(env, views.TokensLengthMask(env))


class OneHotObservation(_Viewed):
    """Observe one flag an id, uint8 [N, L, V], and none at pads; raises `ValueError` beyond 2**24 flags a row."""

    def __init__(self, env: AnyVector) -> None:
        super().__init__(env, views.OneHot(env))


class LastTokens(_Viewed):
    """Observe the last k tokens of prompt and continuation, int64 [N, K], pads (V) on their left; the budget left can no longer be seen."""

    def __init__(self, env: AnyVector, k: int) -> None:
        super().__init__(env, views.Tail(env, k))


class FloatObservation(_Viewed):
    """Observe float32, as RLlib and skrl want it: the same numbers, so that `.long()` gives ids back, or `scaled` into [0, 1] by the bounds."""

    def __init__(self, env: AnyVector, scaled: bool = False) -> None:
        super().__init__(env, views.Floats(env, scaled))


class TextObservation(_Viewed):
    """Observe prompt and continuation decoded together, as a tuple of N str without EOS."""

    def __init__(self, env: AnyVector) -> None:
        super().__init__(env, views.Texts(env))


class HiddenState(_Viewed):
    """Observe the features of a local language model at the last token, float32 [N, H] (the observation of TextRL).

    All rows are one batch: that is N times fewer forwards than `SyncVectorEnv` of the single form, and equal to it up to rounding.
    """

    def __init__(self, env: AnyVector, model: str | Path | Features | Any) -> None:
        super().__init__(env, views.Hidden(env, model))
