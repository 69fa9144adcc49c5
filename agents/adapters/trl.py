"""TRL's trainers (GRPO, RLOO) on textgym's scorers and environments: reward functions as TRL calls them. Needs no TRL itself.

TRL calls `reward(prompts=[...], completions=[...], completion_ids=[[...]], **columns)` and wants a list of floats; `columns` are those of the data set,
repeated for every completion, and a few things of TRL's own.
Axis legend: B completions, P prompt columns, G columns of generated tokens, V vocabulary (V itself is the pad id).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from textgym import tokenizers
from textgym.core import IntArray
from textgym.episodes import scores_of
from textgym.prompts import ListPrompts
from textgym.task import Completions, Prompt, Scorer

from .whole_responses import WholeResponses

Message = Mapping[str, Any]  # {"role": ..., "content": ...}
Text = str | Sequence[Message]
OF_TRL = frozenset({"trainer_state", "log_extra", "log_metric", "environments"})  # beside the columns of the data set


class ScorerReward:
    """A scorer as a reward function: `GRPOTrainer(..., reward_funcs=ScorerReward(Sentiment(), tokenizer))`.

    The scorer sees one batch, as in an environment. Where TRL tells token ids they are what is scored, `ended` tells EOS from an exhausted budget, and
    ids must be this tokenizer's; without them the texts are encoded and count as ended. A column `reference` becomes each prompt's reference, every other
    column of the data set stands in its `data`. Of a conversation the last message is the prompt's text, the whole of it `data["messages"]`.
    The parts of a composed score are logged where TRL has a `log_metric`.

    Args:
        scorer: any scorer of textgym.
        tokenizer: the model's own: one of textgym's, one of transformers, a registered name or a folder.
    """

    def __init__(self, scorer: Scorer, tokenizer: Any) -> None:
        if not callable(scorer):
            raise TypeError(f"A scorer is called with Completions, and {scorer!r} cannot be called; textgym.scorers.make makes one of a name.")
        self.scorer, self.tokenizer = scorer, tokenizers.make(tokenizer)
        self.__name__ = getattr(scorer, "__name__", type(scorer).__name__)  # TRL's log calls it so

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], completion_ids: Sequence[Sequence[int]] | None = None, **columns: Any
    ) -> list[float]:
        """Return a score a completion.

        Raises:
            ValueError: for ids that are not this tokenizer's, texts that it cannot spell, and completions of several messages (tools, or somebody who
                answered: what of them is the model's cannot be told).
        """
        if not len(prompts):
            return []
        scores = scores_of(self.scorer, self._completions(prompts, completions, completion_ids, columns))
        log = columns.get("log_metric")
        for name, values in scores.items():
            if name != "score" and log is not None:
                log(f"{self.__name__}/{name}", float(values.mean()))
        return [float(score) for score in scores["score"]]

    def _completions(
        self, prompts: Sequence[Text], completions: Sequence[Text], given: Sequence[Sequence[int]] | None, columns: Mapping[str, Any]
    ) -> Completions:
        own = {name: values for name, values in columns.items() if name not in OF_TRL}
        source = ListPrompts([_prompt(prompt, {name: values[i] for name, values in own.items()}) for i, prompt in enumerate(prompts)])
        vocab, eos = self.tokenizer.vocab_size, self.tokenizer.eos_id
        ids = [list(row) for row in given] if given is not None else [[*self.tokenizer.encode(_said(text)), eos] for text in completions]
        if wrong := [i for row in ids for i in row if not 0 <= i < vocab]:
            raise ValueError(f"Id {wrong[0]} is outside this tokenizer's vocabulary of {vocab}: give ScorerReward the tokenizer of the model.")
        if given is not None:
            _ = [_said(text) for text in completions]  # ids of tools and answers are among those of the model
        tokens = _table(ids, vocab, left=False)
        return Completions(
            tokens=tokens,
            lengths=np.array([len(row) for row in ids]),
            ended=(tokens == eos).any(axis=1),
            prompt_tokens=_table([self.tokenizer.encode(source[i].text) for i in range(len(source))], vocab, left=True),
            prompt_indices=np.arange(len(ids)),
            source=source,
            tokenizer=self.tokenizer,
        )


class EnvironmentReward:
    """A text environment as a reward function: what its completions would have earned token by token (see `WholeResponses`).

        tasks = EnvironmentReward(gym.make("textgym/Even-v0"))
        GRPOTrainer(..., reward_funcs=tasks, train_dataset=datasets.Dataset.from_list(tasks.responses.rows()))

    The model writes the environment's ids, and `max_completion_length` is its `max_new_tokens`.
    """

    def __init__(self, env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]) -> None:
        self.responses = WholeResponses(env)
        self.__name__ = "environment"

    def __call__(self, completion_ids: Sequence[Sequence[int]], prompt_index: Sequence[int] | None = None, **columns: Any) -> list[float]:
        """Return the sum of rewards of each completion; raises `ValueError` without the column, and for what the environment could not have come to."""
        if prompt_index is None:
            raise ValueError("The data set has no column prompt_index, so nobody knows where these completions begin: make it of `responses.rows()`.")
        return [float(reward) for reward in self.responses.score(prompt_index, completion_ids)]


def _prompt(prompt: Text, row: Mapping[str, Any]) -> Prompt:
    reference, data = row.get("reference"), {name: value for name, value in row.items() if name != "reference"}
    if isinstance(prompt, str):
        return Prompt(prompt, reference=reference, data=data)
    return Prompt(_content(prompt[-1]), reference=reference, data={"messages": list(prompt), **data})


def _said(completion: Text) -> str:
    """Return the text of a completion, plain or conversational."""
    if isinstance(completion, str):
        return completion
    if len(completion) != 1:
        raise ValueError(f"A completion of {len(completion)} messages is not the model's alone (tools, or somebody who answers): a scorer judges one message.")
    return _content(completion[0])


def _content(message: Message) -> str:
    content = message["content"]
    if not isinstance(content, str):
        raise ValueError(f"A message's content is {type(content).__name__}, and scorers read text: give messages with content as a str.")
    return content


def _table(ids: Sequence[Sequence[int]], pad: int, *, left: bool) -> IntArray:
    """Return ids as an array [B, longest], pads on the left or on the right."""
    table = np.full((len(ids), max(1, *map(len, ids))), pad, dtype=np.int64)
    for row, own in zip(table, ids, strict=True):
        row[len(row) - len(own) if left else 0 : len(row) if left else len(own)] = own
    return table
