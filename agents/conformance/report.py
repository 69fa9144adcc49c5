"""A report in words, and as JSON values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .judge import BROKEN, UNTOLD, Failure, Report, Verdict


def lines(report: Report, title: str) -> Iterator[str]:
    """Yield the report line by line: a verdict each, and what to know about the broken ones."""
    kind = report.kind
    yield f"{title} as {kind.name}: {kind.sentence}"
    yield f"  {kind.definition}"
    for verdict in report.verdicts:
        outcome = verdict.outcome.upper() if verdict.outcome == BROKEN else verdict.outcome
        yield f"{outcome:<15}{verdict.property.name}{_lacking(verdict)}"
        if verdict.failure:
            yield from (f"{'':<15}{line}" for line in _explained(verdict, verdict.failure))
    yield f"{len(report.broken)} of {len(report.verdicts)} properties broken, {len(report.untold)} cannot be told."


def _lacking(verdict: Verdict) -> str:
    if not verdict.untold:
        return ""
    reach = "" if verdict.outcome == UNTOLD else " in part"
    return f" (not asked{reach}: the function does not take {', '.join(verdict.untold)})"


def _explained(verdict: Verdict, failure: Failure) -> Iterator[str]:
    entry, case = verdict.property, failure.case
    yield "The function raises where a result is due." if failure.raised else entry.breaks
    yield f"case:   {case.why}"
    yield f"given:  {_inputs(case.inputs)}"
    if case.other:
        yield f"and:    {_inputs(case.other)}"
    yield f"wanted: {_text(failure.wanted)}"
    yield f"got:    {_text(failure.got)}"
    if failure.raised:
        return
    yield f"to do:  {entry.todo}"
    yield from (f"seen in {link}" for link in entry.seen_in)


def _inputs(inputs: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_text(value)}" for name, value in inputs.items())


def _text(value: Any) -> str:
    return np.array2string(value, separator=", ", precision=9).replace("\n", "") if isinstance(value, np.ndarray) else str(value)


def as_json(report: Report, title: str) -> dict[str, Any]:
    """Return the report as JSON values; NaN and infinity are spelled as text, which strict readers need."""
    return {
        "function": title,
        "kind": report.kind.name,
        "broken": report.broken,
        "cannot_be_told": report.untold,
        "verdicts": [_verdict(verdict) for verdict in report.verdicts],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    entry, failure = verdict.property, verdict.failure
    data: dict[str, Any] = {"property": entry.name, "outcome": verdict.outcome, "not_taken": list(verdict.untold)}
    if failure:
        shown = {"why": failure.case.why, "inputs": _plain(failure.case.inputs), "other": _plain(failure.case.other)}
        data |= {"breaks": entry.breaks, "todo": entry.todo, "seen_in": list(entry.seen_in), **shown}
        data |= {"wanted": _plain(failure.wanted), "got": _plain(failure.got)}
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
