"""A user who wants something and is asked for it: goal, patience, success.

A small relative of the agenda-based user of Schatzmann et al. 2007 ("Agenda-based user simulation for bootstrapping a POMDP dialogue system"):
the goal is the agenda, a value for each slot; what was said and what patience is left is read off the dialogue, since a responder keeps nothing.

    agent   food ?          area ?          area ?          thai north .
    user            thai            pardon          north               thanks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..core import FloatArray
from ..task import Answer, Completions, Turn
from .registry import register

THANKS, NO, PARDON, BYE = "thanks", "no", "pardon", "bye"
Heard = Literal["question", "again", "offer", "wrong", "nonsense"]


@register("user_simulator")
@dataclass(frozen=True)
class UserSimulator:
    """Answers questions by the values of the prompt's `data["goal"]`, a slot's name to a value, each one word; ends the dialogue by "thanks" or "bye".

    The agent asks `food ?` and is told `thai`, or `pardon` where the user did not hear it (a chance of `noise`). It offers `thai north .`,
    values in any order: exactly those of the goal are answered by `thanks`, the end and a success; others by `no`. A wrong offer, a question
    already answered (the answer is given again) and anything else that one may say (`pardon`) wear on the patience: when it is worn
    out the user says `bye`, which is the end, too. A question that was not heard costs none. Offers are always heard.
    """

    patience: int = 3  # the turns without use after which the user leaves
    noise: float = 0.0  # the chance of not hearing a question
    question_sign: str = "?"
    offer_sign: str = "."

    def __post_init__(self) -> None:
        if self.patience < 1 or not 0 <= self.noise < 1:
            raise ValueError(f"A user has a patience of at least 1 and noise in [0, 1), got {self.patience} and {self.noise}.")
        if self.question_sign == self.offer_sign:
            raise ValueError(f"Questions and offers end by different signs, both are {self.offer_sign!r}.")

    @property
    def draws_lots(self) -> bool:
        """Return whether chance has a say."""
        return self.noise > 0

    @property
    def end_of_turn(self) -> Sequence[str]:
        """Return the signs that end a question and an offer."""
        return self.question_sign, self.offer_sign

    def __call__(self, dialogues: Completions, lots: FloatArray) -> list[Answer]:
        """Return what each user says; lots below `noise` are questions not heard."""
        goals = [goal_of(prompt.data) for prompt in dialogues.prompts]
        return [self._answer(turns, goal, lot) for turns, goal, lot in zip(dialogues.turns, goals, lots.tolist(), strict=True)]

    def _answer(self, turns: list[Turn], goal: Mapping[str, str], lot: float) -> Answer:
        heard = self.heard(turns, goal)
        now = heard[-1]
        if now == "offer":
            return Answer(THANKS, ends=True)
        if sum(one in ("again", "wrong", "nonsense") for one in heard) >= self.patience:
            return Answer(BYE, ends=True)
        if now in ("question", "again") and lot >= self.noise:
            return Answer(goal[turns[-1].text.strip().removesuffix(self.question_sign).strip()])
        return Answer(NO if now == "wrong" else PARDON)

    def heard(self, turns: Sequence[Turn], goal: Mapping[str, str]) -> list[Heard]:
        """Return what each of the agent's turns was to the user, in their order; nothing said after the last sign is a turn."""
        told, heard = set[str](), list[Heard]()
        for said, answer in zip(turns[::2], [*(turn.text for turn in turns[1::2]), ""], strict=False):
            text = said.text.strip()
            question, offer = text.removesuffix(self.question_sign), text.removesuffix(self.offer_sign).split()
            kind: Heard = "nonsense"
            if question != text and question.strip() in goal:
                slot = question.strip()
                kind = "again" if slot in told else "question"
                told |= {slot} if answer == goal[slot] else set()
            elif text.endswith(self.offer_sign) and offer:
                kind = "offer" if sorted(offer) == sorted(goal.values()) else "wrong"
            heard.append(kind)
        return heard


def goal_of(data: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the goal in a prompt's data; raises `ValueError` if there is none, or a value of more than one word."""
    goal = data.get("goal")
    if not isinstance(goal, Mapping) or not goal or not all(isinstance(value, str) and value.split() == [value] for value in goal.values()):
        raise ValueError(f'A user needs a goal, {{"food": "thai", ...}}, one word a slot, in the prompt\'s data["goal"], got {goal!r}.')
    return goal
