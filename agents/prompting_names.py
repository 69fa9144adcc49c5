"""Choices of prompts by name: for the command line and for saved configurations.

Within a name another one may stand: "groups(size=8, of='priority')", "curriculum(difficulty='my_module:hardness')".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from . import choices
from .prompting import Curriculum, Groups, Priority, Prompting, Uniform

PROMPTINGS: dict[str, type[Any]] = {"uniform": Uniform, "priority": Priority, "curriculum": Curriculum, "groups": Groups}


def parse(text: str) -> Prompting:
    """Return the choice spelled "groups(size=8)", "priority" or "module:attribute"; raises `ValueError` saying what is allowed."""
    return _found(choices.parse(text, PROMPTINGS, "prompting"))


def spell(prompting: Prompting) -> str:
    """Return the text that `parse` reads; raises `ValueError` for what has no importable name."""
    told = _told(prompting)
    if isinstance(prompting, Groups):
        told["of"] = spell(prompting.of)
    arguments = ", ".join(f"{key}={value!r}" for key, value in told.items() if key != "name")
    return f"{told['name']}({arguments})" if arguments else str(told["name"])


def to_json(prompting: Prompting) -> dict[str, Any]:
    """Return `{"name": "groups", "size": ...}`, which `from_json` reads; what has no importable name is only described."""
    try:
        return _told(prompting) | ({"of": to_json(prompting.of)} if isinstance(prompting, Groups) else {})
    except ValueError:
        return {"unnamed": repr(prompting)}


def from_json(data: Mapping[str, Any]) -> Prompting:
    """Return the choice that `to_json` described; raises `ValueError` as `parse` does."""
    return _found(choices.from_json(data, PROMPTINGS, "prompting"))


def _found(choice: Any) -> Prompting:
    """Return the choice with what was told by name in the place of the names."""
    inner: Any = choice.of if isinstance(choice, Groups) else None
    if isinstance(inner, str | Mapping):
        return replace(choice, of=parse(inner) if isinstance(inner, str) else from_json(inner))
    difficulty: Any = choice.difficulty if isinstance(choice, Curriculum) else None
    if isinstance(difficulty, str):
        return replace(choice, difficulty=choices.imported(difficulty, "difficulty"))
    return cast(Prompting, choice)


def _told(prompting: Prompting) -> dict[str, Any]:
    """Return the name and the arguments, a difficulty as literals; raises `ValueError` where one has no name."""
    told = choices.to_json(prompting, PROMPTINGS)
    if "unnamed" in told:
        raise ValueError(f"{prompting!r} has no importable name; define it at the top level of a module.")
    if isinstance(prompting, Curriculum) and prompting.difficulty is not None:
        given = prompting.difficulty
        told["difficulty"] = choices.spell(given, {}) if callable(given) else [float(value) for value in given]
    return told
