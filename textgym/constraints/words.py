"""Lists of words: nothing but these, none of these.

Axis legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from ..allowed import Allowed
from ..core import BoolArray, IntArray
from ..task import Prefixes, Rules, Tokenizer, WordLevel
from .automaton import AutomatonRules
from .counting import Forgetful
from .lift import lift
from .pieces import pieces_of
from .registry import register
from .trie import without


def _words(words: Iterable[str], name: str) -> tuple[str, ...]:
    if isinstance(words, str):
        raise TypeError(f"{name} takes a list of words, not the one text {words!r}; put it into a list.")
    found = tuple(words)
    if not found or not all(isinstance(word, str) and word for word in found):
        raise ValueError(f"{name} needs at least one word, none of them empty; got {list(found)}.")
    return found


def _id(word: str, tokenizer: Tokenizer) -> int:
    """Return the id of a text that is one token."""
    if isinstance(tokenizer, WordLevel):  # not by `encode`, which may take any word for the unknown one
        if word not in tokenizer.words:
            near = get_close_matches(word, tokenizer.words, n=1, cutoff=0.0)[0]
            raise ValueError(f"AllowList: {word!r} is not among the tokenizer's {len(tokenizer.words)} words; the nearest is {near!r}.")
        return list(tokenizer.words).index(word)
    ids = tokenizer.encode(word)
    if len(ids) != 1:
        raise ValueError(f"AllowList: the tokenizer spells {word!r} with {len(ids)} tokens, {ids}; give texts of one token (mind leading blanks).")
    return ids[0]


@register("allow_list")
@dataclass(frozen=True, init=False)
class AllowList:
    """Nothing but these words (of other tokenizers: texts of one token), and EOS, which is always allowed with them."""

    words: tuple[str, ...]

    def __init__(self, words: Iterable[str]) -> None:
        object.__setattr__(self, "words", _words(words, "AllowList"))

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` naming a word that is not one token."""
        mask = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        mask[[tokenizer.eos_id, *(_id(word, tokenizer) for word in self.words)]] = True
        return MaskRules(mask)


@register("banned_words")
@dataclass(frozen=True, init=False)
class BannedWords:
    """None of these words in the continuation.

    Where the tokenizer's text is words between blanks, a banned word is one of them; words unknown to it cannot be written anyhow.
    With any other tokenizer the text of the continuation never holds the characters of a banned word, inside another word
    neither, whichever way they are cut into tokens. What the continuation completes of a word that the prompt began is not seen.
    """

    words: tuple[str, ...]

    def __init__(self, words: Iterable[str]) -> None:
        object.__setattr__(self, "words", _words(words, "BannedWords"))

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` if none of the words could ever be written."""
        if isinstance(tokenizer, WordLevel):
            return self._word_rules(tokenizer.words, tokenizer.eos_id)
        table = lift(without([word.encode("utf-8") for word in self.words], 256), pieces_of(tokenizer), tokenizer.eos_id)
        return AutomatonRules(table.next_state, table.accepting, tokenizer, max_new_tokens, finish=False)

    def _word_rules(self, known: Iterable[str], eos: int) -> MaskRules:
        banned = set(self.words)
        mask = np.array([word not in banned for word in known])
        if not mask[eos]:
            raise ValueError("BannedWords holds the word that ends a text; to forbid early ends use MinLength.")
        if mask.all():
            raise ValueError(f"The tokenizer knows none of the banned words {list(self.words)[:8]}; a word here is what stands between two blanks.")
        return MaskRules(mask)


class MaskRules(Forgetful):
    """The same mask [V], always."""

    def __init__(self, mask: BoolArray) -> None:
        mask.setflags(write=False)
        self._allowed = Allowed(mask=mask, least=int(mask.sum()))

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return the mask."""
        return self._allowed
