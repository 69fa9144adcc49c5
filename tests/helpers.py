"""Small real parts that several tests share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from textgym.episodes import TextCore
from textgym.prompts import ListPrompts
from textgym.task import Answer, Completions, Task
from textgym.tokenizers import WordTokenizer

if TYPE_CHECKING:
    from agents.policies import CausalLMPolicy

WORDS = ("<eos>", "a", "b", "c", "d", "e")
PROMPTS = ("a", "b c", "a b c", "e d", "c", "d d d")


class LetterShare:
    """The share of `letter` among the generated words: a scorer that needs no float tolerance."""

    def __init__(self, letter: str = "a") -> None:
        self.letter = letter

    def __call__(self, completions: Completions) -> np.ndarray:
        return np.array([text.split().count(self.letter) / max(1, len(text.split())) for text in completions.texts])


class TwoParts:
    """A composed scorer: its parts belong into the info."""

    def parts(self, completions: Completions) -> dict[str, np.ndarray]:
        return {"share": LetterShare("b")(completions), "length": completions.lengths.astype(np.float64)}

    def combine(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        return parts["share"] + 0.125 * parts["length"]

    def __call__(self, completions: Completions) -> np.ndarray:
        return self.combine(self.parts(completions))


class Echo:
    """A responder that says the agent's turn again, or by lot nothing or one word more, and leaves when it hears "d" twice in a row."""

    end_of_turn = ("e", "c")

    def __call__(self, dialogues: Completions, lots: np.ndarray) -> list[Answer]:
        heard = [turns[-1].text for turns in dialogues.turns]
        said = [text if lot < 0.4 else "" if lot < 0.7 else "b" for text, lot in zip(heard, lots, strict=True)]
        return [Answer(said[i], ends="d d" in heard[i]) for i in range(len(heard))]


def small_task(**changes: Any) -> Task:
    """Return a task of six words, six prompts and a budget of five tokens."""
    settings: dict[str, Any] = {
        "prompts": ListPrompts(PROMPTS),
        "tokenizer": WordTokenizer(WORDS),
        "scorer": LetterShare(),
        "max_prompt_tokens": 3,
        "max_new_tokens": 5,
    }
    return Task(**{**settings, **changes})


class SmallCore:
    """A picklable core factory of `small_task`."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def __call__(self, num_rows: int) -> TextCore:
        return TextCore(small_task(**self.changes), num_rows)


def tiny_language_model(seed: int = 0, positions: int = 8) -> CausalLMPolicy:
    """Return a policy for `small_task` on one layer of GPT-2, 16 wide (torch is imported here: many tests need none)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from agents.policies import CausalLMPolicy, seeded

    sizes = {"vocab_size": len(WORDS), "n_positions": positions, "n_embd": 16, "n_layer": 1, "n_head": 2}
    with seeded(seed):
        return CausalLMPolicy(GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.1, bos_token_id=0, eos_token_id=0)), len(WORDS))
