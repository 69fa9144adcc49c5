"""TextGen-v0: does the agent continue a text so that its scorer likes it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import constraints, responders, scorers, tokenizers
from .. import prompts as prompt_sources
from ..episodes import TextCore
from ..prompts import DataSet
from ..task import Constraint, Prompt, PromptSource, Responder, Scorer, Task, Tokenizer


def text_gen(  # noqa: D417 (what is a field of Task is explained there)
    num_rows: int,
    *,
    prompts: str | Path | PromptSource | DataSet | Sequence[str | Prompt] = "film_reviews",
    tokenizer: str | Path | Tokenizer = "film_reviews",
    scorer: str | Scorer = "sentiment",
    gold: str | Scorer | None = None,
    split: str | None = None,
    max_prompt_tokens: int = 8,
    max_new_tokens: int = 24,
    cut_prompts: bool = False,
    prompt_weights: Sequence[float] | None = None,
    info_text: bool = False,
    dense: bool = False,
    gamma: float = 1.0,
    chunk: int = 1,
    constraint: str | Mapping[str, Any] | Sequence[Any] | Constraint | None = None,
    forbidden_penalty: float = 1.0,
    forbidden_ends: bool = True,
    info_mask: bool = True,
    responder: str | Mapping[str, Any] | Responder | None = None,
    max_response_tokens: int = 0,
) -> TextCore:
    """Return the core of TextGen-v0; the defaults continue a tiny film review so that it is positive.

    What is not named here is the field of `textgym.task.Task` of that name, and is explained there.

    Args:
        num_rows: number of texts written side by side (the two Gymnasium faces fill it in).
        prompts: a registered name, a .txt/.tsv/.csv/.jsonl file, a list of texts, a `datasets.Dataset`, or any `PromptSource`.
        tokenizer: a registered name, a folder (ours or of `transformers`), or any `Tokenizer`.
        scorer: a registered name or any `Scorer`; it pays at the end of the text.
        gold: a second scorer, measured at the end (`info["gold"]`) and never paid.
        split: "train", "val", "test" or "all" of the prompts, by a stable hash of their text; None: "train" of a registered name, else "all".
        constraint: which continuations are allowed: a registered name, {"name": ..., and its arguments}, a list of such (all hold), or any `Constraint`.
        responder: who answers when the agent hands over: a registered name, {"name": ..., and its arguments}, or any `Responder`.
    """
    source = prompt_sources.make(prompts)
    registered = isinstance(prompts, str) and prompts in prompt_sources.PROMPTS
    task = Task(
        prompts=prompt_sources.split(source, split or ("train" if registered else "all")),
        tokenizer=tokenizers.make(tokenizer),
        scorer=scorers.make(scorer),
        gold=None if gold is None else scorers.make(gold),
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens,
        cut_prompts=cut_prompts,
        prompt_weights=prompt_weights,
        info_text=info_text,
        dense=dense,
        gamma=gamma,
        chunk=chunk,
        constraint=constraints.make(constraint),
        forbidden_penalty=forbidden_penalty,
        forbidden_ends=forbidden_ends,
        info_mask=info_mask,
        responder=None if responder is None else responders.make(responder),
        max_response_tokens=max_response_tokens,
    )
    return TextCore(task, num_rows)
