"""The text that each token adds: what a constraint on characters needs to know of a tokenizer.

Axis legend: V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from ..task import Tokenizer, WordLevel

BROKEN = "\ufffd"  # what decoding shows in place of bytes that are no UTF-8
SAMPLE = "Naïve cafés: 10 € for 2 films, “déjà vu” … über-gut 𝄞 日本 no 😀!"


class Pieces(NamedTuple):
    """What each of V tokens adds to a text, in UTF-8; None where that is nothing, or cannot be told: such a token is never allowed."""

    first: Sequence[bytes | None]  # [V] as the first token of a text; empty if the text loses it there, as some do a leading blank
    later: Sequence[bytes | None]  # [V] behind others: words bring their blank along


def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """Return the pieces of a tokenizer; raises `ValueError` if its texts are not its tokens' pieces, one behind the other."""
    try:
        return _kept(tokenizer)  # type: ignore[arg-type]
    except TypeError:  # a tokenizer that cannot be hashed
        return _pieces(tokenizer)


def _pieces(tokenizer: Tokenizer) -> Pieces:
    size, eos = tokenizer.vocab_size, tokenizer.eos_id
    if isinstance(tokenizer, WordLevel):
        words = [None if i == eos else word.encode("utf-8") for i, word in enumerate(tokenizer.words)]
        found = Pieces(words, [None if word is None else b" " + word for word in words])
    else:
        alone = [tokenizer.decode([i]) for i in range(size)]
        anchor = _anchor(tokenizer, alone)
        behind = [tokenizer.decode([anchor, i]).partition(alone[anchor]) for i in range(size)]
        later = [None if i == eos or before else _piece(tokenizer, i, text) or None for i, (before, _, text) in enumerate(behind)]
        first = [None if i == eos else _piece(tokenizer, i, text) for i, text in enumerate(alone)]
        found = Pieces([piece or (None if later[i] is None else piece) for i, piece in enumerate(first)], later)
    _check(tokenizer, found)
    return found


_kept = lru_cache(maxsize=8)(_pieces)


def _anchor(tokenizer: Tokenizer, alone: Sequence[str]) -> int:
    """Return the token with the most letters, behind which others are decoded; one letter may be a byte, and join with them."""
    letters = [len(text) if text.isalnum() and i != tokenizer.eos_id else 0 for i, text in enumerate(alone)]
    if not any(letters):
        raise ValueError(f"{tokenizer!r} has no token whose text is letters or digits, so nothing can be said of its characters.")
    return int(np.argmax(letters))


def _piece(tokenizer: Tokenizer, i: int, text: str) -> bytes | None:
    """Return the bytes of token i, whose decoded text this is; a part of a character is told by the token's own spelling."""
    if BROKEN not in text:
        return text.encode("utf-8")
    for candidate in _spelled(tokenizer, i):
        if candidate.decode("utf-8", errors="replace") == text:
            return candidate
    return None


def _spelled(tokenizer: Tokenizer, i: int) -> list[bytes]:
    inner = getattr(tokenizer, "tokenizer", None)  # of transformers
    if inner is None:
        return [bytes([i])] if i < 256 else []
    spelling = str(inner.convert_ids_to_tokens(i))
    if match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", spelling):  # the bytes that sentencepiece falls back to
        return [bytes([int(match[1], 16)])]
    table = _byte_letters()
    return [bytes(table[letter] for letter in spelling)] if all(letter in table for letter in spelling) else []


@cache
def _byte_letters() -> dict[str, int]:
    """Return the letter that stands for each byte in byte-level BPE (Radford et al. 2019, GPT-2): printable ones for themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def _check(tokenizer: Tokenizer, pieces: Pieces) -> None:
    """Compare the joined pieces with what is decoded: of a text in several scripts, and of random tokens."""
    first, later = (np.array([_is_text(piece) for piece in side]) for side in pieces)
    known = np.flatnonzero(first & later) if later.sum() > first.sum() / 2 else np.flatnonzero(first)
    rows = [_encoded(tokenizer), *np.random.default_rng(0).choice(known, size=(32, 6)).tolist()]
    for row in rows:
        parts = [*(pieces.first[i] for i in row[:1]), *(pieces.later[i] for i in row[1:])]
        joined = b"".join(part or b"" for part in parts).decode("utf-8", errors="replace")
        if joined != tokenizer.decode(row):
            raise ValueError(
                f"{tokenizer!r} decodes {row} to {tokenizer.decode(row)!r}, but its tokens alone add up to {joined!r}: "
                "characters cannot be followed through such a tokenizer. Constrain its tokens instead (AllowList, Automaton)."
            )


def _is_text(piece: bytes | None) -> bool:
    """Return whether a piece is text by itself; parts of characters at random are broken text, which each tokenizer shows in its own way."""
    return piece is not None and piece != b"" and BROKEN not in piece.decode("utf-8", errors="replace")


def _encoded(tokenizer: Tokenizer) -> list[int]:
    try:
        return tokenizer.encode(SAMPLE)
    except Exception:  # a small vocabulary, of which each tokenizer complains in its own way: random tokens must do
        return []
