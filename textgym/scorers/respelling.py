"""Texts spelled in a scoring model's own ids, where those are not the environment's.

Axis legend: B completions, L columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core import IntArray
from ..task import Completions, Tokenizer

TokenizerLike = Tokenizer | Literal["own"] | None  # "own": the one in the model's folder; None: the environment's ids are the model's


class OwnTokenizer:
    """The tokenizer of transformers in a model's folder, with the special tokens that the model was trained with."""

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoTokenizer

        # Without these files transformers makes up an empty tokenizer for some architectures, GPT-2's among them.
        if not any((Path(folder) / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            raise FileNotFoundError(f"{folder} holds no tokenizer (tokenizer.json): save the model's own there with save_pretrained, or give another.")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self.vocab_size = max(self.tokenizer.get_vocab().values()) + 1
        begin = self.tokenizer("")["input_ids"][:1]
        self.beginning: list[int] = begin if begin == [self.tokenizer.bos_token_id] else []

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens."""
        return [int(i) for i in self.tokenizer.encode(text, add_special_tokens=False)]

    def whole(self, text: str) -> list[int]:
        """Return the ids of `text`, with the special tokens around it (BERT's [CLS] and [SEP])."""
        return [int(i) for i in self.tokenizer(text)["input_ids"]]

    @property
    def eos_id(self) -> int:
        """Return the id that ends a text; raises `ValueError` if there is none."""
        if self.tokenizer.eos_token_id is None:
            raise ValueError("The model's own tokenizer has no EOS token, and the end of a text is to be scored; set its eos_token and save it.")
        return int(self.tokenizer.eos_token_id)


Speller = OwnTokenizer | Tokenizer


def speller(tokenizer: TokenizerLike, model: object) -> Speller | None:
    """Return what spells for a model given as `model`: its own tokenizer, the one given, or None."""
    if not isinstance(tokenizer, str):
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            raise TypeError(f"A tokenizer has vocab_size, eos_id, encode and decode, {type(tokenizer).__name__} has not: adapt it by textgym.tokenizers.make.")
        return tokenizer
    if tokenizer != "own" or not isinstance(model, str | Path):
        raise ValueError(f"tokenizer={tokenizer!r}: give a Tokenizer, or 'own' beside the model's folder for the tokenizer in it.")
    return OwnTokenizer(model)


def whole_texts(tokenizer: Speller, completions: Completions) -> list[list[int]]:
    """Return prompt and continuation as ids, with special tokens if the tokenizer is the model's own; an empty text is its EOS."""
    spell = tokenizer.whole if isinstance(tokenizer, OwnTokenizer) else tokenizer.encode
    return [spell(text) or [tokenizer.eos_id] for text in completions.full_texts]


def respelled(tokenizer: Speller, pad: int, completions: Completions) -> tuple[IntArray, IntArray]:
    """Return prompts and continuations as ids [B, L] with `pad` behind them, and the number [B] of ids before the continuation.

    Both are spelled apart, so that no token spans the border. The prompt begins with the tokenizer's own beginning of text,
    or with EOS, if it has no ids at all; a text that ended itself gets EOS at its end.
    """
    if completions.agent is not None:
        raise ValueError("The turns of a dialogue are scored in the environment's own ids: leave out `tokenizer`, and give a model that knows them.")
    contexts, rows = [], []
    for prompt, text, ended in zip(_prompt_texts(completions), completions.full_texts, completions.ended.tolist(), strict=True):
        border = _border(prompt, text)
        context = getattr(tokenizer, "beginning", []) + tokenizer.encode(text[:border]) or [tokenizer.eos_id]
        contexts.append(len(context))
        rows.append(context + tokenizer.encode(text[border:]) + ([tokenizer.eos_id] if ended else []))
    return padded(rows, pad), np.array(contexts, dtype=np.int64)


def padded(rows: Sequence[Sequence[int]], pad: int) -> IntArray:
    """Return rows of different lengths as [B, L], with `pad` behind them."""
    tokens = np.full((len(rows), max(map(len, rows), default=0)), pad, dtype=np.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens


def check_vocabulary(completions: Completions, vocab_size: int) -> None:
    """Raise `ValueError` unless the environment's tokenizer has as many ids as the model is to know."""
    if (ids := completions.tokenizer.vocab_size) != vocab_size:
        raise ValueError(
            f"The environment's tokenizer has {ids} ids, the scoring model {vocab_size}. If they spell alike and the model's other rows are spare, "
            f"give vocab_size={ids}; if not, give the model's own tokenizer: tokenizer='own', or a Tokenizer."
        )


def _border(prompt: str, text: str) -> int:
    """Return where the continuation begins in `text`, which may have changed the prompt's last character: bytes can need each other."""
    return next((i for i, (one, other) in enumerate(zip(prompt, text, strict=False)) if one != other), min(len(prompt), len(text)))


def _prompt_texts(completions: Completions) -> list[str]:
    pad = completions.tokenizer.vocab_size
    return [completions.tokenizer.decode([token for token in row if token != pad]) for row in completions.prompt_tokens.tolist()]
