"""What a person types, and the ids that it means: words where the task has words, `#7` or 7 for an id.

Axis legend: A ids that an action chooses from, C ids of one action (1, or a chunk).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete

from ..core import Core, IntArray, core_masks
from ..task import WordLevel
from .usage import UsageError


class MistypedError(ValueError):
    """What was typed is no action here; the message says why, and what to type."""


def sizes(core: Core) -> tuple[int, int]:
    """Return (A, C) of the actions of `core`; raises `UsageError` if they are nothing that one could type."""
    space = core.action_space
    if isinstance(space, Discrete) and space.start == 0:
        return int(space.n), 1
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1 and len(set(space.nvec.tolist())) == 1:
        return int(space.nvec[0]), len(space.nvec)
    raise UsageError(f"Actions from {space} cannot be typed or drawn here.", "Play a task whose actions are Discrete, or chunks of tokens.")


def allowed_ids(core: Core, before: Sequence[int] = ()) -> IntArray:
    """Return the ids that may come next, in a chunk behind the ids `before`; all of them where nothing is ever forbidden."""
    try:
        masks = core_masks(core, np.array([before], dtype=np.int64)) if before else core_masks(core)
    except TypeError:  # which says that there is no constraint
        return np.arange(sizes(core)[0])
    return np.flatnonzero(masks[0])


def draw(core: Core, generator: np.random.Generator) -> list[int]:
    """Return one of the allowed actions, the C ids each drawn uniformly from those allowed behind the ones before it."""
    ids: list[int] = []
    while len(ids) < sizes(core)[1]:
        ids.append(int(generator.choice(allowed_ids(core, ids))))
    return ids


def spelled(core: Core, token: int) -> str:
    """Return the word of an id, or its number where it has none."""
    names = _names(core)
    if names is not None:
        return names[token]
    tokenizer = _tokenizer(core)
    return str(token) if tokenizer is None else "<eos>" if token == tokenizer.eos_id else repr(tokenizer.decode([token]))


def _tokenizer(core: Core) -> Any:
    return getattr(getattr(core, "task", None), "tokenizer", None)


def _names(core: Core) -> Sequence[str] | None:
    """Return the word of each id: those of a tokenizer of words, or the `action_names` that a core may have; None where there are none."""
    tokenizer = _tokenizer(core)
    return tokenizer.words if isinstance(tokenizer, WordLevel) else getattr(core, "action_names", None)


def read(core: Core, line: str) -> list[list[int]]:
    """Return the actions [*, C] that a typed line means; raises `MistypedError`.

    A word comes before a number: where numbers are words, "5" is the word, and #5 the id.
    """
    length = sizes(core)[1]
    ids = _ids(core, line)
    if length > 1 and len(ids) % length:
        raise MistypedError(f"An action is a chunk of {length} tokens, and that is {len(ids)}: type {length} words or ids, with blanks between them.")
    return [ids[i : i + length] for i in range(0, len(ids), length)]


def _ids(core: Core, line: str) -> list[int]:
    tokenizer = _tokenizer(core)
    parts = line.split()
    if _names(core) is None and tokenizer is not None and not all(_is_id(part) for part in parts):
        try:
            return [int(token) for token in tokenizer.encode(line)]
        except ValueError as error:
            raise MistypedError(str(error)) from None
    return [_id(core, part) for part in parts]


def _is_id(part: str) -> bool:
    return part.startswith("#") and part[1:].isdecimal()


def _id(core: Core, part: str) -> int:
    names = _names(core)
    if names is not None and part in names:
        return list(names).index(part)
    number, size = part.removeprefix("#"), sizes(core)[0]
    if number.isdecimal() and int(number) < size:
        return int(number)
    what = f"is outside the ids, 0 to {size - 1}" if number.isdecimal() else "is no id here" if names is None else "is none of the words here"
    raise MistypedError(f"{part!r} {what}: type ? to see what is allowed.")


def check_allowed(core: Core, ids: Sequence[int]) -> None:
    """Raise `MistypedError` if one of the C ids of an action is forbidden where it stands."""
    for i, token in enumerate(ids):
        allowed = allowed_ids(core, ids[:i])
        if token not in allowed:
            raise MistypedError(f"{spelled(core, token)} is forbidden here, where {len(allowed)} ids are allowed: type ? to see them.")


def listed(core: Core, beginning: str, width: int, num_lines: int = 8) -> list[str]:
    """Return the allowed ids whose words have this beginning, with their words, in at most `num_lines` lines of `width`; and how many were left out."""
    entries = [f"{spelled(core, token)} #{token}" for token in allowed_ids(core).tolist()]
    entries = [entry for entry in entries if entry.removeprefix("'").startswith(beginning)]
    lines, shown = [""], 0
    for entry in entries:
        if len(lines[-1]) + len(entry) + 3 > width and lines[-1]:
            if len(lines) == num_lines:
                break
            lines.append("")
        lines[-1] += f"{entry}   "
        shown += 1
    rest = [f"and {len(entries) - shown} more: ? and a beginning shows those that begin so"] if shown < len(entries) else []
    return [line.rstrip() for line in lines if line] + rest or [f"Nothing that is allowed begins with {beginning!r}."]
