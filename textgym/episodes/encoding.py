"""Prompts as ids, laid out once, so that an episode starts by one gather.

Axis legend: M prompts, P prompt columns, V vocabulary (V itself is the pad id).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..core import FloatArray, IntArray
from ..task import Prompt, PromptSource, Tokenizer


class EncodedPrompts(NamedTuple):
    """Every prompt of a source as ids, so that an episode starts by one gather."""

    tokens: IntArray  # [M, P] pads (V) on the left
    lengths: IntArray  # [M]


def checked_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """Return (vocab_size, eos_id) of a tokenizer; raises `ValueError` if it cannot end a text."""
    eos = getattr(tokenizer, "eos_id", None)
    if eos is None:
        raise ValueError(f"{type(tokenizer).__name__} has no EOS id, so no text could end itself; set one (tokenizer.eos_token = ... for transformers).")
    if not 0 <= operator.index(eos) < tokenizer.vocab_size:
        raise ValueError(f"{type(tokenizer).__name__}: eos_id {eos} lies outside its vocabulary of {tokenizer.vocab_size} ids.")
    return tokenizer.vocab_size, operator.index(eos)


def encoded(source: PromptSource, tokenizer: Tokenizer, max_prompt_tokens: int, cut: bool) -> EncodedPrompts:
    """Return `encode_prompts`, kept for the last few hashable pairs: the N environments of a `SyncVectorEnv` share one table."""
    try:
        return _kept(source, tokenizer, max_prompt_tokens, cut)  # type: ignore[arg-type]
    except TypeError:  # a source or tokenizer that cannot be hashed
        return encode_prompts(source, tokenizer, max_prompt_tokens, cut)


def encode_prompts(source: PromptSource, tokenizer: Tokenizer, max_prompt_tokens: int, cut: bool) -> EncodedPrompts:
    """Return all prompts as ids, right-aligned; one too long is an error, or is cut on its left if `cut`."""
    vocab_size, _ = checked_ids(tokenizer)
    if not len(source):
        raise ValueError("The prompt source is empty; an environment needs at least one prompt.")
    tokens = np.full((len(source), max_prompt_tokens), vocab_size, dtype=np.int64)
    lengths = np.zeros(len(source), dtype=np.int64)
    for i in range(len(source)):
        prompt = source[i]
        if not hasattr(prompt, "ids"):
            raise TypeError(f"Prompt {i} is {type(prompt).__name__}, not a textgym Prompt; textgym.prompts.make(texts) makes prompts of texts.")
        ids = _given(i, prompt) if prompt.ids is not None else tokenizer.encode(prompt.text)
        if len(ids) > max_prompt_tokens and not cut:
            raise ValueError(
                f"Prompt {i} has {len(ids)} tokens, max_prompt_tokens is {max_prompt_tokens}: {prompt.text[:80]!r}. "
                f"Give max_prompt_tokens={len(ids)}, or cut_prompts=True to keep the last {max_prompt_tokens} tokens."
            )
        if not ids:
            raise ValueError(f"Prompt {i} ({prompt.text!r}) has no tokens; a prefix needs at least one (a beginning-of-text token, say).")
        if not all(0 <= token < vocab_size for token in ids):
            raise ValueError(f"Prompt {i} ({prompt.text[:80]!r}) has ids outside the tokenizer's vocabulary of {vocab_size}: {ids}.")
        ids = ids[-max_prompt_tokens:]
        tokens[i, max_prompt_tokens - len(ids) :] = ids
        lengths[i] = len(ids)
    tokens.setflags(write=False)
    return EncodedPrompts(tokens, lengths)


def _given(i: int, prompt: Prompt) -> list[int]:
    """Return the ready-made ids of a prompt; raises `ValueError` for what is no integer, where an array would drop the fraction."""
    try:
        return [operator.index(token) for token in prompt.ids or ()]
    except TypeError as error:
        raise ValueError(f"Prompt {i} ({prompt.text[:80]!r}) has ids that are no integers: {prompt.ids!r}.") from error


_kept = lru_cache(maxsize=16)(encode_prompts)


def _numbers(weights: Any) -> FloatArray | None:
    """Return `weights` as float64, or None where they are no array of numbers; text, whose characters might be digits, is none."""
    try:
        given = np.asarray(weights)
        return given.astype(np.float64) if given.dtype.kind in "iuf" or not given.size else None
    except (ValueError, TypeError):
        return None


def _what_is_wrong(weights: Any, given: FloatArray | None, num_prompts: int) -> str:
    if given is None:
        return f"{type(weights).__name__} {str(weights)[:80]!r}"
    if given.shape != (num_prompts,):
        return f"shape {given.shape}"
    bad = np.flatnonzero(~np.isfinite(given) | (given < 0))
    if len(bad):
        return f"{given[bad[0]]} for prompt {bad[0]}"
    return "" if given.sum() > 0 else "only zeros"


def cumulative_weights(weights: Sequence[float] | None, num_prompts: int) -> FloatArray | None:
    """Return the distribution function [M] of weighted prompts, the last entry 1; None where all come equally often."""
    if weights is None:
        return None
    given = _numbers(weights)
    if wrong := _what_is_wrong(weights, given, num_prompts):
        raise ValueError(f"prompt_weights must be {num_prompts} finite numbers, one a prompt, none negative and not all 0; got {wrong}.")
    assert given is not None
    cumulative: FloatArray = np.cumsum(given / given.sum())
    cumulative[np.flatnonzero(given)[-1] :] = 1.0  # rounding leaves no gap at the end, and prompts of weight 0 behind it never come
    return cumulative
