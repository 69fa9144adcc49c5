"""Asking the responder, and checking what it says.

Axis legend: B dialogues that wait for an answer, N rows, V vocabulary.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from ..core import BoolArray, FloatArray, IntArray
from ..task import Answer, Completions, Responder, Task, Tokenizer


class ResponderError(ValueError):
    """A responder failed, or said what cannot stand in a text."""


def hand_over_table(task: Task) -> BoolArray | None:
    """Return which ids hand over to the responder, bool [V]; None where nobody answers. Raises `ValueError` where that cannot work."""
    if task.responder is None:
        if task.max_response_tokens:
            raise ValueError(f"max_response_tokens={task.max_response_tokens} makes room for answers, but nobody gives any: pass responder=, or leave it 0.")
        return None
    if task.max_response_tokens < 1:
        raise ValueError("A responder needs room for its answers: give max_response_tokens, for all turns of an episode together.")
    if isinstance(task.responder.end_of_turn, str):
        raise TypeError(f"{_name(task.responder)}.end_of_turn is a list of tokens, not the one text {task.responder.end_of_turn!r}; put it into a list.")
    table = np.zeros(task.tokenizer.vocab_size, dtype=np.bool_)
    table[[_one_id(word, task.tokenizer) for word in task.responder.end_of_turn]] = True
    if not table.any() or table[task.tokenizer.eos_id]:
        raise ValueError(f"{_name(task.responder)} must name at least one token that ends a turn, and EOS is none: it ends the text.")
    return table


def _one_id(word: str, tokenizer: Tokenizer) -> int:
    if not isinstance(word, str):
        raise TypeError(f"A turn ends by a token, spelled as a text, not by {word!r}.")
    try:
        ids = tokenizer.encode(word)
    except ValueError as error:
        raise ValueError(f"A turn ends by {word!r}, which the tokenizer cannot spell: {error}") from error
    if len(ids) != 1 or tokenizer.decode(ids).strip() != word.strip():  # one id may stand for all unknown words
        raise ValueError(f"A turn ends by one token, but the tokenizer spells {word!r} as {ids}, {tokenizer.decode(ids)!r}; choose a word that is one token.")
    return ids[0]


def draws_lots(responder: Responder) -> bool:
    """Return whether a responder decides anything by chance; one with `draws_lots = False` gets zeros, and its dialogues can be enumerated."""
    return bool(getattr(responder, "draws_lots", True))


def answers_of(responder: Responder, dialogues: Completions, lots: FloatArray, room: IntArray) -> tuple[list[list[int]], BoolArray]:
    """Return the ids of each answer, and whether it ends the dialogue [B].

    Args:
        responder: who answers.
        dialogues: what was said so far, B rows.
        lots: uniform numbers [B].
        room: how many tokens each answer may have [B].

    Raises:
        ResponderError: naming prompt and dialogue, if it fails, gives other than B answers, leaves the vocabulary, or says too much.
    """
    try:
        answers = list(islice(responder(dialogues, lots), len(dialogues) + 1))  # neither answers nor ids need ever end, if a generator gives them
    except Exception as error:
        raise ResponderError(
            f"{_name(responder)} raised {type(error).__name__}: {error} (to {_shown(dialogues, 0)}, the first of {len(dialogues)})."
        ) from error
    if len(answers) != len(dialogues):
        raise ResponderError(f"{_name(responder)}: {len(dialogues)} dialogues came in, so as many answers must come out, got {_counted(answers, dialogues)}.")
    ids = [_ids_of(responder, answer, dialogues, i, int(room[i])) for i, answer in enumerate(answers)]
    return ids, np.array([bool(answer.ends) for answer in answers], dtype=np.bool_)


def _counted(answers: list[Answer], dialogues: Completions) -> str:
    return "more" if len(answers) > len(dialogues) else str(len(answers))


def _ids_of(responder: Responder, answer: Answer, dialogues: Completions, i: int, room: int) -> list[int]:
    if not isinstance(answer, Answer):
        raise ResponderError(f"{_name(responder)} returned {answer!r} to {_shown(dialogues, i)}; an answer is textgym.task.Answer(text=...).")
    if mistyped := _mistyped(answer.text, answer.ends):
        raise ResponderError(f"{_name(responder)} answered with {mistyped} (to {_shown(dialogues, i)}).")
    if answer.ids is None:
        try:
            ids = dialogues.tokenizer.encode(answer.text)
        except ValueError as error:
            raise ResponderError(f"{_name(responder)} answered {answer.text[:80]!r} to {_shown(dialogues, i)}: {error}") from error
    else:
        ids = _whole_numbers(responder, answer.ids, dialogues, i, room)
    if len(ids) > room:
        raise ResponderError(
            f"{_name(responder)} answered more than the {room} tokens that are left of max_response_tokens, to {_shown(dialogues, i)}; "
            "raise max_response_tokens, or let it say less or end the dialogue."
        )
    vocab_size = dialogues.tokenizer.vocab_size
    if wrong := [token for token in ids if not 0 <= token < vocab_size]:
        raise ResponderError(f"{_name(responder)} answered with id {wrong[0]}, outside the vocabulary of {vocab_size}, to {_shown(dialogues, i)}.")
    if dialogues.tokenizer.eos_id in ids:
        raise ResponderError(f"{_name(responder)} answered with EOS to {_shown(dialogues, i)}; a dialogue is ended by Answer(..., ends=True).")
    return ids


def _mistyped(text: object, ends: object) -> str:
    if not isinstance(text, str):
        return f"text={text!r}; text is a str, and an empty one says nothing"
    return "" if isinstance(ends, bool | np.bool_) else f"ends={ends!r}; ends is True or False"


def _whole_numbers(responder: Responder, ids: Iterable[Any], dialogues: Completions, i: int, room: int) -> list[int]:
    try:
        return [_whole(token) for token in islice(ids, room + 1)]
    except TypeError as error:
        raise ResponderError(f"{_name(responder)} answered with ids that are no integers to {_shown(dialogues, i)}: {error}.") from error


def _whole(token: Any) -> int:
    if isinstance(token, bool | np.bool_):
        raise TypeError(f"{token!r} is a flag, not an id")
    return operator.index(token)


def _shown(dialogues: Completions, i: int) -> str:
    return f"{dialogues.prompts[i].text!r} -> {dialogues.texts[i]!r}"


def _name(responder: Responder) -> str:
    return type(responder).__name__
