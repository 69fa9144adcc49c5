"""Constraints: which continuations a task allows; sparse or shared inside, so that large vocabularies stay fast."""

from .counting import MinLength, NoRepeat
from .every import All
from .grammars import Automaton, InGrammar, film_grammar
from .pattern import Pattern
from .references import NextTokens, TopK, TopP
from .registry import CONSTRAINTS, make, names, register
from .words import AllowList, BannedWords

__all__ = [
    "CONSTRAINTS",
    "All",
    "AllowList",
    "Automaton",
    "BannedWords",
    "InGrammar",
    "MinLength",
    "NextTokens",
    "NoRepeat",
    "Pattern",
    "TopK",
    "TopP",
    "film_grammar",
    "make",
    "names",
    "register",
]
