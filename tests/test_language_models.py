"""A local decoder as a pure function of prefixes: exact in every batch, frozen, and without torch until it is made."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from agents.policies import CausalLMPolicy, seeded
from textgym.core import IntArray
from textgym.language_models import LanguageModel

V, ROWS, POSITIONS = 11, 14, 16  # three of the model's rows are spare


def gpt2(seed: int = 0, **changes: Any) -> GPT2LMHeadModel:
    sizes = {"vocab_size": ROWS, "n_positions": POSITIONS, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    with seeded(seed):
        return GPT2LMHeadModel(GPT2Config(**(sizes | changes), initializer_range=0.3))  # dropout is 0.1, GPT-2's default


def llama(seed: int = 0) -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    with seeded(seed):
        return LlamaForCausalLM(LlamaConfig(vocab_size=ROWS, max_position_embeddings=POSITIONS, initializer_range=0.3, **sizes, **ids))


def prefixes(B: int = 30, L: int = 20, seed: int = 0) -> IntArray:
    """Rows of all lengths, with pads on their left, on their right, on both sides, and scattered."""
    generator = np.random.default_rng(seed)
    tokens = np.full((B, L), V, dtype=np.int64)
    for i, row in enumerate(tokens):
        n = 1 + i % POSITIONS
        begin = (0, L - n, generator.integers(L - n + 1))[i % 3]
        columns = np.arange(begin, begin + n) if i % 5 else np.sort(generator.permutation(L)[:n])
        row[columns] = generator.integers(V, size=n)
    return tokens


@torch.no_grad()
def alone(model: nn.Module, row: IntArray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return log p [W, V] behind each token of one row, the last hidden state [H], and the largest logit: no pads, no batch."""
    body = model.get_submodule(model.base_model_prefix)  # type: ignore[arg-type]
    ids = torch.from_numpy(row[row != V])[None]
    logits = model(ids).logits[0, :, :V]
    hidden = body(ids).last_hidden_state[0, -1]
    return logits.double().log_softmax(-1).numpy(), hidden.float().numpy(), float(logits.abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("build", [gpt2, llama])
def test_every_batch_gives_what_one_row_alone_gives(build: Callable[[], nn.Module], dtype: str, tolerance: float) -> None:
    model = build().eval().to(getattr(torch, dtype))
    lm, tokens = LanguageModel(model, V, batch_size=8), prefixes()
    assert (lm.vocab_size, lm.hidden_size) == (V, 16)
    following, hidden, inside = lm.next_log_probs(tokens), lm.hidden(tokens), lm.token_log_probs(tokens)
    assert (following.dtype, hidden.dtype, inside.dtype) == (np.float64, np.float32, np.float64)
    worst = np.zeros(3)
    for i, row in enumerate(tokens):
        log_probs, state, largest = alone(model, row)
        at = np.flatnonzero(row != V)
        expected = np.zeros(len(row))
        expected[at[1:]] = log_probs[np.arange(len(at) - 1), row[at[1:]]]
        errors = abs(following[i] - log_probs[-1]).max(), abs(hidden[i] - state).max(), abs(inside[i] - expected).max()
        worst = np.maximum(worst, np.array(errors) / max(1.0, largest))
    print(f"{build.__name__} {dtype}: next {worst[0]:.1e}, hidden {worst[1]:.1e}, tokens {worst[2]:.1e} of the largest logit")
    assert worst[0] < tolerance
    assert worst[2] < tolerance
    assert worst[1] < 2e-6
    assert np.exp(following).sum(1) == pytest.approx(np.ones(len(tokens)), abs=1e-12)  # the spare rows have no share


@pytest.mark.parametrize("build", [gpt2, llama])
def test_the_batch_size_changes_nothing(build: Callable[[], nn.Module]) -> None:
    tokens = prefixes()
    small, large = (LanguageModel(build(), V, dtype="float64", batch_size=size) for size in (1, 64))
    assert small.next_log_probs(tokens) == pytest.approx(large.next_log_probs(tokens), abs=1e-12)
    assert small.token_log_probs(tokens) == pytest.approx(large.token_log_probs(tokens), abs=1e-12)
    for lm in (small, large):  # and a batch of none is a batch
        assert lm.next_log_probs(tokens[:0]).shape == (0, V)
        assert lm.hidden(tokens[:0]).shape == (0, 16)
        assert lm.top(tokens[:0], 2).shape == (0, 2)
        assert lm.token_log_probs(tokens[:0]).shape == (0, 20)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_probabilities_are_normalised_in_double_precision_whatever_the_model_computes_in(dtype: str) -> None:
    lm = LanguageModel(gpt2(), V, dtype=dtype, batch_size=1)
    texts = np.array([[1, 2, 3, token] for token in range(V)])
    assert np.exp(lm.token_log_probs(texts)[:, -1]).sum() == pytest.approx(1.0, abs=1e-12)
    assert np.exp(lm.next_log_probs(texts)).sum(1) == pytest.approx(np.ones(V), abs=1e-12)


def test_top_is_best_first_and_ties_go_to_the_lower_id() -> None:
    model = gpt2(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[7] = model.lm_head.weight[3] = model.lm_head.weight[9]
    lm, tokens = LanguageModel(model, V, dtype="float64"), prefixes()
    log_probs = lm.next_log_probs(tokens).round(12)
    ranked = np.array([sorted(range(V), key=lambda i: (-row[i], i)) for row in log_probs])
    for k in (1, 2, 5, V):
        assert lm.top(tokens, k).tolist() == ranked[:, :k].tolist()
    assert any({3, 7} <= set(row) and 9 not in row for k in range(1, V) for row in lm.top(tokens, k).tolist())  # the tie stood at the edge
    for k in (0, V + 1):
        with pytest.raises(ValueError, match=rf"k={k} must lie in \[1, 11\]"):
            lm.top(tokens, k)


def test_a_folder_is_the_model_in_it(tmp_path: Path) -> None:
    gpt2().to(torch.bfloat16).save_pretrained(tmp_path)
    own, wide = LanguageModel(tmp_path, V), LanguageModel(str(tmp_path), V, dtype="float64")
    assert "bfloat16" in repr(own)
    assert "float64" in repr(wide)
    expected = LanguageModel(gpt2().to(torch.bfloat16), V, dtype="float64").next_log_probs(prefixes())
    assert wide.next_log_probs(prefixes()).tolist() == expected.tolist()
    assert own.next_log_probs(prefixes()) == pytest.approx(expected, abs=0.5)
    assert LanguageModel(tmp_path).vocab_size == ROWS


def test_nothing_of_the_model_that_was_handed_in_changes_or_is_used_later() -> None:
    policy = CausalLMPolicy(gpt2(), V)  # its hook on the output layer must not come along
    policy.model.train()
    lm, tokens = LanguageModel(policy.model, V), prefixes()
    before = lm.next_log_probs(tokens).tolist()
    assert policy.model.training
    assert all(weight.requires_grad for weight in policy.model.parameters())
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(0.5)
    assert lm.next_log_probs(tokens).tolist() == before
    assert b"CausalLMPolicy" not in pickle.dumps(lm)
    assert np.isfinite(policy.value(tokens[:, :POSITIONS][(tokens[:, :POSITIONS] != V).any(1)])).all()  # it works as before


def test_refresh_takes_over_the_weights_and_keeps_the_precision() -> None:
    lm, tokens = LanguageModel(gpt2(0), V, dtype="float64"), prefixes()
    policy = CausalLMPolicy(gpt2(1), V)
    lm.refresh(policy.model)
    assert lm.next_log_probs(tokens).tolist() == LanguageModel(gpt2(1), V, dtype="float64").next_log_probs(tokens).tolist()
    with pytest.raises(ValueError, match="LlamaForCausalLM do not fit a GPT2LMHeadModel"):
        lm.refresh(llama())
    with pytest.raises(ValueError, match=r"give its `\.model`"):
        lm.refresh(policy)
    with pytest.raises(ValueError, match="Another architecture"):
        lm.refresh(gpt2(n_layer=1))
    with pytest.raises(ValueError, match=r"Another architecture: .* is \(3, 16\), here \(14, 16\)"):
        lm.refresh(gpt2(vocab_size=3))


def test_pickles_and_copies_are_the_same_function() -> None:
    lm, tokens = LanguageModel(gpt2(), V), prefixes()
    before = lm.next_log_probs(tokens).tolist()
    for twin in (pickle.loads(pickle.dumps(lm)), copy.deepcopy(lm)):
        assert twin.next_log_probs(tokens).tolist() == before
        twin.refresh(gpt2(1))
        assert lm.next_log_probs(tokens).tolist() == before


def test_it_draws_nothing_and_leaves_torch_as_it_was(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    lm = LanguageModel(tmp_path, V)
    first = lm.next_log_probs(prefixes())
    lm.refresh(gpt2())
    lm.token_log_probs(prefixes())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert lm.next_log_probs(prefixes()).tolist() == first.tolist()  # no dropout


def test_what_cannot_be_read_is_refused() -> None:
    lm = LanguageModel(gpt2(), V)
    for ask in (lm.next_log_probs, lm.hidden, lm.token_log_probs):
        with pytest.raises(ValueError, match="17 tokens came in, the model knows 16 positions"):
            ask(np.zeros((1, POSITIONS + 1), dtype=np.int64))
        with pytest.raises(ValueError, match="Row 1 holds no token"):
            ask(np.array([[0, V], [V, V]]))
        for wrong in (-1, V + 1):
            with pytest.raises(ValueError, match=f"Token id {wrong} is outside the vocabulary: ids run from 0 to 10, and 11 is the pad"):
                ask(np.array([[0, wrong]]))
        with pytest.raises(ValueError, match=r"integers \[B, L\], got float64"):
            ask(np.zeros((1, 2)))  # type: ignore[arg-type]


def test_what_is_no_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no config.json.*nothing is fetched"):
        LanguageModel("gpt2")
    with pytest.raises(TypeError, match="or a module of torch, not int"):
        LanguageModel(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vocab_size=15, but the model has 14 output rows"):
        LanguageModel(gpt2(), ROWS + 1)
    with pytest.raises(ValueError, match="dtype='half'"):
        LanguageModel(gpt2(), dtype="half")
    with pytest.raises(ValueError, match="batch_size=0"):
        LanguageModel(gpt2(), batch_size=0)
    with pytest.raises(TypeError, match="has no output embeddings"):
        LanguageModel(gpt2().transformer)
    with pytest.raises(TypeError, match="Linear has no output embeddings"):
        LanguageModel(nn.Linear(2, 2))
    bert = BertConfig(vocab_size=ROWS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with seeded(0), pytest.raises(ValueError, match="looks at the tokens to come"):
        LanguageModel(BertLMHeadModel(bert))
    untied = gpt2(tie_word_embeddings=False)
    untied.transformer.save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=r"holds no lm_head.weight .*would be random"):
        LanguageModel(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


LIGHT = """
import sys
import textgym, textgym.language_models, textgym.scorers
heavy = {"torch", "transformers", "tokenizers"} & set(sys.modules)
sys.exit(f"loaded {sorted(heavy)}" if heavy else 0)
"""


def test_importing_loads_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
