"""The core of every text task: what happens when a token is written.

`text_core` tells the story; its parts encode prompts, keep count of what a constraint allows, ask who answers, and check scores.
"""

from .answers import ResponderError
from .encoding import encode_prompts
from .scoring import ScorerError, scores_of
from .text_core import TextCore

__all__ = ["ResponderError", "ScorerError", "TextCore", "encode_prompts", "scores_of"]
