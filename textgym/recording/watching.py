"""What both recording wrappers share: the watch on a core, the unchanging beginning of every line, and the file that grows by whole lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from ..core import Core, IntArray, Streams
from ..env import GymEnv
from ..vector import GymVectorEnv
from .records import FORMAT
from .spelling import plain, spell_checksums, stream_of

# What says how an environment is run, and nothing about what happens in an episode.
_RUNNING = {"num_envs", "vectorization_mode", "autoreset_mode", "copy", "render_mode", "max_episode_steps"}
_compact = json.JSONEncoder(separators=(",", ":")).encode

Sums = NDArray[np.uint64]  # [T + 1] checksums of an episode's observations


class WatchedCore:
    """A core that also notes, for each row that starts, the state of its stream just before."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.started: dict[int, list[Any]] = {}  # row -> its stream, since `take`
        # Bound here, the methods of every step cost no detour through __getattr__.
        self.advance, self.observe, self.live_info, self.end_info = core.advance, core.observe, core.live_info, core.end_info

    def start(self, rows: IntArray, streams: Streams, options: Mapping[str, Any]) -> None:
        """Note the streams of `rows`, then start them."""
        noted = {row: stream_of(streams, row) for row in rows.tolist()}
        self.core.start(rows, streams, options)
        self.started.update(noted)

    def take(self) -> dict[int, list[Any]]:
        """Return what was noted since the last call."""
        taken, self.started = self.started, {}
        return taken

    def __getattr__(self, name: str) -> Any:
        if name == "core" or name.startswith("__"):  # a copy in the making has no core yet
            raise AttributeError(name)
        return getattr(self.core, name)


def watched(env: GymEnv | GymVectorEnv) -> WatchedCore:
    """Put a watch on the core of an environment, and return it."""
    if isinstance(env.core, WatchedCore):
        raise ValueError("This environment is being recorded already; close that recording first.")
    watch = WatchedCore(env.core)
    env.core = cast(Core, watch)
    return watch


def changes_of(spec: EnvSpec | None, max_episode_steps: int | None) -> dict[str, Any]:
    """Return what a spec changes of the registered one: `kwargs`, `max_episode_steps`, `wrappers`, and `objects` that JSON cannot hold."""
    kwargs: dict[str, Any] = {}
    objects: dict[str, str] = {}
    for key, value in _changed_kwargs(spec).items():
        try:
            kwargs[key] = plain(value)
        except TypeError:
            objects[key] = type(value).__name__
    wrappers = [] if spec is None else [_wrapper(it.name, it.entry_point, it.kwargs) for it in spec.additional_wrappers if it.name != "RecordEpisode"]
    limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    return {**{key: value for key, value in (("kwargs", kwargs), ("objects", objects), ("wrappers", wrappers)) if value}, **limit}


def _changed_kwargs(spec: EnvSpec | None) -> dict[str, Any]:
    if spec is None:
        return {}
    registered = gym.registry[spec.id].kwargs if spec.id in gym.registry else {}
    known = {key: repr(value) for key, value in registered.items()}
    return {key: value for key, value in spec.kwargs.items() if key not in _RUNNING and known.get(key) != repr(value)}


def _wrapper(name: str, entry_point: str, kwargs: Any) -> list[Any]:
    try:
        return [name, entry_point, plain(kwargs)]
    except TypeError:
        return [name, entry_point, None]  # None is Gymnasium's word for a wrapper that cannot be built again


def head_of(spec: EnvSpec | None, max_episode_steps: int | None) -> str:
    """Return the beginning of every line: format, version and environment, which never change."""
    from .. import __version__  # here, since `textgym` itself may import this module

    head = {"format": FORMAT, "textgym": __version__, "id": None if spec is None else spec.id, "spec": changes_of(spec, max_episode_steps)}
    return _compact(head)[:-1]


def episode_of(row: int, episode: int, seed: int | None, stream: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of an episode when it begins."""
    return {"row": row, "episode": episode, "seed": seed, "streams": [[0, *stream]], "options": options}


def line_of(head: str, episode: Mapping[str, Any], steps: Mapping[str, Any], ended: tuple[bool, bool], info: Mapping[str, Any], sums: Sums) -> str:
    """Return a whole line; `ended` are the flags (terminated, truncated) of the last step, and with neither the episode was cut."""
    flags = {"terminated": ended[0], "truncated": ended[1], "cut": not any(ended), "info": info}
    return f"{head},{_compact({**episode, **steps, **flags, 'observed': spell_checksums(sums)})[1:]}"


def checked_space(space: gym.Space[Any]) -> None:
    """Raise `TypeError` if a space's values are no arrays or numbers."""
    if space.shape is None or space.dtype is None or space.dtype == object:
        raise TypeError(f"Only arrays and numbers can be recorded, not observations or actions of {space}; record below the wrapper that makes them.")


class Lines:
    """A file that grows by whole lines; what processes and environments write to it side by side is never mixed."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._file: Any = None

    def append(self, line: str) -> None:
        """Append one line by one unbuffered write."""
        if self._file is None:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
            if not _ends_whole(self.path):
                self._file.write(b"\n")  # a run that was killed in mid-line must not spoil ours
        data = f"{line}\n".encode()
        if self._file.write(data) != len(data):
            raise OSError(f"{self.path}: a record was cut in mid-line; is the disk full?")

    def close(self) -> None:
        """Close the file; another `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None}  # a copy opens the file for itself


def _ends_whole(path: str) -> bool:
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return size == 0 or file.read() == b"\n"
