"""The kinds of functions that can be judged, their properties and their cases, as read from `vectors/*.json`.

Axis legend: T steps, N environments, B texts, L tokens, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Inputs = dict[str, Any]  # argument -> array or number


class Case(NamedTuple):
    """One call with a known answer, or two calls whose answers are related."""

    why: str  # the sum by hand
    inputs: Inputs
    expected: NDArray[np.float64] | None  # what must come out; None where the case is a relation
    other: Inputs | None  # a second call, with these inputs in place of the first one's: result = factor * result of the second
    factor: float
    compare: NDArray[np.bool_] | None  # the entries that are read; all if None
    compare_other: NDArray[np.bool_] | None  # the same of the second call
    needs: frozenset[str]  # arguments without which a function cannot know the answer
    rtol: float
    atol: float

    @property
    def size(self) -> int:
        """Return how many numbers go in."""
        return sum(np.size(value) for value in self.inputs.values())


class Property(NamedTuple):
    """Something that a correct function keeps."""

    name: str
    breaks: str  # what is wrong with a function that does not
    todo: str
    seen_in: tuple[str, ...]  # public reports of the break
    cases: tuple[Case, ...]


class Kind(NamedTuple):
    """Functions that do the same, by a canonical signature."""

    name: str
    also_called: tuple[str, ...]
    sentence: str
    definition: str
    source: str
    layout: str  # of its arrays: "time_first" or "batch_first"
    arguments: Mapping[str, str]  # canonical name -> shape and meaning
    optional: frozenset[str]  # arguments that a function may do without
    result: str
    properties: tuple[Property, ...]


def names() -> list[str]:
    """Return the names of all kinds, sorted."""
    return sorted(path.name.removesuffix(".json") for path in (files(__package__) / "vectors").iterdir() if path.name.endswith(".json"))


def load(name: str) -> Kind:
    """Return the kind called `name`; raises `FileNotFoundError` if there is none."""
    return read(json.loads((files(__package__) / "vectors" / f"{name}.json").read_text(encoding="utf-8")))


def read(data: Mapping[str, Any]) -> Kind:
    """Return the kind that a JSON object describes: fields as in `Kind`, `Property` and `Case`, lists for arrays, null for NaN."""
    arguments: dict[str, str] = data["arguments"]
    return Kind(
        name=data["kind"],
        also_called=tuple(data["also_called"]),
        sentence=data["sentence"],
        definition=data["definition"],
        source=data["source"],
        layout=data["layout"],
        arguments=arguments,
        optional=frozenset(data["optional"]),
        result=data["result"],
        properties=tuple(_property(entry, arguments) for entry in data["properties"]),
    )


def _property(data: Mapping[str, Any], arguments: Mapping[str, str]) -> Property:
    cases = tuple(_case(entry, arguments) for entry in data["cases"])
    return Property(data["name"], data["breaks"], data["todo"], tuple(data["seen_in"]), cases)


def _case(data: Mapping[str, Any], arguments: Mapping[str, str]) -> Case:
    def arrays(values: Mapping[str, Any]) -> Inputs:
        return {name: _array(value, arguments[name], data.get("dtype", "float64")) for name, value in values.items()}

    def mask(name: str) -> NDArray[np.bool_] | None:
        return np.array(data[name], dtype=bool) if name in data else None

    return Case(
        why=data["why"],
        inputs=arrays(data["inputs"]),
        expected=np.array(data["expected"], dtype=np.float64) if "expected" in data else None,
        other=arrays(data["other"]) if "other" in data else None,
        factor=data.get("factor", 1.0),
        compare=mask("compare"),
        compare_other=mask("compare_other" if "compare_other" in data else "compare"),
        needs=frozenset(data.get("needs", ())),
        rtol=data.get("rtol", 1e-5),  # float32 is good enough, unless a case is about it
        atol=data.get("atol", 1e-5),
    )


def _array(value: Any, meaning: str, dtype: str) -> Any:
    """Return a list as an array whose type its meaning names ("[B, L] bool"), null as NaN; numbers stay numbers."""
    if not isinstance(value, list):
        return value
    return np.array(value, dtype=next((exact for exact in ("bool", "int64") if exact.removesuffix("64") in meaning), dtype))
