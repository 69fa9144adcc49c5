"""Token sequences side by side, and which of their tokens are learned: whole texts, or references behind prompts that are only read.

Axis legend: M sequences, W tokens (padded on the right).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Pair = tuple[Sequence[int], Sequence[int]]


class Tokenizer(Protocol):
    """What turns texts into ids; textgym's tokenizers do."""

    eos_id: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without EOS."""


class Sequences(NamedTuple):
    """Token sequences side by side."""

    tokens: NDArray[np.int64]  # [M, W] padded on the right with 0
    lengths: NDArray[np.int64]  # [M]
    learned: NDArray[np.bool_] | None = None  # [M, W] the tokens that the loss is taken on; None: all (a first token, which nothing predicts, never is)

    def targets(self) -> NDArray[np.bool_]:
        """Return which tokens after the first are learned, bool [M, W - 1]."""
        within = np.arange(1, self.tokens.shape[1]) < self.lengths[:, None]
        return within if self.learned is None else within & self.learned[:, 1:]

    def take(self, rows: Any) -> Sequences:
        """Return the sequences that `rows` (a slice or indices) picks, no wider than the longest of them."""
        width = int(self.lengths[rows].max(initial=0))
        return Sequences(self.tokens[rows, :width], self.lengths[rows], None if self.learned is None else self.learned[rows, :width])


def pad_sequences(sequences: Sequence[Sequence[int]], max_tokens: int) -> Sequences:
    """Return whole texts side by side, each cut after `max_tokens`; those of fewer than two tokens teach nothing and are left out.

    Raises `ValueError` if none is left.
    """
    kept = [cut for cut in (list(sequence[:max_tokens]) for sequence in sequences) if len(cut) > 1]
    if not kept:
        raise ValueError(f"None of the {len(sequences)} sequences has two tokens or more (max_tokens={max_tokens}); there is no next token to learn.")
    return _side_by_side(kept)


def pad_pairs(pairs: Iterable[Pair], max_prompt_tokens: int, max_reference_tokens: int, *, cut_prompts: bool = False) -> Sequences:
    """Return prompts with their references behind them; only the references are learned.

    A prompt that is too long is an error or, with `cut_prompts`, loses its beginning, as the environment's option of that name has it.
    A reference is never cut: it would teach to stop nowhere.

    Args:
        pairs: ids of prompt and reference, each at least one; EOS is learned where it stands at a reference's end (`encode_pairs` puts it there).
        max_prompt_tokens: the environment's.
        max_reference_tokens: the environment's max_new_tokens, or one more where EOS may stand behind a full budget.
        cut_prompts: see above.

    Raises:
        ValueError: if there are no pairs, or one of them is empty on a side or too long.
    """
    given = [(list(prompt), list(reference)) for prompt, reference in pairs]
    if not given or max_prompt_tokens < 1:
        raise ValueError(f"There are {len(given)} pairs of prompt and reference, and max_prompt_tokens is {max_prompt_tokens}; both must be at least 1.")
    for i, (prompt, reference) in enumerate(given):
        _check_pair(i, prompt, reference, None if cut_prompts else max_prompt_tokens, max_reference_tokens)
    given = [(prompt[-max_prompt_tokens:], reference) for prompt, reference in given]
    sequences = _side_by_side([prompt + reference for prompt, reference in given])
    read = np.array([len(prompt) for prompt, _ in given], dtype=np.int64)
    columns = np.arange(sequences.tokens.shape[1])
    return sequences._replace(learned=(columns >= read[:, None]) & (columns < sequences.lengths[:, None]))


def encode_pairs(tokenizer: Tokenizer, pairs: Iterable[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Return the ids of prompts and references, each encoded by itself as in an environment, and EOS at the end of each reference.

    Of textgym's prompts: `encode_pairs(tokenizer, [(prompt.text, prompt.reference) for prompt in prompts])`.
    Raises `TypeError` for a prompt that has no reference.
    """
    given = list(pairs)
    if missing := next((prompt for prompt, reference in given if not isinstance(reference, str)), None):
        raise TypeError(f"The prompt {missing!r} has no reference to learn: give it one, or leave it out.")
    return [(tokenizer.encode(prompt), [*tokenizer.encode(reference), tokenizer.eos_id]) for prompt, reference in given]


def _check_pair(i: int, prompt: list[int], reference: list[int], max_prompt_tokens: int | None, max_reference_tokens: int) -> None:
    if not prompt or not reference:
        raise ValueError(f"The {'reference' if prompt else 'prompt'} of pair {i} has no tokens; both need at least one (a beginning-of-text token, or EOS).")
    if max_prompt_tokens is not None and len(prompt) > max_prompt_tokens:
        raise ValueError(
            f"The prompt of pair {i} has {len(prompt)} tokens, max_prompt_tokens is {max_prompt_tokens}: "
            f"give at least {len(prompt)}, or cut_prompts=True to keep the last {max_prompt_tokens} tokens."
        )
    if len(reference) > max_reference_tokens:
        raise ValueError(
            f"The reference of pair {i} has {len(reference)} tokens, max_reference_tokens is {max_reference_tokens}: "
            f"give at least {len(reference)}, or leave the pair out (cut short, it would teach to stop nowhere)."
        )


def _side_by_side(sequences: Sequence[Sequence[int]]) -> Sequences:
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    tokens = np.zeros((len(sequences), int(lengths.max())), dtype=np.int64)
    tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences])
    return Sequences(tokens, lengths)
