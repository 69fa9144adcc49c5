"""Prompts with references: what is learned is the reference and its end, and nothing else, exactly.

Axis legend: M sequences, W tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import WORDS, tiny_language_model
from torch import Tensor, nn

from agents import sft
from agents.policies import CausalLMPolicy, small_gpt2
from textgym.tokenizers import WordTokenizer
from textgym.toy.tokens import diagnostic

V = len(WORDS)


class Places(nn.Module):
    """A language model that reads nothing: one distribution for each place, so that tokens are its targets and never its inputs."""

    def __init__(self, places: int) -> None:
        super().__init__()
        table = torch.from_numpy(np.random.default_rng(0).standard_normal((places, V)))
        self.table = nn.Parameter(table)

    def next_token_logits(self, tokens: Tensor, asked: Tensor) -> Tensor:
        return self.table[: tokens.shape[1]].expand(len(tokens), -1, -1)[asked]


def some_pairs(num: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Return prompts of 1 to 4 tokens and references of 1 to 3, their EOS (0) included."""
    random = np.random.default_rng(seed)
    return [(random.integers(1, V, random.integers(1, 5)).tolist(), [*random.integers(1, V, random.integers(0, 3)).tolist(), 0]) for _ in range(num)]


def references(name: str, **sizes: int) -> tuple[sft.Sequences, sft.Sequences]:
    """Return the pairs of a token task, those to learn and those held out."""
    found = []
    for split in ("train", "test"):
        task = diagnostic(f"textgym/{name}-v0", split=split, **sizes).task()
        prompts = [task.prompts[i] for i in range(len(task.prompts))]
        pairs = sft.encode_pairs(task.tokenizer, [(prompt.text, str(prompt.reference)) for prompt in prompts])
        found.append(sft.pad_pairs(pairs, task.max_prompt_tokens, task.max_new_tokens + 1))
    return found[0], found[1]


def test_pairs_stand_side_by_side_and_only_references_are_learned() -> None:
    sequences = sft.pad_pairs([([5, 4], [3, 0]), ([2], [0]), ([1], [1, 1, 0])], 2, 3)
    assert sequences.tokens.tolist() == [[5, 4, 3, 0], [2, 0, 0, 0], [1, 1, 1, 0]]
    assert sequences.lengths.tolist() == [4, 2, 4]
    assert sequences.learned is not None
    assert sequences.learned.astype(int).tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1]]
    assert sequences.targets().astype(int).tolist() == [[0, 1, 1], [1, 0, 0], [1, 1, 1]]
    part = sequences.take([1, 1])
    assert (part.tokens.tolist(), part.targets().tolist()) == ([[2, 0], [2, 0]], [[True], [True]])
    assert sft.pad_sequences([[1, 2, 3], [4, 5]], 9).targets().tolist() == [[True, True], [True, False]]


def test_texts_are_encoded_each_by_itself_and_end() -> None:
    tokenizer = WordTokenizer(WORDS)
    assert sft.encode_pairs(tokenizer, [("a b", "c"), ("d", "")]) == [([1, 2], [3, 0]), ([4], [0])]
    with pytest.raises(TypeError, match="'a' has no reference"):
        sft.encode_pairs(tokenizer, [("a", None)])  # type: ignore[list-item]


def test_what_is_too_long_is_refused_or_loses_its_beginning() -> None:
    pairs = [([1, 2, 3], [4, 0]), ([5], [0])]
    with pytest.raises(ValueError, match="prompt of pair 0 has 3 tokens, max_prompt_tokens is 2: give at least 3, or cut_prompts=True"):
        sft.pad_pairs(pairs, 2, 2)
    cut = sft.pad_pairs(pairs, 2, 2, cut_prompts=True)
    assert cut.tokens.tolist() == [[2, 3, 4, 0], [5, 0, 0, 0]]
    assert cut.targets().astype(int).tolist() == [[0, 1, 1], [1, 0, 0]]
    for cut_prompts in (False, True):
        with pytest.raises(ValueError, match="reference of pair 0 has 2 tokens, max_reference_tokens is 1"):
            sft.pad_pairs(pairs, 3, 1, cut_prompts=cut_prompts)
    for pair, side in ((([], [0]), "prompt"), (([1], []), "reference")):
        with pytest.raises(ValueError, match=f"The {side} of pair 0 has no tokens"):
            sft.pad_pairs([pair], 2, 2)
    for nothing, room in (([], 2), (pairs, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            sft.pad_pairs(nothing, room, 2)


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_the_loss_and_the_accuracies_equal_brute_force(batch_size: int) -> None:
    policy, pairs = tiny_language_model().double(), some_pairs(40, seed=1)
    sequences = sft.pad_pairs(pairs, 4, 3)
    sft.train(policy, sequences, sequences, sft.Config(num_updates=8), quiet=True)  # so that some are right
    nats, hits, wholes = [], [], []
    for prompt, reference in pairs:
        right = []
        for t, wanted in enumerate(reference):  # one prefix at a time, by the library's own forward
            with torch.no_grad():
                logits = policy.model(input_ids=torch.tensor([prompt + reference[:t]]), use_cache=False).logits[0, -1].numpy()
            nats.append(np.log(np.exp(logits).sum()) - logits[wanted])
            right.append(logits.argmax() == wanted)
        hits, wholes = hits + right, [*wholes, all(right)]
    assert 0 < np.mean(wholes) < np.mean(hits) < 1
    judged = sft.judge(policy, sequences, batch_size)
    assert judged.loss == pytest.approx(np.mean(nats), abs=1e-12)
    assert judged[1:] == (np.mean(hits), np.mean(wholes))


def test_what_is_not_learned_is_no_target() -> None:
    model, sequences = Places(6), sft.pad_pairs(some_pairs(30, seed=2), 4, 3)
    noise = np.random.default_rng(3).integers(V, size=sequences.tokens.shape)
    assert sequences.learned is not None
    other = sequences._replace(tokens=np.where(sequences.learned, sequences.tokens, noise))  # other prompts, other padding
    assert (other.tokens[:, 1:] != sequences.tokens[:, 1:]).any()
    assert sft.judge(model, other) == sft.judge(model, sequences)
    gradients = []
    for texts in (sequences, other):
        model.zero_grad()
        sft.batch_loss(model, texts).backward()
        gradients.append(model.table.grad)
    assert torch.equal(*gradients)
    moved = sequences._replace(tokens=np.where(sequences.learned, (sequences.tokens + 1) % V, sequences.tokens))
    assert sft.judge(model, moved).loss != sft.judge(model, sequences).loss
    assert sft.judge(model, sequences._replace(learned=None)).loss != sft.judge(model, sequences).loss


def test_a_prompt_is_read_although_it_is_not_learned() -> None:
    policy, sequences = tiny_language_model(), sft.pad_pairs([([1, 2], [3, 0])], 2, 2)
    other = sequences._replace(tokens=np.array([[4, 5, 3, 0]]))
    assert sft.judge(policy, sequences).loss != sft.judge(policy, other).loss


@pytest.mark.parametrize("name", ["Copy", "Reverse"])
def test_a_small_model_learns_the_references_and_better_without_the_prompts(name: str) -> None:
    learned, heldout = references(name, vocab_size=8, prompt_tokens=4, max_new_tokens=4)
    runs: list[dict[str, Any]] = []
    for texts in (learned, learned._replace(learned=None)):
        policy = small_gpt2(8, 8, eos_id=7, width=32, heads=2)
        run = sft.train(policy, texts, heldout, sft.Config(num_updates=120, evaluate_every=60), quiet=True)
        runs.append(run.history[-1])
    assert [row["heldout_exact"] for row in runs] == [1.0, 1.0]
    assert runs[0]["heldout_loss"] < 0.6 * runs[1]["heldout_loss"], "random prompts cannot be learned: their loss is noise"
    assert runs[0]["loss"] < 0.02 < 0.5 < runs[1]["loss"]


def test_exact_is_what_greedy_decoding_writes() -> None:
    learned, heldout = references("Reverse", vocab_size=8, prompt_tokens=4, max_new_tokens=4)
    policy = small_gpt2(8, 8, eos_id=7, width=32, heads=2)
    run = sft.train(policy, learned, heldout, sft.Config(num_updates=20), quiet=True)
    written = greedily(policy, heldout.tokens[:, :4], 5)
    exact = float((written == heldout.tokens[:, 4:]).all(1).mean())
    assert 0 < exact < 1, "a model that is not done"
    assert run.history[-1]["heldout_exact"] == exact
    assert exact <= run.history[-1]["heldout_accuracy"] < 1


def greedily(policy: CausalLMPolicy, prompts: np.ndarray, num: int) -> np.ndarray:
    tokens = torch.from_numpy(prompts)
    with torch.no_grad():
        for _ in range(num):
            tokens = torch.cat([tokens, policy.next_token_logits(tokens)[:, -1:].argmax(-1)], 1)
    return tokens[:, prompts.shape[1] :].numpy()


def test_nothing_to_learn_is_refused() -> None:
    policy, sequences = tiny_language_model(), sft.pad_sequences([[1, 2, 3]], 3)
    nothing = sequences._replace(learned=np.array([[True, False, False]]))  # nothing comes before a first token
    with pytest.raises(ValueError, match="nothing to judge"):
        sft.judge(policy, nothing)
    for both in ((sequences, nothing), (nothing, sequences)):
        with pytest.raises(ValueError, match="no tokens to learn, or none are held out"):
            sft.train(policy, *both, quiet=True)
