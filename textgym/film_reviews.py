"""Tiny film reviews: the words, and the automaton that joins them.

    the plot was dull , but the cast delights everyone . its music works beautifully .

A sentence is a clause, or two in contrast: what was bad turns good after ", but" and ", yet", what was good turns bad after ", though"
and ", although". Every clause holds exactly one word that shows its polarity, and no word shows both: counting words is a perfect judge
of sentiment, and the state of the automaton need only remember which polarity the next clause must have.

The conjunction says which way the sentence turns. With one that only says "the same" or "the other", the second clause would hang on an
exclusive-or of two earlier words, which a small transformer does not learn within a minute (measured: not in 4,000 updates).
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from .grammar import Grammar, Rule

Polarity = Literal["positive", "negative"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DETERMINERS = ("the", "this", "its")
MODIFIERS = ("whole", "entire", "main", "second", "final")
SUBJECTS = _words(
    "plot cast story film script acting music ending dialogue humor direction pacing editing photography score"
    " hero villain opening romance action lighting style premise soundtrack narrator finale"
)
COPULAS = ("is", "was", "feels", "seems", "remains")
INTENSIFIERS = ("very", "really", "quite", "so", "truly", "rather", "always")
EVENTS = ("works", "unfolds", "plays", "moves", "continues")
AUDIENCES = ("everyone", "us", "viewers", "audiences", "me", "children", "adults", "critics")
HOLDERS = ("has", "offers", "brings", "provides")
THINGS = ("jokes", "scenes", "twists", "ideas", "lines", "moments", "characters", "songs", "surprises")

ADJECTIVES: dict[Polarity, tuple[str, ...]] = {
    "positive": _words("brilliant charming clever delightful elegant funny gripping lovely moving touching superb warm witty wonderful"),
    "negative": _words("awful boring clumsy dreary dull empty flat lifeless messy painful silly stale tedious weak"),
}
VERBS: dict[Polarity, tuple[str, ...]] = {
    "positive": ("delights", "charms", "thrills", "amuses", "impresses", "enchants", "inspires", "captivates"),
    "negative": ("bores", "annoys", "tires", "confuses", "irritates", "disappoints", "insults", "exhausts"),
}
ADVERBS: dict[Polarity, tuple[str, ...]] = {
    "positive": ("beautifully", "brilliantly", "gracefully", "nicely", "perfectly", "superbly", "smoothly"),
    "negative": ("awkwardly", "badly", "clumsily", "lamely", "poorly", "sloppily", "terribly"),
}
CONJUNCTIONS: dict[Polarity, tuple[str, ...]] = {"positive": ("though", "although"), "negative": ("but", "yet")}  # what may follow such a clause
FILM_POSITIVE = ADJECTIVES["positive"] + VERBS["positive"] + ADVERBS["positive"]
FILM_NEGATIVE = ADJECTIVES["negative"] + VERBS["negative"] + ADVERBS["negative"]

STOP = (0.04, 0.85, 1.0)  # P(the review ends | it has 1, 2, 3 sentences): few are so short that two of them are alike
TWO_CLAUSES = 0.3
POLARITIES: tuple[Polarity, Polarity] = ("positive", "negative")


@cache
def film_reviews() -> Grammar:
    """Return the grammar of film reviews; the same object every time."""
    rules: dict[str, list[Rule]] = {"start": [Rule(DETERMINERS, 1.0, "1 any: subject")]}
    for number, stop in enumerate(STOP, start=1):
        rules |= _first_clause(f"{number}") | _second_clause(f"{number}", "positive") | _second_clause(f"{number}", "negative")
        rules[f"{number} end"] = [Rule(DETERMINERS, 1 - stop, f"{number + 1} any: subject")] if stop < 1 else []
    return Grammar.from_rules(rules)


def _first_clause(sentence: str) -> dict[str, list[Rule]]:
    """A clause of either polarity, which the state after it remembers until the conjunction."""
    rules = _clause(f"{sentence} any", {polarity: f"{sentence} {polarity} so far" for polarity in POLARITIES})
    for polarity, opposite in (POLARITIES, POLARITIES[::-1]):
        rules[f"{sentence} {polarity} so far"] = [Rule((",",), TWO_CLAUSES, f"{sentence} {polarity}, ..."), Rule((".",), 1 - TWO_CLAUSES, f"{sentence} end")]
        rules[f"{sentence} {polarity}, ..."] = [Rule(CONJUNCTIONS[polarity], 1.0, f"{sentence} then {opposite}")]
    return rules


def _second_clause(sentence: str, polarity: Polarity) -> dict[str, list[Rule]]:
    """A clause of the polarity that the conjunction asks for; after it the sentence ends."""
    name = f"{sentence} then {polarity}"
    begin = {name: [Rule(DETERMINERS, 1.0, f"{name}: subject")]}
    return begin | _clause(name, {polarity: f"{name} closes"}) | {f"{name} closes": [Rule((".",), 1.0, f"{sentence} end")]}


def _clause(name: str, after: dict[Polarity, str]) -> dict[str, list[Rule]]:
    """A clause from its subject on, of any polarity in `after`, which leads on to the state named there."""

    def polar(table: dict[Polarity, tuple[str, ...]], probability: float, to: dict[Polarity, str]) -> list[Rule]:
        return [Rule(table[polarity], probability / len(after), to[polarity]) for polarity in after]

    whom = {polarity: f"{name}: {polarity} to whom" for polarity in after}
    what = {polarity: f"{name}: {polarity} what" for polarity in after}
    return {
        f"{name}: subject": [Rule(SUBJECTS, 0.8, f"{name}: predicate"), Rule(MODIFIERS, 0.2, f"{name}: noun")],
        f"{name}: noun": [Rule(SUBJECTS, 1.0, f"{name}: predicate")],
        f"{name}: predicate": [
            Rule(COPULAS, 0.4, f"{name}: how"),
            *polar(VERBS, 0.25, whom),
            Rule(HOLDERS, 0.2, f"{name}: with"),
            Rule(EVENTS, 0.15, f"{name}: in what way"),
        ],
        f"{name}: how": [Rule(INTENSIFIERS, 0.3, f"{name}: how exactly"), *polar(ADJECTIVES, 0.7, after)],
        f"{name}: how exactly": polar(ADJECTIVES, 1.0, after),
        f"{name}: with": polar(ADJECTIVES, 1.0, what),
        f"{name}: in what way": polar(ADVERBS, 1.0, after),
        **{whom[polarity]: [Rule(AUDIENCES, 1.0, after[polarity])] for polarity in after},
        **{what[polarity]: [Rule(THINGS, 1.0, after[polarity])] for polarity in after},
    }
