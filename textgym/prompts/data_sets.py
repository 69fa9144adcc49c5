"""Prompts out of a `datasets.Dataset`, which is known by its shape: that library is never imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, Self, runtime_checkable

from ..task import Prompt

TEXT_COLUMNS = ("prompt", "text")  # looked for in this order
REFERENCE_COLUMN = "reference"


@runtime_checkable
class DataSet(Protocol):
    """What is asked of a data set: columns by name, rows by number."""

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...

    def with_format(self, type: str | None = None, /) -> Self:
        """Return the same rows as Python values (None)."""
        ...


class _Row(Mapping[str, Any]):
    """A row's columns, read when they are asked for: a column may hold images."""

    def __init__(self, data: DataSet, index: int, names: tuple[str, ...]) -> None:
        self._data, self._index, self._names = data, index, names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._data[self._index][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class DataSetPrompts:
    """The prompts of a `datasets.Dataset`; those of one data set by the same columns are equal, so that what is worked out of one serves the other.

    Args:
        data: the data set.
        text_column: where the prompts stand; None: "prompt" or "text".
        reference_column: where each prompt's reference stands; None: "reference", if there is one.

    Every other column stands in a prompt's `data`.

    Raises:
        ValueError: if there are no rows, no such column, or a row without a text; for conversations, which a chat template has to spell first.
    """

    def __init__(self, data: DataSet, text_column: str | None = None, reference_column: str | None = None) -> None:
        if not len(data):
            raise ValueError("The data set has no rows; give at least one prompt.")
        names = list(data.column_names)
        text = _found(names, text_column, TEXT_COLUMNS, "text_column")
        wanted = reference_column is not None or REFERENCE_COLUMN in names
        reference = _found(names, reference_column, (REFERENCE_COLUMN,), "reference_column") if wanted else None
        self._key = (data, text, reference)
        self._data = data.with_format(None)  # a format (numpy, torch) would hand over other things than texts
        self._rest = tuple(name for name in names if name not in (text, reference))
        self._texts: list[str] = list(self._data[text][:])
        self._references: list[str | None] | None = None if reference is None else list(self._data[reference][:])
        if wrong := [i for i, value in enumerate(self._texts) if not isinstance(value, str)]:
            raise ValueError(_not_a_text(text, wrong[0], self._texts[wrong[0]]))
        if wrong := [i for i, value in enumerate(self._references or ()) if not isinstance(value, str | None)]:
            raise ValueError(f"Row {wrong[0]} of {reference!r} is {type((self._references or [])[wrong[0]]).__name__}, not a text: spell it, str(...).")

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int, /) -> Prompt:
        text, reference = self._texts[index], None if self._references is None else self._references[index]
        return Prompt(text, reference=reference, data=_Row(self._data, index, self._rest))

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, DataSetPrompts) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)


def refuse_other_data_sets(prompts: Any) -> None:
    """Raise `TypeError` for what is like a data set and is none: a dictionary of splits, or a stream."""
    if not hasattr(prompts, "column_names"):
        return
    if isinstance(prompts, Mapping):
        raise TypeError(f"{type(prompts).__name__} holds the splits {list(prompts)}: give one of them, prompts[{next(iter(prompts), 'train')!r}].")
    if not isinstance(prompts, DataSet):
        raise TypeError(
            f"{type(prompts).__name__} is a stream, and prompts are chosen by index, again and again: "
            "give a part of it that has a length, datasets.Dataset.from_list(list(stream.take(10_000)))."
        )


def _found(names: list[str], asked: str | None, usual: tuple[str, ...], argument: str) -> str:
    for name in usual if asked is None else (asked,):
        if name in names:
            return name
    looked = " or ".join(map(repr, usual)) if asked is None else repr(asked)
    raise ValueError(
        f"The data set has no column {looked}, but {names}: rename one (data.rename_column(...)), or name it: "
        f"textgym.prompts.DataSetPrompts(data, {argument}=...)."
    )


def _not_a_text(column: str, row: int, value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return (
            f"Row {row} of {column!r} is a conversation, and an episode begins with a text: spell it by the chat template of your model's tokenizer, "
            f"data.map(lambda row: {{{column!r}: tokenizer.apply_chat_template(row[{column!r}], tokenize=False, add_generation_prompt=True)}})."
        )
    return f"Row {row} of {column!r} is {type(value).__name__}, not a text: leave such rows out (data.filter(...)), or name another column."
