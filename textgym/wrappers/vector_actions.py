"""The wrapper that narrows the actions of the native vector environment.

Axis legend: N rows, K tokens to choose from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector.utils import batch_space

from ..core import BoolArray, IntArray, State
from ..vector import VectorStep
from .choosing import TopK
from .passing import AnyVector, Passing
from .reading import Reference


class TopKActions(Passing):
    """Choose among the k tokens that a reference holds best: action i is the i-th best after a row's present prefix.

    As the single form; `infos["top_ids"]` is int64 [N, K], `action_mask` [N, K] where the task has one. All rows are one batch: where two
    tokens are as good as equal, rounding may order them otherwise than a batch of one does. In float64 the forms are the same.
    """

    def __init__(self, env: AnyVector, reference: str | Path | Reference | Any, k: int, keep_eos: bool = False) -> None:
        choice = TopK(env, reference, k, keep_eos)
        super().__init__(env)
        self._choice = choice
        self._over = np.ones(env.num_envs, dtype=np.bool_)  # [N] nothing is asked
        self._ids = self._nothing()  # [N, K] what the next actions choose from
        self.single_action_space = Discrete(choice.k)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def _nothing(self) -> IntArray:
        return np.tile(self._choice.nothing, (len(self._over), 1))

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes on all rows, or on those of `options["reset_mask"]`, and tell their first tables."""
        mask = (options or {}).get("reset_mask")
        observations, infos = self.env.reset(seed=seed, options=options)
        begun = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask.copy()
        self._over = self._over & ~begun
        self._ids[begun] = self._choice.ids(observations[begun])
        return observations, self._told(infos, begun, self._ids, self._over)

    def step(self, actions: Any) -> VectorStep:
        """Write the token that each row's action stands for [N]."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._choice.chosen(self._ids, actions))
        every = np.ones(self.num_envs, dtype=np.bool_)
        begun = infos.get("_final_obs", ~every)
        self._over = (terminated | truncated) & ~begun
        self._ids = self._nothing()
        if (live := ~self._over).any():
            self._ids[live] = self._choice.ids(observations[live])
        infos = self._told(infos, every, self._ids, self._over)
        if "final_info" in infos:
            infos["final_info"] = self._told(infos["final_info"], infos["_final_info"], self._nothing(), every)
        return observations, rewards, terminated, truncated, infos

    def _told(self, infos: dict[str, Any], rows: BoolArray, ids: IntArray, over: BoolArray) -> dict[str, Any]:
        """Return `infos` with the table [N, K] of `rows` [N] and the mask that belongs to it; 0 on the other rows."""
        infos = {**infos, "top_ids": np.where(rows[:, None], ids, 0), "_top_ids": rows.copy()}
        if "action_mask" in infos:
            given = infos["_action_mask"]
            infos["action_mask"] = self._choice.masks(infos["action_mask"], ids, over | ~given) * given[:, None]
        return infos

    def action_masks(self) -> BoolArray:
        """Return which of the k tokens are allowed now, bool [N, K] (constrained tasks only)."""
        found: BoolArray = self._choice.masks(super().action_masks(), self._ids, self._over)
        return found

    def get_state(self) -> State:
        """Return the state below, and the tables that the next actions choose from."""
        return {"env": super().get_state(), "top_ids": self._ids.copy(), "over": self._over.copy()}

    def set_state(self, state: State) -> None:
        """Continue exactly where `get_state` stood."""
        super().set_state(state["env"])
        self._ids, self._over = np.array(state["top_ids"], dtype=np.int64), np.array(state["over"], dtype=np.bool_)

    def fork(self, rows: Sequence[int] | IntArray, n: int, seed: int | None = None) -> Self:
        """Return a fork that chooses from the tables of its rows."""
        fork = super().fork(rows, n, seed)
        index = np.repeat(np.asarray(rows, dtype=np.int64), n)
        fork._ids, fork._over = self._ids[index], self._over[index]
        fork.action_space = batch_space(self.single_action_space, fork.num_envs)
        return fork
