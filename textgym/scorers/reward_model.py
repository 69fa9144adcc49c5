"""What a local classifier or reward model makes of a text. torch is loaded when such a scorer is made, never before.

Axis legend: B completions, L columns, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..core import FloatArray, IntArray
from ..language_models import check_positions, checked_dtype, copied, load_pretrained, placed
from ..task import Completions
from .registry import register
from .respelling import Speller, TokenizerLike, check_vocabulary, speller, whole_texts
from .sharing import choices, shared

if TYPE_CHECKING:
    from torch import nn


@register("reward_model")
@dataclass(frozen=True)
class RewardModel:
    """What a sequence classifier says of prompt and continuation together, finished or not.

    A head of one label (a reward model) scores with its logit. Of several labels `label`, an index or a name in the model's
    configuration, is to be chosen, and scores with its log-odds, log p / (1 - p). `probability=True` gives p itself.

    `model` is a folder written by save_pretrained, or an AutoModelForSequenceClassification (copied). A folder without a
    classification head is an error: transformers would draw one at random. `tokenizer` None passes the environment's ids on,
    EOS included; the model must then embed as many (`vocab_size` of its rows, None: all). With "own" (the one in the model's
    folder, special tokens and all) or a Tokenizer, the text is decoded and spelled anew. Texts of one length are read
    together, `batch_size` at a time and without pads: each gets what the model says of it alone.
    """

    model: str | Path | nn.Module
    label: int | str | None = None
    probability: bool = False
    tokenizer: TokenizerLike = None
    vocab_size: int | None = None
    dtype: str | None = None
    device: str = "cpu"
    batch_size: int = 64
    _speller: Speller | None = field(init=False, repr=False, compare=False)
    _classifier: nn.Module = field(init=False, repr=False, compare=False)
    _label: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be 1 or more texts.")
        object.__setattr__(self, "_speller", speller(self.tokenizer, self.model))
        settings = (checked_dtype(self.dtype), self.device)
        object.__setattr__(self, "_classifier", shared(partial(_classifier, self.model, *settings), "Classifier", self.model, settings))
        object.__setattr__(self, "_label", _label(self._classifier.config, self.label))
        rows = _rows(self._classifier)
        wanted = self._speller.vocab_size if self._speller is not None else self.vocab_size
        if wanted is not None and not 1 <= wanted <= rows:
            raise ValueError(f"The tokenizer has {wanted} ids, the model embeds {rows}: give the model's own tokenizer.")

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return the score, float64 [B]; raises `ValueError` if the vocabularies differ or a text is too long for the model."""
        logits = self._logits(self._ids(completions))  # [B, K]
        several = logits.shape[1] > 1 and getattr(self._classifier.config, "problem_type", None) != "multi_label_classification"
        odds = logits[:, self._label]
        if several:  # multi-label heads judge each label by itself, as a head of one label does
            odds = odds - np.logaddexp.reduce(np.delete(logits, self._label, axis=1), axis=1)
        return 0.5 * (1.0 + np.tanh(0.5 * odds)) if self.probability else odds

    def _ids(self, completions: Completions) -> list[list[int]]:
        if self._speller is not None:
            return whole_texts(self._speller, completions)
        check_vocabulary(completions, _rows(self._classifier) if self.vocab_size is None else self.vocab_size)
        both = np.concatenate([completions.prompt_tokens, completions.tokens], axis=1)
        return [row[row != completions.tokenizer.vocab_size].tolist() for row in both]

    def _logits(self, texts: list[list[int]]) -> FloatArray:
        """Return the head's logits, float64 [B, K]."""
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        check_positions(self._classifier, int(lengths.max(initial=0)))
        found = np.empty((len(texts), cast(Any, self._classifier.config).num_labels))
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for i in range(0, len(rows), self.batch_size):
                some = rows[i : i + self.batch_size]
                found[some] = _forward(self._classifier, np.array([texts[row] for row in some], dtype=np.int64), self.device)
        return found

    def __reduce__(self) -> tuple[type[RewardModel], tuple[Any, ...]]:
        return type(self), choices(self)


def _classifier(model: str | Path | nn.Module, dtype: str | None, device: str) -> nn.Module:
    module = placed(load_pretrained(model, "SequenceClassification") if isinstance(model, str | Path) else copied(model), dtype, device)
    config = cast(Any, module.config).get_text_config()
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = -1  # decoders refuse batches without one; it is never seen, so that the last token is read
    logits = _forward(module, np.zeros((1, 1), dtype=np.int64), device)
    if logits.shape != (1, cast(Any, module.config).num_labels):
        raise TypeError(f"{type(module).__name__} gives logits of shape {logits.shape} for one text: a ...ForSequenceClassification is needed.")
    return module


def _forward(module: nn.Module, ids: IntArray, device: str) -> FloatArray:
    """Return the logits, float64 [B, K], of texts of one length, ids [B, L]."""
    import torch

    tokens = torch.from_numpy(ids).to(device)
    with torch.no_grad():
        logits = module(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return np.asarray(logits.double().cpu().numpy(), dtype=np.float64)


def _rows(module: nn.Module) -> int:
    return int(cast(Any, module).get_input_embeddings().num_embeddings)


def _label(config: Any, label: int | str | None) -> int:
    """Return the index of `label`; raises `ValueError` that shows the labels there are."""
    names = [str(config.id2label.get(i, i)) for i in range(config.num_labels)]
    if label is None and len(names) == 1:
        return 0
    index = names.index(label) if isinstance(label, str) and label in names else label
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(names):
        raise ValueError(f"label={label!r}: the model's labels are {names}; give one of them, or its index.")
    return index
