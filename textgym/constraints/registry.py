"""Constraints by name, so that a task can be described in JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from ..task import Constraint

Builder = TypeVar("Builder", bound=Callable[..., Constraint])
CONSTRAINTS: dict[str, Callable[..., Constraint]] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Return a decorator that registers a constraint's class, or a function that builds a constraint, under `name`."""

    def add(builder: Builder) -> Builder:
        if name in CONSTRAINTS:
            raise ValueError(f"A constraint named {name!r} is registered already; choose another name, or delete CONSTRAINTS[{name!r}] first.")
        CONSTRAINTS[name] = builder
        return builder

    return add


def names() -> list[str]:
    """Return the registered names, sorted."""
    return sorted(CONSTRAINTS)


def make(constraint: Any) -> Constraint | None:
    """Return a constraint by its name, by {"name": ..., and its arguments}, all of a list of such, or the object as it is; None is none."""
    if constraint is None:
        return None
    if isinstance(constraint, str):
        return _build(constraint, {})
    if isinstance(constraint, Mapping):
        if "name" not in constraint:
            raise ValueError(f"A constraint given as a mapping needs a 'name', this one has {sorted(constraint)}; known are {names()}.")
        return _build(constraint["name"], {key: value for key, value in constraint.items() if key != "name"})
    if isinstance(constraint, list | tuple):
        from .every import All  # which knows constraints that are registered here

        return All(*(made for made in map(make, constraint) if made is not None))
    if isinstance(constraint, type):
        raise TypeError(f"{constraint.__name__} is a class, not a constraint; call it with its arguments: {constraint.__name__}(...).")
    if not isinstance(constraint, Constraint):
        raise TypeError(
            f"A constraint is a name of {names()}, a mapping with such a name, a list of constraints, or an object with "
            f"rules(tokenizer, max_prompt_tokens, max_new_tokens); {type(constraint).__name__} is none of these."
        )
    return constraint


def _build(name: Any, arguments: dict[str, Any]) -> Constraint:
    if not isinstance(name, str) or name not in CONSTRAINTS:
        near = get_close_matches(str(name), CONSTRAINTS, n=1, cutoff=0.0)[0]
        raise ValueError(f"There is no constraint {name!r}; did you mean {near!r}? Known are {names()}.")
    try:
        return CONSTRAINTS[name](**arguments)
    except TypeError as error:
        raise TypeError(
            f"The constraint {name!r} could not be built from {arguments}: {str(error).removesuffix('.')}. Give its arguments: {{'name': {name!r}, ...}}."
        ) from error
