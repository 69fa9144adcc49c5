"""What users write of words and counts, held to what the tokenizer knows."""

from __future__ import annotations

import operator
from difflib import get_close_matches
from typing import Any

from ..task import Tokenizer, WordLevel


def token_id(word: str, tokenizer: Tokenizer, who: str) -> int:
    """Return the id of a text that is one token; raises `ValueError` otherwise, also where the tokenizer takes it for the unknown word."""
    if not isinstance(word, str):
        raise TypeError(f"{who}: {word!r} is no text; name tokens by their text.")
    if isinstance(tokenizer, WordLevel) and len(word.split()) < 2:  # not by `encode`, which may take any word for the unknown one
        if word not in tokenizer.words:
            near = get_close_matches(word, tokenizer.words, n=1, cutoff=0.0)[0]
            raise ValueError(f"{who}: {word!r} is not among the tokenizer's {len(tokenizer.words)} words; the nearest is {near!r}.")
        return list(tokenizer.words).index(word)
    ids = tokenizer.encode(word)
    if len(ids) != 1:
        raise ValueError(f"{who}: the tokenizer spells {word!r} with {len(ids)} tokens, {ids}; give texts of one token (mind leading blanks).")
    back = tokenizer.decode(ids)
    if back != word and (back.strip() != word.strip() or not back.strip()):  # one id may stand for all unknown words
        raise ValueError(f"{who}: the tokenizer does not know {word!r}: it reads {ids}, which is {back!r}. Give texts that are one token of it.")
    return ids[0]


def whole(number: Any, name: str) -> int:
    """Return a whole number of at least 1; raises `TypeError` or `ValueError` naming it otherwise."""
    try:
        found = operator.index(number)
    except TypeError:
        raise TypeError(f"{name}={number!r} must be a whole number of tokens, 1 or more.") from None
    if found < 1:
        raise ValueError(f"{name}={number} must be 1 or more tokens.")
    return found
