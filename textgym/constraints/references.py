"""What a reference model finds probable, and nothing else.

Axis legend: B rows, L columns, V vocabulary, K ids a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..allowed import Allowed, Ids, small
from ..core import BoolArray, FloatArray, IntArray
from ..language_models import LanguageModel
from ..task import Prefixes, Rules, Tokenizer
from .counting import Forgetful
from .registry import register
from .spelling import whole


class Reference(Protocol):
    """A model of the next token; ids [B, L] hold the pad id V wherever there is no token."""

    def top(self, tokens: IntArray, k: int, /) -> IntArray:
        """Return the ids [B, k] of the most probable next tokens."""

    def next_log_probs(self, tokens: IntArray, /) -> FloatArray:
        """Return log p(next token | prefix), float64 [B, V]."""


def _reference(reference: Any, method: str) -> Any:
    if isinstance(reference, str | Path):
        return LanguageModel(reference)
    if isinstance(reference, type) or not hasattr(reference, method):
        raise TypeError(f"A reference has {method}(tokens), as textgym.language_models.LanguageModel does, or is a model's folder; got {reference!r}.")
    return reference


def _check_size(reference: Any, tokenizer: Tokenizer) -> None:
    size = getattr(reference, "vocab_size", tokenizer.vocab_size)
    if size != tokenizer.vocab_size:
        raise ValueError(
            f"The reference model knows {size} ids, the tokenizer {tokenizer.vocab_size}: give it the tokenizer's size, "
            f"LanguageModel(..., vocab_size={tokenizer.vocab_size}), or the tokenizer it was trained with."
        )


@register("top_k")
@dataclass(frozen=True)
class TopK:
    """The k most probable next tokens of a reference model, the same mask as NLPO's with top-k (Ramamurthy et al. 2023, "Is RL (not) for NLP?").

    The reference is a `LanguageModel`, whatever has its `top`, or the folder of a model. EOS is a token like any other. The rules
    ask the object itself: after `constraint.reference.refresh(module)` the next tokens are those of the new weights.
    """

    reference: Any
    k: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _reference(self.reference, "top"))
        object.__setattr__(self, "k", whole(self.k, "k"))

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` if k exceeds the vocabulary."""
        if self.k > tokenizer.vocab_size:
            raise ValueError(f"TopK: k={self.k} exceeds the vocabulary of {tokenizer.vocab_size} tokens; lower k.")
        _check_size(self.reference, tokenizer)
        return TopKRules(self.reference, self.k, tokenizer.vocab_size)


class TopKRules(Forgetful):
    """Asks the reference for its best k."""

    def __init__(self, reference: Any, k: int, vocab_size: int) -> None:
        self.reference, self.k, self.vocab_size = reference, k, vocab_size

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return the ids [B, K]."""
        return Allowed(ids=small(np.asarray(self.reference.top(prefixes.tokens, self.k)), self.vocab_size), least=self.k)


@register("top_p")
@dataclass(frozen=True)
class TopP:
    """The smallest set of most probable next tokens whose probability reaches p: the nucleus (Holtzman et al. 2020, arXiv 1904.09751).

    NLPO's mask (Ramamurthy et al. 2023). The reference is a `LanguageModel`, whatever has its `next_log_probs`, or the folder of a model;
    it is asked anew at every token, so `constraint.reference.refresh(module)` is all it takes to renew the mask. EOS is a token like any other.
    """

    reference: Any
    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", _reference(self.reference, "next_log_probs"))
        if not 0 < self.p <= 1:
            raise ValueError(f"p={self.p} must lie in (0, 1].")

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` if the reference has another vocabulary."""
        _check_size(self.reference, tokenizer)
        return TopPRules(self.reference, self.p)


class TopPRules(Forgetful):
    """Asks the reference for its nucleus."""

    def __init__(self, reference: Any, p: float) -> None:
        self.reference, self.p = reference, p

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return the mask [B, V]."""
        return Allowed(mask=nucleus(self.reference.next_log_probs(prefixes.tokens), self.p), least=1)


def nucleus(log_probs: FloatArray, p: float) -> BoolArray:
    """Return the smallest sets of ids whose probability reaches p, bool [B, V]; of equally probable ids the lower comes first."""
    order = np.argsort(-log_probs, axis=1, kind="stable")
    probs = np.exp(np.take_along_axis(log_probs, order, axis=1))
    before = np.cumsum(probs, axis=1) - probs
    mask = np.zeros(log_probs.shape, dtype=np.bool_)
    np.put_along_axis(mask, order, before < p, axis=1)
    return mask


@dataclass(frozen=True, eq=False)
class NextTokens:
    """Only what a table names for the last token: a top-k of bigrams, which needs no model and costs a look-up.

    `ids` [V, K] are the tokens that may follow each one, V where a row has fewer.
    """

    ids: Ids

    def __post_init__(self) -> None:
        ids = np.asarray(self.ids)
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.shape[1] < 1 or ids.min(initial=0) < 0 or ids.max(initial=0) > len(ids):
            raise ValueError(f"ids must be integers [V, K] in [0, V], got {ids.dtype} of shape {ids.shape}.")
        object.__setattr__(self, "ids", small(ids, len(ids)))

    @classmethod
    def from_texts(cls, texts: Iterable[str], tokenizer: Tokenizer, k: int) -> NextTokens:
        """Return the table of the k most frequent successors in these texts, EOS behind each; the most frequent tokens fill short rows up."""
        if not 1 <= k <= tokenizer.vocab_size:
            raise ValueError(f"NextTokens: k={k} must lie in [1, {tokenizer.vocab_size}], the size of the vocabulary.")
        successors: list[Counter[int]] = [Counter() for _ in range(tokenizer.vocab_size)]
        for text in texts:
            for one, other in pairwise([*tokenizer.encode(text), tokenizer.eos_id]):
                successors[one][other] += 1
        total: Counter[int] = sum(successors, Counter())
        rest = sorted(range(tokenizer.vocab_size), key=lambda i: (-total[i], i))[: 2 * k]
        return cls(np.array([_ranked(counts, rest, k) for counts in successors]))

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the rules; raises `ValueError` if the table has another vocabulary."""
        if len(self.ids) != tokenizer.vocab_size:
            raise ValueError(f"NextTokens has rows for {len(self.ids)} ids, the tokenizer has {tokenizer.vocab_size}: count with the same tokenizer.")
        return NextTokensRules(self.ids)


def _ranked(counts: Counter[int], rest: list[int], k: int) -> list[int]:
    best = sorted(counts, key=lambda i: (-counts[i], i))[:k]
    return (best + [i for i in rest if i not in counts])[:k]


class NextTokensRules(Forgetful):
    """Looks the last token up."""

    def __init__(self, ids: Ids) -> None:
        self.ids, self.least = ids, int((ids < len(ids)).sum(axis=1).min())

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return the ids [B, K] that may follow each row's last token."""
        num_rows, width = prefixes.tokens.shape
        last = prefixes.tokens.take(prefixes.ends + np.arange(-1, num_rows * width - 1, width))  # laid flat: faster than by row and column
        return Allowed(ids=self.ids.take(last, axis=0), least=self.least)
