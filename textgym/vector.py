"""The vector Gymnasium face of every core: N rows; the only home of autoreset, batched infos and forks.

It equals `SyncVectorEnv` of N single environments exactly, in all three autoreset modes.
Axis legend: N rows, B rows of one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from .core import (
    ALL_ROWS,
    BoolArray,
    Core,
    CoreFactory,
    FloatArray,
    IntArray,
    Rows,
    State,
    Streams,
    checked_render_mode,
    core_masks,
    core_texts,
    make_core,
    take_rows,
)

VectorStep = tuple[Any, FloatArray, BoolArray, BoolArray, dict[str, Any]]


class GymVectorEnv(VectorEnv[Any, Any, Any]):
    """N environments on any core, advanced together.

    `copy=False` hands out the core's own observation array, which the next step overwrites; infos are always fresh.
    `reset(options={"reset_mask": bool [N], ...})` restarts some rows; the other options go to the core.
    """

    def __init__(
        self,
        core: str | CoreFactory,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        copy: bool = True,
        **options: Any,
    ) -> None:
        for name, number in (("num_envs", num_envs), ("max_episode_steps", 1 if max_episode_steps is None else max_episode_steps)):
            if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {number!r}.")
        modes = [mode.value for mode in AutoresetMode]
        if autoreset_mode not in (*AutoresetMode, *modes):
            raise ValueError(f"autoreset_mode {autoreset_mode!r} is not one of {modes}.")
        self._setup(make_core(core, int(num_envs), options), AutoresetMode(autoreset_mode), render_mode, max_episode_steps, copy)

    def _setup(self, core: Core, mode: AutoresetMode, render_mode: str | None, max_episode_steps: int | None, copy: bool) -> None:
        self.core, self.num_envs, self.autoreset_mode, self.copy = core, core.num_rows, mode, copy
        self.max_episode_steps = max_episode_steps
        self.metadata = {"render_modes": list(core.render_modes), "render_fps": 4, "autoreset_mode": mode}
        self.render_mode = checked_render_mode(core, render_mode)
        self.single_observation_space, self.single_action_space = core.observation_space, core.action_space
        self.observation_space = batch_space(core.observation_space, self.num_envs)
        self.action_space = batch_space(core.action_space, self.num_envs)
        self._streams = Streams.from_seeds([None] * self.num_envs)
        self._over = np.ones(self.num_envs, dtype=np.bool_)  # [N] the row has no live episode
        self._elapsed = np.zeros(self.num_envs, dtype=np.int64)  # [N] steps of the present episode
        self._begun = False

    def reset(self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode on every row, or on those of `options["reset_mask"]`; row i is seeded `seed + i`."""
        options = dict(options or {})  # the caller's own is never changed
        rows = self._masked(options.pop("reset_mask", None))
        if seed is not None:
            self._reseed(rows, seed)
        self._start(rows, options)
        self._begun = self._begun or len(rows) == self.num_envs
        return self.core.observe(ALL_ROWS, self.copy), self._infos(rows, self.core.live_info(rows))

    def _masked(self, mask: Any) -> IntArray:
        if mask is None:
            return np.arange(self.num_envs)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not np.count_nonzero(mask):
            raise ValueError(f'options["reset_mask"] must be a bool array of shape ({self.num_envs},) with at least one True, got {mask!r}.')
        if not self._begun and not mask.all():
            raise ResetNeeded("The first reset must begin every row: call reset() without a reset_mask.")
        return mask.nonzero()[0]

    def _reseed(self, rows: IntArray, seed: Any) -> None:
        seeds = range(int(seed), int(seed) + self.num_envs) if isinstance(seed, (int, np.integer)) else seed
        if isinstance(seeds, str) or not isinstance(seeds, Sequence | np.ndarray) or len(seeds) != self.num_envs:
            raise ValueError(f"reset() takes one seed, or a list of seeds, one for each of the {self.num_envs} rows, got {seed!r}.")
        for row in rows.tolist():
            if seeds[row] is not None:
                self._streams.reseed(row, np.random.default_rng(seeds[row]))

    def _start(self, rows: IntArray, options: dict[str, Any]) -> None:
        self.core.start(rows, self._streams, options)
        self._over[rows] = False
        self._elapsed[rows] = 0

    def step(self, actions: Any) -> VectorStep:
        """Apply one action a row [N]; what happens on rows whose episode is over is the autoreset mode's to say."""
        actions = np.asarray(actions)
        if not actions.ndim or len(actions) != self.num_envs:
            raise ValueError(f"step() needs one action for each of the {self.num_envs} rows, got {len(actions) if actions.ndim else repr(actions.item())}.")
        if np.count_nonzero(self._over):
            if self.autoreset_mode is AutoresetMode.NEXT_STEP and self._begun:
                return self._step_and_restart(actions)
            raise ResetNeeded(self._over_message())
        rewards, terminated, truncated, ends = self._advance(ALL_ROWS, actions)
        ended = self._over.nonzero()[0]
        if len(ended) and self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos = self._restart_now(ended, ends)
        else:
            infos = self._infos(ALL_ROWS, self.core.live_info(ALL_ROWS), ends)
        return self.core.observe(ALL_ROWS, self.copy), rewards, terminated, truncated, infos

    def _over_message(self) -> str:
        if not self._begun:
            return "There are no episodes to step: call reset() first."
        return f'The episodes of rows {np.flatnonzero(self._over)[:8].tolist()} are over: call reset(options={{"reset_mask": ended}}) before the next step.'

    def _step_and_restart(self, actions: NDArray[Any]) -> VectorStep:
        """NEXT_STEP: rows that were over begin anew and ignore their action, the others advance."""
        fresh, others = self._over.nonzero()[0], (~self._over).nonzero()[0]
        rewards, terminated, truncated = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_), np.zeros(self.num_envs, np.bool_)
        infos: dict[str, Any] = {}
        if len(others):
            rewards[others], terminated[others], truncated[others], infos = self._advance(others, actions[others])
        self._start(fresh, {})
        infos = self._infos(ALL_ROWS, self.core.live_info(ALL_ROWS), infos)
        return self.core.observe(ALL_ROWS, self.copy), rewards, terminated, truncated, infos

    def _advance(self, rows: Rows, actions: NDArray[Any]) -> tuple[FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Advance `rows`; the infos returned are those of the episodes that the core itself ended."""
        rewards, terminated, truncated = self.core.advance(rows, actions, self._streams)
        over = terminated | truncated
        self._over[rows] = over
        # Who cuts an episode from outside, as max_episode_steps does, learns nothing of its score.
        ended = over.nonzero()[0] if isinstance(rows, slice) else rows[over]
        infos = self._infos(ended, self.core.end_info(ended)) if len(ended) else {}
        if self.max_episode_steps is not None:
            self._elapsed[rows] += 1
            truncated = truncated | (self._elapsed[rows] >= self.max_episode_steps)
            self._over[rows] |= truncated
        return rewards, terminated, truncated, infos

    def _restart_now(self, ended: IntArray, ends: dict[str, Any]) -> dict[str, Any]:
        """SAME_STEP: keep what the episodes ended with, then begin anew on those rows."""
        final_obs = np.empty(self.num_envs, dtype=object)  # of Nones
        final_obs[ended] = np.fromiter(self.core.observe(ended), dtype=object, count=len(ended))
        mask = np.zeros(self.num_envs, dtype=np.bool_)
        mask[ended] = True
        final_info = self._infos(ended, self.core.live_info(ended), ends)
        self._start(ended, {})
        infos = self._infos(ALL_ROWS, self.core.live_info(ALL_ROWS))
        return {**infos, "final_obs": final_obs, "_final_obs": mask, "final_info": final_info, "_final_info": mask.copy()}

    def _infos(self, rows: Rows, facts: dict[str, NDArray[Any]], infos: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return `infos` with `facts` [B, ...] of `rows` laid out over all N rows, beside the masks `_key`, as Gymnasium does."""
        infos = {} if infos is None else infos
        for key, values in facts.items():
            if key not in infos and isinstance(rows, slice):
                infos[key], infos[f"_{key}"] = values, np.ones(self.num_envs, dtype=np.bool_)  # facts are fresh: no need to lay them out anew
                continue
            if key not in infos:
                blank = np.empty if values.dtype == object else np.zeros  # `np.empty` makes None of objects
                infos[key] = blank((self.num_envs, *values.shape[1:]), dtype=values.dtype)
                infos[f"_{key}"] = np.zeros(self.num_envs, dtype=np.bool_)
            infos[key][rows] = values
            infos[f"_{key}"][rows] = True
        return infos

    def render(self) -> tuple[Any, ...] | None:
        """Return the drawings of all rows, or print them in "human" mode."""
        if self.render_mode is None:
            gym.logger.warn(f"render() without a render_mode; make the environment with one of {self.metadata['render_modes']}.")
            return None
        if self.render_mode == "human":
            print("\n".join(self.core.render(row, "ansi") for row in range(self.num_envs)))
            return None
        return tuple(self.core.render(row, self.render_mode) for row in range(self.num_envs))

    def action_masks(self, after: IntArray | None = None) -> BoolArray:
        """Return which actions are allowed now, bool [N, A] (constrained tasks only).

        Where actions are chunks of tokens, it is which ids may come first [N, V], or after the tokens `after` [N, j] of the chunk.
        """
        return core_masks(self.core, after)

    def texts(self) -> list[str]:
        """Return the continuations as they stand, decoded, one a row (text tasks only)."""
        return core_texts(self.core)

    def get_state(self) -> State:
        """Return all that changes, random streams included, as a dict of arrays and JSON values."""
        state = {"core": self.core.get_state(), "streams": self._streams.get_state()}
        return {**state, "over": self._over.copy(), "elapsed": self._elapsed.copy(), "begun": self._begun}

    def set_state(self, state: State) -> None:
        """Continue exactly where `get_state` stood."""
        self.core.set_state(state["core"])
        self._streams = Streams.from_state(state["streams"])
        self._over[:] = state["over"]
        self._elapsed[:] = state["elapsed"]
        self._begun = bool(state["begun"])

    def fork(self, rows: Sequence[int] | IntArray, n: int, seed: int | None = None) -> GymVectorEnv:
        """Return a new environment of len(rows) * n live rows; copy j of rows[i] is its row i * n + j.

        With `seed` None the random streams are copied: a fork replays exactly. An int gives row k the stream `seed + k`.
        """
        if n < 1:
            raise ValueError(f"fork needs at least one copy of each row, got n={n}.")
        if np.size(rows) and np.asarray(rows).dtype.kind not in "iu":
            raise ValueError(f"Rows to fork are their numbers, got {np.asarray(rows).tolist()}; np.flatnonzero(mask) makes numbers of a mask.")
        index = np.repeat(np.asarray(rows, dtype=np.int64), n)
        if len(index) and not (index.min() >= 0 and index.max() < self.num_envs):
            raise ValueError(f"Rows to fork must lie in [0, {self.num_envs}), got {np.asarray(rows).tolist()}.")
        if self._over[index].any():
            raise ValueError(f"Only live rows can be forked; the episodes of rows {np.unique(index[self._over[index]])[:8].tolist()} are over.")
        other = object.__new__(GymVectorEnv)
        other._setup(self.core.like(len(index)), self.autoreset_mode, self.render_mode, self.max_episode_steps, self.copy)
        other.core.set_state(take_rows(self.core.get_state(), index))
        other._over[:], other._elapsed[:], other._begun = False, self._elapsed[index], True
        if seed is None:
            other._streams = Streams.from_state(take_rows(self._streams.get_state(), index))
        else:
            other._streams = Streams.from_seeds([seed + k for k in range(len(index))])
        return other
