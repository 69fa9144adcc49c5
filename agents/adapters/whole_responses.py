"""A text environment for trainers that act by whole responses: its prompts, and what a response would have earned token by token.

Axis legend: B responses, G tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker

from textgym.core import FloatArray, IntArray, Streams
from textgym.env import GymEnv
from textgym.episodes import TextCore
from textgym.task import Task
from textgym.vector import GymVectorEnv

Response = str | Sequence[int]  # a text, or the ids of its tokens
HARMLESS = (PassiveEnvChecker, OrderEnforcing)  # what gym.make puts around every environment


class WholeResponses:
    """The task of a text environment as prompts and scores: `WholeResponses(gym.make("TextGen-v0"))`.

    `score` plays the responses on the environment's own core: what it pays is what stepping through the same tokens pays, growth of dense rewards and
    prices of forbidden tokens included.

    Raises:
        TypeError: if this is no text environment of textgym.
        ValueError: if a response alone does not settle what happens: a wrapper stands in between, somebody answers, or actions are chunks.
    """

    def __init__(self, env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]) -> None:
        self._core = _core_of(env)
        self.task: Task = self._core.task

    @property
    def prompts(self) -> list[str]:
        """Return the prompts as texts, in the order of their indices."""
        return [self.task.prompts[i].text for i in range(len(self.task.prompts))]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a prompt, {"prompt": text, "prompt_index": i}: what `datasets.Dataset.from_list` takes."""
        return [{"prompt": text, "prompt_index": i} for i, text in enumerate(self.prompts)]

    def score(self, prompt_indices: Sequence[int] | IntArray, responses: Sequence[Response]) -> FloatArray:
        """Return the sum of rewards [B] of writing each response after the prompt of that index.

        A response is a text, behind which EOS is written, or token ids. What stands behind EOS, behind the budget, or behind a forbidden token that
        ends the text is not written: the episode is over.

        Raises:
            ValueError: for an index that is none, a text that the tokenizer cannot spell, an id outside its vocabulary, or ids that neither end by EOS
                nor fill the budget: the environment would go on.
        """
        if not len(prompt_indices) and not len(responses):
            return np.zeros(0)
        indices, ids = np.asarray(prompt_indices), [self._ids(response) for response in responses]
        if indices.shape != (len(ids),) or indices.dtype.kind not in "iu":
            raise ValueError(f"Each of the {len(ids)} responses needs the index of its prompt, an integer; got {prompt_indices!r}.")
        return self._played(indices, ids)

    def _ids(self, response: Response) -> list[int]:
        if isinstance(response, str):
            return [*self.task.tokenizer.encode(response), self.task.tokenizer.eos_id]
        return [int(i) for i in response]

    def _played(self, indices: IntArray, ids: Sequence[Sequence[int]]) -> FloatArray:
        core, streams = self._core.like(len(ids)), Streams.from_seeds([0] * len(ids))  # no draw matters: the prompt is chosen, and nobody answers
        core.start(np.arange(len(ids)), streams, {"prompt": indices.astype(np.int64)})
        total, going_on = np.zeros(len(ids)), np.arange(len(ids))
        for place in range(self.task.max_new_tokens):
            tokens = np.array([self._token(ids, row, place) for row in going_on.tolist()])
            rewards, terminated, _ = core.advance(going_on, tokens, streams)
            total[going_on] += rewards
            going_on = going_on[~terminated]
            if not len(going_on):
                break
        return total

    def _token(self, ids: Sequence[Sequence[int]], row: int, place: int) -> int:
        if place < len(ids[row]):
            return ids[row][place]
        raise ValueError(
            f"Response {row} stops after {place} tokens without EOS (id {self.task.tokenizer.eos_id}), and the environment has room for "
            f"{self.task.max_new_tokens}: it would go on. Let the trainer write up to {self.task.max_new_tokens} tokens (TRL: max_completion_length), "
            "or make the environment with that max_new_tokens."
        )


def _core_of(env: Any) -> TextCore:
    """Return the core of a text environment that whole responses can be played on."""
    bare, layer = env.unwrapped, env
    core: Any = bare.core if isinstance(bare, GymEnv | GymVectorEnv) else None
    if not isinstance(core, TextCore):
        raise TypeError(f"WholeResponses stands on a text environment of textgym (gym.make or gym.make_vec of TextGen-v0, ...), not on {env}.")
    while layer is not bare:
        if not isinstance(layer, HARMLESS):
            raise ValueError(f"{type(layer).__name__} stands around the environment, and may change what is paid or written: give the environment without it.")
        layer = layer.env
    if core.task.responder is not None:
        raise ValueError(
            "This task answers back, so what a token earns hangs on answers that come in between: a whole response cannot know them. "
            "Train on it token by token, or take the task without its responder."
        )
    if core.task.chunk > 1:
        raise ValueError(f"This environment's actions are chunks of {core.task.chunk} tokens; a whole response has none: make it with chunk=1.")
    return core
