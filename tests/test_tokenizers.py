import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from textgym import tokenizers as t
from textgym.film_reviews import film_reviews
from textgym.task import Tokenizer, WordLevel

ROOT = Path(__file__).parents[1]
TEXTS = ["the plot was dull .", "the cast was warm , yet the plot was not .", "naïve café ☕ ."]


def bpe() -> t.TransformersTokenizer:
    return t.train_bpe(TEXTS * 3, vocab_size=290)


def everyone() -> dict[str, Tokenizer]:
    return {"words": t.WordTokenizer.train(TEXTS), "characters": t.CharTokenizer.train(TEXTS), "bytes": t.ByteTokenizer(), "bpe": bpe()}


@pytest.mark.parametrize("kind", ["words", "characters", "bytes", "bpe"])
def test_round_trips(kind: str, tmp_path: Path) -> None:
    tokenizer = everyone()[kind]
    assert isinstance(tokenizer, Tokenizer)
    for text in [*TEXTS, ""]:
        ids = tokenizer.encode(text)
        assert all(0 <= i < tokenizer.vocab_size and i != tokenizer.eos_id for i in ids)
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == text
    assert 0 <= tokenizer.eos_id < tokenizer.vocab_size
    t.save(tokenizer, tmp_path / "saved")
    for twin in (t.load(tmp_path / "saved"), t.make(str(tmp_path / "saved")), pickle.loads(pickle.dumps(tokenizer))):
        assert twin == tokenizer
        assert hash(twin) == hash(tokenizer)
        assert twin.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
        assert (twin.vocab_size, twin.eos_id) == (tokenizer.vocab_size, tokenizer.eos_id)


def test_tokenizers_that_spell_differently_are_unequal() -> None:
    kinds = list(everyone().values())
    assert all((a == b) == (a is b) for a in kinds for b in kinds)
    assert t.WordTokenizer(["a", "b"]) == t.WordTokenizer(("a", "b"))
    assert t.WordTokenizer(["a", "b"]) != t.WordTokenizer(["b", "a"])
    assert t.WordTokenizer(["a"]) != t.WordTokenizer(["a"], unk="<unk>")
    assert t.WordTokenizer(["a", "<eos>", "x"]) != t.WordTokenizer(["a", "<eos>", "x"], eos="x")


def test_words_keep_their_places_and_eos_is_one_of_them() -> None:
    tokenizer = t.WordTokenizer(["<eos>", "a", "b"], unk="?")
    assert tokenizer.words == ("<eos>", "a", "b", "?")
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (0, 4)
    assert tokenizer.encode(" b  a \n banana") == [2, 1, 3]
    assert tokenizer.decode([2, 0, 3]) == "b ?"
    assert t.WordTokenizer(["a", "b"]).eos_id == 2
    assert isinstance(tokenizer, WordLevel)
    assert not isinstance(t.CharTokenizer("ab"), WordLevel)
    assert not isinstance(t.ByteTokenizer(), WordLevel)
    assert not isinstance(bpe(), WordLevel)


def test_unknown_words_are_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'delihgts' is not among .* nearest is 'delights'"):
        t.make("film_reviews").encode("the cast delihgts us .")
    with pytest.raises(ValueError, match="'<eos>', which ends a text"):
        t.make("film_reviews").encode("the cast <eos>")


def test_word_vocabularies_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' comes twice"):
        t.WordTokenizer(["a", "b", "a"])
    with pytest.raises(ValueError, match="without blanks, not 'a b'"):
        t.WordTokenizer(["a b"])
    with pytest.raises(ValueError, match="without blanks, not ''"):
        t.WordTokenizer([""])
    with pytest.raises(ValueError, match="eos and unk are both"):
        t.WordTokenizer(["a"], eos="x", unk="x")
    with pytest.raises(ValueError, match="leave no vocabulary"):
        t.WordTokenizer.train(["a"], vocab_size=1)
    with pytest.raises(ValueError, match="leave no vocabulary"):
        t.WordTokenizer.train([])


def test_training_words_takes_the_most_frequent() -> None:
    tokenizer = t.WordTokenizer.train(["b b b a a z", "c a b"], vocab_size=4)
    assert tokenizer.words == ("b", "a", "<unk>", "<eos>")
    assert tokenizer.encode("c b") == [2, 0]
    assert t.WordTokenizer.train(["z y"], unk=None).words == ("y", "z", "<eos>")


@pytest.mark.parametrize("tokenizer", [t.WordTokenizer(["a"]), t.CharTokenizer("a"), t.ByteTokenizer()])
def test_pads_are_not_decoded(tokenizer: Tokenizer) -> None:
    for bad in (tokenizer.vocab_size, -1):
        with pytest.raises(ValueError, match=rf"The id {bad} lies outside"):
            tokenizer.decode([0, bad])


def test_characters_that_are_unknown_are_named() -> None:
    with pytest.raises(ValueError, match=r"'é' \(place 3\)"):
        t.CharTokenizer("acf").encode("café")
    with pytest.raises(ValueError, match="not one character"):
        t.CharTokenizer(["ab"])
    with pytest.raises(ValueError, match="distinct"):
        t.CharTokenizer("aa")
    with pytest.raises(ValueError, match="hold no character"):
        t.CharTokenizer.train([""])


def test_broken_bytes_are_shown_not_raised() -> None:
    assert t.ByteTokenizer().decode([0xE2, 0x98, 65, 256]) == "�A"


# --- transformers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unk", [None, "<unk>"])
def test_to_transformers_gives_the_same_ids(unk: str | None, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = t.WordTokenizer(film_reviews().words, unk=unk)
    t.to_transformers(tokenizer).save_pretrained(tmp_path)
    t.save(tokenizer, tmp_path)  # both kinds of file in one folder: ours is found first
    assert t.load(tmp_path) == tokenizer
    fast = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    generator = np.random.default_rng(0)
    for _ in range(20):
        text = " ".join(film_reviews().sample(generator))
        ids = tokenizer.encode(text)
        assert fast.encode(text) == ids
        assert fast.decode(ids) == text
    assert fast.eos_token_id == tokenizer.eos_id
    assert fast.get_vocab() == {word: i for i, word in enumerate(tokenizer.words)}
    assert t.TransformersTokenizer(fast).vocab_size == tokenizer.vocab_size
    if unk is not None:
        assert fast.encode("the banana") == tokenizer.encode("the banana")
    else:
        with pytest.raises(Exception, match=r"unk|UNK"):
            fast.encode("the banana")


def test_to_transformers_refuses_what_is_in_no_vocabulary() -> None:
    with pytest.raises(TypeError, match="not object"):
        t.to_transformers(object())  # type: ignore[arg-type]


def bare(*words: str) -> Any:
    import tokenizers

    rust = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    rust.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return rust


def test_adapter_of_a_bare_tokenizer_and_its_errors() -> None:
    adapted = t.TransformersTokenizer(bare("a", "?", "</s>"), eos="</s>")
    assert (adapted.encode("a b"), adapted.decode([0, 2]), adapted.eos_id, adapted.vocab_size) == ([0, 1], "a", 2, 3)
    with pytest.raises(ValueError, match=r"no EOS token.*eos='</s>'"):
        t.TransformersTokenizer(bare("a", "?"))
    with pytest.raises(ValueError, match="no EOS token"):
        t.make(bare("a", "?"))
    with pytest.raises(ValueError, match="eos='<end>' is not a token"):
        t.TransformersTokenizer(bare("a", "?"), eos="<end>")


def test_adapter_leaves_the_callers_tokenizer_alone() -> None:
    mine = t.to_transformers(t.WordTokenizer(["a", "b"]))
    adapted = t.TransformersTokenizer(mine, eos="b")
    assert (adapted.eos_id, mine.eos_token) == (1, "<eos>")
    assert adapted != t.TransformersTokenizer(mine)


def test_adapter_adds_no_special_tokens() -> None:
    import tokenizers

    rust = bare("a", "?", "<s>", "</s>")
    rust.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    assert t.TransformersTokenizer(rust, eos="</s>").encode("a") == [0]


def test_from_folder_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a folder"):
        t.TransformersTokenizer.from_folder("gpt2-that-is-nowhere")
    (tmp_path / t.FILE_NAME).write_text(json.dumps({"kind": "runes"}))
    with pytest.raises(ValueError, match="kind 'runes'"):
        t.load(tmp_path)


def test_bpe_merges_and_refuses_too_small_a_vocabulary() -> None:
    tokenizer = bpe()
    assert tokenizer.eos_id == 0
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0])
    assert tokenizer.decode(tokenizer.encode("never seen: 漢字  two blanks")) == "never seen: 漢字  two blanks"
    with pytest.raises(ValueError, match="257 or more"):
        t.train_bpe(TEXTS, 100)


# --- by name ------------------------------------------------------------------------------------------------------------------


def test_make() -> None:
    assert t.make("film_reviews") is t.make("film_reviews")
    assert t.make("film_reviews").vocab_size == len(film_reviews().words) + 1
    assert t.make("byte") == t.ByteTokenizer()
    mine = t.CharTokenizer("ab")
    assert t.make(mine) is mine
    assert t.make(t.to_transformers(t.WordTokenizer(["a"]))).encode("a") == [0]
    with pytest.raises(ValueError, match="did you mean 'film_reviews'"):
        t.make("film_review")
    with pytest.raises(TypeError, match="int has not"):
        t.make(3)
    with pytest.raises(TypeError, match="none of this module's"):
        t.save(object(), "nowhere-at-all")  # type: ignore[arg-type]


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from textgym import prompts as p, scorers as s, tokenizers as t; t.make('film_reviews'); p.make('film_reviews'); s.make('sentiment');"
        "sys.exit(str({'torch', 'transformers', 'tokenizers', 'pandas'} & set(sys.modules) or 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "nothing"


def test_a_folder_without_a_tokenizer_is_refused_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        t.TransformersTokenizer.from_folder(tmp_path)


def test_one_text_is_no_list_of_texts_to_be_read_letter_by_letter() -> None:
    for make in (t.WordTokenizer, t.WordTokenizer.train, lambda text: t.train_bpe(text, 300)):
        with pytest.raises(TypeError, match=r"not o[fn] the one text 'it was'"):
            make("it was")
    with pytest.raises(ValueError, match="not 1; split it"):
        t.WordTokenizer([1, 2])  # type: ignore[list-item]


@pytest.mark.parametrize("written", ["{", "[]", "[1]", '{"kind": "words"}', '{"kind": "words", "words": ["a"], "colour": 1}', '{"kind": "soup"}'])
def test_a_damaged_description_is_told_with_its_file(tmp_path: Path, written: str) -> None:
    (tmp_path / t.FILE_NAME).write_text(written)
    with pytest.raises(ValueError, match=rf"{t.FILE_NAME} describes (no|a) tokenizer"):
        t.load(tmp_path)
