"""Where episodes begin: lists, files, data sets, the beginnings of a grammar's texts, and held-out parts of each.

A source is finite, indexed and never changes. Building one may cost (a file, a grammar); the registered ones are built once a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..film_reviews import film_reviews
from ..grammar import Grammar
from ..task import Prompt, PromptSource, Tokenizer
from .data_sets import DataSet, DataSetPrompts, refuse_other_data_sets
from .tables import SUFFIXES, Column, read_columns

SPLITS = ("train", "val", "test")


class ListPrompts:
    """The prompts of a list, given as texts or as `Prompt`s; equal to a list of equal prompts, so that what is worked out of one serves the other."""

    def __init__(self, prompts: Iterable[str | Prompt]) -> None:
        if isinstance(prompts, str):
            raise TypeError(f"ListPrompts takes a list of texts, not the one text {prompts!r}; put it into a list.")
        self._prompts = tuple(Prompt(p) if isinstance(p, str) else p for p in prompts)
        if not self._prompts:
            raise ValueError("The list of prompts is empty; give at least one (an empty text '' is a prompt, too).")
        if wrong := [p for p in self._prompts if not isinstance(p, Prompt)]:
            raise TypeError(f"A prompt is a str or a textgym Prompt, not {type(wrong[0]).__name__}.")
        for name, values in (("text", (p.text for p in self._prompts)), ("reference", ("" if p.reference is None else p.reference for p in self._prompts))):
            if mistyped := [value for value in values if not isinstance(value, str)]:
                raise TypeError(f"The {name} of a prompt is a str, not {mistyped[0]!r}; spell it, and put what is no text into its data.")

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int, /) -> Prompt:
        return self._prompts[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ListPrompts):
            return NotImplemented
        try:
            return self._prompts == other._prompts
        except Exception:  # arrays and tensors in a prompt's data: they are equal in many places or none, and refuse to say
            return False

    def __hash__(self) -> int:
        return hash(tuple(prompt.text for prompt in self._prompts))


class GrammarPrompts(ListPrompts):
    """The first words of `num` distinct texts of a grammar; the rest of each text is the prompt's reference.

    How many words, `min_words` to `max_words`, is drawn by the same generator; at least one word is always left to write.
    """

    def __init__(self, grammar: Grammar, num: int = 4096, seed: int = 0, min_words: int = 2, max_words: int = 6) -> None:
        if not 0 <= min_words <= max_words:
            raise ValueError(f"min_words={min_words}, max_words={max_words}: give 0 <= min_words <= max_words.")
        generator = np.random.default_rng(seed)
        cuts: dict[tuple[str, ...], int] = {}
        for _ in range(draws := 20 * num + 1000):
            text, cut = tuple(grammar.sample(generator)), int(generator.integers(min_words, max_words + 1))
            if len(text) > min_words:
                cuts.setdefault(text, min(cut, len(text) - 1))
            if len(cuts) >= num:
                break
        else:
            raise ValueError(f"The grammar gave {len(cuts)} distinct texts of more than {min_words} words in {draws} draws; ask for num={len(cuts)} or fewer.")
        super().__init__(Prompt(" ".join(text[:cut]), reference=" ".join(text[cut:])) for text, cut in cuts.items())


@dataclass(frozen=True)
class Subset:
    """The prompts of another source at these indices."""

    source: PromptSource
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Prompt:
        return self.source[self.indices[index]]


@dataclass(frozen=True)
class FirstTokens:
    """Each text cut after its first `k` tokens; the rest is the reference. A text of k tokens or fewer keeps its last one for the reference."""

    source: PromptSource
    tokenizer: Tokenizer
    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k={self.k} leaves no prompt; give 1 or more tokens.")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> Prompt:
        prompt = self.source[index]
        ids = self.tokenizer.encode(prompt.text)
        cut = max(1, min(self.k, len(ids) - 1))
        return Prompt(self.tokenizer.decode(ids[:cut]), tuple(ids[:cut]), self.tokenizer.decode(ids[cut:]), prompt.data)


def load_file(
    path: str | Path,
    text_column: Column | None = None,
    label_column: Column | None = None,
    reference_column: Column | None = None,
    header: bool | None = None,
) -> ListPrompts:
    """Return the prompts of a .txt, .tsv, .csv or .jsonl file; a label becomes `data["label"]` (see `tables.read_columns`)."""
    columns = {"text": text_column, "label": label_column, "reference": reference_column}
    return ListPrompts(_prompt(row) for row in read_columns(path, columns, header))


def load_texts(
    path: str | Path, text_column: Column | None = None, label_column: Column | None = None, header: bool | None = None
) -> tuple[list[str], list[Any]]:
    """Return the texts of a file and their labels, an empty list if `label_column` is None: what warm-up and classifiers train on."""
    rows = list(read_columns(path, {"text": text_column, "label": label_column}, header))
    return [row["text"] for row in rows], [_label(row["label"]) for row in rows if "label" in row]


def split(source: PromptSource, name: str, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> PromptSource:
    """Return the "train", "val" or "test" part of `source`, or "all" of it.

    A hash of the prompt's text decides, so that equal prompts fall on the same side, on every machine,
    and a prompt stays where it was when others are added. The parts' sizes are therefore only near `fractions`.
    """
    if name == "all":
        return source
    if name not in SPLITS:
        raise ValueError(f"There is no split {name!r}; give one of {[*SPLITS, 'all']}.")
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions={tuple(fractions)} must be three numbers (train, val, test) that add up to 1.")
    parts = np.searchsorted(np.cumsum(fractions[:-1]), _hashes(source), side="right")
    indices = tuple(np.flatnonzero(parts == SPLITS.index(name)).tolist())
    if not indices:
        raise ValueError(f"The split {name!r} of {len(source)} prompts is empty; give more prompts, another fraction, or use 'all'.")
    return Subset(source, indices)


@cache
def _film_reviews() -> GrammarPrompts:
    return GrammarPrompts(film_reviews())


PROMPTS: dict[str, Callable[[], PromptSource]] = {"film_reviews": _film_reviews}


def _from_path(path: Path) -> PromptSource:
    """Return the prompts of a file, read again only after it has changed: environments are made in loops."""
    if not path.is_file():
        return load_file(path)  # says what is wrong
    status = path.stat()
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, modified: int, size: int) -> PromptSource:
    return load_file(path)


def make(prompts: str | Path | Sequence[str | Prompt] | DataSet | PromptSource) -> PromptSource:
    """Return a source by its registered name, from a file (a path ending in .txt, .tsv, .csv or .jsonl), a list, a `datasets.Dataset`, or as it is."""
    if isinstance(prompts, str) and prompts in PROMPTS:
        return PROMPTS[prompts]()
    if isinstance(prompts, Path) or (isinstance(prompts, str) and prompts.endswith(SUFFIXES)):
        return _from_path(Path(prompts))
    if isinstance(prompts, str):
        near = get_close_matches(prompts, PROMPTS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{prompts!r} is neither a known prompt source nor a file ending in {', '.join(SUFFIXES)}; did you mean {near!r}? Known are {sorted(PROMPTS)}."
        )
    if isinstance(prompts, list | tuple):
        return ListPrompts(prompts)
    refuse_other_data_sets(prompts)
    if isinstance(prompts, DataSet):
        return DataSetPrompts(prompts)
    if isinstance(prompts, PromptSource):
        return _checked(prompts)
    raise TypeError(
        f"A prompt source has a length and gives a Prompt at each index; {type(prompts).__name__} does not. Give a name, a path, a list or such an object."
    )


def _checked(source: PromptSource) -> PromptSource:
    """Return `source`; raises `TypeError` for arrays, columns and dictionaries of texts, which have a length and indices, too."""
    try:
        good = not len(source) or hasattr(source[0], "text")  # that it is empty is said where it is read
    except LookupError:
        good = False
    if not good:
        raise TypeError(f"A prompt source gives a Prompt at each index from 0 on, and this {type(source).__name__} does not: give a list of its texts.")
    return source


_HASHES: WeakKeyDictionary[PromptSource, np.ndarray[Any, np.dtype[np.float64]]] = WeakKeyDictionary()


def _hashes(source: PromptSource) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a number in [0, 1) for each prompt, from its text alone; kept while the source lives, as environments are made in loops."""
    try:
        if (known := _HASHES.get(source)) is not None:
            return known
    except TypeError:  # a source that cannot be hashed or weakly referenced is hashed afresh
        return np.array(list(_hash(source)))
    _HASHES[source] = np.array(list(_hash(source)))
    return _HASHES[source]


def _hash(source: PromptSource) -> Iterator[float]:
    for i in range(len(source)):
        digest = blake2b(source[i].text.encode("utf-8"), digest_size=6).digest()
        yield int.from_bytes(digest, "big") / 2**48


def _prompt(row: dict[str, Any]) -> Prompt:
    data = {"label": _label(row["label"])} if "label" in row else {}
    return Prompt(row["text"], reference=row.get("reference"), data=data)


def _label(cell: Any) -> Any:
    """Return the integer that a cell spells; any other label as it stands."""
    return int(cell) if isinstance(cell, str) and cell.strip().removeprefix("-").isdecimal() else cell
