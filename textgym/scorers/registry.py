"""Scorers by name, so that a task can be described in JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from ..task import Scorer

Builder = TypeVar("Builder", bound=Callable[..., Scorer])
SCORERS: dict[str, Callable[..., Scorer]] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Return a decorator that registers a scorer's class, or a function that builds a scorer, under `name`."""

    def add(builder: Builder) -> Builder:
        if name in SCORERS:
            raise ValueError(f"A scorer named {name!r} is registered already; choose another name, or delete SCORERS[{name!r}] first.")
        SCORERS[name] = builder
        return builder

    return add


def names() -> list[str]:
    """Return the registered names, sorted."""
    return sorted(SCORERS)


def make(scorer: str | Mapping[str, Any] | Callable[..., Any]) -> Scorer:
    """Return a scorer by its name, by {"name": ..., and its arguments}, or the object (any batch callable) as it is."""
    if isinstance(scorer, str):
        return _build(scorer, {})
    if isinstance(scorer, Mapping):
        if "name" not in scorer:
            raise ValueError(f"A scorer given as a mapping needs a 'name', this one has {sorted(scorer)}; known are {names()}.")
        return _build(scorer["name"], {key: value for key, value in scorer.items() if key != "name"})
    if isinstance(scorer, type):
        raise TypeError(f"{scorer.__name__} is a class, not a scorer; call it with its arguments: {scorer.__name__}(...).")
    if not callable(scorer):
        raise TypeError(f"A scorer is a name of {names()} or a callable from Completions to float64 [B], not {type(scorer).__name__}.")
    return cast(Scorer, scorer)


def _build(name: Any, arguments: dict[str, Any]) -> Scorer:
    if not isinstance(name, str) or name not in SCORERS:
        near = get_close_matches(str(name), SCORERS, n=1, cutoff=0.0)[0]
        raise ValueError(f"There is no scorer {name!r}; did you mean {near!r}? Known are {names()}.")
    try:
        return SCORERS[name](**arguments)
    except TypeError as error:
        raise TypeError(
            f"The scorer {name!r} could not be built from {arguments}: {str(error).removesuffix('.')}. Give its arguments: {{'name': {name!r}, ...}}."
        ) from error
