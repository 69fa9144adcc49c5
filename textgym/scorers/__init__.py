"""Scorers: what a finished text is worth; batch in, batch out."""

from .classifier import NgramClassifier
from .combinators import TextFunction, WeightedSum
from .registry import SCORERS, make, names, register
from .text import ExactMatch, GrammarScorer, Keyword, Length, Repetition, Sentiment

__all__ = [
    "SCORERS",
    "ExactMatch",
    "GrammarScorer",
    "Keyword",
    "Length",
    "NgramClassifier",
    "Repetition",
    "Sentiment",
    "TextFunction",
    "WeightedSum",
    "make",
    "names",
    "register",
]
