"""Texts out of files: one a line, columns of .tsv and .csv, or .jsonl; every error names the file, the line and the fix."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Column = int | str
SUFFIXES = (".txt", ".tsv", ".csv", ".jsonl")


def read_columns(path: str | Path, columns: Mapping[str, Column | None], header: bool | None = None) -> Iterator[dict[str, Any]]:
    """Yield for each row of the file the cells named by `columns`, {role: column}; a column of None is left out.

    In .tsv and .csv a column is a position (then the first line is data) or a name (then it is the header); `header` overrules that.
    Without a "text" column the column of that name is taken if the first line holds it, otherwise the first one.
    In .jsonl a column is a key; in .txt the line is the text. Empty lines are passed over.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: texts are read from {', '.join(SUFFIXES)}; rename the file, or read it yourself and pass a list.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; check the path (it is relative to {Path.cwd()}).")
    wanted = {role: column for role, column in columns.items() if column is not None}
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = list(_rows(path, lines, wanted, header))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8.") from error
    if not rows:
        raise ValueError(f"{path} holds no rows; give a file with at least one text.")
    yield from rows


def _rows(path: Path, lines: Iterator[str], columns: Mapping[str, Column], header: bool | None) -> Iterator[dict[str, Any]]:
    if path.suffix == ".txt":
        if extra := [column for role, column in columns.items() if role != "text" or column != 0]:
            raise ValueError(f"{path}: a .txt file has one text a line and no columns ({extra[0]!r} was asked for); use .tsv, .csv or .jsonl.")
        return ({"text": text} for line in lines if (text := line.strip()))
    if path.suffix == ".jsonl":
        return _objects(path, lines, {"text": "text", **columns})
    return _cells(path, lines, columns, header)


def _objects(path: Path, lines: Iterator[str], columns: Mapping[str, Column]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno}); write one object a line.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: {type(row).__name__} where an object was expected; write one object a line.")
        for column in columns.values():
            if column not in row:
                raise ValueError(f"{path}, line {number}: no key {column!r} among {sorted(row)}; name the key that holds it (text_column=...).")
        for role, kinds in (("text", str), ("reference", str | None)):
            if role in columns and not isinstance(row[columns[role]], kinds):
                kind = type(row[columns[role]]).__name__
                raise ValueError(f"{path}, line {number}: {columns[role]!r} is {kind}, not a string; name another key ({role}_column=...), or spell it.")
        yield {role: row[column] for role, column in columns.items()}


def _cells(path: Path, lines: Iterator[str], columns: Mapping[str, Column], header: bool | None) -> Iterator[dict[str, Any]]:
    tabs = path.suffix == ".tsv"  # data sets that come as .tsv mean quotes as letters
    reader = csv.reader(lines, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL, strict=True)
    places: dict[str, int] | None = None
    width = 0
    for row, number in _numbered(path, reader):
        if places is None:
            width = len(row)
            named = header if header is not None else any(isinstance(c, str) for c in columns.values()) or ("text" not in columns and "text" in row)
            places = _places(path, row, columns, named)
            if named:
                continue
        if len(row) != width:
            raise ValueError(f"{path}, line {number}: {len(row)} columns where the first line has {width}; mend the line (a stray tab, comma or quote?).")
        yield {role: row[place] for role, place in places.items()}


def _numbered(path: Path, reader: Any) -> Iterator[tuple[list[str], int]]:
    try:
        yield from ((row, reader.line_num) for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; mend the quotes of this line.") from error


def _places(path: Path, first: Sequence[str], columns: Mapping[str, Column], named: bool) -> dict[str, int]:
    text: Column = "text" if named and "text" in first else 0
    places = {}
    for role, column in {"text": text, **columns}.items():
        if isinstance(column, str):
            if not named or column not in first:
                why = f"the header reads {list(first)}" if named else "the file was said to have no header"
                raise ValueError(f"{path}, line 1: no column {column!r}: {why}; name one of its columns, or give a position from 0.")
            places[role] = first.index(column)
        elif not 0 <= column < len(first):
            raise ValueError(f"{path}, line 1: no column {column}, the line has {len(first)}; give a position from 0 to {len(first) - 1}.")
        else:
            places[role] = column
    return places
