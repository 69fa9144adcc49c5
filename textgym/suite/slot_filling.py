"""SlotFilling-v0: does it learn to ask before it acts? A user wants one value for each slot, and has patience for a few mistakes.

Axis legend: B dialogues, G the agent's tokens, k slots, V ids (V itself is the pad), c the cost of a turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import factorial

import numpy as np

from ..core import FloatArray
from ..episodes import TextCore
from ..prompts import ListPrompts
from ..responders.user_simulator import BYE, NO, PARDON, THANKS, UserSimulator, goal_of
from ..task import Completions, Prompt, Task, Turn
from ..tokenizers import WordTokenizer

SLOTS: Mapping[str, Sequence[str]] = {"food": ("thai", "greek", "indian"), "area": ("north", "south", "centre")}
BEGIN = "hello"
Goal = tuple[str, ...]  # a value for each slot


@dataclass(frozen=True)
class SlotFilling:
    """Does it learn to ask before it acts? A dialogue pays 1 - `turn_cost` x turns if the user got what it wants, and otherwise nothing.

    Turns are the user's answers. That a failure costs none of them is on purpose: were talk charged for in any case, an agent that knows nothing yet
    would learn to be silent. The goals stand in the prompts' `data` and are equally likely; all prompts read alike, so that the agent knows of them
    what it is told. With `dense` a dialogue that is not over is worth phi = (share of the slots told) / 2, and each step pays what phi rises by;
    phi(s_0) = 0, so that returns are those of the sparse task.
    """

    slots: Mapping[str, Sequence[str]] = field(default_factory=lambda: SLOTS)
    patience: int = 3
    noise: float = 0.1  # the chance that a question is not heard
    turn_cost: float = 0.05
    max_new_tokens: int = 14
    dense: bool = False

    def __post_init__(self) -> None:
        """Refuse slots that cannot be told from one another."""
        words = [*self.slots, *itertools.chain.from_iterable(self.slots.values()), BEGIN, THANKS, NO, PARDON, BYE, *self.user.end_of_turn]
        if not self.slots or not all(self.slots.values()) or len(set(words)) != len(words):
            raise ValueError(f"SlotFilling: slots and values must be distinct words, none of them the user's own, and no slot empty; got {dict(self.slots)}.")
        if self.max_new_tokens < 1 or self.turn_cost < 0:
            raise ValueError(f"SlotFilling: max_new_tokens={self.max_new_tokens} must be 1 or more, turn_cost={self.turn_cost} not negative.")

    @property
    def user(self) -> UserSimulator:
        """Return who answers."""
        return UserSimulator(self.patience, self.noise)

    @property
    def goals(self) -> list[Goal]:
        """Return every goal there is."""
        return list(itertools.product(*self.slots.values()))

    def words(self) -> list[str]:
        """Return the vocabulary without EOS: slots, values, signs, and what the user says."""
        return [*self.slots, *itertools.chain.from_iterable(self.slots.values()), *self.user.end_of_turn, BEGIN, THANKS, NO, PARDON, BYE]

    def task(self) -> Task:
        """Return the text task: one prompt a goal."""
        prompts = ListPrompts(Prompt(BEGIN, data={"goal": dict(zip(self.slots, goal, strict=True))}) for goal in self.goals)
        return Task(
            prompts,
            WordTokenizer(self.words()),
            self,
            max_prompt_tokens=1,
            max_new_tokens=self.max_new_tokens,
            dense=self.dense,
            responder=self.user,
            max_response_tokens=self.max_new_tokens,
        )

    def __call__(self, completions: Completions) -> FloatArray:
        """Return success less the cost of its turns [B]; of dialogues that are not over, phi."""
        goals = [goal_of(prompt.data) for prompt in completions.prompts]
        return np.array([self._worth(turns, goal, completions, i) for i, (turns, goal) in enumerate(zip(completions.turns, goals, strict=True))])

    def _worth(self, turns: Sequence[Turn], goal: Mapping[str, str], completions: Completions, i: int) -> float:
        answers = [turn.text for turn in turns if not turn.by_agent]
        over = completions.ended[i] or (completions.agent is not None and completions.agent[i].sum() == self.max_new_tokens)
        if self.dense and not over:
            return len(set(answers) & set(goal.values())) / (2 * len(goal))
        success = bool(answers) and self.user.heard(turns[: 2 * len(answers)], goal)[-1] == "offer"
        return 1 - self.turn_cost * len(answers) if success else 0.0

    def best_return(self) -> float:
        """Return what the best policy earns, exactly: the value of what it may believe, over every order of questions and offers."""
        cells = len(self.slots)

        @cache
        def value(goals: frozenset[Goal], asked: frozenset[int], patience: int, budget: int, turn: int) -> float:
            options = [0.0]  # say no more
            if budget > cells:
                chance, found = 1 / len(goals), 1 - self.turn_cost * turn
                for offer in sorted(goals)[:1] if _alike(goals) else sorted(goals):
                    wrong = value(goals - {offer}, asked, patience - 1, budget - cells - 1, turn + 1) if patience > 1 and len(goals) > 1 else 0.0
                    options.append(chance * found + (1 - chance) * wrong)
            for slot in set(range(cells)) - asked if budget >= 2 else ():
                unheard = value(goals, asked, patience, budget - 2, turn + 1)
                answers = [frozenset(g for g in goals if g[slot] == told) for told in sorted({g[slot] for g in goals})]
                told = sum(len(some) / len(goals) * value(some, asked | {slot}, patience, budget - 2, turn + 1) for some in answers)
                options.append(self.noise * unheard + (1 - self.noise) * told)
            return max(options)

        return value(frozenset(self.goals), frozenset(), self.patience, self.max_new_tokens, 1)

    def random_return(self) -> float:
        """Return what uniform random ids earn, exactly: a turn of m tokens is m - 1 that are neither sign nor EOS, and then a sign."""
        slots, ids = len(self.slots), len(self.words()) + 1

        @cache
        def value(budget: int, patience: int, told: int, turn: int) -> float:
            total = 0.0
            for length in range(1, budget + 1):
                left = budget - length
                question = (slots - told) / ids**2 if length == 2 else 0.0
                offer = factorial(slots) / ids**length if length == slots + 1 else 0.0
                useless = ((ids - 3) / ids) ** (length - 1) * 2 / ids - question - offer
                heard = value(left, patience, told + 1, turn + 1) if question else 0.0
                total += question * (self.noise * value(left, patience, told, turn + 1) + (1 - self.noise) * heard)
                total += offer * (1 - self.turn_cost * turn)
                total += useless * value(left, patience - 1, told, turn + 1) if patience > 1 else 0.0
            return total

        return value(self.max_new_tokens, self.patience, 0, 1)


def _alike(goals: frozenset[Goal]) -> bool:
    """Return whether these are all combinations of some values, so that one goal is as good to offer as any other."""
    return len(goals) == np.prod([len(set(values)) for values in zip(*goals, strict=True)])


def slot_filling(
    num_rows: int,
    *,
    slots: Mapping[str, Sequence[str]] | None = None,
    patience: int = 3,
    noise: float = 0.1,
    turn_cost: float = 0.05,
    max_new_tokens: int = 14,
    dense: bool = False,
) -> TextCore:
    """SlotFilling-v0: does it learn to ask before it acts?

    Args:
        num_rows: number of dialogues side by side (the two Gymnasium faces fill it in).
        slots: the values of each slot; None: three kinds of food in three parts of town.
        patience: the turns without use after which the user leaves.
        noise: the chance that a question is not heard.
        turn_cost: what each of the user's answers takes from the pay of a success.
        max_new_tokens: the agent's own tokens, in all turns together.
        dense: pay at every step for what the user has told, as a potential difference (see `SlotFilling`).
    """
    return TextCore(SlotFilling(SLOTS if slots is None else slots, patience, noise, turn_cost, max_new_tokens, dense).task(), num_rows)
