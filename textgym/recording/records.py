"""The format of a recording: what stands in a line, how it is read, and where two records differ.

A line is one JSON object with the keys of `Record` (all but `line`) and `format`. Python's JSON writes floats so that they come back exactly; infinities
and nan are spelled as Python spells them. `observed` is hexadecimal: the upper 16 bits of the checksum of every observation, and all 64 of the last.

Axis legend: T steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..core import Streams

FORMAT = 1


class Record(NamedTuple):
    """One episode, as it was recorded or as it was replayed."""

    line: int  # in its file, from 1
    textgym: str  # the version that recorded it
    id: str | None  # the registered id; None where the environment was made without one
    spec: dict[str, Any]  # what was changed: kwargs, max_episode_steps, wrappers, and `objects`, the kwargs that JSON cannot hold
    row: int
    episode: int  # how many the row had begun before, since recording began
    seed: int | None  # of the row's stream, where it was seeded while recording
    streams: list[list[Any]]  # [step, state and increment, unread]: what the row drew from, from the start (step 0) and after a fork with a seed
    options: dict[str, Any]  # of the reset, the row's share of them
    actions: list[Any]  # [T]
    rewards: list[float]  # [T]
    terminated: bool
    truncated: bool
    cut: bool  # the caller began anew, or closed, before the end
    info: dict[str, Any]  # numbers and texts of the info at the end
    observed: str  # checksums of the T + 1 observations

    @property
    def name(self) -> str:
        """Return how to speak of this episode."""
        return f"line {self.line} (row {self.row}, episode {self.episode})"


_TYPES: dict[str, type | tuple[type, ...]] = {
    "textgym": str,
    "id": (str, type(None)),
    "spec": dict,
    "row": int,
    "episode": int,
    "seed": (int, type(None)),
    "streams": list,
    "options": dict,
    "actions": list,
    "rewards": list,
    "terminated": bool,
    "truncated": bool,
    "cut": bool,
    "info": dict,
    "observed": str,
}


class Unusable(NamedTuple):
    """A line that is no record, or whose record cannot be replayed, and why."""

    line: int
    reason: str
    record: Record | None = None


class Difference(NamedTuple):
    """The first place where two records of one episode part; `step` is None where it lies before the first step."""

    step: int | None  # from 0
    what: str
    one: Any
    other: Any

    def told(self, one: str = "in one", other: str = "in the other") -> str:
        """Return the difference in words; `one` and `other` say where each value stands."""
        where = "before the first step" if self.step is None else f"at step {self.step}"
        return f"{where}, {self.what}: {_shown(self.one)} {one}, {_shown(self.other)} {other}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def read(path: str | Path) -> Iterator[Record | Unusable]:
    """Yield the records of a file, and in their place what is wrong with lines that are none; raises `OSError` if it cannot be read."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield parsed(line, number)
                except ValueError as error:
                    yield Unusable(number, str(error))


def parsed(line: bytes, number: int) -> Record:
    """Return the record of a line; raises `ValueError` that says why it is none."""
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        cut = "the file was cut here" if not line.endswith(b"\n") else "it is damaged"
        raise ValueError(f"no JSON ({error}); {cut}, record that episode again.") from None
    if not isinstance(value, dict) or "format" not in value:
        raise ValueError('no record of an episode: an object with "format" is wanted.')
    if value["format"] != FORMAT:
        raise ValueError(
            f"its format is {value['format']!r}, written by textgym {value.get('textgym', '?')}; this version reads {FORMAT}. Read it with that version."
        )
    wrong = [name for name, kind in _TYPES.items() if name not in value or not isinstance(value[name], kind)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is missing or of the wrong type; record that episode again.")
    record = Record(line=number, **{name: value[name] for name in _TYPES})
    _check_inside(record)
    return record


def _check_inside(record: Record) -> None:
    steps = len(record.actions)
    if len(record.rewards) != steps or not all(type(reward) is float for reward in record.rewards):
        raise ValueError(f"'rewards' must be {steps} floats, one for each action.")
    if len(record.observed) != 4 * steps + 16:
        raise ValueError(f"'observed' must have {4 * steps + 16} digits for {steps} actions, not {len(record.observed)}.")
    if not record.streams or not all(_is_stream(stream) for stream in record.streams) or record.streams[0][0] != 0:
        raise ValueError("'streams' must be a list of [step, 64 hexadecimal digits, unread numbers], the first of step 0.")


def _is_stream(stream: Any) -> bool:
    if not isinstance(stream, list) or [type(part) for part in stream] != [int, str, int]:
        return False
    return len(stream[1]) == 64 and set(stream[1]) <= set("0123456789abcdef") and 0 <= stream[2] <= Streams.block_size


def difference(one: Record, other: Record) -> Difference | None:
    """Return the first place where two records part: the start, then step by step, then the end; None if they are equal to the last bit."""
    for what in ("id", "spec", "seed", "streams", "options"):
        ours, theirs = getattr(one, what), getattr(other, what)
        if not same(ours, theirs) and not (what == "streams" and same(ours[0], theirs[0])):  # a later stream shows where it begins to matter
            return Difference(None, what, ours, theirs)
    if one.observed[:4] != other.observed[:4]:
        return Difference(None, "the first observation's checksum", one.observed[:4], other.observed[:4])
    return _difference_of_steps(one, other) or _difference_at_end(one, other)


def _difference_of_steps(one: Record, other: Record) -> Difference | None:
    steps = min(len(one.actions), len(other.actions))
    for t in range(steps):
        if not same(one.actions[t], other.actions[t]):
            return Difference(t, "action", one.actions[t], other.actions[t])
        if not same(one.rewards[t], other.rewards[t]):
            return Difference(t, "reward", one.rewards[t], other.rewards[t])
        after = slice(4 * t + 4, 4 * t + 8)
        if one.observed[after] != other.observed[after]:
            return Difference(t, "the observation's checksum", one.observed[after], other.observed[after])
    if len(one.actions) != len(other.actions):
        return Difference(steps, "episodes of", f"{len(one.actions)} steps", f"{len(other.actions)} steps")
    return None


def _difference_at_end(one: Record, other: Record) -> Difference | None:
    last = len(one.actions) - 1
    for what in ("terminated", "truncated", "cut"):
        if getattr(one, what) != getattr(other, what):
            return Difference(last, what, getattr(one, what), getattr(other, what))
    for key in dict.fromkeys((*one.info, *other.info)):
        ours, theirs = one.info.get(key, "nothing"), other.info.get(key, "nothing")
        if not same(ours, theirs):
            return Difference(last, f"info[{key!r}]", ours, theirs)
    if one.observed != other.observed:
        return Difference(last, "the observation's checksum", one.observed[-16:], other.observed[-16:])
    return None


def same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal to the last bit: nan equals nan, 0.0 does not equal -0.0, and 1 does not equal 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other)
