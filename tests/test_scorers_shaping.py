"""Scorers around scorers: bounds, scale, penalties, a second opinion, and a memory."""

import copy
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import SmallCore, TwoParts
from test_scorers import completions, random_batch, simple

from textgym import scorers
from textgym.core import FloatArray
from textgym.prompts import ListPrompts
from textgym.scorers.around import Around, take
from textgym.task import RESERVED, Completions, ComposedScorer, Prompt
from textgym.tokenizers import ByteTokenizer
from textgym.vector import GymVectorEnv

pytestmark = pytest.mark.core


class Counted:
    """The number of letters, 100 more where the text ended itself; remembers how many texts it was shown in each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, batch: Completions) -> FloatArray:
        self.calls.append(len(batch))
        return np.array([len(text) for text in batch.texts], dtype=np.float64) + 100.0 * batch.ended

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted)

    def __hash__(self) -> int:
        return 0


def letters(batch: Completions) -> FloatArray:
    return np.array([len(text) for text in batch.texts], dtype=np.float64)


def one(scorer: Any, batch: Completions) -> list[float]:
    """The scores, after seeing that the parts combine into them and that no part takes a name of the info's own."""
    built = scorers.make(scorer)
    assert isinstance(built, ComposedScorer)
    parts = built.parts(batch)
    assert not RESERVED & set(parts)
    assert built.combine(parts).tolist() == built(batch).tolist()
    return list(built(batch).tolist())


# --- shapes of a score --------------------------------------------------------------------------------------------------------


def test_clip() -> None:
    batch = simple("", "ab", "abcdef")
    assert one(scorers.Clip(letters, 1, 4), batch) == [1.0, 2.0, 4.0]
    assert one(scorers.Clip(letters, low=1), batch) == [1.0, 2.0, 6.0]
    assert one(scorers.Clip(letters, high=4), batch) == [0.0, 2.0, 4.0]
    assert scorers.make({"name": "clip", "scorer": "sentiment", "low": 0, "high": 1}) == scorers.Clip("sentiment", 0.0, 1.0)


def test_scale() -> None:
    assert one(scorers.Scale(letters, factor=-2.0, shift=5.0), simple("", "abc")) == [5.0, -1.0]
    assert scorers.make({"name": "scale", "scorer": {"name": "length", "target": 4}, "factor": 3}) == scorers.Scale(scorers.Length(4), 3.0)


def test_length_penalty() -> None:
    batch = simple("", "abc", "abcdef", "abcdefghij", "abcdefghij", cut={4})
    scorer = scorers.LengthPenalty(letters, at_most=3, per_token=0.5)
    assert one(scorer, batch) == [0.0, 3.0, 6.0 - 1.5, 10.0 - 3.5, 10.0 - 3.5]  # EOS costs nothing
    assert scorer.parts(batch)["length_penalty"].tolist() == [0.0, 0.0, 1.5, 3.5, 3.5]
    assert one(scorers.LengthPenalty(letters, at_most=3, per_token=0.5, limit=2.0), batch) == [0.0, 3.0, 4.5, 8.0, 8.0]
    assert one(scorers.LengthPenalty(letters, per_token=1.0), batch) == [0.0] * 5


def test_length_penalty_is_the_soft_punishment_of_dapo() -> None:
    longest, cache = 16, 6
    batch = simple(*("a" * n for n in range(25)))
    penalty = scorers.LengthPenalty(letters, at_most=longest - cache, per_token=1 / cache, limit=1).parts(batch)["length_penalty"]
    assert penalty == pytest.approx(np.array([0.0 if n <= longest - cache else 1.0 if n > longest else (n - longest + cache) / cache for n in range(25)]))


def test_length_penalty_leaves_out_what_others_wrote() -> None:
    batch = simple("abcdef", "abcdef")
    agent = np.ones_like(batch.tokens, dtype=bool)
    agent[0, 1:4] = False
    dialogue = replace(batch, agent=agent)
    assert scorers.LengthPenalty(letters, per_token=1.0).parts(dialogue)["length_penalty"].tolist() == [3.0, 6.0]


def test_missing_eos() -> None:
    batch = simple("ab", "ab", "", cut={1, 2})
    assert one(scorers.MissingEos(letters, penalty=0.75), batch) == [2.0, 1.25, -0.75]
    assert scorers.MissingEos(letters, penalty=0.75).parts(batch)["missing_eos_penalty"].tolist() == [0.0, 0.75, 0.75]
    assert one({"name": "missing_eos", "scorer": letters}, batch) == [2.0, 1.0, -1.0]


def test_proxy_and_gold() -> None:
    batch = simple("abcd", "aa")
    scorer = scorers.ProxyAndGold(letters, {"name": "repetition", "n": 1})
    assert one(scorer, batch) == [4.0, 2.0]
    assert {name: part.tolist() for name, part in scorer.parts(batch).items()} == {
        "raw_score": [4.0, 2.0],
        "gold_score": [1.0, 0.5],
        "proxy_gap": [3.0, 1.5],
    }
    assert one({"name": "proxy_and_gold", "scorer": scorer.scorer, "gold": scorers.Repetition(1)}, batch) == [4.0, 2.0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: scorers.Clip(letters), "at least one of them finite"),
        (lambda: scorers.Clip(letters, 2, 1), "low <= high"),
        (lambda: scorers.Clip(letters, float("nan"), 1), "low <= high"),
        (lambda: scorers.Scale(letters, float("inf")), "finite numbers"),
        (lambda: scorers.Scale(letters, factor="2"), "finite numbers, not factor='2'"),  # type: ignore[arg-type]
        (lambda: scorers.LengthPenalty(letters, at_most=-1), "at_most=-1"),
        (lambda: scorers.LengthPenalty(letters, per_token=0), "per_token=0"),
        (lambda: scorers.LengthPenalty(letters, limit=0), "limit=0"),
        (lambda: scorers.MissingEos(letters, -1), "penalty=-1"),
        (lambda: scorers.Cached(letters, 0), "size=0"),
        (lambda: scorers.Clip("sentimental", 0, 1), "did you mean 'sentiment'"),
    ],
)
def test_choices_that_make_no_sense_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# --- parts --------------------------------------------------------------------------------------------------------------------


def test_parts_of_what_is_inside_stay_visible_at_any_depth() -> None:
    inner = scorers.WeightedSum({"long": (scorers.Length(4), 2.0), "new": (scorers.Repetition(1), -0.5)})
    batch = simple("abcd", "aa", cut={1})
    scorer = scorers.Clip(scorers.Scale(scorers.MissingEos(scorers.LengthPenalty(scorers.Cached(inner), at_most=1, per_token=0.25)), 2.0), -5.0, 1.0)
    parts = {name: part.tolist() for name, part in scorer.parts(batch).items()}
    assert parts == {"long": [1.0, 0.5], "new": [1.0, 0.5], "length_penalty": [0.75, 0.25], "missing_eos_penalty": [0.0, 1.0]}
    assert one(scorer, batch) == [min(1.0, 2 * (1.5 - 0.75)), 2 * (0.75 - 0.25 - 1.0)]


def test_a_scorer_inside_sees_its_own_parts_only() -> None:
    class Strict(TwoParts):
        def combine(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
            assert set(parts) == {"share", "length"}
            return super().combine(parts)

    batch = completions(ByteTokenizer(), ListPrompts(["p"]), ["b"])
    assert one(scorers.MissingEos(scorers.LengthPenalty(Strict(), per_token=0.5)), batch) == [1.0 + 0.25 - 0.5]


def test_two_parts_of_one_name_are_refused() -> None:
    twice = scorers.MissingEos(scorers.Clip(scorers.MissingEos(letters), high=3.0))
    with pytest.raises(ValueError, match="MissingEos shows a part called 'missing_eos_penalty', and the scorer inside has one"):
        twice(simple("a"))


def test_parts_reach_the_info_of_an_environment() -> None:
    penalised = scorers.LengthPenalty(TwoParts(), at_most=1, per_token=0.5)
    envs = GymVectorEnv(SmallCore(scorer=penalised, gold=letters), 2)
    envs.reset(seed=0)
    for _ in range(5):
        _, rewards, terminated, _, info = envs.step(np.array([2, 3]))
    assert terminated.all()
    assert info["length_penalty"].tolist() == [2.0, 2.0]
    assert info["score"].tolist() == rewards.tolist() == [1.0 + 0.125 * 5 - 2.0, 0.125 * 5 - 2.0]
    assert info["length"].tolist() == [5.0, 5.0]
    assert info["gold"].tolist() == [9.0, 9.0]


@pytest.mark.parametrize("kind", [scorers.Clip, scorers.Scale, scorers.LengthPenalty, scorers.MissingEos, scorers.ProxyAndGold, scorers.Cached])
def test_names_of_parts_do_not_collide_with_the_info(kind: type[Around]) -> None:
    assert not RESERVED & {"raw_score", *kind.adds}


# --- the memory ---------------------------------------------------------------------------------------------------------------


BYTES, ONE = ByteTokenizer(), ListPrompts(["p"] * 20)


def same_prompt(*texts: str, cut: frozenset[int] = frozenset()) -> Completions:
    """Texts that all continue prompt 0 of one source; the width is the same in every batch."""
    batch = completions(BYTES, ONE, [*texts, "x" * 9][: len(texts) + 1], cut)
    return take(replace(batch, prompt_indices=np.zeros(len(batch), dtype=np.int64)), np.arange(len(texts)))


def test_cached_passes_on_only_what_is_new_as_one_batch() -> None:
    counted = Counted()
    scorer = scorers.Cached(counted)
    assert scorer(same_prompt("a", "b", "a", "a", cut=frozenset({3}))).tolist() == [101.0, 101.0, 101.0, 1.0]
    assert counted.calls == [3]
    assert (scorer.hits, scorer.misses) == (1, 3)
    assert scorer(same_prompt("c", "b", "dd", "c", cut=frozenset({1}))).tolist() == [101.0, 1.0, 102.0, 101.0]
    assert counted.calls == [3, 3]
    assert (scorer.hits, scorer.misses) == (2, 6)
    assert scorer(same_prompt("dd", "a", "b", "c")).tolist() == [102.0, 101.0, 101.0, 101.0]
    assert counted.calls == [3, 3]


def test_cached_tells_apart_all_that_a_scorer_may_look_at() -> None:
    source = ListPrompts([Prompt("p", reference="yes"), Prompt("p", reference="no")])
    scorer = scorers.Cached("exact_match")
    batch = completions(BYTES, source, ["yes", "yes"])
    assert scorer(batch).tolist() == [1.0, 0.0]  # one spelling, two prompts
    other = ListPrompts([Prompt("p", reference="no"), Prompt("p", reference="yes")])
    assert scorer(replace(batch, source=other)).tolist() == [0.0, 1.0]
    agent = np.ones_like(batch.tokens, dtype=bool)
    prices = scorers.Cached(scorers.LengthPenalty("exact_match", per_token=1.0))
    assert prices(batch).tolist() == [1.0 - 3.0, -3.0]
    agent[:, 1] = False
    assert prices(replace(batch, agent=agent)).tolist() == [-2.0, -2.0]  # "ys": the "e" was answered
    assert prices(replace(batch, prompt_tokens=batch.prompt_tokens + 1)).tolist() == [-2.0, -3.0]
    assert prices.misses == 6
    ending = scorers.Cached(scorers.MissingEos("exact_match"))
    assert ending(batch).tolist() == [1.0, 0.0]
    assert ending(replace(batch, ended=np.array([False, False]))).tolist() == [0.0, -1.0]  # a responder may end a text without EOS, or not
    turns = scorers.Cached(lambda one: np.array([len(row) for row in one.turns]))
    agent[:] = True
    parted = [turns(replace(batch, agent=agent, hand_over=np.isin(np.arange(257), [ord(sign)]))).tolist() for sign in "eEs"]
    assert parted == [[3.0, 3.0], [1.0, 1.0], [3.0, 3.0]]  # the signs that hand over part the turns
    assert turns.misses == 6


def test_cached_forgets_what_was_used_longest_ago() -> None:
    counted = Counted()
    scorer = scorers.Cached(counted, size=2)
    for texts, shown in ((["a", "b"], 2), (["a"], 0), (["c"], 1), (["a"], 0), (["b"], 1), (["a"], 0), (["c"], 1)):
        before = sum(counted.calls)
        scorer(same_prompt(*texts))
        assert sum(counted.calls) - before == shown, texts
    assert scorer(same_prompt("d", "ee", "fff", "d")).tolist() == [101.0, 102.0, 103.0, 101.0]  # more than it can keep
    assert len(scorer._memory.known) == 2


def test_cached_pickles_without_its_memory() -> None:
    scorer = scorers.Cached(Counted())
    batch = random_batch()
    scores = scorer(batch).tolist()
    for twin in (pickle.loads(pickle.dumps(scorer)), copy.deepcopy(scorer)):
        assert twin == scorer
        assert (twin.hits, twin.misses, len(twin._memory.known)) == (0, 0, 0)
        assert twin(batch).tolist() == scores
        assert len(scorer._memory.known) == len(batch)
    assert len(pickle.dumps(scorer)) < 2000 + len(pickle.dumps(Counted()))


def test_cached_refuses_scores_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\) must come out of the cached scorer, got {'raw_score': \(1,\)}"):
        scorers.Cached(lambda batch: np.zeros(1))(simple("a", "b"))


EVERY: list[Any] = [
    scorers.Clip("sentiment", 0.2, 0.8),
    scorers.Scale("film_grammar", 2.0, -1.0),
    scorers.LengthPenalty(scorers.WeightedSum({"a": ("sentiment", 1.0), "b": ("film_grammar", 2.0)}), at_most=4, per_token=0.25, limit=2.0),
    scorers.MissingEos("sentiment", 0.5),
    scorers.ProxyAndGold("sentiment", "film_grammar"),
    scorers.Cached(scorers.Clip(scorers.WeightedSum({"a": ("sentiment", 1.0), "b": ("film_grammar", 2.0)}), high=2.0)),
]


@pytest.mark.parametrize("scorer", EVERY, ids=lambda scorer: type(scorer).__name__)
def test_what_holds_for_every_scorer(scorer: Any) -> None:
    batch = random_batch()
    scores = scorer(batch)
    assert scores.shape == (len(batch),)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) > 1
    assert scorer(batch).tolist() == scores.tolist()
    twin = pickle.loads(pickle.dumps(scorer))
    assert twin == scorer
    assert twin(batch).tolist() == scores.tolist()
    order = np.random.default_rng(0).permutation(len(batch))
    assert scorer(take(batch, order)).tolist() == scores[order].tolist()
    assert twin(take(batch, order[:7])).tolist() == scores[order[:7]].tolist()
    assert scorer(take(batch, order[:0])).shape == (0,)
