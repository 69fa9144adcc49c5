"""The recording wrapper of the vector form.

It knows no autoreset mode. Whenever a row begins an episode, by whatever way, the core is told to `start` it, and the watch on the core notes it.
So a row that was live goes on until a flag ends it, and begins anew when its start is noted.

Axis legend: N rows, B rows of one call, K steps that fit into the buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from ..core import IntArray, Streams
from ..vector import GymVectorEnv, VectorStep
from .spelling import checksums, facts_of, plain, stream_of
from .watching import Lines, checked_space, episode_of, head_of, line_of, watched

if TYPE_CHECKING:
    _Wrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _Wrapper = VectorWrapper  # no generic class in gymnasium 1.1

_FIRST_STEPS = 64


class RecordVectorEpisode(_Wrapper):
    """Append one JSON line to `path` for every episode of every row, as `RecordEpisode` does; in all autoreset modes.

    It stands directly on the native vector environment: Gymnasium cannot build vector wrappers again. Its lines replay in the single form, which equals
    a row exactly. Reset options that are arrays or lists with one entry a row are recorded as each row's own entry.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], path: str | Path) -> None:
        if not isinstance(env, GymVectorEnv):
            raise TypeError(f"RecordVectorEpisode stands directly on a GymVectorEnv, not on {type(env).__name__}; wrap the recorded environment instead.")
        checked_space(env.single_observation_space)
        checked_space(env.single_action_space)
        self._watch, self._lines = watched(env), Lines(path)
        super().__init__(env)  # after all that may raise: Gymnasium closes on deletion what has an environment
        self._face = env
        self._head = head_of(env.spec, env.max_episode_steps)
        rows = env.num_envs
        self._live = np.zeros(rows, dtype=np.bool_)  # [N] the row has an episode whose start was seen
        self._counts = np.zeros(rows, dtype=np.int64)  # [N] its steps
        self._begun = np.zeros(rows, dtype=np.int64)  # [N] episodes
        self._seeds: list[int | None] = [None] * rows
        self._episodes: list[dict[str, Any]] = [{} for _ in range(rows)]
        action = env.single_action_space
        self._actions = np.zeros((rows, _FIRST_STEPS, *(action.shape or ())), dtype=action.dtype)  # [N, K, ...]
        self._rewards = np.zeros((rows, _FIRST_STEPS))  # [N, K]
        self._sums = np.zeros((rows, _FIRST_STEPS + 1), dtype=np.uint64)  # [N, K + 1] the first observation's too

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin episodes on all rows or on those of `options["reset_mask"]`; those that were running there are recorded as cut."""
        chosen = plain({key: value for key, value in (options or {}).items() if key != "reset_mask"})
        observations, infos = self.env.reset(seed=seed, options=options)
        started = self._watch.take()
        for row in started:
            self._cut(row)
            self._seeds[row] = self._seed_of(row, seed)
        self._begin(started, checksums(observations), [self._share(chosen, row) for row in started])
        return observations, infos

    def _seed_of(self, row: int, seed: int | Sequence[int | None] | None) -> int | None:
        value = seed[row] if isinstance(seed, Sequence | np.ndarray) else None if seed is None else seed + row
        return self._seeds[row] if value is None else int(value)

    def _share(self, options: Mapping[str, Any], row: int) -> dict[str, Any]:
        rows = self.num_envs
        return {key: value[row] if rows > 1 and isinstance(value, list) and len(value) == rows else value for key, value in options.items()}

    def step(self, actions: Any) -> VectorStep:
        """Pass the actions on, and note what came of them on the rows that were live."""
        observations, rewards, terminated, truncated, infos = step = self._face.step(actions)
        rows, sums = np.flatnonzero(self._live), checksums(observations)
        ended = rows[(terminated | truncated)[rows]]
        self._note(rows, np.asarray(actions), rewards, self._with_final(sums, ended, infos))
        for row in ended.tolist():
            self._write(row, (bool(terminated[row]), bool(truncated[row])), self._info_of(row, infos))
        if self._watch.started:
            started = self._watch.take()
            self._begin(started, sums, [{} for _ in started])
        return step

    def fork(self, rows: Sequence[int] | IntArray, n: int, seed: int | None = None, path: str | Path | None = None) -> RecordVectorEpisode:
        """Return a recorded fork, whose running episodes are recorded from their true beginning; to the same file unless `path` names another."""
        fork = RecordVectorEpisode(self._face.fork(rows, n, seed), self._lines.path if path is None else path)
        index = np.repeat(np.asarray(rows, dtype=np.int64), n)
        fork._head = self._head
        for name in ("_live", "_counts", "_begun", "_actions", "_rewards", "_sums"):
            setattr(fork, name, getattr(self, name)[index].copy())
        for row, parent in enumerate(index.tolist()):
            fork._seeds[row] = self._seeds[parent] if seed is None else seed + row
            fork._episodes[row] = {**self._episodes[parent], "row": row}
            if seed is not None and fork._live[row]:
                switch = [int(self._counts[parent]), *stream_of(Streams.from_seeds([seed + row]), 0)]
                fork._episodes[row]["streams"] = [*self._episodes[parent]["streams"], switch]
        return fork

    def close(self, **kwargs: Any) -> None:
        """Record the running episodes as cut, close the file, and take the watch off."""
        for row in np.flatnonzero(self._live).tolist():
            self._cut(row)
        self._lines.close()
        self._face.core = self._watch.core
        super().close(**kwargs)

    def _begin(self, started: Mapping[int, list[Any]], sums: NDArray[np.uint64], options: Sequence[dict[str, Any]]) -> None:
        """Open an episode on the rows of `started`, whose first observations have the checksums `sums` [N]."""
        for (row, stream), own in zip(started.items(), options, strict=True):
            self._episodes[row] = episode_of(row, int(self._begun[row]), self._seeds[row], stream, own)
        index = np.array(list(started), dtype=np.int64)
        self._begun[index] += 1
        self._counts[index] = 0
        self._live[index] = True
        self._sums[index, 0] = sums[index]

    def _with_final(self, sums: NDArray[np.uint64], ended: IntArray, infos: Mapping[str, Any]) -> NDArray[np.uint64]:
        """Return `sums` [N] with those of final observations on the rows that ended and have begun anew already."""
        finals = infos.get("final_obs")
        if finals is None or not len(ended):
            return sums
        sums = sums.copy()
        sums[ended] = checksums(np.stack([np.asarray(finals[row]) for row in ended.tolist()]))
        return sums

    def _note(self, rows: IntArray, actions: NDArray[Any], rewards: NDArray[np.float64], sums: NDArray[np.uint64]) -> None:
        counts = self._counts[rows]
        if counts.max(initial=0) >= self._rewards.shape[1]:
            self._grow()
        self._actions[rows, counts] = actions[rows]
        self._rewards[rows, counts] = rewards[rows]
        self._sums[rows, counts + 1] = sums[rows]
        self._counts[rows] = counts + 1

    def _grow(self) -> None:
        more = self._rewards.shape[1]
        for name in ("_actions", "_rewards", "_sums"):
            old = getattr(self, name)
            wider = np.zeros((len(old), old.shape[1] + more, *old.shape[2:]), dtype=old.dtype)
            wider[:, : old.shape[1]] = old
            setattr(self, name, wider)

    def _info_of(self, row: int, infos: Mapping[str, Any]) -> dict[str, Any]:
        """Return the facts of one row, out of `final_info` where it has begun anew already."""
        own = infos["final_info"] if "final_info" in infos and infos["_final_info"][row] else infos
        return facts_of({key: values[row] for key, values in own.items() if f"_{key}" in own and own[f"_{key}"][row] and not isinstance(values, dict)})

    def _cut(self, row: int) -> None:
        if self._live[row] and self._counts[row]:
            self._write(row, (False, False), {})
        self._live[row] = False

    def _write(self, row: int, ended: tuple[bool, bool], info: dict[str, Any]) -> None:
        self._live[row] = False
        count = int(self._counts[row])
        steps = {"actions": self._actions[row, :count].tolist(), "rewards": self._rewards[row, :count].tolist()}
        self._lines.append(line_of(self._head, self._episodes[row], steps, ended, info, self._sums[row, : count + 1]))
