"""Prompts out of the real `datasets` library, which textgym never imports."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textgym import prompts as p
from textgym.scorers import ExactMatch
from textgym.task import PromptSource
from textgym.tokenizers import WordTokenizer

datasets = pytest.importorskip("datasets")

WORDS = WordTokenizer(["it", "was", "she", "said", "yes"])
CHAT = [{"role": "user", "content": "it"}]


def data(**columns: Any) -> Any:
    return datasets.Dataset.from_dict(columns or {"prompt": ["it was", "she said"], "reference": ["yes", None], "label": [1, 0]})


def environment(prompts: Any, num_envs: int = 2, **options: Any) -> Any:
    return gym.make_vec("TextGen-v0", num_envs=num_envs, prompts=prompts, tokenizer=WORDS, scorer="sentiment", max_new_tokens=3, **options)


def test_a_data_set_is_a_source_of_prompts() -> None:
    source = p.make(data())
    assert isinstance(source, PromptSource)
    assert [source[i].text for i in range(len(source))] == ["it was", "she said"]
    assert [source[i].reference for i in range(2)] == ["yes", None]
    assert [dict(source[i].data) for i in range(2)] == [{"label": 1}, {"label": 0}]
    with pytest.raises(KeyError):
        source[0].data["prompt"]


@pytest.mark.parametrize(
    ("columns", "arguments", "text", "reference", "rest"),
    [
        ({"text": ["a"], "id": [7]}, {}, "a", None, {"id": 7}),
        ({"text": ["a"], "prompt": ["b"]}, {}, "b", None, {"text": "a"}),
        ({"question": ["a"], "answer": ["b"]}, {"text_column": "question", "reference_column": "answer"}, "a", "b", {}),
    ],
)
def test_columns(columns: Any, arguments: Any, text: str, reference: str | None, rest: dict[str, Any]) -> None:
    prompt = p.DataSetPrompts(data(**columns), **arguments)[0]
    assert (prompt.text, prompt.reference, dict(prompt.data)) == (text, reference, rest)


def test_environments_take_it() -> None:
    given, listed = environment(data()), environment(["it was", "she said"])
    for env in (given, listed):
        env.reset(seed=3)
    np.testing.assert_array_equal(given.core.observe(slice(None)), listed.core.observe(slice(None)))
    single = gym.make("TextGen-v0", prompts=data(), tokenizer=WORDS, max_new_tokens=3)
    observation, _ = single.reset(seed=0, options={"prompt": 1})
    assert [i for i in observation if i != WORDS.vocab_size] == WORDS.encode("she said")
    synced = gym.make_vec("TextGen-v0", num_envs=2, vectorization_mode="sync", prompts=data(), tokenizer=WORDS, max_new_tokens=3)
    synced.reset(seed=0)


def test_scorers_read_its_reference() -> None:
    env = gym.make("TextGen-v0", prompts=data(), tokenizer=WORDS, scorer=ExactMatch(), max_new_tokens=3)
    env.reset(seed=0, options={"prompt": 0})
    env.step(WORDS.encode("yes")[0])
    assert env.step(WORDS.eos_id)[1] == 1.0


def test_splits_and_formats_and_pickles() -> None:
    many = data(text=[f"it was {'yes ' * i}".strip() for i in range(60)])
    parts = [p.split(p.make(many), name) for name in p.SPLITS]
    assert sum(map(len, parts)) == 60
    assert all(map(len, parts))
    source = p.make(many.with_format("numpy"))
    assert type(source[3].text) is str
    assert pickle.loads(pickle.dumps(source))[3].text == source[3].text
    assert p.make(many) == p.make(many)
    assert hash(p.make(many)) == hash(p.make(many))
    assert p.make(many) != p.make(many.select(range(2)))


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        (lambda: data(question=["a"]), ValueError, r"no column 'prompt' or 'text', but \['question'\].*text_column="),
        (lambda: data(prompt=[CHAT]), ValueError, "is a conversation.*apply_chat_template"),
        (lambda: data(prompt=["a", None]), ValueError, "Row 1 of 'prompt' is NoneType"),
        (lambda: data().select([]), ValueError, "no rows"),
        (lambda: data().to_iterable_dataset(), TypeError, r"IterableDataset is a stream.*take\(10_000\)"),
        (lambda: datasets.DatasetDict(test=data()), TypeError, r"splits \['test'\].*prompts\['test'\]"),
    ],
)
def test_what_is_no_source_is_refused_with_what_to_do(prompts: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        environment(prompts())
    with pytest.raises(ValueError, match=r"no column 'answer'.*reference_column="):
        p.DataSetPrompts(data(), reference_column="answer")
    with pytest.raises(ValueError, match="Row 1 of 'reference' is float, not a text"):
        p.DataSetPrompts(data(prompt=["a", "b"], reference=[None, 19.0]))
