"""A job's choices as JSON, the `config.json` of its run folder, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from .. import advantages, masking, prompting_names, sft, surrogates
from ..kl import kl_price_from_json, kl_price_to_json
from .choices import COMMANDS, AnyJob, Job, Model, SFTJob, SFTText, Text, command_of

CONFIG = "config.json"

# The choices that are objects: how each becomes JSON, and comes back.
SPELLED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "advantage": (advantages.to_json, advantages.from_json),
    "surrogate": (surrogates.to_json, surrogates.from_json),
    "kl": (kl_price_to_json, kl_price_from_json),
    "prompting": (prompting_names.to_json, prompting_names.from_json),
    "nlpo": (masking.to_json, masking.from_json),
}


def to_json(choice: AnyJob) -> dict[str, Any]:
    """Return a job as JSON values; paths become absolute, so that the job can be repeated from anywhere."""
    name = command_of(choice)
    return {"command": name, **_values(choice.job), name: _values(choice.algorithm)}


def from_json(data: Mapping[str, Any]) -> AnyJob:
    """Return the job that `to_json` described; raises `ValueError` if it is none of these, or of another version."""
    rest: dict[str, Any] = dict(data)
    name = rest.pop("command", None)
    if name not in COMMANDS:
        raise ValueError(f"This configuration is of the command {name!r}, not of one of {', '.join(COMMANDS)}.")
    kind, config = COMMANDS[name]
    try:
        algorithm = config(**_read(rest.pop(name)))
        parts: dict[str, Any] = {"text": Text(**_typed(Text, rest.pop("text"))), "model": Model(**_typed(Model, rest.pop("model")))}
        if kind is not SFTText:
            parts["warmup"] = sft.Config(**rest.pop("warmup"))
        of_job = SFTJob if kind is SFTText else Job
        found: AnyJob = kind(of_job(**parts, **_typed(of_job, _read(rest))), algorithm)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"This configuration does not fit this version of the program: {error}.") from error
    return found


def read_config(path: Path) -> AnyJob:
    """Return the job that a `config.json` describes; raises `ValueError` that names the file where that cannot be done."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}. Name the {CONFIG} of a run folder that `python -m agents` wrote.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON, or damaged ({error}). Restore the file, or start the run anew with its options.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds {type(data).__name__} and no configuration. Name the {CONFIG} of a run folder that `python -m agents` wrote.")
    try:
        return from_json(data)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error} Name the {CONFIG} of a run of this version, or give the options themselves.") from error


def job_of(folder: Path) -> AnyJob:
    """Return the job of a run folder, wherever that has been moved to; raises `ValueError` if it is none."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is no run folder: it holds no {CONFIG}. Name one that `python -m agents` wrote, such as runs/NAME.")
    choice = read_config(folder / CONFIG)
    return in_folder(choice, folder)


def in_folder(choice: AnyJob, folder: Path | None) -> AnyJob:
    """Return the same job in another run folder; None: in a new one."""
    if isinstance(choice, SFTText):
        return replace(choice, job=replace(choice.job, folder=folder))
    return replace(choice, job=replace(choice.job, folder=folder))


def _values(choice: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in fields(choice):
        value = getattr(choice, one.name)
        if isinstance(value, Path):
            value = str(value.resolve())
        elif one.name in SPELLED and value is not None:
            value = SPELLED[one.name][0](value)
        elif isinstance(value, (Text, Model, sft.Config)):
            value = _values(value)
        found[one.name] = value
    return found


def _read(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with the choices that are objects as such."""
    return {name: SPELLED[name][1](value) if name in SPELLED and value is not None else value for name, value in data.items()}


def _typed(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with those strings as paths that `kind` annotates so, and lists, which is what JSON makes of them, as tuples."""
    path_names = {one.name for one in fields(kind) if "Path" in str(one.type)}
    typed = {name: Path(value) if name in path_names and value is not None else value for name, value in data.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in typed.items()}
