import pickle
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textgym import prompts as p
from textgym.core import Streams
from textgym.episodes import TextCore
from textgym.film_reviews import film_reviews
from textgym.grammar import Grammar, Rule
from textgym.scorers import Length
from textgym.task import Prompt, PromptSource, Task
from textgym.tokenizers import ByteTokenizer, WordTokenizer

SST2 = Path(__file__).parents[2] / "shared" / "data" / "sst2"


def everything(source: PromptSource) -> list[Prompt]:
    return [source[i] for i in range(len(source))]


def write(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


# --- lists and grammars -------------------------------------------------------------------------------------------------------


def test_list_prompts() -> None:
    source = p.ListPrompts(["a", Prompt("b", reference="c"), ""])
    assert everything(source) == [Prompt("a"), Prompt("b", reference="c"), Prompt("")]
    assert isinstance(source, PromptSource)
    with pytest.raises(IndexError):
        source[3]
    with pytest.raises(ValueError, match="list of prompts is empty"):
        p.ListPrompts([])
    with pytest.raises(TypeError, match="put it into a list"):
        p.ListPrompts("one text")
    with pytest.raises(TypeError, match="not int"):
        p.ListPrompts(["a", 0])  # type: ignore[list-item]


def test_grammar_prompts_begin_distinct_texts() -> None:
    grammar = film_reviews()
    source = p.GrammarPrompts(grammar, num=500, seed=3)
    whole = [f"{prompt.text} {prompt.reference}" for prompt in everything(source)]
    assert len(set(whole)) == len(source) == 500
    assert all(grammar.accepts(text) for text in whole)
    lengths = [len(prompt.text.split()) for prompt in everything(source)]
    assert set(lengths) == {2, 3, 4, 5, 6}
    assert all(prompt.reference for prompt in everything(source))
    assert everything(source) == everything(p.GrammarPrompts(grammar, num=500, seed=3))
    assert everything(source) != everything(p.GrammarPrompts(grammar, num=500, seed=4))
    assert everything(pickle.loads(pickle.dumps(source))) == everything(source)


def test_grammar_prompts_leave_a_word_to_write() -> None:
    tiny = Grammar.from_rules({"s": [Rule(("a", "b"), 0.5, "t")], "t": [Rule(("c",), 0.5, "u")], "u": []})
    assert sorted(everything(p.GrammarPrompts(tiny, num=2, min_words=1, max_words=9))) == [Prompt("a", reference="c"), Prompt("b", reference="c")]
    with pytest.raises(ValueError, match=r"gave 2 distinct texts of more than 1 words.*num=2"):
        p.GrammarPrompts(tiny, num=3, min_words=1, max_words=9)
    with pytest.raises(ValueError, match="min_words <= max_words"):
        p.GrammarPrompts(tiny, min_words=3, max_words=2)


# --- files --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "arguments", "expected"),
    [
        ("a.txt", "one two\n\n  three \n", {}, [Prompt("one two"), Prompt("three")]),
        ("a.txt", "\ufeffone\r\ntwo", {}, [Prompt("one"), Prompt("two")]),
        ("a.tsv", 'he said "so\t1\nfine\t0\n', {"label_column": 1}, [Prompt('he said "so', data={"label": 1}), Prompt("fine", data={"label": 0})]),
        ("a.tsv", "1\tgood\n\n0\tbad\n", {"text_column": 1}, [Prompt("good"), Prompt("bad")]),
        ("a.tsv", "n\tw\n1\tgood\n", {"text_column": "w", "label_column": "n"}, [Prompt("good", data={"label": 1})]),
        ("a.tsv", "n\tw\n1\tgood\n", {"text_column": 1, "header": True}, [Prompt("good")]),
        ("a.csv", 'text,mood\n"a, b",glad\n', {"label_column": "mood"}, [Prompt("a, b", data={"label": "glad"})]),
        ("a.csv", "id,text\n7,hello\n", {}, [Prompt("hello")]),
        ("a.csv", "hello,you\n", {"reference_column": 1}, [Prompt("hello", reference="you")]),
        ("a.csv", "text,you\n", {"header": False}, [Prompt("text")]),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b", "x": 1}\n', {}, [Prompt("a"), Prompt("b")]),
        (
            "a.jsonl",
            '{"q": "a", "r": "b", "l": 3}\n',
            {"text_column": "q", "reference_column": "r", "label_column": "l"},
            [Prompt("a", reference="b", data={"label": 3})],
        ),
    ],
)
def test_files(tmp_path: Path, name: str, text: str, arguments: dict[str, Any], expected: list[Prompt]) -> None:
    path = write(tmp_path, name, text)
    assert everything(p.load_file(path, **arguments)) == expected
    if not arguments:
        assert everything(p.make(str(path))) == everything(p.make(path)) == expected


@pytest.mark.parametrize(
    ("name", "text", "arguments", "message"),
    [
        ("a.txt", " \n\n", {}, "holds no rows"),
        ("a.csv", "text,label\n", {}, "holds no rows"),
        ("a.json", "[]", {}, r"read from \.txt, \.tsv"),
        ("a.txt", "a\n", {"label_column": 1}, "one text a line and no columns"),
        ("a.txt", "a\n", {"text_column": "text"}, "one text a line and no columns"),
        ("a.tsv", "a\t1\nb\n", {}, "line 2: 1 columns where the first line has 2"),
        ("a.csv", "text,l\n\na,1\nb,1,2\n", {}, "line 4: 3 columns"),
        ("a.tsv", "a\t1\n", {"label_column": 2}, "line 1: no column 2, the line has 2; give a position from 0 to 1"),
        ("a.tsv", "a\tl\n", {"text_column": "words"}, r"line 1: no column 'words': the header reads \['a', 'l'\]"),
        ("a.tsv", "a\tl\n", {"text_column": "a", "header": False}, "said to have no header"),
        ("a.csv", 'text\n"a\n', {}, "line 2: unexpected end of data; mend the quotes"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', {}, "line 2: not JSON"),
        ("a.jsonl", '["text"]\n', {}, "line 1: list where an object was expected"),
        ("a.jsonl", '{"text": "a"}\n{"t": "a"}\n', {}, r"line 2: no key 'text' among \['t'\]"),
        ("a.jsonl", '{"text": 3}\n', {}, "line 1: 'text' is int, not a string"),
        ("a.jsonl", '{"text": "a", "r": 3}\n', {"reference_column": "r"}, "line 1: 'r' is int, not a string"),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path: Path, name: str, text: str, arguments: dict[str, Any], message: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(ValueError, match=message) as caught:
        p.load_file(path, **arguments)
    assert str(path) in str(caught.value)


def test_missing_and_wrongly_encoded_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt is not a file"):
        p.load_file(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="save the file as UTF-8"):
        p.load_file(write(tmp_path, "a.txt", "café", "latin-1"))


def test_load_texts(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "good\t1\nbad\t-1\nodd\tx\n")
    assert p.load_texts(path, label_column=1) == (["good", "bad", "odd"], [1, -1, "x"])
    assert p.load_texts(path) == (["good", "bad", "odd"], [])


@pytest.mark.skipif(not SST2.is_dir(), reason="needs shared/data/sst2 beside the repository")
def test_sst2_loads_without_a_header() -> None:
    texts, labels = p.load_texts(SST2 / "train.tsv", label_column=1)
    assert len(texts) == len(labels) > 6900
    assert set(labels) == {0, 1}
    source = p.load_file(SST2 / "train.tsv", label_column=1)
    assert source[0] == Prompt(texts[0], data={"label": labels[0]})


# --- splits and first tokens --------------------------------------------------------------------------------------------------


def test_splits_part_the_prompts_by_their_text() -> None:
    source = p.GrammarPrompts(film_reviews(), num=2000)
    parts = {name: everything(p.split(source, name)) for name in p.SPLITS}
    assert sorted(chain.from_iterable(parts.values())) == sorted(everything(source))
    texts = {name: {prompt.text for prompt in part} for name, part in parts.items()}
    assert not texts["train"] & texts["val"]
    assert not texts["train"] & texts["test"]
    assert not texts["val"] & texts["test"]
    assert p.split(source, "all") is source


def test_splits_have_about_the_fractions_asked_for() -> None:
    source = p.ListPrompts([str(i) for i in range(5000)])
    for fractions in [(0.8, 0.1, 0.1), (0.5, 0.2, 0.3)]:
        for name, fraction in zip(p.SPLITS, fractions, strict=True):
            assert len(p.split(source, name, fractions)) / 5000 == pytest.approx(fraction, abs=0.025)
    assert len(p.split(source, "train", (1.0, 0.0, 0.0))) == 5000


def test_a_prompt_stays_on_its_side() -> None:
    """These sides are frozen: they must be the same on every machine, in every process and in every release."""
    few = p.ListPrompts([f"prompt {i}" for i in range(20)])
    many = p.ListPrompts([f"prompt {i}" for i in range(40)])
    held_out = [prompt.text for name in ("val", "test") for prompt in everything(p.split(few, name))]
    assert held_out == ["prompt 1", "prompt 11", "prompt 17", "prompt 18", "prompt 10", "prompt 15"]
    assert set(held_out) <= {prompt.text for name in ("val", "test") for prompt in everything(p.split(many, name))}


def test_impossible_splits_are_refused() -> None:
    source = p.ListPrompts(["a"])
    with pytest.raises(ValueError, match="no split 'validation'"):
        p.split(source, "validation")
    with pytest.raises(ValueError, match="add up to 1"):
        p.split(source, "train", (0.8, 0.1, 0.2))
    with pytest.raises(ValueError, match="add up to 1"):
        p.split(source, "train", (0.9, 0.1))
    with pytest.raises(ValueError, match="'val' of 1 prompts is empty"):
        p.split(source, "val", (1.0, 0.0, 0.0))


def test_splitting_again_is_cheap() -> None:
    source = p.make("film_reviews")
    p.split(source, "train")
    begin = time.perf_counter()
    p.split(source, "val")
    assert time.perf_counter() - begin < 0.05


def test_a_source_that_cannot_be_hashed_is_split_all_the_same() -> None:
    class Unhashable(list[Prompt]):
        pass

    few = Unhashable(Prompt(f"prompt {i}") for i in range(20))
    assert everything(p.split(few, "val")) == everything(p.split(p.ListPrompts(few), "val"))


def test_first_tokens() -> None:
    tokenizer = WordTokenizer(["a", "b", "c", "d"])
    source = p.FirstTokens(p.ListPrompts([Prompt("a b c d", data={"label": 1}), Prompt("b c"), Prompt("d"), Prompt("")]), tokenizer, k=2)
    assert everything(source) == [
        Prompt("a b", (0, 1), "c d", {"label": 1}),
        Prompt("b", (1,), "c"),  # a token is left to write
        Prompt("d", (3,), ""),
        Prompt("", (), ""),
    ]
    cut_in_a_letter = p.FirstTokens(p.ListPrompts(["é!"]), ByteTokenizer(), k=1)[0]
    assert cut_in_a_letter.ids == (0xC3,)  # the ids are exact where the text cannot be
    with pytest.raises(ValueError, match="1 or more"):
        p.FirstTokens(source, tokenizer, k=0)


# --- by name ------------------------------------------------------------------------------------------------------------------


def test_make() -> None:
    films = p.make("film_reviews")
    mixed: list[str | Prompt] = ["a", Prompt("b")]
    assert len(films) == 4096
    assert p.make("film_reviews") is films
    assert p.make(films) is films
    assert everything(p.make(mixed)) == [Prompt("a"), Prompt("b")]
    with pytest.raises(ValueError, match="did you mean 'film_reviews'"):
        p.make("film_rewiews")
    with pytest.raises(TypeError, match="int does not"):
        p.make(3)  # type: ignore[arg-type]


def test_a_file_is_read_again_only_after_it_has_changed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "one\ntwo\n")
    first = p.make(str(path))
    assert p.make(path) is first
    write(tmp_path, "a.txt", "one\ntwo\nthree\n")
    assert len(p.make(str(path))) == 3


def test_sources_are_equal_where_their_prompts_are() -> None:
    def sources(last: str) -> list[PromptSource]:
        listed = p.ListPrompts([*(str(i) for i in range(50)), Prompt(last, data={"label": 1})])
        return [listed, p.split(listed, "train"), p.FirstTokens(listed, ByteTokenizer(), 1)]

    for one, same, other in zip(sources("a"), sources("a"), sources("b"), strict=True):
        assert one == same
        assert hash(one) == hash(same)
        assert one != other


def test_what_is_no_text_is_refused_and_not_met_when_it_is_scored() -> None:
    for prompt, message in ((Prompt(5), "The text of a prompt is a str, not 5"), (Prompt("a", reference=0), "The reference of a prompt is a str, not 0")):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=message):
            p.ListPrompts(["b", prompt])
    for columns in (np.array(["a", "b"]), {"a": 1}, {0: "a"}):
        with pytest.raises(TypeError, match="give a list of its texts"):
            p.make(columns)  # type: ignore[arg-type]


def test_arrays_in_the_data_of_prompts_do_not_keep_a_second_environment_from_being_made() -> None:
    def sources() -> list[p.ListPrompts]:
        return [p.ListPrompts([Prompt("a", data={"goal": np.array([1, last])})]) for last in (2, 3)]

    first, other = sources()
    assert first == first
    assert first != other
    for source in (*sources(), *sources()):  # equal hashes: the kept tables of prompts are asked for each
        core = TextCore(Task(source, WordTokenizer(["a"]), Length(1)), num_rows=1)
        assert core.task.prompts is source


def test_a_task_is_given_prompts_and_not_texts() -> None:
    with pytest.raises(TypeError, match=r"Prompt 0 is str, not a textgym Prompt; textgym.prompts.make"):
        TextCore(Task(["a"], WordTokenizer(["a"]), Length(1)), num_rows=1)  # type: ignore[arg-type]


def test_ready_made_ids_are_integers() -> None:
    for ids in ((1.5,), ("a",), (None,)):
        with pytest.raises(ValueError, match=r"Prompt 0 .'a'. has ids that are no integers"):
            TextCore(Task(p.ListPrompts([Prompt("a", ids=ids)]), WordTokenizer(["a", "b", "c"]), Length(1)), num_rows=1)  # type: ignore[arg-type]
    core = TextCore(Task(p.ListPrompts([Prompt("a", ids=tuple(np.array([0, 2])))]), WordTokenizer(["a", "b", "c"]), Length(1)), num_rows=1)
    core.start(np.array([0]), Streams.from_seeds([0]), {})
    assert core.observe(slice(None))[0, 6:8].tolist() == [0, 2]
