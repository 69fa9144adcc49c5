"""Behaviour cloning repeats what was demonstrated, and its figures are those of a computation by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agents.policies import MLPPolicy, TabularPolicy, seeded, small_gpt2
from agents.sft import CloningConfig, Demonstrations, clone


def exclusive_or(num: int, seed: int) -> Demonstrations:
    """Return a demonstrator whose action is the exclusive-or of two signs: no linear policy can repeat it."""
    features = np.random.default_rng(seed).standard_normal((num, 2)).astype(np.float32)
    return Demonstrations(features, ((features[:, 0] > 0) ^ (features[:, 1] > 0)).astype(np.int64))


def learner() -> MLPPolicy:
    with seeded(0):
        return MLPPolicy(2, 2, hidden=(32,))


def test_it_repeats_what_it_was_shown_on_steps_it_never_saw() -> None:
    policy = learner()
    run = clone(policy, exclusive_or(2000, 0), exclusive_or(500, 1), CloningConfig(num_epochs=60, learning_rate=1e-2), quiet=True)
    assert run.history[-1]["heldout_accuracy"] > 0.95
    heldout = exclusive_or(500, 1)
    with torch.no_grad():
        logits = policy.actor(torch.from_numpy(heldout.observations)).double().numpy()
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert run.history[-1]["heldout_loss"] == pytest.approx(-log_probs[np.arange(500), heldout.actions].mean(), rel=1e-5)
    assert run.history[-1]["heldout_accuracy"] == np.mean(logits.argmax(1) == heldout.actions)


def test_a_table_learns_the_frequencies() -> None:
    states = np.repeat([0, 1], 400)
    actions = np.where(np.arange(800) % 4 == 0, 1, 0) * (states == 0) + (states == 1)
    shown = Demonstrations(states, actions.astype(np.int64))
    policy = TabularPolicy(2, 2)
    clone(policy, shown, shown, CloningConfig(num_epochs=60, learning_rate=0.1, batch_size=800), quiet=True)
    probabilities = torch.softmax(policy.logits.detach(), 1).numpy()
    assert probabilities[0, 1] == pytest.approx(0.25, abs=0.01)
    assert probabilities[1, 1] > 0.95


def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    def run(folder: Path, epochs_before_stop: int | None, resume: bool = False) -> tuple[list[dict[str, float]], MLPPolicy]:
        policy, drawn = learner(), []

        def evaluate(generator: np.random.Generator) -> dict[str, float]:
            drawn.append(1)
            if len(drawn) == epochs_before_stop:
                raise KeyboardInterrupt
            return {"noise": float(generator.random())}

        config = CloningConfig(num_epochs=6)
        try:
            history = clone(policy, exclusive_or(600, 0), exclusive_or(100, 1), config, evaluate=evaluate, folder=folder, resume=resume, quiet=True).history
        except KeyboardInterrupt:
            history = []
        return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in history], policy

    whole, trained = run(tmp_path / "whole", None)
    assert len(whole) == 6
    run(tmp_path / "stopped", 4)
    resumed, same = run(tmp_path / "stopped", None, resume=True)
    assert resumed == whole
    for ours, theirs in zip(same.parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_cannot_be_cloned_is_refused() -> None:
    nothing = Demonstrations(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no demonstrations"):
        clone(learner(), nothing, exclusive_or(3, 0), quiet=True)
    with pytest.raises(TypeError, match="reads sequences"):
        clone(small_gpt2(5, 4, width=8, layers=1, heads=1), exclusive_or(3, 0), exclusive_or(3, 0), quiet=True)
    with pytest.raises(ValueError, match="num_epochs"):
        CloningConfig(num_epochs=0)
