"""TokenExtractor: Stable-Baselines3's policies read ids as ids."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import textgym  # noqa: F401 (registers the suite)

pytest.importorskip("stable_baselines3")
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecNormalize

from agents.adapters.networks import KINDS
from agents.adapters.sb3_extractor import TokenExtractor
from agents.adapters.sb3_vec_env import SB3VecEnv

SUCCESSOR = {"dense": True, "vocab_size": 8, "max_new_tokens": 12}


def successor(num_envs: int) -> SB3VecEnv:
    return SB3VecEnv(gym.make_vec("textgym/Successor-v0", num_envs=num_envs, **SUCCESSOR))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_made_of_ids_through_stable_baselines_own_preprocessing(kind: str) -> None:
    env = successor(4)
    model = A2C("MlpPolicy", env, policy_kwargs={"features_extractor_class": TokenExtractor, "features_extractor_kwargs": {"kind": kind, "width": 8}})
    observations = env.reset()
    with torch.no_grad():
        features = model.policy.extract_features(torch.from_numpy(observations))
        torch.testing.assert_close(features, model.policy.features_extractor.network(torch.from_numpy(observations)))
        other = observations.copy()
        other[:, 3] = (other[:, 3] + 1) % 8  # the last token of the prompt
        assert ((model.policy.extract_features(torch.from_numpy(other)) - features).abs().sum(1) > 1e-3).all()
    assert features.shape == (4, 8)


def test_observations_that_hold_no_ids_are_refused() -> None:
    env, told = successor(2), {"features_extractor_class": TokenExtractor}
    with pytest.raises(ValueError, match="take a text task"):
        PPO("MlpPolicy", SB3VecEnv(gym.make_vec("textgym/PathPlanning-v0", num_envs=2)), policy_kwargs=told)
    with pytest.raises(ValueError, match="kind='lstm'"):
        TokenExtractor(env.observation_space, kind="lstm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="norm_obs=False"):  # whose space is the one below it, all the same
        A2C("MlpPolicy", VecNormalize(env), policy_kwargs=told, device="cpu").learn(10)
    A2C("MlpPolicy", VecNormalize(env, norm_obs=False), policy_kwargs=told, device="cpu").learn(10)


@pytest.mark.slow
def test_ppo_learns_what_it_cannot_from_raw_ids() -> None:
    reached = {}
    for name, told in {"raw": {}, "gru": {"features_extractor_class": TokenExtractor}}.items():
        env = successor(8)
        model = PPO("MlpPolicy", env, policy_kwargs=told, n_steps=96, batch_size=96, learning_rate=1e-3, gamma=1.0, seed=0, device="cpu")
        model.learn(12_000)
        reached[name] = 12 * float(np.mean([info["r"] for info in model.ep_info_buffer]))
    assert reached["gru"] > 7 > 4 > reached["raw"], reached
