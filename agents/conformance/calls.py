"""How anybody's function is called: whose argument is which, in which arrays and layout, and which of its results is meant.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .kinds import Inputs, Kind

LAYOUTS = ("time_first", "batch_first")
ARRAYS = ("numpy", "torch")
FLAGS = ("bool", "float")


class Misuse(ValueError):
    """Something that the caller gave cannot be used: its message has a first line that says what, and a second that says what to do."""


@dataclass(frozen=True)
class Calling:
    """How the function at hand differs from the canonical signature of its kind."""

    names: Mapping[str, str] = field(default_factory=dict)  # offered name -> the function's name for it
    constants: Mapping[str, Any] = field(default_factory=dict)  # the function's other parameters -> what to pass
    layout: str | None = None  # of its arrays; the kind's own if None
    arrays: str | None = None  # "numpy" or "torch"; torch if None and the annotations speak of tensors
    flags: str = "bool"  # how masks and ends come: "bool", or "float" for functions that compute 1 - dones on tensors
    result: str | None = None  # which of several results: an index, a key or an attribute


class Derived(NamedTuple):
    """An argument in another form, for functions that take it so."""

    sources: tuple[str, ...]  # what it is made of
    stands_for: frozenset[str]  # what a function need not take beside it
    make: Callable[[Inputs], NDArray[Any]]


DERIVED: dict[str, Derived] = {
    "dones": Derived(("terminated", "truncated"), frozenset({"terminated"}), lambda x: x["terminated"] | x["truncated"]),  # [T, N]
    "last_values": Derived(("next_values",), frozenset({"next_values"}), lambda x: x["next_values"][-1]),  # [N]
    "values_and_last": Derived(  # [T + 1, N]
        ("values", "next_values"), frozenset({"values", "next_values"}), lambda x: np.concatenate([x["values"], x["next_values"][-1:]])
    ),
}


def offered(kind: Kind) -> dict[str, str]:
    """Return every argument that a function of this kind may take, and its meaning: the canonical ones, then other forms of them."""
    forms = {name: f"made of {', '.join(form.sources)}" for name, form in DERIVED.items() if set(form.sources) <= set(kind.arguments)}
    return {**kind.arguments, **forms}


class Bound:
    """A function that can be called with the canonical inputs of its kind."""

    def __init__(self, function: Callable[..., Any], kind: Kind, calling: Calling) -> None:
        self._check(kind, calling)
        self.function, self.calling = function, calling
        self.swap = calling.layout not in (None, kind.layout)
        try:
            self.parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise Misuse(f"The signature of {_title(function)} cannot be read: {error}.\nWrap it in a Python function with named parameters.") from error
        self.tensors = calling.arrays == "torch" or (calling.arrays is None and any("Tensor" in str(p.annotation) for p in self.parameters))
        self.feeds = self._feeds(kind)  # the function's name -> offered name

    def told(self) -> frozenset[str]:
        """Return the arguments that the function learns of, whichever way."""
        taken = frozenset(self.feeds.values())
        return taken | {"truncated"} if {"dones", "terminated"} <= taken else taken

    def __call__(self, inputs: Inputs) -> tuple[NDArray[np.float64], list[str]]:
        """Return the result in the canonical layout, and the names of the arrays that the function wrote into; raises what it raises."""
        given = {theirs: self._give(inputs[ours] if ours in inputs else DERIVED[ours].make(inputs)) for theirs, ours in self.feeds.items()}
        before = {name: _numpy(value).copy() for name, value in given.items()}
        arguments = {**given, **self.calling.constants}
        first = [arguments.pop(p.name) for p in self.parameters if p.kind is p.POSITIONAL_ONLY and p.name in arguments]
        result = self.function(*first, **arguments)
        written = [name for name, value in given.items() if not np.array_equal(before[name], _numpy(value), equal_nan=before[name].dtype.kind == "f")]
        return self._take(result), written

    def _check(self, kind: Kind, calling: Calling) -> None:
        for name in calling.names:
            if name not in offered(kind):
                raise Misuse(f"{kind.name} offers no argument {name!r}.\nMap one of {', '.join(offered(kind))} to your function's name for it.")
        for value, allowed, word in ((calling.layout, LAYOUTS, "layout"), (calling.arrays, ARRAYS, "arrays"), (calling.flags, FLAGS, "flags")):
            if value is not None and value not in allowed:
                raise Misuse(f"There is no {word} {value!r}.\nChoose {' or '.join(allowed)}.")

    def _feeds(self, kind: Kind) -> dict[str, str]:
        """Return which offered argument goes into which parameter; raises `Misuse` if a parameter or an argument is left over."""
        theirs = {self.calling.names.get(ours, ours): ours for ours in offered(kind)}
        feeds, named = {}, [p for p in self.parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for parameter in named:
            if parameter.name in self.calling.constants:
                continue
            if parameter.name in theirs:
                feeds[parameter.name] = theirs[parameter.name]
            elif parameter.default is parameter.empty:
                raise Misuse(
                    f"{_title(self.function)} takes {parameter.name!r}, and no argument of {kind.name} has that name.\n"
                    f"Say which it is (--map NAME={parameter.name}, NAME one of {', '.join(offered(kind))}), or its value (--set {parameter.name}=...)."
                )
        self._check_taken(kind, feeds, [p.name for p in named])
        return feeds

    def _check_taken(self, kind: Kind, feeds: Mapping[str, str], parameters: list[str]) -> None:
        taken = set(feeds.values())
        covered = taken.union(*(DERIVED[name].stands_for for name in taken if name in DERIVED))
        missing = [name for name in kind.arguments if name not in covered | kind.optional]
        unknown = [name for name in [*self.calling.names.values(), *self.calling.constants] if name not in parameters]
        if missing or unknown:
            what = f"does not take {missing[0]!r}" if missing else f"has no parameter {unknown[0]!r}"
            todo = f"Map it to one of its parameters ({', '.join(parameters)}): --map {missing[0]}=..." if missing else f"It has {', '.join(parameters)}."
            raise Misuse(f"{_title(self.function)} {what}.\n{todo}")

    def _give(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        dtype = np.float64 if self.calling.flags == "float" and value.dtype == np.bool_ else value.dtype
        value = np.array(value.swapaxes(0, 1) if self.swap and value.ndim > 1 else value, dtype)  # a copy: it may be written into
        if not self.tensors:
            return value
        import torch

        return torch.from_numpy(value)

    def _take(self, result: Any) -> NDArray[np.float64]:
        wanted = self.calling.result
        if wanted is not None:
            result = _part(result, wanted)
        elif isinstance(result, tuple | list | Mapping):
            parts = list(result) if isinstance(result, Mapping) else list(getattr(result, "_fields", range(len(result))))
            raise Misuse(f"{_title(self.function)} returned {len(result)} results.\nSay which is meant: --result, one of {', '.join(map(str, parts))}.")
        array = _numpy(result).astype(np.float64)
        return array.swapaxes(0, 1) if self.swap and array.ndim > 1 else array


def _numpy(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.double() if value.is_floating_point() else value).numpy()  # NumPy knows no bfloat16
    return np.asarray(value)


def _part(result: Any, wanted: str) -> Any:
    """Return an attribute, an entry or an element of a result."""
    try:
        if isinstance(result, Mapping):
            return result[wanted]
        return result[int(wanted)] if wanted.lstrip("-").isdigit() else getattr(result, wanted)
    except (LookupError, AttributeError, TypeError) as error:
        raise Misuse(f"The result, a {type(result).__name__}, has no {wanted!r}.\nLeave --result out to see what there is.") from error


def _title(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
