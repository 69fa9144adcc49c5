"""TextGen-v0: does the agent continue a text so that its scorer likes it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import prompts as prompt_sources
from .. import scorers, tokenizers
from ..episodes import TextCore
from ..task import Prompt, PromptSource, Responder, Scorer, Task, Tokenizer


def text_gen(
    num_rows: int,
    *,
    prompts: str | Path | PromptSource | Sequence[str | Prompt] = "film_reviews",
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
    responder: Responder | None = None,
    max_response_tokens: int = 0,
) -> TextCore:
    """Return the core of TextGen-v0; the defaults continue a tiny film review so that it is positive.

    Args:
        num_rows: number of texts written side by side (the two Gymnasium faces fill it in).
        prompts: a registered name, a .txt/.tsv/.csv/.jsonl file, a list of texts, or any `PromptSource`.
        tokenizer: a registered name, a folder (ours or of `transformers`), or any `Tokenizer`.
        scorer: a registered name or any `Scorer`; it pays at the end of the text.
        gold: a second scorer, measured at the end (`info["gold"]`) and never paid.
        split: "train", "val", "test" or "all" of the prompts, by a stable hash of their text; None is "train" for a
            registered name and "all" for what you bring.
        max_prompt_tokens: columns for the prompt, right-aligned.
        max_new_tokens: the budget of generated tokens.
        cut_prompts: cut a prompt that is too long on its left, instead of refusing it.
        prompt_weights: how often each prompt of the split comes, relative to the others; None: equally often.
        info_text: put the finished text into `info["text"]`.
        dense: pay at every step what the score has risen by, as a potential difference; the scorer must make sense of unfinished texts.
        gamma: the discount of dense rewards.
        chunk: tokens of one action; above 1, actions are `MultiDiscrete`.
        responder: who answers when the agent hands over.
        max_response_tokens: columns for the answers, in all turns together.
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
        responder=responder,
        max_response_tokens=max_response_tokens,
    )
    return TextCore(task, num_rows)
