"""Actions in a Box: densities, the clip at the environment's door, law 3, and a pendulum that learns to stand; shared and separate critics.

Axis legend: T steps, N rows, A numbers of an action.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import ClipAction, RescaleAction
from scipy import stats

from agents import ppo
from agents.advantages import GAE
from agents.play import AnyVectorEnv, begin, check_fit, collect, evaluate, log_probs_under
from agents.policies import GaussianPolicy, MLPPolicy, seeded


class Reach(gym.Env[Any, Any]):
    """Say the two numbers that the observation shows, within bounds of a tenth to 3; it keeps what it was told."""

    def __init__(self, limit: int = 4, shape: tuple[int, ...] = (2,), terminate: bool = False) -> None:
        self.limit, self.terminate = limit, terminate
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = gym.spaces.Box(np.full(shape, -0.1, np.float32), np.full(shape, 3.0, np.float32))
        self.told: list[np.ndarray] = []

    def _see(self) -> np.ndarray:
        return np.array([*self.target, self.t / self.limit], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.target, self.t = self.np_random.uniform(0, 1, 2), 0
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.told.append(np.array(action))
        done = self.t == self.limit
        return self._see(), -float(np.abs(np.ravel(action)[:2] - self.target).sum()), done and self.terminate, done and not self.terminate, {}


def reach(mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 5, **options: Any) -> SyncVectorEnv:
    """Return environments whose rows do not end together."""
    return SyncVectorEnv([lambda limit=3 + i % 3: Reach(limit, **options) for i in range(num_envs)], autoreset_mode=mode)


def build(env: AnyVectorEnv, dtype: torch.dtype = torch.float64, shared: bool = False) -> GaussianPolicy:
    with seeded(1):
        policy = GaussianPolicy.for_env(env, (16,), shared=shared).to(dtype)
    generator = np.random.default_rng(2)
    with torch.no_grad():
        for parameter in policy.parameters():  # away from the symmetric beginning
            parameter += 0.3 * torch.from_numpy(generator.standard_normal(parameter.shape)).to(parameter)
    return policy


def test_densities_and_entropies_are_those_of_a_normal_distribution() -> None:
    policy, random = build(ClipAction(reach())), np.random.default_rng(0)
    observations, actions = random.standard_normal((4, 5, 3)), random.standard_normal((4, 5, 2))
    for temperature in (1.0, 0.6):
        found = policy.evaluate(torch.from_numpy(observations), torch.from_numpy(actions), temperature=temperature)
        means = policy.actor(torch.from_numpy(observations)).detach().numpy()
        scale = policy.log_std.detach().exp().numpy() * temperature
        np.testing.assert_allclose(found.log_probs.detach(), stats.norm.logpdf(actions, means, scale).sum(-1), atol=1e-12)
        np.testing.assert_allclose(found.entropy.detach(), np.full((4, 5), stats.norm.entropy(0, scale).sum()), atol=1e-12)
    by_entropy = torch.autograd.grad(found.entropy.mean(), policy.log_std)[0]
    assert by_entropy.tolist() == pytest.approx([1.0, 1.0])


def test_draws_are_normal_and_theirs_is_the_density() -> None:
    policy, observations = build(ClipAction(reach())), np.tile(np.array([0.3, -0.2, 0.5]), (20_000, 1))
    mean, std = policy.actor(torch.from_numpy(observations[:1])).detach().numpy()[0], policy.log_std.detach().exp().numpy()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for temperature in (1.0, 0.5):
        acted = policy.act(observations, None, np.ones(20_000, np.bool_), np.random.default_rng(3), temperature=temperature)
        for a in range(2):
            assert stats.kstest(acted.actions[:, a], stats.norm(mean[a], std[a] * temperature).cdf).pvalue > 0.001
        assert abs(np.corrcoef(acted.actions.T)[0, 1]) < 0.03
        np.testing.assert_allclose(acted.log_probs, stats.norm.logpdf(acted.actions, mean, std * temperature).sum(-1), atol=1e-12)
        again = policy.act(observations, None, np.ones(20_000, np.bool_), np.random.default_rng(3), temperature=temperature)
        np.testing.assert_array_equal(again.actions, acted.actions)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    greedy = policy.act(observations[:2], None, np.ones(2, np.bool_), np.random.default_rng(3), temperature=0.0)
    np.testing.assert_allclose(greedy.actions, [mean, mean], atol=1e-12)
    assert greedy.log_probs.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(policy.predict(observations[0], deterministic=True)[0], mean, atol=1e-12)
    np.testing.assert_allclose(policy.predict(observations[:2], deterministic=True)[0], [mean, mean], atol=1e-12)
    with pytest.raises(ValueError, match="deterministic=True"):
        policy.predict(observations)


@pytest.mark.parametrize("shape", [(2,), (2, 2)])
@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_law_3_over_the_border_of_rollouts(mode: AutoresetMode, dtype: torch.dtype, shared: bool, shape: tuple[int, ...]) -> None:
    env = ClipAction(reach(mode, shape=shape))
    policy, generator = build(env, dtype, shared), np.random.default_rng(0)
    position, tolerance = begin(env, policy, seed=0), 1e-9 if dtype == torch.float64 else 1e-4
    for _ in range(4):
        played = collect(env, policy, position, generator, num_steps=7, temperature=0.7)
        position, rollout = played.position, played.rollout
        assert rollout.actions.shape == (7, 5, *shape)
        again = policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions), None, 0.7)
        np.testing.assert_allclose(again.log_probs.detach().numpy(), rollout.log_probs, atol=tolerance)
        np.testing.assert_allclose(again.values.detach().numpy(), rollout.values, atol=tolerance)
        np.testing.assert_allclose(log_probs_under(policy, rollout, 0.7, columns=2), rollout.log_probs, atol=tolerance)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter *= 1.1


@pytest.mark.parametrize("rescaled", [False, True])
def test_the_environment_gets_clipped_actions_and_the_rollout_keeps_the_draws(rescaled: bool) -> None:
    inner = reach()
    env = ClipAction(RescaleAction(inner, -1.0, 1.0) if rescaled else inner)
    policy = build(env, torch.float32)
    rollout = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=30).rollout
    told = np.stack([e.told for e in inner.envs], axis=1)  # [T, N, A]
    expected = (np.clip(rollout.actions, -1.0, 1.0) + 1.0) / 2.0 * 3.1 - 0.1 if rescaled else np.clip(rollout.actions, -0.1, 3.0)
    np.testing.assert_allclose(told, expected, atol=1e-6)
    assert told.min() >= -0.1 - 1e-6
    assert rollout.actions.min() < -1.0, "no draw fell outside the bounds"
    scale = policy.log_std.detach().exp().numpy()
    means = policy.actor(torch.from_numpy(rollout.observations)).detach().numpy()
    np.testing.assert_allclose(rollout.log_probs, stats.norm.logpdf(rollout.actions, means, scale).sum(-1), atol=1e-4)


class TestWhatDoesNotFit:
    def test_masks_and_temperature_zero(self) -> None:
        policy, observations = GaussianPolicy(3, (2,)), np.zeros((2, 3))
        with pytest.raises(ValueError, match="no action masks"):
            policy.act(observations, None, np.ones(2, np.bool_), np.random.default_rng(0), np.ones((2, 2), np.bool_))
        with pytest.raises(ValueError, match="no action masks"):
            policy.evaluate(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))
        with pytest.raises(ValueError, match="no density"):
            policy.evaluate(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2), temperature=0.0)

    def test_bounds_name_the_wrapper(self) -> None:
        with pytest.raises(ValueError, match=r"wrap the environment, env = gymnasium\.wrappers\.vector\.ClipAction\(env\)"):
            GaussianPolicy.for_env(reach())
        with pytest.raises(ValueError, match="ClipAction"):
            GaussianPolicy.for_env(RescaleAction(reach(), -1.0, 1.0))

    def test_the_other_kind_of_actions_names_the_other_policy(self) -> None:
        cart, box = gym.make_vec("CartPole-v1", num_envs=2), ClipAction(gym.make_vec("Pendulum-v1", num_envs=2))
        with pytest.raises(TypeError, match="MLPPolicy is for Discrete actions"):
            GaussianPolicy.for_env(cart)
        with pytest.raises(TypeError, match="GaussianPolicy is for actions in a Box"):
            MLPPolicy.for_env(box)
        with pytest.raises(TypeError, match=r"real numbers.*GaussianPolicy"):
            check_fit(box, MLPPolicy(3, 2))
        with pytest.raises(TypeError, match=r"choices.*MLPPolicy"):
            begin(cart, GaussianPolicy(4, (1,)))
        check_fit(box, GaussianPolicy.for_env(box))
        check_fit(cart, MLPPolicy.for_env(cart))


class TestSharedOrSeparate:
    @pytest.mark.parametrize("kind", [lambda shared: MLPPolicy(3, 2, (8, 4), shared=shared), lambda shared: GaussianPolicy(3, (2,), (8, 4), shared=shared)])
    def test_the_value_loss_moves_the_trunk_only_if_it_is_shared(self, kind: Any) -> None:
        for shared in (False, True):
            with seeded(0):
                policy = kind(shared)
            dtype = torch.int64 if isinstance(policy, MLPPolicy) else torch.float32
            found = policy.evaluate(torch.ones(1, 5, 3), torch.zeros((1, 5) if dtype == torch.int64 else (1, 5, 2), dtype=dtype))
            moved = [
                name for name, p in policy.named_parameters() if torch.autograd.grad(found.values.sum(), p, retain_graph=True, allow_unused=True)[0] is not None
            ]
            acting = [
                name
                for name, p in policy.named_parameters()
                if torch.autograd.grad(found.log_probs.sum(), p, retain_graph=True, allow_unused=True)[0] is not None
            ]
            assert bool(set(moved) & set(acting)) == shared
            assert set(moved) | set(acting) == {name for name, _ in policy.named_parameters()}

    def test_sizes(self) -> None:
        shared, separate = MLPPolicy(3, 2, (8, 4), shared=True), MLPPolicy(3, 2, (8, 4))
        assert sum(p.numel() for p in shared.parameters()) == (3 * 8 + 8) + (8 * 4 + 4) + (4 * 2 + 2) + (4 + 1)
        assert sum(p.numel() for p in separate.parameters()) == 2 * ((3 * 8 + 8) + (8 * 4 + 4)) + (4 * 2 + 2) + (4 + 1)
        with pytest.raises(ValueError, match="at least one hidden layer"):
            MLPPolicy(3, 2, (), shared=True)


@pytest.mark.parametrize("shared", [False, True], ids=["separate", "shared"])
def test_it_learns_to_say_a_number(shared: bool) -> None:
    env = ClipAction(reach(num_envs=8, terminate=True))
    with seeded(0):
        policy = GaussianPolicy.for_env(env, (32,), log_std=-0.5, shared=shared)

    def mean_return() -> float:
        return float(evaluate(env, policy, np.random.default_rng(0), episodes_per_row=4, temperature=0.0, seed=5).returns.mean())

    before = mean_return()
    config = ppo.Config(total_timesteps=8_000, num_steps=32, learning_rate=1e-2, advantage=GAE(0.0, 0.0), num_epochs=4)
    run = ppo.train(env, policy, config, quiet=True)
    assert before < -3.0
    assert mean_return() > -1.0
    assert max(row["ratio_error"] for row in run.history) < 1e-4
    assert (policy.log_std.exp() < 0.5).all(), "it has not become surer"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_pendulum_learns_to_stand(seed: int) -> None:
    def pendulums(num_envs: int) -> AnyVectorEnv:
        return ClipAction(gym.make_vec("Pendulum-v1", num_envs=num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}))

    env = pendulums(16)
    with seeded(seed):
        policy = GaussianPolicy.for_env(env)

    def mean_return() -> float:
        return float(evaluate(pendulums(25), policy, np.random.default_rng(1), episodes_per_row=4, temperature=0.0, seed=99).returns.mean())

    assert mean_return() < -900
    config = ppo.Config(
        total_timesteps=150_000, num_steps=128, learning_rate=1e-3, advantage=GAE(gamma=0.9, gae_lambda=0.95), num_epochs=10, num_minibatches=16
    )
    ppo.train(env, policy, config, seed=seed, quiet=True)
    assert mean_return() > -400
