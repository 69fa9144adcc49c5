"""Next-token training: it finds the entropy of a source that is known exactly, counts every token once, and resumes bit for bit."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WORDS, tiny_language_model

from agents import sft
from agents.policies import CausalLMPolicy
from agents.run import Run
from agents.sft import Sequences, next_token_nats, pad_sequences
from agents.sft.sft import _schedule

V = len(WORDS)
LIKELY = 0.8


def walk(num: int, seed: int) -> Sequences:
    """Return texts of 2 to 8 tokens: the word after word i is i + 1 with probability 0.8 and i + 2 otherwise, round and round."""
    random = np.random.default_rng(seed)
    steps = np.where(random.random((num, 8)) < LIKELY, 1, 2)
    steps[:, 0] = random.integers(V, size=num)
    return pad_sequences([row[: random.integers(2, 9)].tolist() for row in steps.cumsum(1) % V], 8)


def true_nats(sequences: Sequences) -> float:
    """Return the cross-entropy in nats a token of the source itself on these texts."""
    within = np.arange(1, sequences.tokens.shape[1]) < sequences.lengths[:, None]
    likely = (np.diff(sequences.tokens, axis=1) % V == 1)[within]
    return float(-np.where(likely, np.log(LIKELY), np.log(1 - LIKELY)).mean())


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run.history]


def weights(policy: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()


def test_the_loss_falls_to_the_entropy_of_the_source() -> None:
    policy, heldout = tiny_language_model(), walk(1_000, seed=1)
    assert next_token_nats(policy, heldout) > 1.5  # an untrained model: about ln 6 = 1.79
    run = sft.train(policy, walk(2_000, seed=0), heldout, sft.Config(num_updates=200, learning_rate=0.02, evaluate_every=100), quiet=True)
    truth = true_nats(heldout)
    assert truth == pytest.approx(-LIKELY * np.log(LIKELY) - (1 - LIKELY) * np.log(1 - LIKELY), abs=0.03)
    assert truth - 0.003 < run.history[-1]["heldout_loss"] < truth + 0.02, "nothing can be below the truth, and a model of this size comes near"
    assert run.history[-1]["heldout_loss"] == next_token_nats(policy, heldout)
    assert [row["iteration"] for row in run.history if "heldout_loss" in row] == [99, 199]


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_next_token_nats_equals_brute_force(batch_size: int) -> None:
    policy, sequences = tiny_language_model().double(), walk(30, seed=2)
    nats = []
    for row, length in zip(sequences.tokens, sequences.lengths, strict=True):
        for t in range(1, length):  # one prefix at a time, by the library's own forward
            with torch.no_grad():
                logits = policy.model(input_ids=torch.from_numpy(row[:t])[None], use_cache=False).logits[0, -1].numpy()
            nats.append(np.log(np.exp(logits).sum()) - logits[row[t]])
    assert next_token_nats(policy, sequences, batch_size) == pytest.approx(np.mean(nats), abs=1e-12)


def test_padding_does_not_matter() -> None:
    sequences = walk(30, seed=2)
    wide = np.pad(sequences.tokens, ((0, 0), (0, 5)))
    noise = np.random.default_rng(0).integers(V, size=wide.shape)
    noisy = Sequences(np.where(np.arange(wide.shape[1]) < sequences.lengths[:, None], wide, noise), sequences.lengths)
    found = []
    for texts in (sequences, Sequences(wide, sequences.lengths), noisy):
        policy = tiny_language_model()
        run = sft.train(policy, texts, texts, sft.Config(num_updates=4, batch_size=8, evaluate_every=2), quiet=True)
        found.append((timeless(run), weights(policy).tolist()))
    assert found[0] == found[1] == found[2]


def test_the_value_head_is_left_alone_and_the_schedule_rises_and_falls() -> None:
    policy = tiny_language_model()
    with torch.no_grad():
        policy.value_head.weight.fill_(0.5)
    sft.train(policy, walk(30, seed=0), walk(30, seed=1), sft.Config(num_updates=3, weight_decay=0.5), quiet=True)
    assert (policy.value_head.weight == 0.5).all()
    rates = [_schedule(update, 100) for update in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert 0 < rates[-1] < 0.001
    assert all(now > after for now, after in itertools.pairwise(rates[5:]))


class Interrupted(CausalLMPolicy):
    """Somebody presses Ctrl-C in the k-th update."""

    k, updates = 0, 0

    def next_token_logits(self, tokens: torch.Tensor, asked: torch.Tensor | None = None) -> torch.Tensor:
        self.updates += torch.is_grad_enabled()
        if self.updates == self.k and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGINT)
        return super().next_token_logits(tokens, asked)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, k: int) -> None:
    config, texts = sft.Config(num_updates=6, batch_size=8, evaluate_every=2), (walk(50, seed=0), walk(20, seed=1))
    whole, stopping, resumed = tiny_language_model(), Interrupted(tiny_language_model().model, V), tiny_language_model(seed=5)
    history = timeless(sft.train(whole, *texts, config, quiet=True, folder=tmp_path / "whole"))
    stopping.k = k
    assert sft.train(stopping, *texts, config, quiet=True, folder=tmp_path / "run").done == k
    assert timeless(sft.train(resumed, *texts, config, quiet=True, folder=tmp_path / "run", resume=True)) == history
    assert torch.equal(weights(resumed), weights(whole))
    for file in ("state.json", "arrays.safetensors"):
        assert (tmp_path / "whole/checkpoints/000006" / file).read_bytes() == (tmp_path / "run/checkpoints/000006" / file).read_bytes()


def test_pad_sequences() -> None:
    sequences = pad_sequences([[1, 2, 3, 4], [5], [], [2, 1]], 3)
    assert sequences.tokens.tolist() == [[1, 2, 3], [2, 1, 0]]
    assert sequences.lengths.tolist() == [3, 2]
    for texts, max_tokens in (([], 5), ([[1], []], 5), ([[1, 2, 3]], 1)):
        with pytest.raises(ValueError, match="no next token to learn"):
            pad_sequences(texts, max_tokens)


@pytest.mark.parametrize(
    "changes",
    [{"num_updates": -1}, {"batch_size": 0}, {"evaluate_every": 0}, {"learning_rate": -1e-3}, {"max_grad_norm": 0.0}, {"weight_decay": float("nan")}],
)
def test_refused_configurations(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least"):
        sft.Config(**changes)


def test_no_updates_leave_everything_as_it_was() -> None:
    policy = tiny_language_model()
    before = weights(policy)
    assert sft.train(policy, walk(5, seed=0), walk(5, seed=1), sft.Config(num_updates=0), quiet=True).history == []
    assert torch.equal(weights(policy), before)
