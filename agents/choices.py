"""Choices as text and as JSON: "gae(gamma=0.99, gae_lambda=0.95)" <-> GAE(...) <-> {"name": "gae", ...}.

A choice is a frozen dataclass in a registry (name -> class), or anything importable, named "module:attribute".
Arguments are literals: nothing in the text is evaluated. Naming a module imports it, which runs it: read a name that you were given first.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import math
import numbers
from collections.abc import Mapping
from typing import Any

Registry = Mapping[str, type[Any]]


def number(default: float, low: float = -math.inf, high: float = math.inf) -> Any:
    """Return a dataclass field for a real number in [low, high]; `check` holds it to that."""
    return dataclasses.field(
        default=default, metadata={"allowed": f"a number in [{low:g}, {high:g}]", "kind": numbers.Real, "to": float, "low": low, "high": high}
    )


def count(default: int, low: int = 1) -> Any:
    """Return a dataclass field for an integer that is at least `low`; `check` holds it to that."""
    return dataclasses.field(default=default, metadata={"allowed": f"an integer >= {low}", "kind": numbers.Integral, "to": int, "low": low, "high": math.inf})


def check(choice: Any) -> None:
    """Hold each `number` and `count` of a dataclass to its range (call it in `__post_init__`); raises `ValueError` saying what is allowed."""
    for field in (field for field in dataclasses.fields(choice) if "allowed" in field.metadata):
        value, rule = getattr(choice, field.name), field.metadata
        if isinstance(value, bool) or not isinstance(value, rule["kind"]) or not rule["low"] <= value <= rule["high"]:
            raise ValueError(f"{type(choice).__name__}: {field.name} must be {rule['allowed']}, not {value!r}.")
        object.__setattr__(choice, field.name, rule["to"](value))  # a NumPy scalar would not survive spelling or JSON


def parse(text: str, known: Registry, kind: str) -> Any:
    """Return the choice that `text` spells.

    Args:
        text: "name", "name(key=literal, ...)" with a name from `known`, or "module:attribute".
        known: the registry.
        kind: what is chosen, for the errors ("advantage").

    Raises:
        ValueError: saying what is wrong with the name or an argument, and what is allowed.
    """
    return _build(*call_of(text), known, kind)


def call_of(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Return the name, the positional and the named literals of "name" or "name(literal, key=literal, ...)"; raises `ValueError` for anything else."""
    name, bracket, rest = text.strip().partition("(")
    return name.strip(), *(_literals(text, rest) if bracket else ([], {}))


def spell(choice: Any, known: Registry) -> str:
    """Return the text that `parse` turns into an equal choice; raises `ValueError` if it has no importable name."""
    name = _name_of(choice, known)
    arguments = ", ".join(f"{key}={value!r}" for key, value in _arguments_of(choice).items())
    return f"{name}({arguments})" if arguments else name


def to_json(choice: Any, known: Registry) -> dict[str, Any]:
    """Return `{"name": ..., **arguments}`; what has no importable name is kept as `{"unnamed": repr}`, so that logging never fails."""
    try:
        return {"name": _name_of(choice, known), **_arguments_of(choice)}
    except ValueError:
        return {"unnamed": repr(choice)}


def from_json(data: Mapping[str, Any], known: Registry, kind: str) -> Any:
    """Return the choice that `to_json` described; raises `ValueError` as `parse` does, and for what had no name."""
    if "unnamed" in data:
        raise ValueError(f"The {kind} {data['unnamed']} was saved without an importable name; pass the object itself again.")
    if not isinstance(data.get("name"), str):
        raise ValueError(f'A saved {kind} is {{"name": ..., its arguments}}; got {dict(data)!r}.')
    return _build(data["name"], [], {key: value for key, value in data.items() if key != "name"}, known, kind)


def _literals(text: str, rest: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and named literals of "f(" + rest; anything that is not one plain call is refused."""
    try:
        call = ast.parse("f(" + rest.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{text!r} cannot be read; write name(key=value, ...), with its brackets closed.") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"{text!r} is not one call; write name(key=value, ...) and nothing after it.")
    try:
        return [ast.literal_eval(arg) for arg in call.args], {_key(keyword): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError as error:
        raise ValueError(f"{text!r} holds something that is not a literal; write numbers, strings, True, False or None.") from error


def _key(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise ValueError("** is not a literal")
    return keyword.arg


def _build(name: str, args: list[Any], kwargs: dict[str, Any], known: Registry, kind: str) -> Any:
    found = imported(name, kind) if ":" in name else _look_up(name, known, kind)
    if not isinstance(found, type):
        if args or kwargs:
            raise ValueError(f"{name} is a finished {kind} and takes no arguments here; only a class does.")
        return found
    try:
        inspect.signature(found).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{name}: {error}. It takes {_takes(found)}.") from error
    return found(*args, **kwargs)


def _look_up(name: str, known: Registry, kind: str) -> type[Any]:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f'Unknown {kind} {name!r}{hint} Known are {", ".join(sorted(known))}, or "module:function" for your own.')


def imported(name: str, kind: str) -> Any:
    """Return what "module:attribute" names; raises `ValueError` saying what is missing."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"The {kind} {name!r} cannot be imported ({error}); is its module installed, or in the folder you started from?") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"The {kind} {name!r}: {module} has no {attribute!r}.")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"The {kind} {name!r} is {type(found).__name__}, which cannot be called.")
    return found


def _takes(cls: type[Any]) -> str:
    """Return the arguments of a class in words, with what is allowed where it says so."""
    allowed = {field.name: f" ({field.metadata['allowed']})" for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()) if field.metadata}
    return ", ".join(key + allowed.get(key, "") for key in inspect.signature(cls).parameters) or "no arguments"


def _arguments_of(choice: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(choice) or isinstance(choice, type):
        return {}
    return {field.name: getattr(choice, field.name) for field in dataclasses.fields(choice) if field.init}


def _name_of(choice: Any, known: Registry) -> str:
    """Return a registered name or "module:attribute"; raises `ValueError` where importing that would give something else."""
    for name, cls in known.items():
        if type(choice) is cls:
            return name
    target = type(choice) if dataclasses.is_dataclass(choice) and not isinstance(choice, type) else choice
    name = f"{getattr(target, '__module__', None)}:{getattr(target, '__qualname__', None)}"
    if name.startswith("__main__:") or "<" in name or "None" in name.split(":") or imported(name, "object") is not target:
        raise ValueError(f"{choice!r} has no importable name; define it at the top level of a module, or put its class in the registry.")
    return name
