import functools
import pickle
import time
from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from textgym import scorers
from textgym.core import FloatArray
from textgym.film_reviews import FILM_NEGATIVE, FILM_POSITIVE, film_reviews
from textgym.prompts import GrammarPrompts, ListPrompts, load_texts
from textgym.scorers.classifier import NgramClassifier
from textgym.task import RESERVED, Completions, ComposedScorer, Prompt, PromptSource, Scorer, Tokenizer
from textgym.tokenizers import ByteTokenizer, WordTokenizer, make

SST2 = Path(__file__).parents[2] / "shared" / "data" / "sst2"


class Spelled:
    """The same ids as a WordTokenizer, but without `words`: scorers must take the slow path through the text."""

    def __init__(self, inner: WordTokenizer) -> None:
        self.vocab_size, self.eos_id = inner.vocab_size, inner.eos_id
        self.encode, self.decode = inner.encode, inner.decode


def completions(tokenizer: Tokenizer, source: PromptSource, texts: list[str], cut: Set[int] = frozenset()) -> Completions:
    """Row i continues prompt i by texts[i], and ends by EOS unless i is in `cut`."""
    pad = tokenizer.vocab_size
    rows = [tokenizer.encode(text) + ([] if i in cut else [tokenizer.eos_id]) for i, text in enumerate(texts)]
    heads = [tokenizer.encode(source[i].text) for i in range(len(texts))]
    tokens = np.full((len(rows), max(map(len, rows)) + 1), pad, dtype=np.int64)
    prompt_tokens = np.full((len(rows), max(map(len, heads)) + 1), pad, dtype=np.int64)
    for i, (row, head) in enumerate(zip(rows, heads, strict=True)):
        tokens[i, : len(row)] = row
        prompt_tokens[i, len(prompt_tokens[i]) - len(head) :] = head
    lengths = np.array([len(row) for row in rows])
    ended = np.array([i not in cut for i in range(len(rows))])
    return Completions(tokens, lengths, ended, prompt_tokens, np.arange(len(rows)), source, tokenizer)


def simple(*texts: str, cut: Set[int] = frozenset(), references: list[str] | None = None) -> Completions:
    source = ListPrompts(Prompt("p", reference=r) for r in (references or [None] * len(texts)))  # type: ignore[list-item]
    return completions(ByteTokenizer(), source, list(texts), cut)


def random_batch(seed: int = 0, B: int = 64, slow: bool = False) -> Completions:
    """Half of the texts are the grammar's own, half have a word exchanged; some are cut; none is of one length."""
    generator = np.random.default_rng(seed)
    source = GrammarPrompts(film_reviews(), num=B, seed=seed)
    words, texts = film_reviews().words, []
    cut = set(np.flatnonzero(generator.random(B) < 0.3).tolist())
    for i in range(B):
        text = (source[i].reference or "").split()
        if i % 2:
            text[generator.integers(len(text))] = words[generator.integers(len(words))]
        texts.append(" ".join(text[: generator.integers(len(text))] if i in cut else text))
    inner = make("film_reviews")
    assert isinstance(inner, WordTokenizer)
    return completions(Spelled(inner) if slow else inner, source, texts, cut)


# --- sentiment ----------------------------------------------------------------------------------------------------------------


def test_sentiment_is_the_share_of_positive_words() -> None:
    scorer = scorers.Sentiment(("good", "fine"), ("bad",))
    batch = simple("good good bad", "bad", "fine", "", "nothing here", "Good, and 'fine' -- badly BAD!", "good" * 2)
    assert scorer(batch).tolist() == [2 / 3, 0.0, 1.0, 0.5, 0.5, 2 / 3, 0.5]


@pytest.mark.parametrize("name", ["sentiment", "film_grammar"])
@pytest.mark.parametrize("seed", range(5))
def test_the_path_through_ids_equals_the_path_through_text(name: str, seed: int) -> None:
    scorer = scorers.make(name)
    fast, slow = scorer(random_batch(seed)), scorer(random_batch(seed, slow=True))
    assert fast.dtype == slow.dtype == np.float64
    assert fast.tolist() == slow.tolist()
    assert len(set(fast.tolist())) > 1


def test_the_path_through_ids_survives_odd_vocabularies() -> None:
    """Words with capitals and punctuation, EOS spelled like a sentiment word, EOS inside: all as the text path has it."""
    inner = WordTokenizer(["Good!", "bad", "x", "good"], eos="good")
    scorer = scorers.Sentiment(("good",), ("bad",))
    tokens = np.array([[0, 1, 2, 3, 4], [1, 3, 4, 4, 4], [3, 4, 4, 4, 4]])
    shared = (np.array([4, 2, 1]), np.ones(3, dtype=bool), np.full((3, 1), 4), np.arange(3), ListPrompts(["", "", ""]))
    fast, slow = (scorer(Completions(tokens, *shared, tokenizer)) for tokenizer in (inner, Spelled(inner)))
    assert fast.tolist() == slow.tolist() == [0.5, 0.0, 0.5]


def test_tables_are_those_of_the_tokenizer_at_hand() -> None:
    scorer = scorers.Sentiment(("good",), ("bad",))
    for _ in range(20):  # tokenizers come and go; a table must not outlive its own
        for words, expected in ((["good", "bad"], 1.0), (["bad", "good"], 0.0), (["so", "what"], 0.5)):
            tokenizer = WordTokenizer(words)
            assert scorer(completions(tokenizer, ListPrompts([""]), [words[0]])).tolist() == [expected]
    del tokenizer
    assert not scorer._table._tables


def test_sentiment_on_ids_takes_microseconds() -> None:
    generator = np.random.default_rng(0)
    tokenizer = make("film_reviews")
    tokens = generator.integers(tokenizer.vocab_size + 1, size=(50, 24))
    batch = Completions(tokens, np.full(50, 24), np.zeros(50, dtype=bool), tokens[:, :2], np.zeros(50, dtype=np.int64), ListPrompts([""]), tokenizer)
    scorer = scorers.make("sentiment")
    scorer(batch)

    def once() -> float:
        begin = time.perf_counter()
        for _ in range(100):
            scorer(batch)
        return (time.perf_counter() - begin) / 100

    assert min(once() for _ in range(20)) < 100e-6  # about 7 on an idle core; the margin is for a busy one


def test_film_lexicon_judges_its_own_reviews() -> None:
    text = f"the plot was {FILM_POSITIVE[0]} , but the cast {FILM_NEGATIVE[-10]} us ."
    assert scorers.make("sentiment")(simple(text, FILM_POSITIVE[3], FILM_NEGATIVE[3])).tolist() == [0.5, 1.0, 0.0]


# --- other scorers of text ----------------------------------------------------------------------------------------------------


def test_keyword() -> None:
    assert scorers.Keyword(("cat", "Dog", "dog"))(simple("a cat, a DOG.", "cat cat", "catdog", "")).tolist() == [1.0, 0.5, 0.0, 0.0]


def test_exact_match() -> None:
    batch = simple("yes", " yes ", "yes!", references=["yes ", "yes", "yes"])
    assert scorers.ExactMatch()(batch).tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="prompt 'p' has no reference"):
        scorers.ExactMatch()(simple("yes"))


def test_length_counts_tokens_without_eos() -> None:
    assert scorers.Length(4)(simple("abcd", "abc", "ab", "", "abcdef", "abcdefgh", "a" * 20)).tolist() == [1.0, 0.75, 0.5, 0.0, 0.5, 0.0, 0.0]
    assert scorers.Length(4)(simple("abcd", "abc", cut={0, 1})).tolist() == [1.0, 0.75]


def test_repetition() -> None:
    batch = simple("abc", "aaaa", "abab", "a", "")
    assert scorers.Repetition(2)(batch).tolist() == pytest.approx([1.0, 1 / 3, 2 / 3, 1.0, 1.0])
    assert scorers.Repetition(1)(batch).tolist() == pytest.approx([1.0, 0.25, 0.5, 1.0, 1.0])


def test_grammar_scorer() -> None:
    head = "the plot was"
    texts = ["dull .", "dull", "dull , but the cast", "dull , but the cast bores", "dull , but the cast bores", "", "", ". dull"]
    batch = completions(make("film_reviews"), ListPrompts([head] * 8), texts, cut={1, 2, 3, 6})
    assert scorers.make("film_grammar")(batch).tolist() == [1, 1, 1, 0, 0, 0, 1, 0]


def test_grammar_scorer_on_words_that_the_grammar_does_not_know() -> None:
    tokenizer = WordTokenizer([*reversed(film_reviews().words), "banana"])
    batch = completions(tokenizer, ListPrompts(["the plot was", "the plot was", "banana"]), ["dull .", "banana .", "the plot was dull ."])
    assert scorers.make("film_grammar")(batch).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: scorers.Sentiment(("good",), ("Good!",)), ValueError, "'good' stands in both"),
        (lambda: scorers.Sentiment("good", ("bad",)), TypeError, "not the one text 'good'"),  # type: ignore[arg-type]
        (lambda: scorers.Sentiment(("very good",), ()), ValueError, "'very good' is not one word"),
        (lambda: scorers.Sentiment(("",), ()), ValueError, "'' is not one word"),
        (lambda: scorers.Keyword(("!",)), ValueError, "'!' is not one word"),
        (lambda: scorers.Keyword(()), ValueError, "wants no words"),
        (lambda: scorers.Length(0), ValueError, "target=0"),
        (lambda: scorers.Repetition(0), ValueError, "n=0"),
        (lambda: scorers.Repetition(1.5), ValueError, "n=1.5 must be an integer"),  # type: ignore[arg-type]
        (lambda: scorers.WeightedSum({"a": ("length", "2")}), ValueError, "with a finite weight"),
        (lambda: scorers.WeightedSum(["sentiment"]), ValueError, "needs parts"),  # type: ignore[arg-type]
        (lambda: scorers.WeightedSum({3: ("sentiment", 1.0)}), ValueError, "may not be called 3"),  # type: ignore[dict-item]
        (lambda: scorers.make({"name": 5}), ValueError, "There is no scorer 5"),
        (lambda: scorers.make({"name": []}), ValueError, "There is no scorer"),
        (lambda: scorers.make({"name": "keyword", "words": "a"}), TypeError, r"or split it\. Give its arguments"),
    ],
)
def test_choices_that_make_no_sense_are_refused(build: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()  # type: ignore[operator]


# --- combinators --------------------------------------------------------------------------------------------------------------


def vowels(text: str) -> float:
    return sum(letter in "aeiou" for letter in text) / max(1, len(text))


def starts_alike(prompt: str, text: str) -> float:
    return float(prompt[:1] == text[:1])


def test_weighted_sum() -> None:
    scorer = scorers.WeightedSum({"long": (scorers.Length(4), 2.0), "new": ({"name": "repetition", "n": 1}, -0.5)})
    batch = simple("abcd", "aa")
    assert isinstance(scorer, ComposedScorer)
    parts = scorer.parts(batch)
    assert {name: part.tolist() for name, part in parts.items()} == {"long": [1.0, 0.5], "new": [1.0, 0.5]}
    assert scorer(batch).tolist() == scorer.combine(parts).tolist() == [1.5, 0.75]
    twin = scorers.make({"name": "weighted_sum", "parts": {"long": [{"name": "length", "target": 4}, 2], "new": [scorers.Repetition(1), -0.5]}})
    assert twin == scorer
    with pytest.raises(ValueError, match="needs parts"):
        scorers.WeightedSum({})
    with pytest.raises(ValueError, match="may not be called 'score'"):
        scorers.WeightedSum({"score": (scorers.Length(4), 1.0)})
    for name in (*RESERVED, "_score"):
        with pytest.raises(ValueError, match="may not be called"):
            scorers.WeightedSum({name: (scorers.Length(4), 1.0)})
    for bad in ("length", (scorers.Length(4),), (scorers.Length(4), float("nan"))):
        with pytest.raises(ValueError, match=r"part 'a' must be \(scorer, weight\)"):
            scorers.WeightedSum({"a": bad})


def test_text_function() -> None:
    batch = simple("aaa", "pbb", "")
    assert scorers.TextFunction(vowels)(batch).tolist() == [1.0, 0.0, 0.0]
    assert scorers.TextFunction(starts_alike)(batch).tolist() == [0.0, 1.0, 0.0]
    assert scorers.TextFunction(len)(batch).tolist() == [3.0, 3.0, 0.0]
    assert scorers.TextFunction(lambda text, scale=2: scale * len(text))(batch).tolist() == [6.0, 6.0, 0.0]
    assert scorers.TextFunction(functools.partial(starts_alike, "a"))(batch).tolist() == [1.0, 0.0, 0.0]


def test_text_function_says_on_which_text_it_failed() -> None:
    def first(text: str) -> float:
        return float(ord(text[0]))

    with pytest.raises(RuntimeError, match="first failed on the prompt 'p' and the text '': IndexError") as caught:
        scorers.TextFunction(first)(simple("a", ""))
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(RuntimeError, match="TypeError"):
        scorers.TextFunction(lambda text: None)(simple("a"))  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="gave nan on the prompt 'p' and the text 'a'"):
        scorers.TextFunction(lambda text: float("nan"))(simple("a"))
    for wrong in (3, lambda a, b, c: 0.0, lambda: 0.0):
        with pytest.raises(TypeError, match=r"of \(text\) or of \(prompt, text\)"):
            scorers.TextFunction(wrong)  # type: ignore[arg-type]


# --- the registry and what holds for every scorer -----------------------------------------------------------------------------


def batch_lengths(batch: Completions) -> FloatArray:
    return batch.lengths.astype(np.float64)


def test_make() -> None:
    assert scorers.make("sentiment") == scorers.Sentiment(FILM_POSITIVE, FILM_NEGATIVE)
    assert scorers.make({"name": "keyword", "words": ["a"]}) == scorers.Keyword(("a",))
    assert scorers.make(batch_lengths) is batch_lengths
    assert {"sentiment", "film_grammar", "keyword", "exact_match", "length", "repetition", "weighted_sum"} <= set(scorers.names())
    with pytest.raises(ValueError, match="did you mean 'sentiment'"):
        scorers.make("sentimental")
    with pytest.raises(ValueError, match="needs a 'name'"):
        scorers.make({"target": 3})
    with pytest.raises(TypeError, match=r"'length' could not be built .*target"):
        scorers.make("length")
    with pytest.raises(TypeError, match="Length is a class"):
        scorers.make(scorers.Length)
    with pytest.raises(TypeError, match="not int"):
        scorers.make(3)  # type: ignore[arg-type]


@pytest.fixture
def clean_registry() -> Iterator[None]:
    before = dict(scorers.SCORERS)
    yield
    scorers.SCORERS.clear()
    scorers.SCORERS.update(before)


@pytest.mark.usefixtures("clean_registry")
def test_register() -> None:
    @scorers.register("mine")
    def build(scale: float = 1.0) -> Scorer:
        return lambda batch: scale * batch_lengths(batch)

    assert scorers.make({"name": "mine", "scale": 2.0})(simple("abc")).tolist() == [8.0]
    with pytest.raises(ValueError, match="'mine' is registered already"):
        scorers.register("mine")(build)


EVERY = [
    scorers.make("sentiment"),
    scorers.make("film_grammar"),
    scorers.Keyword(("the", "dull")),
    scorers.ExactMatch(),
    scorers.Length(9),
    scorers.Repetition(2),
    scorers.WeightedSum({"a": ("sentiment", 1.0), "b": ("film_grammar", 0.5)}),
    scorers.TextFunction(vowels),
    NgramClassifier.train(["good film", "bad film"], [1, 0]),
]


@pytest.mark.parametrize("scorer", EVERY, ids=lambda scorer: type(scorer).__name__)
def test_every_scorer_keeps_the_contract(scorer: Scorer) -> None:
    batch = random_batch(7)
    scores = scorer(batch)
    assert isinstance(scorer, Scorer)
    assert scores.shape == (len(batch),)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert scorer(batch).tolist() == scores.tolist()
    twin = pickle.loads(pickle.dumps(scorer))  # after use: caches must not get in the way
    assert twin == scorer
    assert twin(batch).tolist() == scores.tolist()
    order = np.random.default_rng(0).permutation(len(batch))
    rows = {name: getattr(batch, name)[order] for name in ("tokens", "lengths", "ended", "prompt_tokens", "prompt_indices")}
    assert scorer(replace(batch, **rows)).tolist() == scores[order].tolist()


# --- the classifier -----------------------------------------------------------------------------------------------------------


def test_classifier_reads_prompt_and_continuation() -> None:
    classifier = NgramClassifier.train(["good good", "so good", "bad bad", "so bad"] * 5, [1, 1, 0, 0] * 5)
    batch = completions(ByteTokenizer(), ListPrompts(["good ", "bad ", "so "]), ["so", "so", ""])
    assert classifier(batch).tolist() == classifier.predict(["good so", "bad so", "so "]).tolist()
    assert classifier.predict(["GOOD"])[0] > 0.6
    assert classifier.predict(["unheard-of", ""]) == pytest.approx([0.5, 0.5], abs=0.02)


def test_classifier_learns_pairs_of_words() -> None:
    texts = ["not bad at all", "bad not at all"] * 10
    assert NgramClassifier.train(texts, [1, 0] * 10).accuracy(texts, [1, 0] * 10) == 1.0


def test_classifier_saves_every_bit(tmp_path: Path) -> None:
    classifier = NgramClassifier.train(["a good film", "a “bad” film"], [1, 0])
    classifier.save(tmp_path / "c.json")
    assert NgramClassifier.load(tmp_path / "c.json") == classifier
    with pytest.raises(FileNotFoundError, match="not a file"):
        NgramClassifier.load(tmp_path / "d.json")
    for broken in ("{", "[]", "{}", '{"kind": "ngram_classifier"}'):
        (tmp_path / "d.json").write_text(broken)
        with pytest.raises(ValueError, match="not a saved NgramClassifier"):
            NgramClassifier.load(tmp_path / "d.json")
    (tmp_path / "d.json").write_text('{"kind": "other"}')
    with pytest.raises(ValueError, match="'other', not an ngram_classifier"):
        NgramClassifier.load(tmp_path / "d.json")


def test_classifier_refuses_labels_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        NgramClassifier.train(["a", "b"], [1])
    with pytest.raises(ValueError, match="0 texts"):
        NgramClassifier.train([], [])
    with pytest.raises(ValueError, match="-1 is among them"):
        NgramClassifier.train(["a", "b"], [1, -1])


@pytest.mark.skipif(not SST2.is_dir(), reason="needs shared/data/sst2 beside the repository")
@pytest.mark.parametrize("half", [0, 1])
def test_classifier_on_half_of_sst2(half: int) -> None:
    texts, labels = load_texts(SST2 / "train.tsv", label_column=1)
    dev, wanted = load_texts(SST2 / "dev.tsv", label_column=1)
    classifier = NgramClassifier.train(texts[half::2], labels[half::2])
    p, y = classifier.predict(dev), np.array(wanted)
    accuracy = classifier.accuracy(dev, wanted)
    bins = np.minimum((p * 10).astype(int), 9)
    ece = sum(abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in range(10) if (bins == b).any())
    saturated = np.mean((p < 0.02) | (p > 0.98))
    print(f"half {half}: accuracy {accuracy:.4f}, log loss {-np.log(np.where(y == 1, p, 1 - p)).mean():.4f}, ECE {ece:.4f}, saturated {saturated:.3f}")
    assert accuracy >= 0.76
    assert ece < 0.08
    assert saturated < 0.15
