"""Scorers: what a finished text is worth; batch in, batch out."""

from .cached import Cached
from .classifier import NgramClassifier
from .combinators import TextFunction, WeightedSum
from .dialogue import FinalAnswer
from .models import LogLikelihood
from .registry import SCORERS, make, names, register
from .reward_model import RewardModel
from .shaping import Clip, LengthPenalty, MissingEos, ProxyAndGold, Scale
from .text import ExactMatch, GrammarScorer, Keyword, Length, Repetition, Sentiment

__all__ = [
    "SCORERS",
    "Cached",
    "Clip",
    "ExactMatch",
    "FinalAnswer",
    "GrammarScorer",
    "Keyword",
    "Length",
    "LengthPenalty",
    "LogLikelihood",
    "MissingEos",
    "NgramClassifier",
    "ProxyAndGold",
    "Repetition",
    "RewardModel",
    "Scale",
    "Sentiment",
    "TextFunction",
    "WeightedSum",
    "make",
    "names",
    "register",
]
