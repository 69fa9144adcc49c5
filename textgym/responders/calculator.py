"""A tool that is called inside the text: the agent writes `12 + 7 =` and reads the result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..core import FloatArray
from ..task import Answer, Completions, Tokenizer
from .registry import register

ERROR = "error"
_AT_THE_END = re.compile(r"[-+*/()0-9\s]*$")
_PIECE = re.compile(r"\s*([0-9]+|//|[-+*()])")


@register("calculator")
@dataclass(frozen=True)
class Calculator:
    """Works out what stands before the sign that ends the turn: integers, + - * // and brackets, and "error" for what is none of these.

    Of what the agent said since the last answer it reads the longest end that is made of such signs, so that words may stand before it.
    Blanks mean nothing: "1 2 + 7" is 12 + 7, since a tokenizer may spell digit by digit. A result that the tokenizer does not know as one piece
    is spelled digit by digit ("1 9"); where it can spell neither that nor "error", the answer is empty.
    """

    sign: str = "="  # by which the agent asks
    form: str = "{}"  # how the result is put into the text: " {} ;", say, where characters are tokens and nothing else parts two numbers
    max_signs: int = 100  # of an expression; a longer one is an error
    draws_lots: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if "{}" not in self.form:
            raise ValueError(f"form={self.form!r} has no place for the result; write {{}} where it goes.")

    @property
    def end_of_turn(self) -> Sequence[str]:
        """Return the one sign that asks for the result."""
        return (self.sign,)

    def __call__(self, dialogues: Completions, lots: FloatArray) -> list[Answer]:
        """Return the result of what each dialogue ends with."""
        return [Answer(ids=self._spelled(self.work_out(turns[-1].text), dialogues.tokenizer)) for turns in dialogues.turns]

    def work_out(self, said: str) -> str:
        """Return the result of the expression that `said` ends with, as a number or "error"."""
        before = said.rstrip().removesuffix(self.sign)
        found = _AT_THE_END.search(before)
        expression = re.sub(r"\s", "", found.group() if found else "")
        try:
            return str(value_of(expression)) if len(expression) <= self.max_signs else ERROR
        except (ValueError, ZeroDivisionError):
            return ERROR

    def _spelled(self, result: str, tokenizer: Tokenizer) -> list[int]:
        for text in (result, " ".join(result), ERROR):
            wanted = self.form.format(text)
            try:
                ids = tokenizer.encode(wanted)
            except ValueError:
                continue
            if tokenizer.decode(ids).split() == wanted.split():  # not a word for unknown ones
                return ids
        return []


def value_of(expression: str) -> int:
    """Return the value of integers joined by + - * // and brackets, by Python's rules of precedence.

    Raises `ValueError` if it is no such expression, `ZeroDivisionError` if it divides by 0. Time and depth grow with its length alone.
    """
    pieces = _pieces(expression)
    value = _sum(pieces)
    if pieces:
        raise ValueError(f"{pieces[-1]!r} does not belong there.")
    return value


def _pieces(expression: str) -> list[str]:
    """Return numbers and signs, the first one last, so that reading one is `pop`."""
    pieces, at = list[str](), 0
    while at < len(expression.rstrip()):
        found = _PIECE.match(expression, at)
        if found is None:
            raise ValueError(f"{expression[at:]!r} begins with no number or sign.")
        pieces.append(found.group(1))
        at = found.end()
    return pieces[::-1]


def _sum(pieces: list[str]) -> int:
    value = _product(pieces)
    while pieces and pieces[-1] in "+-":
        value = value + _product(pieces) if pieces.pop() == "+" else value - _product(pieces)
    return value


def _product(pieces: list[str]) -> int:
    value = _single(pieces)
    while pieces and pieces[-1] in ("*", "//"):
        value = value * _single(pieces) if pieces.pop() == "*" else value // _single(pieces)
    return value


def _single(pieces: list[str]) -> int:
    if not pieces:
        raise ValueError("The expression breaks off.")
    piece = pieces.pop()
    if piece in "+-":
        return _single(pieces) if piece == "+" else -_single(pieces)
    if piece != "(":
        return int(piece)  # raises ValueError for a sign
    value = _sum(pieces)
    if not pieces or pieces.pop() != ")":
        raise ValueError("A bracket stays open.")
    return value
