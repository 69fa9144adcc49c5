"""A regular expression over the text.

Axis legend: S states, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..task import Rules, Tokenizer
from .automaton import AutomatonRules
from .grammars import started
from .lift import lift
from .pieces import Pieces, pieces_of
from .registry import register
from .regular import Characters, compiled, over_bytes, shortest
from .ways import NEVER


@register("pattern")
@dataclass(frozen=True)
class Pattern:
    r"""The text of the continuation matches a regular expression as a whole, as `re.fullmatch(regex, text, re.ASCII)` does.

    The text is what the tokenizer decodes the continuation to, by itself: it begins with no blank where words are joined by blanks.
    Anchors, look-around and backreferences are refused (`textgym[regex]` brings the package that reads the rest).
    With a responder the pattern reads the agent's own words as one text, the answers between them left out.

    Attributes:
        regex: the expression, in Python's syntax.
        finish: allow only what can still be completed within the budget, EOS included, so that every text is complete.
            Otherwise a token is allowed that can be completed at all, and the budget may cut a text short.
    """

    regex: str
    finish: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.regex, str):
            raise TypeError(f"Pattern takes a regular expression as a text (str), got {self.regex!r}.")

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` if the vocabulary cannot spell any match, or none within the budget."""
        characters, pieces = compiled(self.regex), pieces_of(tokenizer)
        table = lift(over_bytes(characters), pieces, tokenizer.eos_id)
        rules = AutomatonRules(table.next_state, table.accepting, tokenizer, max_new_tokens, self.finish)
        if rules.need[0] == NEVER:
            raise ValueError(_unspellable(self.regex, characters, tokenizer, pieces))
        return started(rules, f"The pattern {self.regex!r}")


def _unspellable(regex: str, automaton: Characters, tokenizer: Tokenizer, pieces: Pieces) -> str:
    """Return what is missing, as far as one shortest match tells."""
    matches = [text for text, accepts in zip(shortest(automaton), automaton.accepting, strict=True) if accepts and text is not None]
    if not matches:
        return f"The pattern {regex!r} matches no text at all."
    example = min(matches, key=len)
    told = f"The vocabulary of {tokenizer.vocab_size} tokens cannot spell any text that matches {regex!r}; a shortest match is {example!r}"
    known = b"".join(piece or b"" for side in pieces for piece in side)
    if missing := sorted({letter for letter in example if letter.encode("utf-8") not in known}):
        return f"{told}, and no token holds {', '.join(map(repr, missing))}."
    try:
        tokenizer.encode(example)
    except ValueError as error:
        return f"{told}, of which the tokenizer says: {error}"
    return f"{told}; its tokens cannot be joined to it (mind blanks between words)."
