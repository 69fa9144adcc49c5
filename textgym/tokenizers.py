"""Tokenizers of four kinds: words, characters, bytes, and whatever `transformers` brings.

The first three are a few lines each, depend on nothing and are saved as one JSON file; the fourth is an adapter.
All are picklable, and equal where they spell alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from .film_reviews import film_reviews
from .task import Tokenizer

FILE_NAME = "textgym_tokenizer.json"  # not tokenizer.json: a folder may hold the files of transformers beside ours


class _Spelled:
    """A tokenizer that its JSON description defines entirely: equality, hash and representation follow from it."""

    kind: str

    def description(self) -> dict[str, Any]:
        """Return what `load` needs to build the tokenizer again, as JSON values."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return self.description() == other.description() if isinstance(other, _Spelled) else NotImplemented

    def __hash__(self) -> int:
        return hash(json.dumps(self.description()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, eos_id={self.eos_id})"

    vocab_size: int
    eos_id: int


class WordTokenizer(_Spelled):
    """Words between blanks: id i is `words[i]`, and EOS is one of the words (added at the end if it is not there).

    A word outside the vocabulary is an error, unless `unk` names the word that stands for all of them.
    """

    kind = "words"

    def __init__(self, words: Iterable[str], eos: str = "<eos>", unk: str | None = None) -> None:
        given = tuple(words)
        extra = [word for word in (unk, eos) if word is not None and word not in given]
        self.words = (*given, *extra)
        self.eos, self.unk = eos, unk
        if bad := next((word for word in self.words if word.split() != [word]), None):
            raise ValueError(f"A word must be one piece without blanks, not {bad!r}; split it.")
        if "" in self.words:
            raise ValueError("A word must not be empty; leave '' out.")
        if repeated := [word for word, n in Counter(self.words).items() if n > 1]:
            raise ValueError(f"The words must be distinct, but {repeated[0]!r} comes twice: leave one of them out.")
        if eos == unk:
            raise ValueError(f"eos and unk are both {eos!r}; give unk a name of its own, or an unknown word would end the text.")
        self._ids = {word: i for i, word in enumerate(self.words)}
        self.vocab_size = len(self.words)
        self.eos_id = self._ids[eos]

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int | None = None, eos: str = "<eos>", unk: str | None = "<unk>") -> WordTokenizer:
        """Return the tokenizer of the most frequent words, `vocab_size` ids in all (None: every word), EOS and unk included."""
        special = {eos} if unk is None else {eos, unk}
        counts = Counter(word for text in texts for word in text.split() if word not in special)
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
        if len(ids) and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(_outside(ids, self.vocab_size))
        return " ".join([self.words[i] for i in ids if i != self.eos_id])

    def description(self) -> dict[str, Any]:
        """Return the words, EOS and unk."""
        return {"kind": self.kind, "words": list(self.words), "eos": self.eos, "unk": self.unk}

    def _unknown(self, text: str) -> str:
        word = next(word for word in text.split() if word not in self._ids)
        near = get_close_matches(word, self.words, n=1, cutoff=0.0)[0]
        return (
            f"{word!r} is not among the {self.vocab_size} words of this tokenizer; the nearest is {near!r}. Or name a word for all unknown ones: unk='<unk>'."
        )


class CharTokenizer(_Spelled):
    """One id a character, in the order given, and EOS as the last id."""

    kind = "characters"

    def __init__(self, characters: Iterable[str]) -> None:
        self.characters = tuple(characters)
        if bad := next((c for c in self.characters if len(c) != 1), None):
            raise ValueError(f"{bad!r} is not one character; give a string, or single characters.")
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


class ByteTokenizer(_Spelled):
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


class TransformersTokenizer:
    """A tokenizer of `transformers`, or a bare `tokenizers.Tokenizer`, seen through this project's Protocol.

    `eos` names the token that ends a text where the tokenizer has none of its own.
    """

    def __init__(self, tokenizer: Any, eos: str | None = None) -> None:
        self.tokenizer = _fast(tokenizer, eos)
        if eos is not None and eos not in self.tokenizer.get_vocab():
            raise ValueError(f"eos={eos!r} is not a token of this tokenizer; name one of its tokens, or add it: tokenizer.add_special_tokens(...).")
        if eos is not None:
            self.tokenizer = deepcopy(self.tokenizer)  # the caller's own keeps its EOS
            self.tokenizer.eos_token = eos
        if self.tokenizer.eos_token_id is None:
            raise ValueError("This tokenizer has no EOS token, so no text could end; name one of its tokens: TransformersTokenizer(tokenizer, eos='</s>').")
        self.eos_id = int(self.tokenizer.eos_token_id)
        self.vocab_size = max(self.tokenizer.get_vocab().values()) + 1

    @classmethod
    def from_folder(cls, folder: str | Path, eos: str | None = None) -> TransformersTokenizer:
        """Return the tokenizer that `save_pretrained` wrote into `folder`; never looks on the network."""
        from transformers import AutoTokenizer

        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; give the one that the tokenizer was saved in (names of a hub are not looked up).")
        return cls(AutoTokenizer.from_pretrained(str(folder), local_files_only=True), eos)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without BOS or EOS."""
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; EOS is left out, other special tokens are shown."""
        kept = [i for i in ids if i != self.eos_id]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def __eq__(self, other: object) -> bool:
        return self._identity() == other._identity() if isinstance(other, TransformersTokenizer) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.vocab_size, self.eos_id))

    def __repr__(self) -> str:
        return f"TransformersTokenizer(vocab_size={self.vocab_size}, eos_id={self.eos_id})"

    def _identity(self) -> tuple[int, Any]:
        rust = getattr(self.tokenizer, "backend_tokenizer", None)  # merges and all; a tokenizer in Python shows its vocabulary only
        return self.eos_id, rust.to_str() if rust is not None else self.tokenizer.get_vocab()


def train_bpe(texts: Iterable[str], vocab_size: int, eos: str = "<eos>") -> TransformersTokenizer:
    """Return a byte-level BPE tokenizer (Sennrich et al. 2016, as in GPT-2) trained on `texts`; id 0 is EOS."""
    import tokenizers as rust

    if vocab_size < 257:
        raise ValueError(f"vocab_size={vocab_size} is too small; byte-level BPE begins with 256 bytes and EOS: give 257 or more.")
    tokenizer = rust.Tokenizer(rust.models.BPE())
    tokenizer.pre_tokenizer = rust.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = rust.decoders.ByteLevel()
    alphabet = sorted(rust.pre_tokenizers.ByteLevel.alphabet())
    trainer = rust.trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[eos], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(list(texts), trainer)
    return TransformersTokenizer(tokenizer, eos)


def to_transformers(tokenizer: WordTokenizer) -> Any:
    """Return a `PreTrainedTokenizerFast` with the same ids, so that a saved policy loads in plain transformers."""
    import tokenizers as rust

    if not isinstance(tokenizer, WordTokenizer):
        raise TypeError(f"Only a WordTokenizer is translated, not {type(tokenizer).__name__}; of a TransformersTokenizer take `.tokenizer`.")
    missing = "<no unknown words>"  # not in the vocabulary, so that an unknown word is an error there as it is here
    model = rust.models.WordLevel({word: i for i, word in enumerate(tokenizer.words)}, unk_token=tokenizer.unk or missing)
    bare = rust.Tokenizer(model)
    bare.pre_tokenizer = rust.pre_tokenizers.WhitespaceSplit()
    fast = _fast(bare, tokenizer.eos)
    if tokenizer.unk is not None:
        fast.unk_token = tokenizer.unk
    return fast


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write `tokenizer` into `folder` so that `load` returns its equal: one JSON file, or the files of transformers."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    if isinstance(tokenizer, TransformersTokenizer):
        tokenizer.tokenizer.save_pretrained(str(folder))
    elif isinstance(tokenizer, _Spelled):
        (Path(folder) / FILE_NAME).write_text(json.dumps(tokenizer.description(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    else:
        raise TypeError(f"{type(tokenizer).__name__} is none of this module's tokenizers; save it yourself and hand the object in again.")


def load(folder: str | Path) -> Tokenizer:
    """Return the tokenizer that `save`, or transformers' `save_pretrained`, wrote into `folder`."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return TransformersTokenizer.from_folder(folder)
    description = json.loads(path.read_text(encoding="utf-8"))
    kind = description.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"{path} describes a tokenizer of kind {kind!r}; known are {sorted(_KINDS)}.")
    return _KINDS[kind](**description)


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


def _fast(tokenizer: Any, eos: str | None) -> Any:
    """Return a bare `tokenizers.Tokenizer` dressed for transformers; anything else as it is."""
    if not type(tokenizer).__module__.startswith("tokenizers"):
        return tokenizer
    from transformers import PreTrainedTokenizerFast

    if eos is not None and tokenizer.token_to_id(eos) is None:
        return tokenizer  # refused by the caller, who can say why
    choice = {} if eos is None else {"eos_token": eos}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **choice)


def _outside(ids: Sequence[int], vocab_size: int) -> str:
    bad = next(i for i in ids if not 0 <= i < vocab_size)
    return f"The id {bad} lies outside [0, {vocab_size}); leave pads (id {vocab_size}) out before decoding."
