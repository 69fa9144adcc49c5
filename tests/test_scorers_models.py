"""Scorers that ask a local model: likelihoods and classifiers, batched and exact, on real models with random weights."""

import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from helpers import WORDS as SIX
from helpers import SmallCore
from test_scorers import completions
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from agents.policies import seeded
from textgym import scorers
from textgym.env import GymEnv
from textgym.language_models import LanguageModel
from textgym.prompts import ListPrompts
from textgym.scorers.around import take
from textgym.task import Completions
from textgym.tokenizers import ByteTokenizer, WordTokenizer, to_transformers

WORDS = WordTokenizer(("<eos>", "good", "bad", "film", "so", "a"))  # EOS is id 0
V = WORDS.vocab_size
GPT2 = {"n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
LLAMA = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0}
LLAMA |= {"max_position_embeddings": 16, "initializer_range": 0.3, "eos_token_id": 0}
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16, "initializer_range": 0.3}


def gpt2(rows: int = V, seed: int = 0) -> GPT2LMHeadModel:
    with seeded(seed):
        return GPT2LMHeadModel(GPT2Config(vocab_size=rows, **GPT2)).double().eval()


def llama(rows: int = V, seed: int = 0) -> LlamaForCausalLM:
    with seeded(seed):
        return LlamaForCausalLM(LlamaConfig(vocab_size=rows, **LLAMA)).double().eval()


def classifier(kind: str, labels: int, rows: int = V, **changes: Any) -> nn.Module:
    with seeded(0):
        if kind == "gpt2":
            return GPT2ForSequenceClassification(GPT2Config(vocab_size=rows, num_labels=labels, **GPT2, **changes)).double().eval()
        if kind == "llama":
            return LlamaForSequenceClassification(LlamaConfig(vocab_size=rows, num_labels=labels, **LLAMA, **changes)).double().eval()
        return BertForSequenceClassification(BertConfig(vocab_size=rows, num_labels=labels, **BERT, **changes)).double().eval()


def batch(*texts: str, cut: frozenset[int] = frozenset({1, 4})) -> Completions:
    """Continuations of all lengths to prompts of three, some cut, one without any token."""
    given = texts or ("good", "so bad", "", "good good film so a", "", "a film so so bad", "bad")
    prompts = ListPrompts([("a", "so a film", "good film")[i % 3] for i in range(len(given))])
    return completions(WORDS, prompts, list(given), cut)


@torch.no_grad()
def likelihood(model: nn.Module, prompt: list[int], continuation: list[int]) -> float:
    """The definition: log p of each token of the continuation, one forward a token."""
    total = 0.0
    for i, token in enumerate(continuation):
        logits = model(torch.tensor([prompt + continuation[:i]])).logits[0, -1]
        total += float(logits.double().log_softmax(-1)[token])
    return total


def split(rows: Completions, i: int) -> tuple[list[int], list[int]]:
    pad = rows.tokenizer.vocab_size
    return rows.prompt_tokens[i][rows.prompt_tokens[i] != pad].tolist(), rows.tokens[i][: rows.lengths[i]].tolist()


def whole(rows: Completions, i: int) -> list[int]:
    prompt, text = split(rows, i)
    return prompt + text


# --- log-likelihood -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_log_likelihood_is_the_sum_over_tokens_given_all_before(build: Any, batch_size: int) -> None:
    model, rows = build(), batch()
    expected = np.array([likelihood(model, *split(rows, i)) for i in range(len(rows))])
    found = scorers.LogLikelihood(model, batch_size=batch_size)(rows)
    print(f"{build.__name__}: error {abs(found - expected).max():.1e}")
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[4] == 0.0  # cut before its first token
    assert found[2] < 0.0  # ended at once: EOS is its text
    mean = scorers.LogLikelihood(model, per_token=True)(rows)
    assert mean == pytest.approx(expected / np.maximum(rows.lengths, 1), abs=1e-12)


def test_log_likelihood_in_single_precision() -> None:
    model, rows = gpt2(), batch()
    expected = np.array([likelihood(model, *split(rows, i)) for i in range(len(rows))])
    assert scorers.LogLikelihood(model, dtype="float32")(rows) == pytest.approx(expected, abs=1e-4)


def test_eos_counts_only_where_the_text_ended_itself() -> None:
    model = gpt2()
    ended, cut = (scorers.LogLikelihood(model)(batch("so bad", cut=cut)) for cut in (frozenset(), frozenset({0})))
    assert ended[0] == pytest.approx(likelihood(model, WORDS.encode("a"), [*WORDS.encode("so bad"), 0]), abs=1e-12)
    assert cut[0] == pytest.approx(likelihood(model, WORDS.encode("a"), WORDS.encode("so bad")), abs=1e-12)


def test_only_the_agents_tokens_are_scored_but_all_are_read() -> None:
    model, rows = gpt2(), batch("good bad so film")
    agent = np.ones_like(rows.tokens, dtype=bool)
    agent[0, 1:3] = False
    prompt, text = split(rows, 0)
    wanted = [likelihood(model, prompt + text[:i], [text[i]]) for i in (0, 3, 4)]
    dialogue = replace(rows, agent=agent)
    assert scorers.LogLikelihood(model)(dialogue)[0] == pytest.approx(sum(wanted), abs=1e-12)
    assert scorers.LogLikelihood(model, per_token=True)(dialogue)[0] == pytest.approx(np.mean(wanted), abs=1e-12)
    with pytest.raises(ValueError, match="dialogue are scored in the environment's own ids"):
        scorers.LogLikelihood(model, tokenizer=WORDS)(dialogue)


def test_vocabularies_must_match() -> None:
    rows = batch()
    with pytest.raises(ValueError, match=r"tokenizer has 6 ids, the scoring model 9\. .* give vocab_size=6; .* tokenizer='own'"):
        scorers.LogLikelihood(gpt2(9))(rows)
    with pytest.raises(ValueError, match=r"tokenizer has 6 ids, the scoring model 5"):
        scorers.LogLikelihood(gpt2(5))(rows)
    model = gpt2(9)
    found = scorers.LogLikelihood(model, vocab_size=V)(rows)  # the spare rows lose their share
    spare = LanguageModel(model, V)
    prompt, text = split(rows, 0)
    expected = sum(spare.next_log_probs(np.array([prompt + text[:i]]))[0, token] for i, token in enumerate(text))
    assert found[0] == pytest.approx(expected, abs=1e-12)
    assert found[0] > scorers.LogLikelihood(model)(completions(WordTokenizer((*WORDS.words, "x", "y", "z")), rows.source, ["good"]))[0]
    with pytest.raises(ValueError, match="Give tokenizer or vocab_size, not both"):
        scorers.LogLikelihood(model, tokenizer=WORDS, vocab_size=V)


def test_log_likelihood_in_the_models_own_spelling(tmp_path: Path) -> None:
    """The environment spells by bytes, the model by words: "so a" + " good" is read as the words so, a | good."""
    other = WordTokenizer(("bad", "film", "so", "<eos>", "good", "a"))
    model = gpt2(8)
    rows = completions(ByteTokenizer(), ListPrompts(["so a ", "film", "a"]), ["good film", " so bad", ""], frozenset({1, 2}))
    parts = [("so a", "good film <eos>"), ("film", "so bad"), ("a", "")]
    expected = []
    for prompt, text in parts:
        ids = [other.words.index(word) for word in text.split()]
        expected.append(sum(LanguageModel(model, 6).next_log_probs(np.array([other.encode(prompt) + ids[:i]]))[0, token] for i, token in enumerate(ids)))
    assert scorers.LogLikelihood(model, tokenizer=other)(rows) == pytest.approx(expected, abs=1e-12)
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        scorers.LogLikelihood(tmp_path, tokenizer="own")
    to_transformers(other).save_pretrained(tmp_path)
    assert scorers.LogLikelihood(str(tmp_path), tokenizer="own")(rows) == pytest.approx(expected, abs=1e-12)
    mean = scorers.LogLikelihood(tmp_path, per_token=True, tokenizer="own")(rows)
    assert mean == pytest.approx(np.array(expected) / np.array([3, 2, 1]), abs=1e-12)
    nothing = completions(ByteTokenizer(), ListPrompts([" "]), ["good"], frozenset({0}))  # EOS stands for an empty prompt
    expected_one = LanguageModel(model, 6).next_log_probs(np.array([[3]]))[0, 4]
    assert scorers.LogLikelihood(tmp_path, tokenizer="own")(nothing) == pytest.approx(expected_one, abs=1e-12)
    for wrong in ("their", to_transformers(other)):
        with pytest.raises((ValueError, TypeError), match=r"tokenizer='their': give a Tokenizer|adapt it by textgym\.tokenizers\.make"):
            scorers.LogLikelihood(tmp_path, tokenizer=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beside the model's folder"):
        scorers.LogLikelihood(model, tokenizer="own")


def test_the_models_own_beginning_of_text_stands_before_the_prompt(tmp_path: Path) -> None:
    model = gpt2(8)
    model.save_pretrained(tmp_path)
    rust = to_transformers(WordTokenizer(("good", "film", "<s>"), eos="<eos>")).backend_tokenizer
    rust.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<s>", eos_token="<eos>").save_pretrained(tmp_path)
    rows = completions(WordTokenizer(("good", "film")), ListPrompts(["good"]), ["film"])
    reference = LanguageModel(model, 4).token_log_probs(np.array([[2, 0, 1, 3]]))[0, 2:].sum()
    assert scorers.LogLikelihood(tmp_path, tokenizer="own")(rows) == pytest.approx(reference, abs=1e-12)


def test_scorers_share_the_model_of_a_folder_until_the_folder_changes(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    rows = batch()
    first, second = scorers.LogLikelihood(tmp_path), scorers.make({"name": "log_likelihood", "model": str(tmp_path), "per_token": True})
    assert first._language_model is second._language_model  # type: ignore[attr-defined]
    assert scorers.LogLikelihood(tmp_path, dtype="float32")._language_model is not first._language_model
    before = first(rows).tolist()
    gpt2(seed=1).save_pretrained(tmp_path)
    assert scorers.LogLikelihood(tmp_path)(rows).tolist() != before
    assert first(rows).tolist() == before


def test_a_language_model_can_be_shared_with_others() -> None:
    lm = LanguageModel(gpt2(9), V)
    assert scorers.LogLikelihood(lm)(batch()).tolist() == scorers.LogLikelihood(gpt2(9), vocab_size=V)(batch()).tolist()
    for wrong in ({"dtype": "float32"}, {"batch_size": 3}, {"vocab_size": 9}, {"device": "cuda"}):
        with pytest.raises(ValueError, match="brings its own vocab_size"):
            scorers.LogLikelihood(lm, **wrong)  # type: ignore[arg-type]


# --- reward models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("pad", [None, 0, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_reward_model_says_of_each_text_what_it_says_of_it_alone(kind: str, pad: int | None, batch_size: int) -> None:
    """Pads are where the sequence classifiers of decoders go wrong: they look for the last id that is not the pad's."""
    model, rows = classifier(kind, 1, **({"pad_token_id": pad} if pad is not None or kind != "bert" else {})), batch()
    with torch.no_grad():
        expected = [float(model(torch.tensor([whole(rows, i)])).logits) for i in range(len(rows))]
    found = scorers.RewardModel(model, batch_size=batch_size)(rows)
    assert found == pytest.approx(expected, abs=1e-12)
    assert len({round(score, 9) for score in expected}) >= 5
    assert model.config.pad_token_id == (0 if kind == "bert" and pad is None else pad)  # type: ignore[union-attr]
    assert scorers.RewardModel(model, dtype="float32")(rows) == pytest.approx(expected, abs=2e-5)
    probability = scorers.RewardModel(model, probability=True)(rows)
    assert probability == pytest.approx(1 / (1 + np.exp(-np.array(expected))), abs=1e-12)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_the_label_is_the_one_that_was_asked_for(kind: str) -> None:
    names = {"id2label": {0: "neg", 1: "mid", 2: "pos"}, "label2id": {"neg": 0, "mid": 1, "pos": 2}}
    model, rows = classifier(kind, 3, **names), batch()
    with torch.no_grad():
        logits = torch.cat([model(torch.tensor([whole(rows, i)])).logits for i in range(len(rows))]).numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for label, index in (("pos", 2), ("neg", 0), (1, 1)):
        assert scorers.RewardModel(model, label, probability=True)(rows) == pytest.approx(p[:, index], abs=1e-12)
        assert scorers.RewardModel(model, label)(rows) == pytest.approx(np.log(p[:, index] / (1 - p[:, index])), abs=1e-10)
    for wrong in (None, "good", 3, -1, True):
        with pytest.raises(ValueError, match=rf"label={wrong!r}: the model's labels are \['neg', 'mid', 'pos'\]"):
            scorers.RewardModel(model, wrong)
    separate = classifier(kind, 3, **names, problem_type="multi_label_classification")
    assert scorers.RewardModel(separate, "pos")(rows) == pytest.approx(logits[:, 2], abs=1e-12)


def test_a_missing_head_is_an_error(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path / "gpt2")
    llama().save_pretrained(tmp_path / "llama")
    classifier("bert", 2).bert.save_pretrained(tmp_path / "bert")  # type: ignore[union-attr]
    state = torch.random.get_rng_state()
    for kind, weight in (("gpt2", "score.weight"), ("llama", "score.weight"), ("bert", "classifier.bias, classifier.weight")):
        with pytest.raises(ValueError, match=rf"{kind} holds no {weight} .*ForSequenceClassification.* would be random.*Give a checkpoint with that head"):
            scorers.make({"name": "reward_model", "model": str(tmp_path / kind), "label": 0})
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(TypeError, match="GPT2LMHeadModel gives logits of shape"):
        scorers.RewardModel(gpt2())
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        scorers.RewardModel(tmp_path / "nothing")


def test_a_folder_with_a_head_is_the_model_in_it(tmp_path: Path) -> None:
    model, rows = classifier("llama", 1), batch()
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    one = scorers.make({"name": "reward_model", "model": str(tmp_path)})
    assert one(rows).tolist() == scorers.RewardModel(model)(rows).tolist()
    assert scorers.RewardModel(str(tmp_path), probability=True)._classifier is one._classifier  # type: ignore[attr-defined]


def test_a_reward_model_in_its_own_spelling_sees_its_special_tokens(tmp_path: Path) -> None:
    vocabulary = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "so", "a"))}
    model = classifier("bert", 2, rows=10)
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    BertTokenizer(vocab=vocabulary).save_pretrained(tmp_path)
    rows = completions(ByteTokenizer(), ListPrompts(["a good", "a film", " "]), [" film", " so bad bad", ""], frozenset({1, 2}))
    ids = [[2, 9, 5, 7, 3], [2, 9, 7, 8, 6, 6, 3], [2, 3]]
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([row])).logits.softmax(-1)[:, 1] for row in ids]).numpy()
    found = scorers.RewardModel(tmp_path, 1, True, tokenizer="own")(rows)
    assert found == pytest.approx(expected, abs=1e-12)
    plain = WordTokenizer(("x", "y", "z", "u", "v", "good", "bad", "film", "so"), eos="a")
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([row])).logits.softmax(-1)[:, 1] for row in ([7, 5], [9])]).numpy()
    rows = completions(ByteTokenizer(), ListPrompts(["film", " "]), [" good", ""])
    assert scorers.RewardModel(tmp_path, 1, True, tokenizer=plain)(rows) == pytest.approx(expected, abs=1e-12)


def test_reward_models_refuse_what_they_cannot_read() -> None:
    model = classifier("gpt2", 1)
    with pytest.raises(ValueError, match="tokenizer has 257 ids, the scoring model 6"):
        scorers.RewardModel(model)(completions(ByteTokenizer(), ListPrompts(["a"]), ["b"]))
    with pytest.raises(ValueError, match="The tokenizer has 257 ids, the model embeds 6"):
        scorers.RewardModel(model, tokenizer=ByteTokenizer())
    with pytest.raises(ValueError, match="18 tokens came in, the model knows 16 positions"):
        scorers.RewardModel(model)(batch("a " * 16))
    with pytest.raises(ValueError, match="batch_size=0"):
        scorers.RewardModel(model, batch_size=0)
    with pytest.raises(ValueError, match="dtype='half'"):
        scorers.RewardModel(model, dtype="half")
    assert scorers.RewardModel(classifier("gpt2", 1, rows=9), vocab_size=V)(batch()).shape == (7,)


# --- both ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    gpt2().save_pretrained(tmp_path / "lm")
    classifier("gpt2", 1).save_pretrained(tmp_path / "rm")  # type: ignore[operator]
    return {"log_likelihood": tmp_path / "lm", "reward_model": tmp_path / "rm"}


def test_what_holds_for_every_scorer(folders: dict[str, Any]) -> None:
    rows = batch()
    order = np.random.default_rng(0).permutation(len(rows))
    for name, folder in folders.items():
        scorer = scorers.make({"name": name, "model": str(folder)})
        scores = scorer(rows)
        assert scores.dtype == np.float64
        assert scores.shape == (len(rows),)
        assert scorer(rows).tolist() == scores.tolist()
        assert scorer(take(rows, order)) == pytest.approx(scores[order], abs=1e-12)
        assert scorer(take(rows, order[:0])).shape == (0,)
        twin = pickle.loads(pickle.dumps(scorer))
        assert twin == scorer
        assert twin(rows).tolist() == scores.tolist()
        assert len(pickle.dumps(scorer)) < 1000  # the folder's name, not its weights
        cached = scorers.Cached(scorer)
        assert cached(take(rows, order[:3])) == pytest.approx(scores[order[:3]], abs=1e-12)
        assert cached(rows) == pytest.approx(scores, abs=1e-12)
        assert (cached.hits, cached.misses) == (3, len(rows))
    for built in (scorers.LogLikelihood(gpt2()), scorers.RewardModel(classifier("gpt2", 1))):  # of a module the weights
        assert pickle.loads(pickle.dumps(built))(rows).tolist() == built(rows).tolist()


def test_scorers_work_in_environments_and_in_other_processes(folders: dict[str, Any], tmp_path: Path) -> None:
    assert len(SIX) == V
    parts = {"fluent": ({"name": "log_likelihood", "model": str(folders["log_likelihood"])}, 0.5), "liked": (scorers.RewardModel(folders["reward_model"]), 1.0)}
    scorer = scorers.Clip(scorers.WeightedSum(parts), low=-100.0)
    envs = SyncVectorEnv([lambda: GymEnv(SmallCore(scorer=scorers.make(scorer)))] * 3)
    envs.reset(seed=0)
    for _ in range(5):
        _, rewards, _, _, infos = envs.step(np.array([1, 2, 3]))
    assert rewards == pytest.approx(0.5 * infos["fluent"] + infos["liked"], abs=1e-12)
    assert len(set(rewards.tolist())) == 3
    rows = batch()
    (tmp_path / "job.pkl").write_bytes(pickle.dumps((scorer, rows)))
    code = f"import pickle; scorer, rows = pickle.load(open({str(tmp_path / 'job.pkl')!r}, 'rb')); print(scorer(rows).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert np.array(eval(done.stdout)) == pytest.approx(scorer(rows), abs=1e-12)
    shutil.rmtree(folders["reward_model"])
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        pickle.loads(pickle.dumps(scorer))
