"""Tianshou finds masks where it looks for them and keeps to them; and, slowly, its agents learn."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textgym  # noqa: F401 (registers the suite)

pytest.importorskip("tianshou")

import torch
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv, SubprocVectorEnv

from agents.adapters.tianshou import MaskInObservation
from benchmarks.third_party.judge import random_returns, returns
from benchmarks.third_party.tasks import TASKS
from benchmarks.third_party.tianshou_agents import ENTRANTS, Features, Player


def masked() -> gym.Env[Any, Any]:
    return MaskInObservation(gym.make("textgym:TextGen-v0", constraint="film_grammar"))


def test_the_mask_stands_in_the_observation_and_is_that_of_the_info() -> None:
    env, plain = masked(), gym.make("TextGen-v0", constraint="film_grammar")
    (seen, info), (observation, told) = env.reset(seed=3), plain.reset(seed=3)
    over = False
    while not over:
        assert env.observation_space.contains(seen)
        np.testing.assert_array_equal(seen["obs"], observation)
        np.testing.assert_array_equal(seen["mask"], told["action_mask"])
        assert 0 < seen["mask"].sum() < len(seen["mask"])
        action = int(seen["mask"].argmax())
        seen, reward, over, _, info = env.step(action)
        observation, expected, over, _, told = plain.step(action)
        assert reward == expected
    assert info["score"] == told["score"]


def test_it_can_be_pickled_in_the_middle_of_an_episode() -> None:
    env = masked()
    seen, _ = env.reset(seed=1)
    copy = pickle.loads(pickle.dumps(env))
    action = int(seen["mask"].argmax())
    mine, yours = env.step(action), copy.step(action)
    np.testing.assert_array_equal(mine[0]["obs"], yours[0]["obs"])
    np.testing.assert_array_equal(mine[0]["mask"], yours[0]["mask"])


def test_it_refuses_what_has_no_masks() -> None:
    with pytest.raises(ValueError, match='no "action_mask": make the environment with a constraint'):
        MaskInObservation(gym.make("TextGen-v0")).reset(seed=0)
    with pytest.raises(TypeError, match="Discrete"):
        MaskInObservation(gym.make("Pendulum-v1"))


@pytest.mark.parametrize("kind", [DummyVectorEnv, SubprocVectorEnv])
def test_tianshous_vector_environments_take_it(kind: Any) -> None:
    envs = kind([masked] * 2)
    envs.seed(0)
    observations, _ = envs.reset(seed=0)
    alone, _ = masked().reset(seed=0)
    np.testing.assert_array_equal(observations[0]["mask"], alone["mask"])
    observations, *_ = envs.step(np.array([row["mask"].argmax() for row in observations]))
    assert all(row["mask"].dtype == np.bool_ for row in observations)
    envs.close()


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_its_dqn_plays_allowed_words_only_greedy_or_not(epsilon: float) -> None:
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.utils.net.discrete import DiscreteActor

    env = masked()
    space: Any = env.observation_space
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiscreteActor(preprocess_net=Features(space["obs"]), action_shape=env.action_space.n, softmax_output=False)
    policy: Any = DiscreteQLearningPolicy(model=model, action_space=env.action_space, observation_space=space, eps_inference=epsilon)
    envs = DummyVectorEnv([masked] * 4)
    envs.seed(0)
    buffer = VectorReplayBuffer(400, 4)
    collector: Any = Collector(policy, envs, buffer, exploration_noise=True)
    collector.reset()
    collector.collect(n_step=200)
    steps = buffer[:]
    assert len(steps) == 200
    assert steps.obs.mask[np.arange(200), steps.act].all()
    blind = policy(Batch(obs=steps.obs.obs, info=Batch())).act  # the same policy without masks: the twin that must fail
    assert not steps.obs.mask[np.arange(200), blind].all()


def test_a_player_has_the_epsilon_of_its_policy() -> None:
    """Of a thousand rows that see the same, the twin without epsilon moves all alike."""
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.utils.net.discrete import DiscreteActor

    env = gym.make("textgym/PathPlanning-v0")
    observations = np.tile(env.reset(seed=0)[0], (1_000, 1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiscreteActor(preprocess_net=Features(env.observation_space), action_shape=4, softmax_output=False)
    policy: Any = DiscreteQLearningPolicy(model=model, action_space=env.action_space, observation_space=env.observation_space, eps_inference=0.2)
    player, starts = Player(policy), np.zeros(1_000, np.bool_)
    share = np.bincount(player(observations, starts, None), minlength=4).max() / 1_000
    assert 0.78 < share < 0.92  # 0.85 on average: a quarter of the random moves are the likeliest one
    policy.set_eps_inference(0.0)
    assert len(set(player(observations, starts, None))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "steps"), [("ppo", 16_000), ("dqn", 15_000)])
def test_it_learns_even(algorithm: str, steps: int) -> None:
    task = TASKS["even"]
    reached = returns(task, ENTRANTS[algorithm].train(task, steps, 0).actor, 64).mean()
    assert reached > random_returns(task).mean() + 0.1
