"""Responders by name, so that a task can be described in JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from ..task import Responder

Builder = TypeVar("Builder", bound=Callable[..., Responder])
RESPONDERS: dict[str, Callable[..., Responder]] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Return a decorator that registers a responder's class, or a function that builds a responder, under `name`."""

    def add(builder: Builder) -> Builder:
        if name in RESPONDERS:
            raise ValueError(f"A responder named {name!r} is registered already; choose another name, or delete RESPONDERS[{name!r}] first.")
        RESPONDERS[name] = builder
        return builder

    return add


def names() -> list[str]:
    """Return the registered names, sorted."""
    return sorted(RESPONDERS)


def make(responder: str | Mapping[str, Any] | Responder) -> Responder:
    """Return a responder by its name, by {"name": ..., and its arguments}, or the object as it is."""
    if isinstance(responder, str):
        return _build(responder, {})
    if isinstance(responder, Mapping):
        if "name" not in responder:
            raise ValueError(f"A responder given as a mapping needs a 'name', this one has {sorted(responder)}; known are {names()}.")
        return _build(responder["name"], {key: value for key, value in responder.items() if key != "name"})
    if isinstance(responder, type):
        raise TypeError(f"{responder.__name__} is a class, not a responder; call it with its arguments: {responder.__name__}(...).")
    if not isinstance(responder, Responder):
        raise TypeError(f"A responder is a name of {names()}, or a callable that names its end_of_turn tokens; {type(responder).__name__} is neither.")
    return responder


def _build(name: Any, arguments: dict[str, Any]) -> Responder:
    if not isinstance(name, str) or name not in RESPONDERS:
        near = get_close_matches(str(name), RESPONDERS, n=1, cutoff=0.0)[0]
        raise ValueError(f"There is no responder {name!r}; did you mean {near!r}? Known are {names()}.")
    try:
        return RESPONDERS[name](**arguments)
    except TypeError as error:
        raise TypeError(
            f"The responder {name!r} could not be built from {arguments}: {str(error).removesuffix('.')}. Give its arguments: {{'name': {name!r}, ...}}."
        ) from error
