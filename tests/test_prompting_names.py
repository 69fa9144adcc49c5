"""Choices of prompts as text and as JSON: there and back, one within another, and what is said of a wrong one."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from agents.prompting import Curriculum, Groups, Priority, Prompting, Uniform
from agents.prompting_names import from_json, parse, spell, to_json

pytestmark = pytest.mark.core

CHOICES: dict[str, Prompting] = {
    "uniform": Uniform(),
    "priority(temperature=0.5, staleness=0.2, rate=1.0)": Priority(0.5, 0.2, 1.0),
    "curriculum(difficulty=None, first_share=0.2, growth=2.0, every=3, threshold=0.5)": Curriculum(None, 0.2, 2.0, 3, 0.5),
    "curriculum(difficulty=[2.0, 1.0], first_share=0.1, growth=1.5, every=10, threshold=None)": Curriculum([2.0, 1.0]),
    "curriculum(difficulty='math:sqrt', first_share=0.1, growth=1.5, every=10, threshold=None)": Curriculum(math.sqrt),
    "groups(size=8, of='uniform')": Groups(8),
    "groups(size=2, of='priority(temperature=1.0, staleness=0.1, rate=0.5)')": Groups(2, Priority()),
    "groups(size=2, of=\"groups(size=3, of='uniform')\")": Groups(2, Groups(3)),
}


@pytest.mark.parametrize("text", CHOICES)
def test_there_and_back(text: str) -> None:
    choice = CHOICES[text]
    assert spell(choice) == text
    assert parse(text) == choice
    assert from_json(json.loads(json.dumps(to_json(choice)))) == choice


def test_short_forms() -> None:
    assert parse("groups(8)") == parse("groups(size=8)") == Groups(8)
    assert parse("groups(size=4, of='curriculum(every=2)')") == Groups(4, Curriculum(every=2))
    assert parse("priority") == Priority()
    assert parse("agents.prompting:Uniform") == Uniform()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gruops(size=8)", "did you mean 'groups'"),
        ("groups", "missing a required argument: 'size'"),
        ("groups(size=0)", "at least 1 row"),
        ("groups(size=2, of='unifrom')", "did you mean 'uniform'"),
        ("curriculum(difficulty='math:sqr')", "has no 'sqr'"),
        ("curriculum(difficulty='nowhere_at_all:f')", "cannot be imported"),
        ("curriculum(growth=1.0)", "growth > 1"),
        ("priority(temperature=0)", "temperature > 0"),
    ],
)
def test_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_what_has_no_name_is_described_and_refused() -> None:
    lambdas: list[Any] = [Curriculum(lambda i: -i), Groups(2, Curriculum(lambda i: -i))]
    told = [to_json(choice) for choice in lambdas]
    assert "unnamed" in told[0]
    assert "unnamed" in told[1]["of"]
    for one in told:
        with pytest.raises(ValueError, match="without an importable name"):
            from_json(json.loads(json.dumps(one)))
    with pytest.raises(ValueError, match="no importable name"):
        spell(lambdas[1])


def test_a_curriculum_without_a_difficulty_does_not_start() -> None:
    with pytest.raises(ValueError, match="give difficulty="):
        Curriculum().start(3)
