"""The core of every text task: prefixes that grow by one token a step until EOS or the budget ends them.

Axis legend: N rows, B rows of one call, P prompt columns, G columns of generated tokens, L = P + G, M prompts, V vocabulary.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from .core import ALL_ROWS, FloatArray, IntArray, Rows, Step, Streams
from .task import Completions, ComposedScorer, PromptSource, Scorer, Task, Tokenizer


class ScorerError(ValueError):
    """A scorer failed, or gave back something that is no score."""


class EncodedPrompts(NamedTuple):
    """Every prompt of a source as ids, so that an episode starts by one gather."""

    tokens: IntArray  # [M, P] pads (V) on the left
    lengths: IntArray  # [M]


class TextCore:
    """N prefixes that grow by one token a step.

    An observation is Box(0, V, (L,), int64): the prompt right-aligned in columns [0, P), the continuation from column P on,
    and the pad id V everywhere else. So prompt, continuation and the budget left can be read from it alone.
    The reward is the scorer's at the end of the text, and 0 before.
    """

    render_modes: tuple[str, ...] = ("ansi", "human")

    def __init__(self, task: Task, num_rows: int) -> None:
        if task.max_new_tokens < 1 or task.max_prompt_tokens < 1:
            raise ValueError(f"A text task needs max_prompt_tokens and max_new_tokens of at least 1, got {task.max_prompt_tokens} and {task.max_new_tokens}.")
        self.task, self.num_rows = task, num_rows
        self._pad, self._eos = checked_ids(task.tokenizer)
        self._prompts = encoded(task.prompts, task.tokenizer, task.max_prompt_tokens, task.cut_prompts)
        self._width = task.max_prompt_tokens + task.max_new_tokens
        self.observation_space = Box(0, self._pad, (self._width,), np.int64)
        self.action_space = Discrete(self._pad)
        self._tokens = np.full((num_rows, self._width), self._pad, dtype=np.int64)
        self._begin = np.arange(num_rows) * self._width + task.max_prompt_tokens  # [N] where generation starts, in `_tokens` laid flat
        self._last = self._begin + task.max_new_tokens - 1  # [N] the place of the last token that the budget allows
        self._place = self._begin.copy()  # [N] where the next token goes
        self._ended = np.zeros(num_rows, dtype=np.bool_)  # [N] by EOS
        self._index = np.zeros(num_rows, dtype=np.int64)  # [N] the prompt
        self._results: dict[str, FloatArray] = {}  # of the rows that ended last, in their order

    def start(self, rows: IntArray, streams: Streams, options: Mapping[str, Any]) -> None:
        """Put a prompt on each row: a random one, or the one that `options["prompt"]` (an index, or [N] of them) names."""
        chosen = options.get("prompt")
        index = streams.integers(rows, len(self._prompts.tokens)) if chosen is None else self._chosen(chosen)[rows]
        self._tokens[rows, : self.task.max_prompt_tokens] = self._prompts.tokens[index]
        self._tokens[rows, self.task.max_prompt_tokens :] = self._pad
        self._place[rows] = self._begin[rows]
        self._ended[rows] = False
        self._index[rows] = index

    def _chosen(self, prompt: Any) -> IntArray:
        index = np.asarray(prompt)
        if index.dtype.kind not in "iu" or index.shape not in ((), (1,), (self.num_rows,)):
            raise ValueError(f'options["prompt"] must be one prompt index or {self.num_rows} of them, got {prompt!r}.')
        if index.size and not (index.min() >= 0 and index.max() < len(self._prompts.tokens)):
            raise ValueError(f'options["prompt"] must lie in [0, {len(self._prompts.tokens)}), the number of prompts, got {prompt!r}.')
        return np.broadcast_to(index.astype(np.int64), (self.num_rows,))

    def advance(self, rows: Rows, actions: NDArray[Any], streams: Streams) -> Step:
        """Append one token to each row; score those that ended, as one batch."""
        actions = self._checked(actions)
        place = self._place[rows]
        self._tokens.reshape(-1)[place] = actions  # one flat write is faster than a two-dimensional one
        terminated = place == self._last[rows]
        terminated |= actions == self._eos
        self._place[rows] = place + 1
        rewards = np.zeros(len(actions))
        if terminated.any():
            self._finish(rows, actions, terminated, rewards)
        return Step(rewards, terminated, np.zeros(len(actions), dtype=np.bool_))

    def _checked(self, actions: NDArray[Any]) -> IntArray:
        if actions.ndim != 1:
            raise ValueError(f"An action is one token id a row; got an array of shape {actions.shape} for all rows together.")
        if actions.dtype != np.int64:
            if actions.dtype.kind not in "iu":
                raise ValueError(f"Actions are token ids (integers), got dtype {actions.dtype}.")
            actions = actions.astype(np.int64)
        if actions.view(np.uint64).max(initial=0) >= self._pad:  # a negative id reads as a huge one: one comparison for both sides
            wrong = actions[(actions < 0) | (actions >= self._pad)][0]
            raise ValueError(f"Action {wrong} is outside the action space Discrete({self._pad}); token ids run from 0 to {self._pad - 1}.")
        return actions

    def _finish(self, rows: Rows, actions: IntArray, terminated: NDArray[np.bool_], rewards: FloatArray) -> None:
        which = np.flatnonzero(terminated)
        ended = which if isinstance(rows, slice) else rows[which]
        self._ended[ended] = actions[which] == self._eos
        completions = self.completions(ended)
        self._results = scores_of(self.task.scorer, completions)
        if self.task.gold is not None:
            self._results["gold"] = scores_of(self.task.gold, completions)["score"]
        rewards[which] = self._results["score"]

    def completions(self, rows: IntArray) -> Completions:
        """Return what stands on `rows`, as the scorer sees it."""
        both, width = self._tokens[rows], self.task.max_prompt_tokens
        return Completions(
            tokens=both[:, width:],
            lengths=self._place[rows] - self._begin[rows],
            ended=self._ended[rows],
            prompt_tokens=both[:, :width],
            prompt_indices=self._index[rows],
            source=self.task.prompts,
            tokenizer=self.task.tokenizer,
        )

    def observe(self, rows: Rows, copy: bool = True) -> IntArray:
        """Return the prefixes [B, L]."""
        tokens = self._tokens[rows]
        return tokens.copy() if copy and isinstance(rows, slice) else tokens

    def live_info(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return nothing: an unconstrained text says all in its observation."""
        return {}

    def end_info(self, rows: IntArray) -> dict[str, NDArray[Any]]:
        """Return `score`, the parts of a composed score, `gold` and `text`, where the task has them."""
        info: dict[str, NDArray[Any]] = dict(self._results)
        if self.task.info_text:
            info["text"] = np.array(self.completions(rows).texts, dtype=object)
        return info

    def texts(self, rows: Rows = ALL_ROWS) -> list[str]:
        """Return the continuations as they stand, decoded."""
        return self.completions(np.arange(self.num_rows)[rows]).texts

    def render(self, row: int, mode: str) -> str:
        """Return prompt and continuation with a bar between them, and what is left of the budget."""
        completions = self.completions(np.array([row]))
        prompt = self.task.tokenizer.decode(completions.prompt_tokens[0, self.task.max_prompt_tokens - self._prompts.lengths[self._index[row]] :].tolist())
        used = f"{completions.lengths[0]}/{self.task.max_new_tokens} tokens{', ended' if completions.ended[0] else ''}"
        return f"{prompt} | {completions.texts[0]}  [{used}]"

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return tokens [N, L], generated counts [N], ended [N] and prompt indices [N]."""
        return {"tokens": self._tokens.copy(), "counts": self._place - self._begin, "ended": self._ended.copy(), "index": self._index.copy()}

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become what `get_state` described."""
        if np.shape(state["tokens"]) != self._tokens.shape:
            raise ValueError(
                f"This state holds tokens of shape {np.shape(state['tokens'])}, this environment {self._tokens.shape}: other rows or another task."
            )
        self._tokens[:] = state["tokens"]
        self._place[:] = self._begin + state["counts"]
        self._ended[:] = state["ended"]
        self._index[:] = state["index"]

    def like(self, num_rows: int) -> TextCore:
        """Return an unstarted core of the same task with `num_rows` rows; prompts and tokenizer are shared."""
        return TextCore(self.task, num_rows)


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
        ids = list(prompt.ids) if prompt.ids is not None else tokenizer.encode(prompt.text)
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


_kept = lru_cache(maxsize=16)(encode_prompts)


def scores_of(scorer: Scorer, completions: Completions) -> dict[str, FloatArray]:
    """Return `score` [B] and the parts of a composed scorer; raises `ScorerError` that names prompt and text."""
    try:
        if isinstance(scorer, ComposedScorer):
            parts = scorer.parts(completions)
            found = {"score": scorer.combine(parts), **parts}
        else:
            found = {"score": scorer(completions)}
    except Exception as error:
        first = f"{completions.prompts[0].text!r} -> {completions.texts[0]!r}"
        raise ScorerError(f"Scorer {_name(scorer)} raised {type(error).__name__}: {error} (a batch of {len(completions)}, the first: {first}).") from error
    return {name: _checked_scores(values, f"{_name(scorer)}, {name}", completions) for name, values in found.items()}


def _name(scorer: Scorer) -> str:
    return getattr(scorer, "__name__", type(scorer).__name__)


def _checked_scores(values: Any, name: str, completions: Completions) -> FloatArray:
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ScorerError(f"Scorer {name} returned {type(values).__name__}, which is no array of numbers: {error}.") from error
    if scores.shape != (len(completions),):
        raise ScorerError(f"Scorer {name}: {len(completions)} completions came in, so shape ({len(completions)},) must come out, got {scores.shape}.")
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ScorerError(
            f"Scorer {name} returned {scores[bad]} for prompt {completions.prompts[bad].text!r}, text {completions.texts[bad]!r}; scores are finite."
        )
    return scores
