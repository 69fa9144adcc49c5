"""Tokenizers of a few lines each: words, characters, bytes. Picklable, equal where they spell alike, and described by JSON values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class Spelled:
    """A tokenizer that its JSON description defines entirely: equality, hash and representation follow from it."""

    kind: str

    def description(self) -> dict[str, Any]:
        """Return what `load` needs to build the tokenizer again, as JSON values."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return self.description() == other.description() if isinstance(other, Spelled) else NotImplemented

    def __hash__(self) -> int:
        return hash(json.dumps(self.description()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, eos_id={self.eos_id})"

    vocab_size: int
    eos_id: int


class WordTokenizer(Spelled):
    """Words between blanks: id i is `words[i]`, and EOS is one of the words (added at the end if it is not there).

    A word outside the vocabulary is an error, unless `unk` names the word that stands for all of them.
    """

    kind = "words"

    def __init__(self, words: Iterable[str], eos: str = "<eos>", unk: str | None = None) -> None:
        if eos == unk:
            raise ValueError(f"eos and unk are both {eos!r}; give unk a name of its own, or an unknown word would end the text.")
        given = tuple(_several(words, "words"))
        extra = [word for word in (unk, eos) if word is not None and word not in given]
        self.words = (*given, *extra)
        self.eos, self.unk = eos, unk
        if bad := [word for word in self.words if not isinstance(word, str) or word.split() != [word]]:
            raise ValueError(f"A word must be one piece without blanks, not {bad[0]!r}; split it, or leave it out.")
        if repeated := [word for word, n in Counter(self.words).items() if n > 1]:
            raise ValueError(f"The words must be distinct, but {repeated[0]!r} comes twice: leave one of them out.")
        self._ids = {word: i for i, word in enumerate(self.words)}
        self.vocab_size = len(self.words)
        self.eos_id = self._ids[eos]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None = None, eos: str = "<eos>", unk: str | None = "<unk>") -> WordTokenizer:
        """Return the tokenizer of the most frequent words, `vocab_size` ids in all (None: every word), EOS and unk included."""
        special = {eos} if unk is None else {eos, unk}
        counts = Counter(word for text in _several(texts, "texts") for word in text.split() if word not in special)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        room = len(ranked) if vocab_size is None else vocab_size - len(special)
        if room < 0 or not ranked:
            raise ValueError(f"vocab_size={vocab_size} and {len(ranked)} distinct words leave no vocabulary; give texts, and room for {sorted(special)}.")
        return cls(ranked[:room], eos, unk)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the words of `text`, without EOS; raises `ValueError` naming a word that is not known."""
        try:
            ids = [self._ids[word] for word in text.split()]
        except KeyError:
            if self.unk is None:
                raise ValueError(self._unknown(text)) from None
            unk = self._ids[self.unk]
            ids = [self._ids.get(word, unk) for word in text.split()]
        if self.eos_id in ids:
            raise ValueError(f"The text holds {self.eos!r}, which ends a text: leave it out, and append eos_id where an end is wanted.")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words of `ids`, joined by blanks; EOS is left out."""
        words, eos = self.words, self.eos_id  # looked up once a text, not once a word
        if len(ids) and min(ids) < 0:
            raise ValueError(_outside(ids, self.vocab_size))
        try:
            return " ".join([words[i] for i in ids if i != eos])
        except IndexError:
            raise ValueError(_outside(ids, self.vocab_size)) from None

    def description(self) -> dict[str, Any]:
        """Return the words, EOS and unk."""
        return {"kind": self.kind, "words": list(self.words), "eos": self.eos, "unk": self.unk}

    def _unknown(self, text: str) -> str:
        word = next(word for word in text.split() if word not in self._ids)
        near = get_close_matches(word, self.words, n=1, cutoff=0.0)[0]
        return (
            f"{word!r} is not among the {self.vocab_size} words of this tokenizer; the nearest is {near!r}. Or name a word for all unknown ones: unk='<unk>'."
        )


class CharTokenizer(Spelled):
    """One id a character, in the order given, and EOS as the last id."""

    kind = "characters"

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = tuple(characters)
        if bad := [c for c in self.characters if len(c) != 1]:
            raise ValueError(f"{bad[0]!r} is not one character; give a string, or single characters.")
        if len(set(self.characters)) != len(self.characters):
            raise ValueError("The characters must be distinct; CharTokenizer.train(texts) collects them.")
        self._ids = {c: i for i, c in enumerate(self.characters)}
        self.eos_id = len(self.characters)
        self.vocab_size = self.eos_id + 1

    @classmethod
    def train(cls, texts: Iterable[str]) -> CharTokenizer:
        """Return the tokenizer of all characters that occur in `texts`, sorted."""
        characters = sorted(set().union(*map(set, texts)))
        if not characters:
            raise ValueError("The texts hold no character; give at least one text that is not empty.")
        return cls(characters)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the characters, without EOS; raises `ValueError` naming a character that is not known."""
        try:
            return [self._ids[c] for c in text]
        except KeyError:
            at = next(i for i, c in enumerate(text) if c not in self._ids)
            raise ValueError(f"The character {text[at]!r} (place {at}) is not in this tokenizer; train it on texts that hold it, or use 'byte'.") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the characters of `ids`; EOS is left out."""
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(_outside(ids, self.vocab_size))
        return "".join([self.characters[i] for i in ids if i != self.eos_id])

    def description(self) -> dict[str, Any]:
        """Return the characters."""
        return {"kind": self.kind, "characters": "".join(self.characters)}


class ByteTokenizer(Spelled):
    """The 256 bytes of UTF-8, and EOS as id 256: spells every text there is."""

    kind = "bytes"
    vocab_size = 257
    eos_id = 256

    def encode(self, text: str) -> list[int]:
        """Return the bytes of `text` in UTF-8, without EOS."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of those bytes, U+FFFD where they are no UTF-8; EOS is left out."""
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(_outside(ids, self.vocab_size))
        return bytes([i for i in ids if i != self.eos_id]).decode("utf-8", errors="replace")

    def description(self) -> dict[str, Any]:
        """Return the kind alone: there is nothing to choose."""
        return {"kind": self.kind}


def _several(texts: Iterable[str], what: str) -> Iterable[str]:
    """Return `texts`; raises `TypeError` for one text, which would be read letter by letter."""
    if isinstance(texts, str):
        raise TypeError(f"A tokenizer is made of a list of {what}, not of the one text {texts[:80]!r}; put it into a list, or split it.")
    return texts


def _outside(ids: Sequence[int], vocab_size: int) -> str:
    bad = next(i for i in ids if not 0 <= i < vocab_size)
    return f"The id {bad} lies outside [0, {vocab_size}); leave pads (id {vocab_size}) out before decoding."
