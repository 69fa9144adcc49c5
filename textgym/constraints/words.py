"""Lists of words: nothing but these, none of these.

Axis legend: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..allowed import Allowed
from ..core import BoolArray, IntArray
from ..task import Prefixes, Rules, Tokenizer, WordLevel
from .automaton import AutomatonRules
from .counting import Forgetful
from .lift import lift
from .pieces import pieces_of
from .registry import register
from .spelling import token_id
from .trie import without


def _words(words: Iterable[str], name: str) -> tuple[str, ...]:
    if isinstance(words, str):
        raise TypeError(f"{name} takes a list of words, not the one text {words!r}; put it into a list.")
    found = tuple(words)
    if not found or not all(isinstance(word, str) and word for word in found):
        raise ValueError(f"{name} needs at least one word, none of them empty; got {list(found)}.")
    return found


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
        mask[[tokenizer.eos_id, *(token_id(word, tokenizer, "AllowList") for word in self.words)]] = True
        return MaskRules(mask)


@register("banned_words")
@dataclass(frozen=True, init=False)
class BannedWords:
    """None of these words in the continuation.

    Where the tokenizer's text is words between blanks, a banned word is one of them, spelled as in the vocabulary: phrases and
    unknown words are refused. To keep two words from following each other there, use an Automaton.
    With any other tokenizer the text of the continuation never holds the characters of a banned word, inside another word
    neither, whichever way they are cut into tokens. What the continuation completes of a word that the prompt began is not seen,
    nor what a responder says: with one, the agent's own words are read as one text, without the answers between them.
    """

    words: tuple[str, ...]

    def __init__(self, words: Iterable[str]) -> None:
        object.__setattr__(self, "words", _words(words, "BannedWords"))

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` naming words that a vocabulary of words does not hold."""
        if isinstance(tokenizer, WordLevel):
            return self._word_rules(tokenizer.words, tokenizer.eos_id)
        table = lift(without([word.encode("utf-8") for word in self.words], 256), pieces_of(tokenizer), tokenizer.eos_id)
        return AutomatonRules(table.next_state, table.accepting, tokenizer, max_new_tokens, finish=False)

    def _word_rules(self, known: Iterable[str], eos: int) -> MaskRules:
        known, banned = list(known), set(self.words)
        if phrases := [word for word in self.words if word not in known and any(map(str.isspace, word))]:
            raise ValueError(f"BannedWords: each token is one word here, so the phrases {phrases[:8]} cannot be banned; give single words.")
        if unknown := [word for word in self.words if word not in known]:
            raise ValueError(
                f"BannedWords: the tokenizer does not know {unknown[:8]}, {len(unknown)} of the {len(self.words)} words; "
                "spell them as its vocabulary does (mind capitals), or leave them out."
            )
        if known[eos] in banned:
            raise ValueError("BannedWords holds the word that ends a text; to forbid early ends use MinLength.")
        return MaskRules(np.array([word not in banned for word in known]))


class MaskRules(Forgetful):
    """The same mask [V], always."""

    def __init__(self, mask: BoolArray) -> None:
        mask.setflags(write=False)
        self._allowed = Allowed(mask=mask, least=int(mask.sum()))

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return the mask."""
        return self._allowed
