"""AdvantageBuffer: our estimators inside Stable-Baselines3, and what it computes itself as the measure."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textgym  # noqa: F401 (registers the suite)

pytest.importorskip("stable_baselines3")
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer

from agents.adapters.sb3_advantages import AdvantageBuffer
from agents.adapters.sb3_vec_env import SB3VecEnv
from agents.advantages import GAE, GRPO, RLOO, TD, MonteCarlo, NStep, Retrace, SelfCritical, TDLambda, Vine, VTrace
from agents.rollout import Rollout

T, N = 40, 6
SPACES = (gym.spaces.Box(0, 9, (5,), np.int64), gym.spaces.Discrete(9))


def filled(buffer: RolloutBuffer, generator: np.random.Generator, chance: float) -> RolloutBuffer:
    """Fill a buffer with random steps whose episodes end with `chance`, and let it estimate."""
    starts = generator.random((T + 1, N)) < chance
    for step in range(T):
        numbers = [torch.from_numpy(generator.normal(size=N).astype(np.float32)) for _ in range(3)]
        buffer.add(generator.integers(9, size=(N, 5)), generator.integers(9, size=(N, 1)), numbers[0].numpy(), starts[step], numbers[1], numbers[2])
    buffer.compute_returns_and_advantage(torch.from_numpy(generator.normal(size=(N, 1)).astype(np.float32)), starts[T])
    return buffer


def ours(advantage: Any, gamma: float = 0.99) -> AdvantageBuffer:
    return AdvantageBuffer(T, *SPACES, device="cpu", gamma=gamma, n_envs=N, advantage=advantage)


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_gae_is_what_stable_baselines_computes(chance: float, gamma: float, gae_lambda: float) -> None:
    theirs = RolloutBuffer(T, *SPACES, device="cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=N)
    for seed in range(5):
        buffers = [filled(buffer, np.random.default_rng(seed), chance) for buffer in (ours(GAE(gamma, gae_lambda), gamma), theirs)]
        scale = max(1.0, float(np.abs(theirs.returns).max()))  # theirs are added up in float32
        for name in ("advantages", "returns"):
            one, other = (getattr(buffer, name) for buffer in buffers)
            assert one.dtype == other.dtype == np.float32
            np.testing.assert_allclose(one / scale, other / scale, rtol=0, atol=1e-6)
        for buffer in buffers:
            buffer.reset()


def test_the_rollout_is_what_was_played() -> None:
    seen: list[Rollout] = []

    def look(rollout: Rollout) -> tuple[Any, Any]:
        seen.append(rollout)
        return rollout.rewards, rollout.values

    buffer = filled(ours(look), np.random.default_rng(1), 0.2)
    (rollout,) = seen
    np.testing.assert_array_equal(rollout.starts[1:], rollout.terminated[:-1])
    np.testing.assert_array_equal(rollout.next_values[:-1], rollout.values[1:])
    assert rollout.terminated[-1].any()
    assert (rollout.observations.shape, rollout.actions.shape) == ((T, N, 5), (T, N))
    for column in range(N):
        changes = np.diff(rollout.episode_ids[:, column]) != 0
        np.testing.assert_array_equal(changes, rollout.starts[1:, column])
    assert not set(rollout.episode_ids[:, 0]) & set(rollout.episode_ids[:, 1])
    np.testing.assert_array_equal(buffer.advantages, buffer.rewards)
    np.testing.assert_array_equal(buffer.returns, buffer.values)


@pytest.mark.parametrize("advantage", [TD(), NStep(n=3), TDLambda(target_lambda=1.0), VTrace()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_other_estimators_train(algorithm: Any, advantage: Any) -> None:
    env = SB3VecEnv(gym.make_vec("textgym/Even-v0", num_envs=4, vocab_size=4, max_new_tokens=6))
    told = {"rollout_buffer_class": AdvantageBuffer, "rollout_buffer_kwargs": {"advantage": advantage}, "gamma": advantage.gamma}
    batch = {"batch_size": 16} if algorithm is PPO else {}
    model = algorithm("MlpPolicy", env, n_steps=8, seed=0, device="cpu", **batch, **told)
    before = [weights.clone() for weights in model.policy.parameters()]
    model.learn(64)
    assert any((one != other).any() for one, other in zip(before, model.policy.parameters(), strict=True))
    assert np.isfinite(model.rollout_buffer.advantages).all()


@pytest.mark.parametrize(
    ("advantage", "reason"),
    [
        (RLOO(), "whole episodes"),
        (GRPO(), "whole episodes"),
        (MonteCarlo(), "windows of n_steps"),
        (SelfCritical(), "whole episodes"),
        (Vine(), "forks"),
        (Retrace(), "action values"),
        (GAE(gamma=0.9), "give both the same"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_cannot_be_had_is_refused_with_the_reason(advantage: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ours(advantage)


def test_a_missing_estimator_is_asked_for() -> None:
    with pytest.raises(TypeError, match="rollout_buffer_kwargs"):
        PPO("MlpPolicy", gym.make("textgym/Even-v0"), rollout_buffer_class=AdvantageBuffer, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "told"), [(PPO, {"n_steps": 64, "batch_size": 128}), (A2C, {"n_steps": 16})], ids=["PPO", "A2C"])
def test_they_learn_with_it(algorithm: Any, told: dict[str, Any]) -> None:
    env = SB3VecEnv(gym.make_vec("textgym/Bandit-v0", num_envs=8))
    advantage = NStep(gamma=1.0, n=3)
    buffer = {"rollout_buffer_class": AdvantageBuffer, "rollout_buffer_kwargs": {"advantage": advantage}}
    model = algorithm("MlpPolicy", env, gamma=1.0, learning_rate=3e-3, seed=0, device="cpu", **told, **buffer)
    model.learn(256)
    early = float(np.mean([info["r"] for info in model.ep_info_buffer]))
    model.learn(8_000)
    late = float(np.mean([info["r"] for info in model.ep_info_buffer]))
    assert late > early + 0.2, (early, late)
