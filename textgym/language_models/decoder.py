"""A decoder as a pure function of prefixes.

Axis legend: B rows, b rows of one forward, L columns, W columns without pads, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core import FloatArray, IntArray
from .loading import check_positions, checked_dtype, copied, load_pretrained, placed

if TYPE_CHECKING:
    from torch import Tensor, nn


class Rows(NamedTuple):
    """Token ids without their pads."""

    ids: IntArray  # [B, W] shifted to the left, 0 behind the last token
    lengths: IntArray  # [B]
    columns: IntArray  # [B, W] where each token came from


class LanguageModel:
    """A local decoder as a pure function of prefixes: its weights are frozen, its dropout is off, it draws no random numbers.

    `model` is a folder that `save_pretrained` wrote, or a causal language model of transformers, of which a copy is taken.
    `vocab_size` is the tokenizer's, and the id of its pad (None: as many as the model has output rows); the model's rows beyond
    it are cut away, and probabilities are normalised without them. `dtype` is "float64", "float32" or "bfloat16" (None: the
    model's own); rows are read `batch_size` at a time, in the order of their lengths. A row gives the same numbers in every
    batch, up to rounding.

    Token arguments are ids [B, L] with the pad id anywhere; pads are dropped, positions count from a row's first token.
    Raises `ValueError` on a row without tokens, on ids outside [0, vocab_size], and on more tokens than the model has positions.
    """

    vocab_size: int
    hidden_size: int

    def __init__(
        self, model: str | Path | nn.Module, vocab_size: int | None = None, *, dtype: str | None = None, device: str = "cpu", batch_size: int = 64
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be 1 or more rows.")
        self._dtype, self._device, self._batch_size = checked_dtype(dtype), device, batch_size
        self._model = self._placed(load_pretrained(model, "CausalLM") if isinstance(model, str | Path) else copied(model))
        head = self._head()
        self._dtype = str(head.weight.dtype).removeprefix("torch.")  # a refreshed model keeps it
        rows, self.hidden_size = (int(size) for size in head.weight.shape)
        self.vocab_size = rows if vocab_size is None else vocab_size
        if not 1 <= self.vocab_size <= rows:
            raise ValueError(f"vocab_size={vocab_size}, but the model has {rows} output rows; give its own tokenizer's size, or resize its embeddings.")
        self._check_causal()

    def next_log_probs(self, tokens: IntArray) -> FloatArray:
        """Return log p(next token | prefix) of prefixes [B, L], float64 [B, V]."""
        found = np.empty((len(tokens), self.vocab_size))
        for rows, logits, _ in self._ends(tokens):
            found[rows] = logits.double().log_softmax(-1).cpu().numpy()
        return found

    def top(self, tokens: IntArray, k: int) -> IntArray:
        """Return the ids [B, k] of the k most probable next tokens, best first; of equal ones the lower id comes first."""
        if not 1 <= k <= self.vocab_size:
            raise ValueError(f"k={k} must lie in [1, {self.vocab_size}], the size of the vocabulary.")
        return np.array([_best(row, k) for row in self.next_log_probs(tokens)], dtype=np.int64).reshape(len(tokens), k)

    def hidden(self, tokens: IntArray) -> NDArray[np.float32]:
        """Return what the output layer reads at the last token: the last layer's hidden states, float32 [B, H]."""
        found = np.empty((len(tokens), self.hidden_size), dtype=np.float32)
        for rows, _, hidden in self._ends(tokens):
            found[rows] = hidden.float().cpu().numpy()
        return found

    def token_log_probs(self, tokens: IntArray) -> FloatArray:
        """Return log p(token | the tokens before it) where the tokens stand, float64 [B, L]; 0 at pads and at the first token.

        One forward holds batch_size * W * V logits at once: choose the batch size for long texts over large vocabularies.
        """
        found = np.zeros(np.shape(tokens))
        rows = self._rows(tokens)
        for batch in self._batches(rows.lengths):
            ids, lengths = rows.ids[batch, : rows.lengths[batch].max()], rows.lengths[batch]
            logits, _ = self._forward(ids, lengths, last=False)
            for i, row, n in zip(range(len(batch)), batch, lengths, strict=True):  # row by row: float64 doubles the memory
                log_probs = logits[i, : n - 1].double().log_softmax(-1).cpu().numpy()
                found[row, rows.columns[row, 1:n]] = log_probs[np.arange(n - 1), ids[i, 1:n]]
        return found

    def refresh(self, model: nn.Module) -> None:
        """Take over a copy of the weights of `model`; raises `ValueError` unless its architecture is the same. Precision and device stay."""
        if type(model) is not type(self._model):
            raise ValueError(f"The weights of a {type(model).__name__} do not fit a {type(self._model).__name__}; of a CausalLMPolicy give its `.model`.")
        ours, theirs = ({name: tuple(weight.shape) for name, weight in module.state_dict().items()} for module in (self._model, model))
        if different := sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name)):
            name = different[0]
            raise ValueError(f"Another architecture: {name} is {theirs.get(name)}, here {ours.get(name)} ({len(different)} differ); make a new LanguageModel.")
        self._model = self._placed(copied(model))

    def __repr__(self) -> str:
        return f"LanguageModel({type(self._model).__name__}, vocab_size={self.vocab_size}, hidden_size={self.hidden_size}, dtype={self._dtype})"

    # -- forwards -------------------------------------------------------------------------------------------------------

    def _ends(self, tokens: IntArray) -> Iterator[tuple[IntArray, Tensor, Tensor]]:
        """Yield row numbers [b], logits [b, V] and hidden states [b, H] at the rows' last tokens, batch after batch."""
        rows = self._rows(tokens)
        for batch in self._batches(rows.lengths):
            lengths = rows.lengths[batch]
            logits, hidden = self._forward(rows.ids[batch, : lengths.max()], lengths, last=True)
            yield batch, logits[:, 0], hidden[:, 0]

    def _rows(self, tokens: IntArray) -> Rows:
        rows = compacted(tokens, self.vocab_size)
        check_positions(self._model, int(rows.lengths.max(initial=0)))
        return rows

    def _batches(self, lengths: IntArray) -> Iterator[IntArray]:
        order = np.argsort(lengths, kind="stable")  # rows of like lengths together: few pads are computed
        yield from (order[i : i + self._batch_size] for i in range(0, len(order), self._batch_size))

    def _forward(self, ids: IntArray, lengths: IntArray, last: bool) -> tuple[Tensor, Tensor]:
        """Return logits [b, W, V] and hidden states [b, W, H]; W is 1 if only the `last` tokens are wanted.

        The hidden states are narrowed where the output layer takes them in: rows of any length then share one column of logits,
        which `logits_to_keep` cannot do. Rows begin in column 0, so that the positions a model counts by itself are the right ones.
        """
        import torch

        kept: list[Tensor] = []

        def narrow(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            at = torch.arange(len(lengths), device=inputs[0].device)
            kept.append(inputs[0][at, torch.from_numpy(lengths - 1).to(at.device)][:, None] if last else inputs[0])
            return (kept[-1], *inputs[1:])

        mask = torch.from_numpy(np.arange(ids.shape[1]) < lengths[:, None]).long().to(self._device)
        hook = self._head().register_forward_pre_hook(narrow)
        try:
            with torch.no_grad():
                logits = self._model(input_ids=torch.from_numpy(ids).to(self._device), attention_mask=mask, use_cache=False).logits
        finally:
            hook.remove()  # it belongs to one call; a copy or a pickle must not hold it
        if not kept:
            raise TypeError(f"{type(self._model).__name__} did not call its output embeddings; a causal language model is needed.")
        return logits[..., : self.vocab_size], kept[0]

    def _head(self) -> nn.Linear:
        find = getattr(self._model, "get_output_embeddings", lambda: None)
        head: nn.Linear | None = find()
        if head is None:
            raise TypeError(f"{type(self._model).__name__} has no output embeddings; a causal language model of transformers is needed (GPT2LMHeadModel).")
        return head

    def _check_causal(self) -> None:
        import torch

        pair = np.array([[0, 0], [0, self.vocab_size - 1]])
        first, second = self._forward(pair, np.array([2, 2]), last=False)[0][:, 0]
        rounding = 64 * torch.finfo(first.dtype).eps * max(1.0, float(first.abs().max()))
        if float((first - second).abs().max()) > rounding:
            raise ValueError(f"This {type(self._model).__name__} looks at the tokens to come: it is no decoder (BERT's family needs config.is_decoder=True).")

    def _placed(self, model: nn.Module) -> nn.Module:
        return placed(model, self._dtype, self._device)


def compacted(tokens: IntArray, pad: int) -> Rows:
    """Return ids [B, L] without their pads; raises `ValueError` on ids outside [0, pad] and on rows that hold none."""
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"Tokens are integers [B, L], got {tokens.dtype} of shape {tokens.shape}.")
    if (outside := (tokens < 0) | (tokens > pad)).any():
        raise ValueError(f"Token id {tokens[outside][0]} is outside the vocabulary: ids run from 0 to {pad - 1}, and {pad} is the pad.")
    real = tokens != pad
    lengths = real.sum(1)
    if not lengths.all():
        raise ValueError(f"Row {int(lengths.argmin())} holds no token at all: a language model needs at least one to go on from.")
    columns = np.argsort(~real, axis=1, kind="stable")[:, : lengths.max(initial=0)]
    ids = np.where(np.arange(columns.shape[1]) < lengths[:, None], np.take_along_axis(tokens, columns, 1), 0)
    return Rows(ids.astype(np.int64), lengths, columns)


def _best(scores: FloatArray, k: int) -> IntArray:
    """Return the k highest of scores [V], best first, ties by the lower index; a whole sort would be ten times slower."""
    candidates = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
