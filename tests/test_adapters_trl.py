"""Scorers and text environments for trainers that act on whole responses; none of it needs TRL."""

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textgym
from agents.adapters.trl import EnvironmentReward, ScorerReward
from agents.adapters.whole_responses import WholeResponses
from textgym.constraints import NoRepeat
from textgym.scorers import ExactMatch, Keyword, Length, WeightedSum
from textgym.tokenizers import WordTokenizer, to_transformers

WORDS = WordTokenizer(["a", "good", "bad", "film", "is", "this"])
NO_REPEAT = {"prompts": ["a film", "this"], "tokenizer": WORDS, "scorer": Keyword(["good"]), "max_new_tokens": 6, "constraint": NoRepeat(1)}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("TextGen-v0", {"max_new_tokens": 6}),
    "dense": ("textgym/Even-v0", {"vocab_size": 8, "max_new_tokens": 6, "dense": True}),
    "dense, discounted": ("TextGen-v0", {"max_new_tokens": 6, "dense": True, "gamma": 0.9}),
    "constrained, forbidden tokens end": ("TextGen-v0", NO_REPEAT),
    "constrained, forbidden tokens cost": ("TextGen-v0", {**NO_REPEAT, "forbidden_ends": False, "forbidden_penalty": 0.25}),
    "constrained, dense": ("TextGen-v0", {**NO_REPEAT, "dense": True}),
}


def stepped(env: gym.vector.VectorEnv[Any, Any, Any], prompts: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """The returns of writing tokens [B, G] one by one, and what of them was written before the episode ended."""
    env.reset(seed=5, options={"prompt": prompts})
    total, over, written = np.zeros(len(tokens)), np.zeros(len(tokens), np.bool_), [[] for _ in tokens]
    for column in tokens.T:
        for row in np.flatnonzero(~over):
            written[row].append(int(column[row]))
        _, rewards, terminated, _, _ = env.step(column)
        total += np.where(over, 0.0, rewards)
        over |= terminated
        if over.all():
            break
    return total, written


@pytest.mark.parametrize("name", TASKS)
def test_a_whole_response_earns_what_its_tokens_earn(name: str) -> None:
    id, options = TASKS[name]
    rows = 64
    env = gym.make_vec(id, num_envs=rows, autoreset_mode="SameStep", **options)
    generator, core = np.random.default_rng(1), env.core
    prompts = generator.integers(len(core.task.prompts), size=rows)
    tokens = generator.integers(env.single_action_space.n, size=(rows, core.task.max_new_tokens))
    tokens[generator.random(tokens.shape) < 0.1] = core.task.tokenizer.eos_id
    returns, written = stepped(env, prompts, tokens)
    responses = WholeResponses(gym.make(id, **options))
    np.testing.assert_array_equal(responses.score(prompts, written), returns)
    np.testing.assert_array_equal(responses.score(prompts, tokens), returns)  # what stands behind the end is not written
    assert len(set(returns)) > 2
    assert len({len(w) for w in written}) > 2


def test_masked_texts_that_keep_to_the_grammar_earn_their_score() -> None:
    env = gym.make("TextGen-v0", constraint="film_grammar")
    responses = WholeResponses(env)
    _, info = env.reset(seed=0, options={"prompt": 3})
    generator, ids, total, over = np.random.default_rng(0), [], 0.0, False
    while not over:
        ids.append(int(generator.choice(np.flatnonzero(info["action_mask"]))))
        _, reward, over, _, info = env.step(ids[-1])
        total += reward
    assert responses.score([3], [ids])[0] == total == info["score"]
    assert info["forbidden"] == 0


def test_a_text_is_written_with_eos_behind_it() -> None:
    env = gym.make("TextGen-v0", prompts=["this film is", "a film"], tokenizer=WORDS, scorer=Keyword(["good"]), max_new_tokens=4)
    responses = WholeResponses(env)
    assert responses.prompts == ["this film is", "a film"]
    assert responses.rows() == [{"prompt": "this film is", "prompt_index": 0}, {"prompt": "a film", "prompt_index": 1}]
    assert responses.score([1, 0, 1], ["is good", "bad", ""]).tolist() == [1.0, 0.0, 0.0]
    assert responses.score([], []).shape == (0,)


def test_what_whole_responses_cannot_stand_for_is_refused() -> None:
    with pytest.raises(ValueError, match="answers back"):
        WholeResponses(gym.make("textgym/GuessNumber-v0"))
    with pytest.raises(ValueError, match="chunk=1"):
        WholeResponses(gym.make("TextGen-v0", chunk=2))
    with pytest.raises(ValueError, match="TransformReward stands around"):
        WholeResponses(gym.wrappers.TransformReward(gym.make("TextGen-v0"), lambda r: 2 * r))
    with pytest.raises(TypeError, match="text environment of textgym"):
        WholeResponses(gym.make("CartPole-v1"))


@pytest.mark.parametrize(
    ("indices", "responses", "message"),
    [
        ([0], [[0, 1]], "stops after 2 tokens without EOS .* max_completion_length"),
        ([0, 0], [[6]], "needs the index of its prompt"),
        ([0.0], [[6]], "an integer"),
        ([2], [[6]], "prompt"),
        ([0], [[7]], "outside|7"),
        ([0], ["a fine film"], "'fine' is not among"),
    ],
)
def test_wrong_responses(indices: Any, responses: Any, message: str) -> None:
    env = gym.make("TextGen-v0", prompts=["a", "this"], tokenizer=WORDS, scorer=Keyword(["good"]), max_new_tokens=4)
    with pytest.raises((ValueError, IndexError), match=message):
        WholeResponses(env).score(indices, responses)


def test_a_scorer_as_a_reward_function() -> None:
    seen: list[textgym.Completions] = []

    def keep(completions: textgym.Completions) -> np.ndarray:
        seen.append(completions)
        return completions.lengths + 10.0 * completions.ended

    reward = ScorerReward(keep, WORDS)
    ids = [[1, 3, WORDS.eos_id], [2, 2, 2, 2], [WORDS.eos_id]]
    columns = {"reference": ["x", None, "z"], "label": [1, 2, 3], "trainer_state": object(), "log_extra": print, "log_metric": None}
    found = reward(prompts=["this film is", "a film", "a"], completions=["good film", "bad bad bad bad", ""], completion_ids=ids, **columns)
    assert found == [13.0, 4.0, 11.0]
    assert all(type(one) is float for one in found)
    assert reward.__name__ == "keep"
    (batch,) = seen  # one call for all
    assert batch.texts == ["good film", "bad bad bad bad", ""]
    assert batch.full_texts == ["this film is good film", "a film bad bad bad bad", "a"]
    assert [(p.text, p.reference, dict(p.data)) for p in batch.prompts] == [
        ("this film is", "x", {"label": 1}),
        ("a film", None, {"label": 2}),
        ("a", "z", {"label": 3}),
    ]


def test_a_reward_function_scores_as_the_environment_does() -> None:
    env = gym.make_vec("TextGen-v0", num_envs=32, max_new_tokens=6, autoreset_mode="SameStep")
    task, generator = env.core.task, np.random.default_rng(0)
    tokens, prompts = generator.integers(task.tokenizer.vocab_size, size=(32, 6)), np.arange(32)
    returns, written = stepped(env, prompts, tokens)
    texts = [task.prompts[i].text for i in range(32)]
    said = [task.tokenizer.decode(ids) for ids in written]
    for tokenizer in (task.tokenizer, to_transformers(task.tokenizer), "film_reviews"):
        assert ScorerReward(task.scorer, tokenizer)(prompts=texts, completions=said, completion_ids=written) == returns.tolist()
    assert (
        EnvironmentReward(gym.make("TextGen-v0", max_new_tokens=6))(prompts=texts, completions=said, completion_ids=written, prompt_index=prompts.tolist())
        == returns.tolist()
    )


def test_conversations() -> None:
    reward = ScorerReward(ExactMatch(), WORDS)
    prompts = [[{"role": "system", "content": "is"}, {"role": "user", "content": "this film"}]] * 2
    completions = [[{"role": "assistant", "content": "good"}], [{"role": "assistant", "content": "bad"}]]
    assert reward(prompts=prompts, completions=completions, reference=["good", "good"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="2 messages is not the model's alone"):
        reward(prompts=prompts[:1], completions=[completions[0] * 2], completion_ids=[[1]], reference=["good"])
    with pytest.raises(ValueError, match="content is list"):
        reward(prompts=prompts[:1], completions=[[{"role": "assistant", "content": [{"type": "image"}]}]], reference=["good"])


def test_the_parts_of_a_score_are_logged() -> None:
    logged: dict[str, float] = {}
    scorer = WeightedSum({"good": (Keyword(["good"]), 1.0), "long": (Length(2), 1.0)})
    reward = pickle.loads(pickle.dumps(ScorerReward(scorer, WORDS)))
    reward(prompts=["a", "a"], completions=["good film", "bad"], completion_ids=[[1, 3], [2, 6]], log_metric=logged.__setitem__)
    assert set(logged) == {"WeightedSum/good", "WeightedSum/long"}
    assert logged["WeightedSum/good"] == 0.5


def test_wrong_use_of_reward_functions() -> None:
    with pytest.raises(TypeError, match="cannot be called"):
        ScorerReward("sentiment", WORDS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Id 7 is outside this tokenizer's vocabulary of 7"):
        ScorerReward(Keyword(["good"]), WORDS)(prompts=["a"], completions=["?"], completion_ids=[[7]])
    with pytest.raises(ValueError, match=r"no column prompt_index"):
        EnvironmentReward(gym.make("TextGen-v0"))(prompts=["a"], completions=["?"], completion_ids=[[7]])
