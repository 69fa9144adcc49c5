"""TransformerPolicy: what it says while it plays, while it learns, and what the plain model says, are one distribution."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textgym  # noqa: F401 (registers the suite)

pytest.importorskip("stable_baselines3")
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents.adapters.sb3_transformer import TransformerPolicy, chained
from agents.adapters.sb3_vec_env import SB3VecEnv
from agents.policies import CausalLMPolicy, small_gpt2
from agents.policies.prefixes import segments

PAD = 9


def film_reviews(num_envs: int, **options: Any) -> SB3VecEnv:
    return SB3VecEnv(gym.make_vec("TextGen-v0", num_envs=num_envs, **options))


def model_on(env: Any, algorithm: Any = PPO, chunk: int = 1, **told: Any) -> Any:
    pad, length = int(env.observation_space.high.max()), env.observation_space.shape[0]
    make = partial(small_gpt2, pad, length, width=16, layers=1, heads=2, chunk=chunk, seed=1)
    return algorithm(TransformerPolicy, env, policy_kwargs={"make": make, "seed": 3}, seed=0, device="cpu", **told)


def plain(policy: CausalLMPolicy, prefix: np.ndarray, action: int) -> tuple[float, float, float]:
    """Value, log-probability and entropy of one token behind one prefix, by the model alone."""
    ids = torch.from_numpy(prefix[prefix != policy.vocab_size])[None]
    out = policy.model(ids, output_hidden_states=True)
    log_probs = torch.log_softmax(out.logits[0, -1, : policy.vocab_size], -1)
    value = policy.value_head(out.hidden_states[-1][0, -1])
    return float(value), float(log_probs[action]), float(-(log_probs.exp() * log_probs).sum())


def test_a_batch_in_any_order_is_evaluated_as_each_step_alone() -> None:
    env = film_reviews(6, max_new_tokens=8)
    model = model_on(env, n_steps=24, batch_size=36)
    model.learn(6 * 24)
    policy, buffer = model.policy.double(), model.rollout_buffer
    generator = np.random.default_rng(0)
    for size in (1, 7, 36, 144):
        some = generator.permutation(144)[:size]
        prefixes, actions = buffer.observations[some], buffer.actions[some, 0]
        with torch.no_grad():
            found = policy.evaluate_actions(torch.from_numpy(prefixes), torch.from_numpy(actions))
            wanted = [plain(policy.language_model, prefix, int(action)) for prefix, action in zip(prefixes, actions, strict=True)]
        assert found[0].shape == (size, 1)
        told = np.stack([part.flatten().numpy() for part in found], 1)
        np.testing.assert_allclose(told, np.array(wanted), rtol=0, atol=1e-9)
        masses = policy.get_distribution(torch.from_numpy(prefixes)).distribution.logits
        np.testing.assert_allclose(masses[torch.arange(size), actions].detach().numpy(), told[:, 1], rtol=0, atol=1e-9)
        values = policy.predict_values(torch.from_numpy(prefixes))
        np.testing.assert_allclose(values.numpy(), told[:, :1], rtol=0, atol=1e-6)  # float32, as buffers are


def test_gradients_are_those_of_each_step_alone() -> None:
    env = film_reviews(3, max_new_tokens=5)
    model = model_on(env, A2C, n_steps=5)
    model.learn(15)
    policy, buffer = model.policy.double(), model.rollout_buffer
    prefixes, actions = torch.from_numpy(buffer.observations), torch.from_numpy(buffer.actions[:, 0])
    gradients = []
    for rows in ([slice(None)], [slice(i, i + 1) for i in range(15)]):
        policy.zero_grad()
        for some in rows:
            values, log_probs, entropy = policy.evaluate_actions(prefixes[some], actions[some])
            (values.square().sum() + log_probs.sum() + 0.1 * entropy.sum()).backward()
        gradients.append([weights.grad.clone() for weights in policy.parameters() if weights.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


class Ratios(BaseCallback):
    """The largest |ratio - 1| of each rollout before anything is learned of it, and how many segments its steps make up."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer, policy = self.model.rollout_buffer, self.model.policy
        observations, actions = buffer.observations.reshape(-1, buffer.observations.shape[-1]), buffer.actions.reshape(-1, buffer.actions.shape[-1])
        with torch.no_grad():
            values, log_probs, _ = policy.evaluate_actions(torch.from_numpy(observations), torch.from_numpy(actions).squeeze(-1).float())
        self.errors.append(float((log_probs - torch.from_numpy(buffer.log_probs.reshape(-1))).exp().sub(1).abs().max()))
        self.errors.append(float((values[:, 0] - torch.from_numpy(buffer.values.reshape(-1))).abs().max()))


@pytest.mark.parametrize("native", [True, False], ids=["SB3VecEnv", "DummyVecEnv"])
@pytest.mark.parametrize(("algorithm", "told"), [(PPO, {"n_steps": 10, "batch_size": 40, "n_epochs": 2}), (A2C, {"n_steps": 7})], ids=["PPO", "A2C"])
def test_ratios_are_one_before_every_iteration(algorithm: Any, told: dict[str, Any], native: bool) -> None:
    """Episodes run over the borders of rollouts, rows restart at different times, and weights move far: a stale cache would show."""
    options = {"max_new_tokens": 8}
    env = film_reviews(4, **options) if native else DummyVecEnv([lambda: gym.make("TextGen-v0", **options)] * 4)
    ratios, model = Ratios(), model_on(env, algorithm, learning_rate=1e-2, **told)
    model.learn(4 * told["n_steps"] * 6, callback=ratios)
    assert len(ratios.errors) == 12
    assert max(ratios.errors) < 1e-4
    evaluate_policy(model, film_reviews(4, **options), 4, deterministic=False, warn=False)  # others play in between
    model.learn(4 * told["n_steps"] * 2, callback=ratios, reset_num_timesteps=False)
    assert max(ratios.errors) < 1e-4


def test_truncated_rows_are_valued_without_disturbing_play() -> None:
    env = SB3VecEnv(gym.make_vec("TextGen-v0", num_envs=3, max_episode_steps=4))
    ratios, model = Ratios(), model_on(env, n_steps=10, batch_size=30)
    model.learn(90, callback=ratios)
    assert max(ratios.errors) < 1e-4


def test_playing_goes_on_from_what_the_slots_have_read() -> None:
    env = film_reviews(4, max_new_tokens=8)
    policy = model_on(env).policy
    observations, states = env.reset(), []
    for _ in range(20):
        with torch.no_grad():
            actions, _, _ = policy(torch.from_numpy(observations))
        states.append(policy._state)
        np.testing.assert_array_equal(policy._state.cached, (observations != policy.language_model.vocab_size).sum(1))
        observations, _, _, _ = env.step(actions.numpy())
    assert all(state is states[0] for state in states)


def test_chunks_of_tokens() -> None:
    env = film_reviews(4, chunk=3)
    ratios, model = Ratios(), model_on(env, n_steps=6, batch_size=24, chunk=3)
    model.learn(72, callback=ratios)
    assert max(ratios.errors) < 1e-4
    assert model.predict(env.reset(), deterministic=True)[0].shape == (4, 3)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_chains_are_few_and_hold_every_step_once(share: float) -> None:
    generator = np.random.default_rng(0)
    episodes = []
    for _ in range(30):
        whole = np.full(11, PAD)
        whole[2:5] = generator.integers(2, size=3)  # few prompts: texts begin alike
        whole[5 : 5 + generator.integers(1, 7)] = generator.integers(3)
        ends = np.flatnonzero(whole != PAD)[2:]
        episodes.append([np.where(np.arange(11) <= end, whole, PAD) for end in ends])
    prefixes = np.array([prefix for episode in episodes for prefix in episode])
    some = generator.permutation(len(prefixes))[: int(share * len(prefixes))]
    order = chained(prefixes[some], PAD)
    assert sorted(order.tolist()) == list(range(len(some)))
    last, _ = segments(prefixes[some][order][:, None], PAD)
    assert len(last) <= 30  # as many as there were episodes, or fewer
    assert share == 1.0 or len(last) < len(some)


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    env = film_reviews(4, max_new_tokens=6)
    model = model_on(env, n_steps=6, batch_size=24, learning_rate=1e-2)
    model.learn(48)
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", env=env)
    observations = env.reset()
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], again.predict(observations, deterministic=True)[0])
    with torch.no_grad():
        torch.testing.assert_close(again.policy.predict_values(torch.from_numpy(observations)), model.policy.predict_values(torch.from_numpy(observations)))
    alone, _ = again.predict(observations[0], deterministic=True)
    assert alone.shape == ()
    again.learn(24)
    model.policy.save(tmp_path / "policy")
    policy = TransformerPolicy.load(tmp_path / "policy", device="cpu")
    np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0])
    model.policy.language_model.save(tmp_path / "folder")
    assert CausalLMPolicy.load(tmp_path / "folder").vocab_size == model.policy.language_model.vocab_size


def test_sampling_is_seeded_by_its_own_seed() -> None:
    env = film_reviews(64)
    observations = torch.from_numpy(env.reset())
    make = partial(small_gpt2, 137, env.observation_space.shape[0])
    drawn = []
    for seed in (0, 0, 1):
        policy = PPO(TransformerPolicy, env, policy_kwargs={"make": make, "seed": seed}, device="cpu").policy
        drawn.append(policy(observations)[0].tolist())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"make": partial(small_gpt2, 11, 40)}, "vocabulary has 137 ids, that of the policy 11"),
        ({"make": partial(small_gpt2, 137, 40, chunk=2)}, "build the policy with chunk=1"),
        ({"optimizer_kwargs": {"fused": True}}, "go stale"),
    ],
)
def test_what_does_not_fit_is_refused(told: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PPO(TransformerPolicy, film_reviews(2), policy_kwargs=told, device="cpu")


def test_environments_without_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="take a text task"):
        PPO(TransformerPolicy, gym.make("textgym/PathPlanning-v0"), device="cpu")
    with pytest.raises(ValueError, match="norm_obs=False"):
        A2C(TransformerPolicy, VecNormalize(film_reviews(2)), device="cpu").learn(10)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "told"), [(PPO, {"batch_size": 512, "n_epochs": 4}), (A2C, {"ent_coef": 0.0})], ids=["PPO", "A2C"])
def test_it_learns(algorithm: Any, told: dict[str, Any]) -> None:
    env = SB3VecEnv(gym.make_vec("textgym/Even-v0", num_envs=32))
    model = algorithm(TransformerPolicy, env, n_steps=16, gamma=1.0, learning_rate=1e-3, seed=0, device="cpu", **told)
    model.learn(15_000)
    assert np.mean([info["r"] for info in model.ep_info_buffer]) > 0.8
