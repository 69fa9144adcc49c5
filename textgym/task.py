"""The words in which a text task is described: prompts, completions, the task itself, and Protocols for its parts.

Axis legend: B completions, P prompt columns, G columns after them, L = P + G, V vocabulary (V itself is the pad id), M numbers remembered.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .allowed import Allowed
from .core import BoolArray, FloatArray, IntArray

# What the info of an episode tells already, or what others put into it; no part of a score may take such a name, nor one that begins with "_".
RESERVED = frozenset(
    {"score", "gold", "text", "forbidden", "turns", "action_mask", "agent_mask", "dropped_tokens", "top_ids", "episode", "final_obs", "final_info"}
)


class Prompt(NamedTuple):
    """Where an episode begins, and what a scorer may need to know about it."""

    text: str
    ids: tuple[int, ...] | None = None  # ready-made ids in place of the encoded text
    reference: str | None = None  # a wanted continuation
    data: Mapping[str, Any] = {}  # anything else (a label, a goal)


@runtime_checkable
class PromptSource(Protocol):
    """A finite, indexed collection of prompts that never changes; index i always means the same prompt."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Prompt: ...


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids in [0, vocab_size) and back; `eos_id` ends a text."""

    @property
    def vocab_size(self) -> int:
        """Return how many ids there are."""
        ...

    @property
    def eos_id(self) -> int:
        """Return the id that ends a text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without EOS; raises `ValueError` naming what cannot be spelled."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; EOS is left out."""


@runtime_checkable
class WordLevel(Protocol):
    """A tokenizer whose text is its words joined by blanks: scorers may then work on ids, many times faster."""

    @property
    def words(self) -> Sequence[str]:
        """Return the word of each id."""
        ...


class Turn(NamedTuple):
    """What one side said before the other."""

    by_agent: bool
    text: str


@dataclass(frozen=True)
class Completions:
    """The finished texts of one step, as one batch: all that a scorer sees.

    Ids come first, text on demand: decoding is the dearest part of an episode's end, and many scorers need none.
    """

    tokens: IntArray  # [B, G] generated ids, EOS and answers included, pads (V) on the right
    lengths: IntArray  # [B] number of those ids
    ended: BoolArray  # [B] true where EOS or the responder ended the text, false where the budget did (or nothing has yet)
    prompt_tokens: IntArray  # [B, P] pads (V) on the left
    prompt_indices: IntArray  # [B]
    source: PromptSource
    tokenizer: Tokenizer
    agent: BoolArray | None = None  # [B, G] true where the agent wrote, in tasks that answer back; None: it wrote everything
    hand_over: BoolArray | None = None  # [V] ids by which the agent hands over, in such tasks; with no answer behind it, one was answered by nothing

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def texts(self) -> list[str]:
        """Return what was generated, without EOS, one text a row."""
        return [self.tokenizer.decode(row[:n]) for row, n in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)]

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Return the prompt of each row, as its source gave it."""
        return [self.source[i] for i in self.prompt_indices.tolist()]

    @cached_property
    def turns(self) -> list[list[Turn]]:
        """Return each row as turns in their order, without EOS; a text that nobody answered is one turn.

        An empty answer is a turn, too, as soon as the agent goes on behind it; until then the row ends with the agent's turn.
        """
        if self.agent is None:
            return [[Turn(True, text)] if text else [] for text in self.texts]
        rows = zip(self.tokens.tolist(), self.agent.tolist(), self.lengths.tolist(), strict=True)
        return [self._turns(tokens[:length], agent[:length]) for tokens, agent, length in rows]

    def _turns(self, tokens: list[int], agent: list[bool]) -> list[Turn]:
        turns: list[Turn] = []
        for begin, end in itertools.pairwise(self._borders(tokens, agent)):
            if begin and agent[begin] and agent[begin - 1]:
                turns.append(Turn(False, ""))
            turns.append(Turn(agent[begin], self.tokenizer.decode(tokens[begin:end])))
        return turns

    def _borders(self, tokens: list[int], agent: list[bool]) -> list[int]:
        """Return where turns begin, and where the last one ends: the speaker changes there, or the agent handed over just before."""
        over = [False] * len(tokens) if self.hand_over is None else self.hand_over[tokens].tolist()
        inner = [i for i in range(1, len(tokens)) if agent[i] != agent[i - 1] or (agent[i] and over[i - 1])]
        return [0, *inner, len(tokens)] if tokens else []

    @cached_property
    def full_texts(self) -> list[str]:
        """Return prompt and continuation, decoded together, one text a row."""
        pad = self.tokenizer.vocab_size
        both = np.concatenate([self.prompt_tokens, self.tokens], axis=1)
        return [self.tokenizer.decode([token for token in row if token != pad]) for row in both.tolist()]

    @property
    def own(self) -> Completions:
        """Return the same completions without the answers, as if the agent had written its turns in a row; `ended` where it wrote EOS.

        Scorers that count or judge the agent's words ask this, so that it earns nothing by what it makes others say.
        """
        return self if self.agent is None else self._own

    @cached_property
    def _own(self) -> Completions:
        mine = np.arange(self.tokens.shape[1]) < self.lengths[:, None]
        mine = mine if self.agent is None else mine & self.agent
        order = np.argsort(~mine, axis=1, kind="stable")
        tokens = np.take_along_axis(np.where(mine, self.tokens, self.tokenizer.vocab_size), order, axis=1)
        ended = (tokens == self.tokenizer.eos_id).any(axis=1)
        return replace(self, tokens=tokens, lengths=mine.sum(axis=1), ended=ended, agent=None, hand_over=None)


@runtime_checkable
class Scorer(Protocol):
    """Batch in, batch out: order-independent, deterministic unless it says otherwise, picklable, finite."""

    def __call__(self, completions: Completions, /) -> FloatArray:
        """Return one score a completion, float64 [B]."""


@runtime_checkable
class ComposedScorer(Scorer, Protocol):
    """A scorer made of parts; its parts are shown in the info beside the score."""

    def parts(self, completions: Completions, /) -> dict[str, FloatArray]:
        """Return each part's scores, float64 [B], by name."""

    def combine(self, parts: Mapping[str, FloatArray], /) -> FloatArray:
        """Return the score [B] of those parts; calling the scorer is `combine(parts(completions))`."""


class Prefixes(NamedTuple):
    """The texts of B rows as they stand: what a constraint looks at. Nothing may be written into it."""

    tokens: IntArray  # [B, L] as in an observation: the prompt in columns [0, P), pads (V) around
    ends: IntArray  # [B] the column where the next token goes
    left: IntArray  # [B] how many tokens the agent may still write, EOS included
    prompt_columns: int  # P


class Rules(Protocol):
    """A constraint bound to a vocabulary and a budget: pure functions of prefixes, and of what it remembers of each, int64 [B, M]."""

    def begin(self, prefixes: Prefixes, /) -> IntArray:
        """Return what to remember [B, M] of fresh prompts; M may be 0."""

    def follow(self, memory: IntArray, tokens: IntArray, /) -> IntArray:
        """Return what to remember [B, M] after the agent wrote `tokens` [B]; a forbidden one counts as not written."""

    def allowed(self, memory: IntArray, prefixes: Prefixes, /) -> Allowed:
        """Return which ids may come next."""


@runtime_checkable
class Constraint(Protocol):
    """Which continuations a task allows; a description, picklable, that knows no vocabulary yet."""

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int, /) -> Rules:
        """Return the constraint for this vocabulary and budget; raises `ValueError` if the vocabulary cannot spell it."""


class Answer(NamedTuple):
    """What a responder says to one dialogue."""

    text: str = ""
    ids: Sequence[int] | None = None  # ready-made ids in place of the encoded text
    ends: bool = False  # the dialogue is over after this


@runtime_checkable
class Responder(Protocol):
    """Who answers when the agent hands over. It keeps nothing: all it knows are the dialogue, its prompt (`data`: a goal, a secret) and one lot a turn."""

    @property
    def end_of_turn(self) -> Sequence[str]:
        """Return the tokens by which the agent hands over, spelled; each must be one token."""
        ...

    def __call__(self, dialogues: Completions, lots: FloatArray, /) -> Sequence[Answer]:
        """Return an answer to each of the B dialogues that wait for one; `lots` [B] are uniform numbers in [0, 1) to decide chances by."""


@dataclass(frozen=True)
class Task:
    """A text task: where it begins, how it is spelled, what it is worth, how long it may grow, what it forbids and who answers."""

    prompts: PromptSource
    tokenizer: Tokenizer
    scorer: Scorer
    max_prompt_tokens: int = 8
    max_new_tokens: int = 24  # the agent's own tokens, in all turns together
    cut_prompts: bool = False  # cut a prompt that is too long on its left, instead of refusing it
    prompt_weights: Sequence[float] | None = None  # how often each prompt comes, relative to the others; None: equally often
    info_text: bool = False  # put the finished text into info["text"]
    gold: Scorer | None = None  # measured at the end (info["gold"]), never paid
    dense: bool = False  # pay at every step what the score has risen by; the scorer must make sense of unfinished texts
    gamma: float = 1.0  # the discount of dense rewards: r_t = gamma phi(s_{t+1}) - phi(s_t)
    chunk: int = 1  # tokens of one action; above 1 actions are MultiDiscrete
    constraint: Constraint | None = None
    forbidden_penalty: float = 1.0  # what a token costs that the constraint forbids
    forbidden_ends: bool = True  # it also ends the text, which is then scored as it stands
    info_mask: bool = True  # put the mask of the allowed ids into info["action_mask"] at every step
    responder: Responder | None = None
    max_response_tokens: int = 0  # columns for the answers, in all turns together

    def __post_init__(self) -> None:
        for name in ("max_prompt_tokens", "max_new_tokens", "max_response_tokens", "chunk"):
            if not _is_integer(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} must be an integer: a number of tokens.")
        for name in ("cut_prompts", "info_text", "dense", "forbidden_ends", "info_mask"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"{name}={getattr(self, name)!r} must be True or False; any text would count as True.")
        if not (_is_real(self.gamma) and 0 <= self.gamma <= 1):
            raise ValueError(f"gamma={self.gamma!r} must be a number in [0, 1]: the discount of dense rewards.")
        if not (_is_real(self.forbidden_penalty) and 0 <= self.forbidden_penalty < float("inf")):
            raise ValueError(f"forbidden_penalty={self.forbidden_penalty!r} must be a finite number of at least 0; it is subtracted.")


def _is_integer(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool | np.bool_)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
