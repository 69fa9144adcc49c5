"""Constraints on characters: whatever is written decodes to what `re` accepts, with words, characters, bytes and subwords."""

from __future__ import annotations

import re
import sys
import time
from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers import LetterShare
from hypothesis import example, given, settings
from hypothesis import strategies as st

from textgym.constraints import All, BannedWords, MinLength, NoRepeat, Pattern
from textgym.constraints.lift import lift
from textgym.constraints.pieces import pieces_of
from textgym.constraints.regular import compiled, over_bytes
from textgym.constraints.trie import without
from textgym.core import Streams
from textgym.episodes import TextCore
from textgym.prompts import ListPrompts
from textgym.task import Constraint, Prefixes, Task, Tokenizer
from textgym.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer, to_transformers, train_bpe
from textgym.tokenizers.hf import TransformersTokenizer

pytest.importorskip("interegular")

TEXTS = ["the cat and the dog sat on a mat . 1,234 éé café 日本 no !", "a dog's naïve cats , 10 € each"]


def sentencepiece_like() -> TransformersTokenizer:
    """Return a BPE with blanks as "▁", bytes to fall back to, and a first blank that decoding takes away, as Llama's has."""
    rust = pytest.importorskip("tokenizers")
    tokenizer = rust.Tokenizer(rust.models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = rust.normalizers.Sequence([rust.normalizers.Prepend("▁"), rust.normalizers.Replace(" ", "▁")])
    tokenizer.decoder = rust.decoders.Sequence(
        [rust.decoders.Replace("▁", " "), rust.decoders.ByteFallback(), rust.decoders.Fuse(), rust.decoders.Strip(content=" ", left=1, right=0)]
    )
    special = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = rust.trainers.BpeTrainer(vocab_size=330, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return TransformersTokenizer(tokenizer, "</s>")


def word_piece() -> TransformersTokenizer:
    """Return a tokenizer whose continuing pieces are marked by ##, as BERT's are."""
    rust = pytest.importorskip("tokenizers")
    words = ["[UNK]", "[SEP]", "the", "cat", "##s", "dog", "and", "a", "##t", "m", "##a"]
    tokenizer = rust.Tokenizer(rust.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.decoder = rust.decoders.WordPiece(cleanup=False)
    return TransformersTokenizer(tokenizer, "[SEP]")


TOKENIZERS: dict[str, Any] = {
    "words": lambda: WordTokenizer(["the", "a", "cat", "cats", "dog", "dogs", "and", "é", "éé"]),
    "characters": lambda: CharTokenizer("abcdefghijklmnopqrstuvwxyz ,.@0123456789éñ日"),
    "bytes": ByteTokenizer,
    "byte-level BPE": lambda: train_bpe(TEXTS * 3, 300),
    "sentencepiece": sentencepiece_like,
    "word pieces": word_piece,
    "words of transformers": lambda: TransformersTokenizer(to_transformers(WordTokenizer(["the", "a", "cat", "cats", "dog", "dogs", "and", "é"]))),
}
PATTERNS = [
    r"(the |a )?(cat|dog)s?( and (cat|dog)s?){0,3}",
    r"\d{1,3}(,\d{3})*",
    r"[a-z ]{3,12}",
    r".{0,6}",
    r"é+(ñ|日)?",
    r"\w+@\w+\.(com|de)",
    r"[^a\d]{2,4}",
    r"(?i:the) \S+",
    r"(a*b)?(c|d)*?",
    r"[^é]{1,3}é",
    r"\W\D?",
]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]()


def written(tokenizer: Tokenizer, constraint: Constraint, rows: int = 64, seed: int = 0, budget: int = 24) -> list[str]:
    """Return texts of random legal tokens, one a row, none of them forbidden."""
    prompt = next(i for i in range(tokenizer.vocab_size) if i != tokenizer.eos_id)
    prompts = ListPrompts([ListPrompts(["x"])[0]._replace(ids=(prompt,))])
    core = TextCore(Task(prompts, tokenizer, LetterShare(), max_prompt_tokens=1, max_new_tokens=budget, constraint=constraint), rows)
    core.start(np.arange(rows), Streams.from_seeds([0] * rows), {})
    random, alive = np.random.default_rng(seed), np.arange(rows)
    ended = np.zeros(rows, dtype=bool)
    while len(alive):
        masks = core.action_masks()[alive]
        tokens = np.array([random.choice(np.flatnonzero(mask)) for mask in masks])
        over = core.advance(alive, tokens, Streams([])).terminated
        ended[alive] = tokens == tokenizer.eos_id
        alive = alive[~over]
    assert not core.end_info(np.arange(rows))["forbidden"].any()
    return [text for text, end in zip(core.texts(), ended.tolist(), strict=True) if end or not getattr(constraint, "finish", False)]


def spelled(tokenizer: Tokenizer, regex: str) -> bool:
    """Return whether some short sequence of tokens spells a match; bytes spell everything."""
    if tokenizer.vocab_size > 256 or isinstance(tokenizer, CharTokenizer):
        return True
    ids = [i for i in range(tokenizer.vocab_size) if i != tokenizer.eos_id]
    length = 3 if len(ids) < 12 else 2
    return "@" not in regex and any(re.fullmatch(regex, tokenizer.decode(row), re.ASCII) for n in range(length + 1) for row in product(ids, repeat=n))


@pytest.mark.parametrize("regex", PATTERNS)
def test_every_text_matches_as_a_whole(tokenizer: Tokenizer, regex: str) -> None:
    if not spelled(tokenizer, regex):
        with pytest.raises(ValueError, match="cannot spell any text"):
            written(tokenizer, Pattern(regex))
        return
    texts = written(tokenizer, Pattern(regex))
    assert len(texts) == 64, "every text ends itself within the budget"
    assert all(re.fullmatch(regex, text, re.ASCII) for text in texts), texts
    if regex == PATTERNS[0]:
        assert len(set(texts)) > 20


@pytest.mark.parametrize(
    "regex",
    [
        "(?i)aB[^b]",
        "(?i)[^a]b",
        "(?s).b",
        "(?s:.)\n?.",
        "(?i:a)b|(?i:c?(?-i:B))",
        "a{2,}?",
        "a{,2}b",
        "(a|)(b|)+",
        "((a|b)*b){2}",
        "(a?b?){1,3}",
        "(a|ab)(b|)a?",
        "|a",
    ],
)
def test_the_automaton_accepts_what_re_accepts_of_all_short_texts(regex: str) -> None:
    automaton = over_bytes(compiled(regex))
    for letters in (letters for n in range(5) for letters in product("aAbB\né", repeat=n)):
        text, state = "".join(letters), 0
        for byte in text.encode("utf-8"):
            state = -1 if state < 0 else int(automaton.step[state, byte])
        assert (state >= 0 and bool(automaton.accepting[state])) == bool(re.fullmatch(regex, text, re.ASCII)), text


ATOMS = st.sampled_from(["a", "b", "é", "日", ".", "[ab]", "[^a]", "[^é]", r"\d", " ", "ab"])
REGEXES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}"])).map(lambda two: f"(?:{two[0]}){two[1]}"),
    ),
    max_leaves=6,
)


@given(REGEXES, st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_every_text_of_a_random_expression_matches(regex: str, seed: int) -> None:
    for tokenizer in (ByteTokenizer(), CharTokenizer("ab é日0")):
        assert all(re.fullmatch(regex, text, re.ASCII) for text in written(tokenizer, Pattern(regex), 16, seed, budget=64))


@given(REGEXES, st.text("abé日 0😀", max_size=5))
@settings(max_examples=200, deadline=None)
def test_the_automaton_over_bytes_accepts_what_re_accepts(regex: str, text: str) -> None:
    automaton, state = over_bytes(compiled(regex)), 0
    for byte in text.encode("utf-8"):
        state = -1 if state < 0 else int(automaton.step[state, byte])
    assert (state >= 0 and bool(automaton.accepting[state])) == bool(re.fullmatch(regex, text, re.ASCII))


def test_every_match_can_be_written(tokenizer: Tokenizer) -> None:
    regex = r"(the |a )?(cat|dog)s?( and (cat|dog)s?){0,1}"
    texts = {f"{one}{two}{three}" for one in ("", "the ", "a ") for two in ("cat", "dog", "cats", "dogs") for three in ("", " and cat", " and dogs")}
    if tokenizer.vocab_size == 11:  # the pieces of words have no plural of dogs
        texts = {text for text in texts if "dogs" not in text}
    table = lift(over_bytes(compiled(regex)), pieces_of(tokenizer), tokenizer.eos_id)
    for text in texts if tokenizer.vocab_size != 11 else ():
        state = 0
        for token in tokenizer.encode(text):
            state = int(table.next_state[state, token])
            assert state >= 0, text
        assert table.accepting[state]


def test_no_text_is_cut_short_without_finish_but_all_can_go_on() -> None:
    texts = written(CharTokenizer("ab"), Pattern("(ab)+", finish=False), budget=5)
    assert {"ababa", "ab", "abab"} == set(texts)


class TestBannedWords:
    BANNED = ("cat", "é", "at on", "日")

    @pytest.mark.parametrize("tokenizer", [name for name in TOKENIZERS if name != "words"], indirect=True)  # whole words cannot be cut
    def test_no_text_holds_them_however_they_are_cut(self, tokenizer: Tokenizer) -> None:
        texts = written(tokenizer, BannedWords(self.BANNED), rows=200)
        assert not [text for text in texts if any(word in text for word in self.BANNED)]
        assert sum("a" in text for text in texts) > 20

    def test_subwords_that_only_together_make_a_banned_word(self) -> None:
        tokenizer = train_bpe(TEXTS * 3, 300)
        free = written(tokenizer, NoRepeat(9), rows=300)
        assert sum("a" in text for text in free) > 20
        table = lift(without([b"cat"], 256), pieces_of(tokenizer), tokenizer.eos_id)
        state = int(table.next_state[0, tokenizer.encode("c")[0]])
        state = int(table.next_state[state, tokenizer.encode("a")[0]])
        assert table.next_state[state, tokenizer.encode("t")[0]] == -1
        assert table.next_state[state, tokenizer.encode("b")[0]] >= 0

    @given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4), st.text("abc", max_size=8))
    @example(["b", "aba"], "ab")
    @settings(max_examples=200, deadline=None)
    def test_the_automaton_dies_where_a_word_is_complete(self, words: list[str], text: str) -> None:
        automaton, state = without([word.encode() for word in words], 256), 0
        for i, byte in enumerate(text.encode()):
            state = int(automaton.step[state, byte])
            assert (state < 0) == any(word in text[: i + 1] for word in words)
            if state < 0:
                return


def test_with_other_constraints() -> None:
    texts = written(CharTokenizer("abc "), All(Pattern(r"[abc ]{4,8}"), BannedWords(["ab", "ca"]), NoRepeat(3)), budget=12)
    assert all(re.fullmatch("[abc ]{4,8}", text) and "ab" not in text and "ca" not in text for text in texts)
    grams = [[text[i : i + 3] for i in range(len(text) - 2)] for text in texts]
    assert all(len(set(row)) == len(row) for row in grams)


class TestLargeExpressions:
    def test_one_that_doubles_with_each_letter_is_refused_soon(self) -> None:
        for regex in ("(a|b)*a(a|b){14}", "(a|b)*a(a|b){200}", "((a{0,100}b){0,100}c){0,100}", "(a?){20000}"):
            begun = time.perf_counter()
            with pytest.raises(ValueError, match="needs more than 20000 states"):
                Pattern(regex).rules(ByteTokenizer(), 2, 24)
            assert time.perf_counter() - begun < 20

    def test_one_of_some_thousand_states_is_ready_soon(self) -> None:
        begun = time.perf_counter()
        rules = Pattern("(a|b)*a(a|b){11}").rules(ByteTokenizer(), 2, 24)
        assert time.perf_counter() - begun < 20, "where every state is held to every other this takes gigabytes"
        assert rules.need[0] == 13

    def test_an_interruption_is_not_taken_for_a_bad_expression(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def late(pattern: str) -> None:
            raise TimeoutError("an alarm")

        monkeypatch.setattr("interegular.patterns.parse_pattern", late)
        with pytest.raises(TimeoutError, match="an alarm"):
            compiled("an expression that nobody has seen")


def test_tokens_are_followed_without_asking_what_is_allowed() -> None:
    rules = Pattern("(ab|cd|ef|gh){1,12}").rules(ByteTokenizer(), 2, 24)
    fresh = Pattern("(ab|cd|ef|gh){1,12}").rules(ByteTokenizer(), 2, 24)
    prefixes = Prefixes(np.zeros((3, 26), dtype=np.int64), np.full(3, 2), np.full(3, 24), 2)
    memory = rules.begin(prefixes)
    for column in np.array([list(b"abcdefghabcdef"), list(b"ghefcdabghefcd"), list(b"abababababxbab")]).T:
        kept = memory.copy()
        after = rules.follow(memory, column)
        fresh.allowed(memory, prefixes)
        assert np.array_equal(after, fresh.follow(memory, column))
        assert np.array_equal(memory, kept)
        memory = after
    assert memory[:, 1].tolist() == [10, 10, 10]
    assert len(rules._masks) > 4, "the masks grew on the way"


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("ab")])
def test_a_minimum_and_a_pattern(tokenizer: Tokenizer) -> None:
    texts = written(tokenizer, All(Pattern("a|(ab)*|b{5}a*"), MinLength(7)), budget=11)
    assert all(re.fullmatch("a|(ab)*|b{5}a*", text) and 7 <= len(text) <= 10 for text in texts)
    assert len(set(texts)) > 4
    with pytest.raises(ValueError, match="Pattern accepts no text of at least 7 tokens within max_new_tokens=11"):
        written(tokenizer, All(Pattern("a{0,6}|b{11}"), MinLength(7)), budget=11)


class TestErrors:
    @pytest.mark.parametrize("regex", [None, b"a", 3])
    def test_what_is_no_text(self, regex: Any) -> None:
        with pytest.raises(TypeError, match="a regular expression as a text"):
            Pattern(regex)

    WORDS = WordTokenizer(["cat", "dog"])

    @pytest.mark.parametrize(
        ("regex", "tokenizer", "message"),
        [
            ("cats?!", WORDS, "no token holds '!'"),
            ("good dog", WORDS, "a shortest match is 'good dog', of which the tokenizer says: 'good' is not among"),
            ("catdog", WORDS, "of which the tokenizer says: 'catdog' is not among"),
            ("[xyz]q", CharTokenizer("abc"), "no token holds 'q', 'x'"),
            ("a{30}", CharTokenizer("abc"), "the shortest takes 31, EOS included. Give max_new_tokens=31 or more, or finish=False"),
            ("a(b", CharTokenizer("abc"), "is no regular expression"),
            ("^a$", CharTokenizer("abc"), r"Leave out anchors"),
            (r"a\b", CharTokenizer("abc"), "cannot be made a finite automaton"),
            (r"(a)\1", CharTokenizer("abc"), "cannot be made a finite automaton"),
            ("a(?=b)b", CharTokenizer("abc"), "looks ahead or back"),
            ("a{}", CharTokenizer("abc{}"), "is read in two ways"),
            ("[]a]", CharTokenizer("abc]"), "matches no text at all"),
            ("[^]a]", CharTokenizer("abc]"), "is read in two ways"),
        ],
    )
    def test_patterns(self, regex: str, tokenizer: Tokenizer, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            written(tokenizer, Pattern(regex))

    def test_a_tokenizer_whose_texts_are_not_its_pieces(self) -> None:
        class Upside(CharTokenizer):
            def decode(self, ids: Any) -> str:
                return super().decode(ids)[::-1]

        with pytest.raises(ValueError, match="its tokens alone add up to"):
            pieces_of(Upside("abcdef"))

    def test_without_the_library_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "interegular", None)
        with pytest.raises(ImportError, match=r'pip install "textgym\[regex\]"'):
            compiled("a never seen expression")

    def test_a_table_that_would_not_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("textgym.constraints.lift.MOST", 10_000)
        with pytest.raises(ValueError, match="more than 40 states over 257 tokens: its table would not fit"):
            written(ByteTokenizer(), Pattern(".{0,400}"))
