"""How likely a local language model finds a text. torch is loaded when such a scorer is made, never before.

Axis legend: B completions, L columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import BoolArray, FloatArray, IntArray
from ..language_models import LanguageModel
from ..task import Completions
from .around import written
from .registry import register
from .respelling import Speller, TokenizerLike, check_vocabulary, respelled, speller
from .sharing import choices, shared

if TYPE_CHECKING:
    from torch import nn


@register("log_likelihood")
@dataclass(frozen=True)
class LogLikelihood:
    """log p(continuation | prompt) in nats under a local language model, or its mean over tokens; at most 0.

    Scored are the agent's own tokens, EOS included where it is there, each given all that stands before it. A continuation
    without tokens scores 0, an unfinished one is scored as far as it goes.

    `model` is a folder written by save_pretrained, a causal language model of transformers (copied), or a `LanguageModel`.
    `tokenizer` None passes the environment's ids on; the model must then have as many (`vocab_size` of its rows, None: all).
    With a Tokenizer, or "own" (the one in the model's folder), prompt and continuation are decoded and spelled anew, each by
    itself. `dtype`, `device` and `batch_size` are those of `LanguageModel`.
    """

    model: str | Path | nn.Module | LanguageModel
    per_token: bool = False
    tokenizer: TokenizerLike = None
    vocab_size: int | None = None
    dtype: str | None = None
    device: str = "cpu"
    batch_size: int = 64
    _speller: Speller | None = field(init=False, repr=False, compare=False)
    _language_model: LanguageModel = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        own = speller(self.tokenizer, self.model)
        if own is not None and self.vocab_size is not None:
            raise ValueError("Give tokenizer or vocab_size, not both: the tokenizer has its own number of ids.")
        object.__setattr__(self, "_speller", own)
        object.__setattr__(self, "_language_model", self._made(own.vocab_size if own is not None else self.vocab_size))

    def _made(self, vocab_size: int | None) -> LanguageModel:
        model, settings = self.model, (vocab_size, self.dtype, self.device, self.batch_size)
        if not isinstance(model, LanguageModel):
            build = partial(LanguageModel, model, vocab_size, dtype=self.dtype, device=self.device, batch_size=self.batch_size)
            return shared(build, "LanguageModel", model, settings)
        if settings[1:] != (None, "cpu", 64) or vocab_size not in (None, model.vocab_size):
            raise ValueError(f"{model} brings its own vocab_size, dtype, device and batch_size: give them there, and a tokenizer of as many ids.")
        return model

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the log-likelihood, float64 [B]; raises `ValueError` if the vocabularies differ or a text is too long for the model."""
        tokens, scored = self._tokens(completions)
        totals = np.zeros(len(tokens))
        rows = np.flatnonzero(scored.any(axis=1))
        totals[rows] = np.where(scored[rows], self._language_model.token_log_probs(tokens[rows]), 0.0).sum(axis=1)
        return totals / np.maximum(scored.sum(axis=1), 1) if self.per_token else totals

    def _tokens(self, completions: Completions) -> tuple[IntArray, BoolArray]:
        """Return ids [B, L] as the model knows them, and which are to be scored, bool [B, L]."""
        pad = self._language_model.vocab_size
        if self._speller is not None:
            tokens, contexts = respelled(self._speller, pad, completions)
            return tokens, (np.arange(tokens.shape[1]) >= contexts[:, None]) & (tokens != pad)
        check_vocabulary(completions, pad)
        tokens = np.concatenate([completions.prompt_tokens, completions.tokens], axis=1)
        return tokens, np.concatenate([np.zeros(completions.prompt_tokens.shape, dtype=np.bool_), written(completions)], axis=1)

    def __reduce__(self) -> tuple[type[LogLikelihood], tuple[Any, ...]]:
        return type(self), choices(self)  # of a folder only the name: the model is loaded again, or shared
