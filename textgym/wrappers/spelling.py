"""The space of the texts that a tokenizer can spell."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gymnasium.spaces import Text

from ..task import Tokenizer, WordLevel


class AnyText(Text):
    """Texts of any characters up to a length: bytes can spell all of Unicode, which no list should hold. Samples are plain letters."""

    def contains(self, x: Any) -> bool:
        """Return whether `x` is a str of a length within the bounds."""
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length


def text_space(tokenizer: Tokenizer, num_tokens: int) -> Text:
    """Return the space of all texts of `num_tokens` tokens at most: of word-level tokenizers by their characters, of others by length alone."""
    if isinstance(tokenizer, WordLevel):
        characters = frozenset(" ").union(*tokenizer.words)
        return Text(num_tokens * (max(map(len, tokenizer.words)) + 1), min_length=0, charset=characters)
    return AnyText(num_tokens * (_longest(tokenizer) + 1), min_length=0)


def _longest(tokenizer: Tokenizer) -> int:
    try:
        return _kept(tokenizer)  # type: ignore[arg-type]
    except TypeError:  # a tokenizer that cannot be hashed
        return _kept.__wrapped__(tokenizer)


@lru_cache(maxsize=16)
def _kept(tokenizer: Tokenizer) -> int:
    """Return the length of the longest token's text; a text is no longer than its tokens and a blank after each."""
    return max(len(tokenizer.decode([i])) for i in range(tokenizer.vocab_size))
