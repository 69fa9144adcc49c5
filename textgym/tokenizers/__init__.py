"""Tokenizers by name, by folder, or as objects.

Words, characters and bytes (`plain`) depend on nothing and are saved as one JSON file;
`hf` adapts whatever `transformers` brings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from ..film_reviews import film_reviews
from ..task import Tokenizer
from .hf import TransformersTokenizer, to_transformers, train_bpe
from .plain import ByteTokenizer, CharTokenizer, Spelled, WordTokenizer

__all__ = [
    "TOKENIZERS",
    "ByteTokenizer",
    "CharTokenizer",
    "TransformersTokenizer",
    "WordTokenizer",
    "load",
    "make",
    "save",
    "to_transformers",
    "train_bpe",
]

FILE_NAME = "textgym_tokenizer.json"  # not tokenizer.json: a folder may hold the files of transformers beside ours


def save(tokenizer: TransformersTokenizer | Spelled | Tokenizer, folder: str | Path) -> None:
    """Write `tokenizer` into `folder` so that `load` returns its equal: one JSON file, or the files of transformers."""
    if not isinstance(tokenizer, TransformersTokenizer | Spelled):
        raise TypeError(f"{type(tokenizer).__name__} is none of this module's tokenizers; save it yourself and hand the object in again.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, TransformersTokenizer):
        tokenizer.tokenizer.save_pretrained(str(folder))
    else:
        (Path(folder) / FILE_NAME).write_text(json.dumps(tokenizer.description(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(folder: str | Path) -> Tokenizer:
    """Return the tokenizer that `save`, or transformers' `save_pretrained`, wrote into `folder`."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return TransformersTokenizer.from_folder(folder)
    try:
        description = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} describes no tokenizer ({error}); write it with textgym.tokenizers.save.") from error
    kind = description.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"{path} describes a tokenizer of kind {kind!r}; known are {sorted(_KINDS)}.")
    try:
        return _KINDS[kind](**description)
    except TypeError as error:
        raise ValueError(f"{path} describes no tokenizer of {kind} ({error}); write it with textgym.tokenizers.save.") from error


@cache
def film_words() -> WordTokenizer:
    """Return the word tokenizer of the film reviews."""
    return WordTokenizer(film_reviews().words)


@cache
def _bytes() -> ByteTokenizer:
    return ByteTokenizer()


_KINDS: dict[str, Callable[..., Tokenizer]] = {kind.kind: kind for kind in (WordTokenizer, CharTokenizer, ByteTokenizer)}
TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {"film_reviews": film_words, "byte": _bytes}


def make(tokenizer: str | Path | Any) -> Tokenizer:
    """Return a tokenizer by its registered name, from the folder it was saved in, or the object itself, adapted where needed."""
    if isinstance(tokenizer, str) and tokenizer in TOKENIZERS:
        return TOKENIZERS[tokenizer]()
    if isinstance(tokenizer, str | Path):
        if Path(tokenizer).is_dir():
            return load(tokenizer)
        near = get_close_matches(str(tokenizer), TOKENIZERS, n=1, cutoff=0.0)[0]
        raise ValueError(f"{str(tokenizer)!r} is neither a known tokenizer nor a folder; did you mean {near!r}? Known are {sorted(TOKENIZERS)}.")
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if hasattr(tokenizer, "get_vocab"):  # transformers and tokenizers alike, without importing either
        return TransformersTokenizer(tokenizer)
    raise TypeError(
        f"A tokenizer has vocab_size, eos_id, encode and decode; {type(tokenizer).__name__} has not. Give a name of {sorted(TOKENIZERS)} or an object."
    )
