"""Local language models, for whatever asks one: scorers, constraints, wrappers.

torch and transformers are imported when a model is made, never before.
"""

from .decoder import LanguageModel
from .loading import DTYPES, check_positions, checked_dtype, copied, load_pretrained, placed

__all__ = ["DTYPES", "LanguageModel", "check_positions", "checked_dtype", "copied", "load_pretrained", "placed"]
