"""The experiment on granularity: its estimates against the exact gradient, and its tokens against what was played."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_benchmarks import run

from agents.play import begin, collect
from agents.policies import CausalLMPolicy, small_gpt2
from agents.rollout import Rollout
from benchmarks import credit
from benchmarks import credit_gradients as gradients


@pytest.fixture(scope="module")
def policy() -> CausalLMPolicy:
    return gradients.half_trained(iterations=3)


@pytest.fixture(scope="module")
def truth(policy: CausalLMPolicy) -> gradients.Exact:
    return gradients.exact(policy)


def texts(policy: CausalLMPolicy, chunk: int, rows: int = 32, seed: int = 0) -> tuple[Any, Rollout]:
    env = gym.make_vec("textgym/Recall-v0", num_envs=rows, autoreset_mode="SameStep", chunk=chunk, **gradients.RECALL)
    policy.chunk = chunk
    rollout = collect(env, policy, begin(env, policy, seed=seed), np.random.default_rng(seed), episodes_per_row=1).rollout
    policy.chunk = 1
    return env, rollout


def test_the_exact_gradient_is_that_of_the_expected_score(policy: CausalLMPolicy, truth: gradients.Exact) -> None:
    """Against a step along it, by finite differences of the expected score."""
    weights = gradients.weights_of(policy)
    before = [weight.detach().clone() for weight in weights]
    direction = truth.gradient / np.linalg.norm(truth.gradient)
    scores = []
    for step in (1e-4, -1e-4):
        parts = np.split(direction, np.cumsum([weight.numel() for weight in weights])[:-1])
        with torch.no_grad():
            for weight, old, part in zip(weights, before, parts, strict=True):
                weight.copy_(old + step * torch.from_numpy(part).view_as(old))
        scores.append(gradients.exact(policy).score)
    with torch.no_grad():
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
    assert (scores[0] - scores[1]) / 2e-4 == pytest.approx(np.linalg.norm(truth.gradient), rel=1e-5)


@pytest.mark.parametrize("chunk", [4, 8])
def test_cutting_texts_is_playing_them_by_chunks(policy: CausalLMPolicy, chunk: int) -> None:
    """What the environment of chunks tells of the same texts is what `cut` makes of single tokens."""
    _, tokens = texts(policy, 1)
    made = gradients.cut(tokens, chunk)
    env = gym.make_vec("textgym/Recall-v0", num_envs=32, autoreset_mode="SameStep", chunk=chunk, **gradients.RECALL)
    prompts = tokens.observations[0, :, 0]  # prompt i is the symbol i
    observations, _ = env.reset(options={"prompt": prompts})
    live = np.ones(32, np.bool_)
    for t in range(len(made.valid)):
        np.testing.assert_array_equal(made.valid[t], live)
        np.testing.assert_array_equal(made.observations[t, live], observations[live])
        observations, rewards, terminated, _, _ = env.step(made.actions[t])
        np.testing.assert_array_equal(made.rewards[t, live], rewards[live])
        np.testing.assert_array_equal(made.terminated[t, live], terminated[live])
        live &= ~terminated
    assert not live.any()
    assert made.valid.sum() < tokens.valid.sum()


def test_without_a_critic_all_levels_are_one_estimator(policy: CausalLMPolicy, truth: gradients.Exact) -> None:
    """With gamma = 1 and a reward at the end: the return times the sum of the tokens' scores, however they are bracketed."""
    found, tokens = gradients.estimates(policy, truth, num_batches=3, num_episodes=32, seed=0)
    alone = found["return, no critic", "token"]
    assert 100 < tokens <= 32 * gradients.BUDGET
    for level in gradients.LEVELS:
        np.testing.assert_allclose(found["return, no critic", level], alone, atol=1e-12)
        assert np.abs(found["return - V, exact V", level] - alone).max() > 1e-3
    whole = [found[name, "whole response"] for name in gradients.ESTIMATORS if "exact" in name]
    for other in whole[1:]:
        np.testing.assert_allclose(other, whole[0], atol=1e-12, err_msg="one step: nothing to bootstrap from")


def test_quality_of_made_up_gradients() -> None:
    """Noise of a known size around a known bias."""
    generator, exact = np.random.default_rng(0), np.array([3.0, 4.0, 0.0])
    bias = np.array([0.0, 0.0, 2.0])
    found = gradients.quality(exact + bias + generator.normal(size=(4000, 3)), exact, tokens=500.0)
    for interval, expected in ((found.found, 1.0), (found.bias, 4 / 25), (found.variance, 3 / 25 / 2)):
        assert abs(interval.mean - expected) < 2 * interval.half
        assert interval.half < 0.1 * expected
    few, many = 40, 300  # the squared mean of a few noisy vectors is far from 0, without any bias: 300 / 40 / 25
    unbiased = gradients.quality(np.pad(exact, (0, many - 3)) + generator.normal(size=(few, many)), np.pad(exact, (0, many - 3)), tokens=500.0).bias
    assert abs(unbiased.mean) < 2 * unbiased.half < 0.15


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_tokens_are_counted_whatever_an_action_is(chunk: int) -> None:
    env = credit.CountingTokens(gym.make_vec("textgym/Recall-v0", num_envs=16, autoreset_mode="SameStep", chunk=chunk, **credit.RECALL))
    policy = small_gpt2(8, 12, eos_id=7, width=8, layers=1, heads=1, chunk=chunk)
    rollout = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=20).rollout
    assert env.tokens == policy.counted(rollout.observations, rollout.actions).sum()


def test_the_goal_is_three_iterations_in_a_row() -> None:
    assert credit.Curve([10, 20, 30, 40, 50], [1.0, 1.0, 0.5, 0.9, 1.0]).reached is None
    assert credit.Curve([10, 20, 30, 40, 50], [0.0, 1.0, 0.8, 0.9, 1.0]).reached == 40
    rows = credit.learning_rows({"token": [credit.Curve([5, 6, 7], [score] * 3) for score in (1.0, 0.0, 0.95)]})
    assert rows == [("token", "7", "7 to never", "0.950", "7")]


@pytest.mark.slow
def test_the_experiment_in_small(tmp_path: Path) -> None:
    """Whoever is unbiased shows it; credit for tokens has the least variance; a wrong critic costs tokens more than responses."""
    printed, report = run("credit", "--quick", "--batches", "800", json_file=tmp_path / "credit.json")
    found = {(one["estimator"], one["level"]): one for one in report["gradient"]}
    for (name, level), one in found.items():
        if "exact" in name or name.startswith("return") or level == "whole response":
            mean, half = one["found"].values()
            assert abs(mean - 1) < 2 * half, (name, level)
            mean, half = one["bias"].values()
            assert abs(mean) < 2 * half, (name, level)
    levels = ("token", "4 tokens", "whole response")
    variances = [found["TD, exact V", level]["variance"]["mean"] for level in levels]
    assert variances[0] < variances[1] < variances[2]
    assert len({round(found["return, no critic", level]["variance"]["mean"], 9) for level in levels}) == 1
    assert found["TD, learned V", "token"]["bias"]["mean"] > 2 * found["TD, learned V", "token"]["bias"]["half"]
    for part in ("recall", "text"):
        assert set(report[part]) == set(levels)
        for (curve,) in report[part].values():
            assert curve["tokens"] == sorted(curve["tokens"])
            assert all(0 <= score <= 1 for score in curve["scores"])
    assert report["machine"] in printed
