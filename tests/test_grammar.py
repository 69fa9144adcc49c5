import itertools
import math
import pickle

import numpy as np
import pytest

from textgym.film_reviews import FILM_NEGATIVE, FILM_POSITIVE, film_reviews
from textgym.grammar import Grammar, Rule


def small() -> Grammar:
    """`a b`, `a c`, `c`, then perhaps again: loops, two ways to stop, unequal probabilities."""
    return Grammar.from_rules(
        {
            "start": [Rule(("a",), 0.6, "after a"), Rule(("c",), 0.3, "end")],
            "after a": [Rule(("b", "c"), 1.0, "end")],
            "end": [Rule(("a",), 0.25, "after a")],
        }
    )


def texts(grammar: Grammar, longest: int) -> list[tuple[str, ...]]:
    return [text for n in range(longest + 1) for text in itertools.product(grammar.words, repeat=n)]


def test_likelihoods_of_all_texts_add_up_to_one() -> None:
    grammar = small()
    total = sum(math.exp(grammar.log_likelihood(text)) for text in texts(grammar, 9))
    left = sum(math.exp(grammar.log_likelihood(text, ended=False)) for text in itertools.product(grammar.words, repeat=10))
    assert total + left == pytest.approx(1.0, abs=1e-12)
    assert 0 < left < 0.01


def test_likelihood_by_hand() -> None:
    grammar = small()
    assert grammar.log_likelihood([]) == pytest.approx(math.log(0.1))
    assert grammar.log_likelihood("a b") == pytest.approx(math.log(0.6 * 0.5 * 0.75))
    assert grammar.log_likelihood("a b", ended=False) == pytest.approx(math.log(0.3))
    assert grammar.log_likelihood("a", ended=True) == -math.inf
    assert grammar.log_likelihood("c b", ended=False) == -math.inf
    assert grammar.log_likelihood("a nonsense", ended=False) == -math.inf


def test_accepts_and_viable_prefix_agree_with_enumeration() -> None:
    grammar = small()
    accepted = {text for text in texts(grammar, 7) if grammar.accepts(text)}
    assert accepted == {text for text in texts(grammar, 7) if grammar.log_likelihood(text) > -math.inf}
    prefixes = {text[:n] for text in accepted for n in range(len(text) + 1)}
    for text in texts(grammar, 5):  # every viable prefix is completed within two words
        assert grammar.viable_prefix(text) == (text in prefixes)
    assert not grammar.accepts("a d")
    assert not grammar.viable_prefix("d")


def test_a_prefix_into_a_trap_is_not_viable() -> None:
    grammar = Grammar.from_rules({"start": [Rule(("x",), 0.5, "trap")], "trap": [Rule(("x",), 1.0, "trap")]})
    assert grammar.viable_prefix([])
    assert not grammar.viable_prefix("x")
    with pytest.raises(ValueError, match="never end"):
        grammar.entropy_rate()
    assert grammar.entropy_rate(length=2) == pytest.approx(math.log(2) / 1.5)


@pytest.mark.parametrize(("skip", "length"), [(0, 1), (0, 4), (1, 3), (2, 6), (3, 4)])
def test_entropy_rate_is_that_of_enumeration(skip: int, length: int) -> None:
    """The definition itself: the expected surprisal of tokens skip .. length - 1, over how many of them exist."""
    grammar = small()
    entropy = tokens = 0.0
    for text in texts(grammar, length):
        # a whole text shorter than `length` shows its end; of a longer one, the first `length` words stand for all of them
        log_p = grammar.log_likelihood(text, ended=len(text) < length)
        if log_p == -math.inf:
            continue
        shown = min(len(text) + 1, length)
        if shown > skip:
            given = grammar.log_likelihood(text[:skip], ended=False)
            entropy += math.exp(log_p) * (given - log_p)
            tokens += math.exp(log_p) * (shown - skip)
    assert grammar.entropy_rate(skip, length) == pytest.approx(entropy / tokens, rel=1e-12)


def test_entropy_rate_to_the_end_is_the_limit() -> None:
    grammar = small()
    for skip in (0, 1, 5):
        assert grammar.entropy_rate(skip) == pytest.approx(grammar.entropy_rate(skip, skip + 400), rel=1e-12)
    assert film_reviews().entropy_rate(4) == pytest.approx(film_reviews().entropy_rate(4, 200), rel=1e-12)


def test_entropy_rate_refuses_an_empty_range() -> None:
    with pytest.raises(ValueError, match="0 <= skip < length"):
        small().entropy_rate(3, 3)
    with pytest.raises(ValueError, match="smaller skip"):
        film_reviews().entropy_rate(200)


def test_sample_follows_the_likelihood() -> None:
    grammar = small()
    generator = np.random.default_rng(0)
    num = 20_000
    samples = [tuple(grammar.sample(generator)) for _ in range(num)]
    for text in [(), ("c",), ("a", "b"), ("a", "c"), ("c", "a", "b")]:
        p = math.exp(grammar.log_likelihood(text))
        assert samples.count(text) / num == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / num))
    assert samples[:50] == [tuple(grammar.sample(g)) for g in [np.random.default_rng(0)] for _ in range(50)]


def test_walk_steps_over_blanks_and_honours_lengths() -> None:
    grammar = small()
    a, b, c = (grammar.ids[word] for word in "abc")
    rows = np.array([[a, b, a], [-1, a, b], [a, b, -1], [b, a, b], [a, 7, b], [-1, -1, -1], [a, -9, b]])
    after_a, end = 1, 2
    assert grammar.walk(rows).tolist() == [after_a, end, end, -1, -1, 0, -1]
    assert grammar.walk(rows, np.array([2, 2, 3, 0, 1, 3, 3])).tolist() == [end, after_a, end, 0, after_a, 0, -1]
    assert grammar.walk(np.zeros((2, 0), dtype=np.int64)).tolist() == [0, 0]
    assert c not in (a, b)


def test_walk_agrees_with_the_text_methods_on_the_films() -> None:
    grammar = film_reviews()
    generator = np.random.default_rng(1)
    for _ in range(50):
        words = grammar.sample(generator)
        assert grammar.accepts(words)
        assert all(grammar.viable_prefix(words[:n]) for n in range(len(words)))
        broken = words.copy()
        broken[generator.integers(len(words))] = "banana"
        assert not grammar.viable_prefix(broken)


def test_contradictory_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="two rules for 'a'"):
        Grammar.from_rules({"s": [Rule(("a",), 0.5, "s"), Rule(("a",), 0.2, "s")]})
    with pytest.raises(ValueError, match="'nowhere', which has no rules"):
        Grammar.from_rules({"s": [Rule(("a",), 0.5, "nowhere")]})
    with pytest.raises(ValueError, match="add up to 1"):
        Grammar.from_rules({"s": [Rule(("a",), 0.7, "s"), Rule(("b",), 0.7, "s")]})
    good = small()
    with pytest.raises(ValueError, match="distinct"):
        Grammar(("a", "b", "b"), good.next_state, good.log_probs, good.log_stop)
    with pytest.raises(ValueError, match="exactly where log_probs is finite"):
        Grammar(good.words, np.zeros_like(good.next_state), good.log_probs, good.log_stop)
    with pytest.raises(ValueError, match=r"must both be \[S, W\]"):
        Grammar(good.words[:2], good.next_state, good.log_probs, good.log_stop)


def test_equality_and_pickling() -> None:
    assert small() == small()
    assert hash(small()) == hash(small())
    assert small() != film_reviews()
    assert pickle.loads(pickle.dumps(film_reviews())) == film_reviews()
    assert film_reviews() is film_reviews()


# --- the film reviews ---------------------------------------------------------------------------------------------------------

NUM = 20_000


@pytest.fixture(scope="module")
def reviews() -> list[list[str]]:
    generator = np.random.default_rng(2)
    return [film_reviews().sample(generator) for _ in range(NUM)]


def polarities(words: list[str]) -> list[bool]:
    return [word in FILM_POSITIVE for word in words if word in FILM_POSITIVE or word in FILM_NEGATIVE]


def test_lexicon_is_disjoint_and_part_of_the_vocabulary() -> None:
    assert not set(FILM_POSITIVE) & set(FILM_NEGATIVE)
    assert set(FILM_POSITIVE + FILM_NEGATIVE) <= set(film_reviews().words)
    assert len(FILM_POSITIVE) == len(FILM_NEGATIVE) == 29
    assert 60 <= len(film_reviews().words) <= 250


def test_contrast_decides_polarity() -> None:
    grammar = film_reviews()
    assert grammar.accepts("the plot was dull , but the cast delights everyone .")
    assert grammar.accepts("the plot was lovely , though the cast bores everyone .")
    assert not grammar.viable_prefix("the plot was dull , but the cast bores")
    assert not grammar.viable_prefix("the plot was dull , though")
    assert not grammar.viable_prefix("the plot was lovely , but")
    assert not grammar.viable_prefix("the plot was lovely , although the cast was superb")
    assert grammar.viable_prefix("the plot was dull . the cast delights")
    assert not grammar.accepts("the plot was dull")


def test_every_clause_shows_its_polarity_once(reviews: list[list[str]]) -> None:
    for words in reviews[:2000]:
        for sentence in " ".join(words).split(" ."):
            clauses = [polarities(clause.split()) for clause in sentence.split(" , ")]
            assert all(len(shown) == 1 for shown in clauses if sentence)
            if len(clauses) == 2:
                assert clauses[0] != clauses[1]


def test_lengths_are_as_promised(reviews: list[list[str]]) -> None:
    lengths = np.array([len(words) + 1 for words in reviews])
    assert 16 <= lengths.mean() <= 20
    for k in range(2, 7):
        assert np.mean(lengths - k <= 24) > 0.92


def test_sentiment_is_balanced_and_there_are_about_three_words_of_it(reviews: list[list[str]]) -> None:
    shown = [polarities(words) for words in reviews]
    assert 2 <= np.mean([len(s) for s in shown]) <= 3.1
    shares = np.array([np.mean(s) for s in shown])
    assert shares.mean() == pytest.approx(0.5, abs=5 * shares.std() / math.sqrt(NUM))


def test_entropy_rate_within_the_confidence_interval_of_a_sample(reviews: list[list[str]]) -> None:
    grammar, skip = film_reviews(), 4
    surprisals = np.array([grammar.log_likelihood(words[:skip], ended=False) - grammar.log_likelihood(words) for words in reviews[:5000]])
    tokens = np.array([len(words) + 1 - skip for words in reviews[:5000]])
    exact = grammar.entropy_rate(skip)
    error = (surprisals - exact * tokens).std() / math.sqrt(5000) / tokens.mean()
    assert surprisals.sum() / tokens.sum() == pytest.approx(exact, abs=4 * error)
    assert error < 0.01


def test_continuations_are_nearly_all_distinct(reviews: list[list[str]]) -> None:
    generator = np.random.default_rng(3)
    tails = [words[generator.integers(2, 7) :] if len(words) > 6 else words[4:] for words in reviews]
    everything = [" ".join(tail) for tail in tails]
    positive = [" ".join(tail) for tail in tails if polarities(tail) and all(polarities(tail))]
    assert len(set(everything[:1024])) / 1024 > 0.97
    assert len(set(positive[:1024])) / 1024 > 0.99
