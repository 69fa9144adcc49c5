"""Demonstrations from play, split by episodes, cloned: choices under masks, real numbers, and a controller of CartPole.

Axis legend: T steps, N environments, M demonstrated steps.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from rollouts import random_rollout

from agents import sft
from agents.play import begin, collect, evaluate
from agents.policies import GaussianPolicy, MLPPolicy, seeded


def balance(observations: np.ndarray) -> np.ndarray:
    """Push towards where the pole is falling: position, speed, angle and its speed are the features."""
    return (observations[:, 2] + 0.5 * observations[:, 3] > 0).astype(np.int64)


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
def test_only_what_was_played_is_demonstrated_episode_after_episode(mode: gym.vector.AutoresetMode) -> None:
    env = gym.make_vec("CartPole-v1", num_envs=3, vector_kwargs={"autoreset_mode": mode}, vectorization_mode="sync")
    expert = sft.Scripted(lambda seen: np.ones(len(seen), dtype=np.int64))  # it falls over soon
    played = collect(env, expert, begin(env, expert, seed=0), np.random.default_rng(0), episodes_per_row=2)
    shown = sft.demonstrations_of(played.rollout)
    lengths = played.ends["length"][np.isfinite(played.ends["length"])]
    assert len(shown.actions) == lengths.sum() == played.rollout.valid.sum()
    assert shown.observations.shape == (lengths.sum(), 4)
    assert shown.action_masks is None
    ids = shown.episode_ids
    assert ids is not None
    changes = np.flatnonzero(np.diff(ids)) + 1
    assert len(changes) == len(np.unique(ids)) - 1 == 5, "each episode is one piece"
    assert sorted(np.diff([0, *changes, len(ids)])) == sorted(lengths)
    for episode in np.split(shown.observations, changes):
        assert (np.diff(episode[:, 1]) > 0).all(), "pushed to the right only: its speed grows in time, and a reset would show"


def test_every_field_stays_with_its_step() -> None:
    rollout = random_rollout(30, 4, seed=0)
    number = np.arange(120).reshape(30, 4)
    masks = np.stack([number % 2 == 0, number % 3 == 0], -1)
    rollout = rollout._replace(observations=number[..., None] * np.ones(2), actions=number, action_masks=masks)
    shown = sft.demonstrations_of(rollout)
    assert 0 < len(shown.actions) == rollout.valid.sum() < 120
    assert (shown.observations == shown.actions[:, None]).all()
    assert shown.action_masks is not None
    assert np.array_equal(shown.action_masks, np.stack([shown.actions % 2 == 0, shown.actions % 3 == 0], -1))
    assert np.array_equal(shown.episode_ids, rollout.episode_ids.ravel()[shown.actions])
    assert rollout.valid.ravel()[shown.actions].all()


@pytest.mark.parametrize(("share", "num"), [(0.01, 1), (0.3, 3), (0.99, 9)])
def test_no_episode_is_on_both_sides(share: float, num: int) -> None:
    ids = np.repeat(np.arange(10) * 7, np.arange(1, 11))  # of unequal lengths
    all_steps = sft.Demonstrations(np.arange(55.0)[:, None], np.arange(55), None, ids)
    shown, heldout = sft.split_episodes(all_steps, share, np.random.default_rng(0))
    assert shown.episode_ids is not None
    assert heldout.episode_ids is not None
    assert not set(shown.episode_ids) & set(heldout.episode_ids)
    assert len(set(heldout.episode_ids)) == num
    assert sorted([*shown.actions, *heldout.actions]) == list(range(55))
    for part in (shown, heldout):
        assert np.array_equal(part.observations[:, 0], part.actions)
        assert np.array_equal(part.episode_ids, ids[part.actions])
    again = sft.split_episodes(all_steps, share, np.random.default_rng(0))
    assert np.array_equal(again[1].actions, heldout.actions)
    drawn = {tuple(sft.split_episodes(all_steps, 0.3, np.random.default_rng(seed))[1].actions) for seed in range(10)}
    assert len(drawn) > 5


def test_what_cannot_be_split_is_refused() -> None:
    steps = sft.Demonstrations(np.zeros((4, 1)), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="give episode_ids"):
        sft.split_episodes(steps, 0.5, np.random.default_rng(0))
    for ids, share in (([0, 0, 0, 0], 0.5), ([0, 0, 1, 1], 0.0), ([0, 0, 1, 1], 1.0)):
        with pytest.raises(ValueError, match="cannot be split"):
            sft.split_episodes(steps._replace(episode_ids=np.array(ids)), share, np.random.default_rng(0))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_controller_of_cartpole_is_cloned(seed: int) -> None:
    env, expert, generator = gym.make_vec("CartPole-v1", num_envs=16), sft.Scripted(balance), np.random.default_rng(seed)
    played = collect(env, expert, begin(env, expert, seed=seed), generator, episodes_per_row=1)
    shown, heldout = sft.split_episodes(sft.demonstrations_of(played.rollout), 0.2, generator)
    assert (len(shown.actions), len(heldout.actions)) == (13 * 500, 3 * 500), "the controller never falls"
    with seeded(seed):
        policy = MLPPolicy.for_env(env)
    config = sft.CloningConfig(num_epochs=10, learning_rate=3e-3, patience=3)
    run = sft.clone(policy, shown, heldout, config, seed=seed, quiet=True)
    assert run.history[-1]["heldout_accuracy"] > 0.85
    returns = evaluate(gym.make_vec("CartPole-v1", num_envs=20), policy, generator, temperature=0.0, seed=1000 + seed).returns
    assert returns.mean() >= 450


def test_real_actions_are_cloned_by_their_density() -> None:
    def shown(num: int, seed: int) -> sft.Demonstrations:
        random = np.random.default_rng(seed)
        seen = random.uniform(-1, 1, (num, 2)).astype(np.float32)
        means = np.stack([seen[:, 0] - seen[:, 1], 2 * seen[:, 1]], 1)
        return sft.Demonstrations(seen, (means + 0.1 * random.standard_normal((num, 2))).astype(np.float32))

    with seeded(0):
        policy = GaussianPolicy(2, (2,), hidden=(32,))
    heldout = shown(500, 1)
    run = sft.clone(policy, shown(2000, 0), heldout, sft.CloningConfig(num_epochs=40, batch_size=64, learning_rate=1e-2), quiet=True)
    last = run.history[-1]
    truth = 2 * (np.log(0.1) + 0.5 * np.log(2 * np.pi * np.e))  # the entropy of the demonstrator, nats a step
    assert truth - 0.1 < last["heldout_loss"] < truth + 0.1
    assert last["heldout_error"] == pytest.approx(0.1, rel=0.1)
    assert policy.log_std.exp().detach().numpy() == pytest.approx(0.1, rel=0.1)
    assert "heldout_accuracy" not in last
    with torch.no_grad():
        means = policy.actor(torch.from_numpy(heldout.observations)).double().numpy()
    std = policy.log_std.detach().double().exp().numpy()
    nats = (0.5 * ((heldout.actions - means) / std) ** 2 + np.log(std) + 0.5 * np.log(2 * np.pi)).sum(1)
    assert last["heldout_loss"] == pytest.approx(nats.mean(), abs=1e-5)
    assert last["heldout_error"] == pytest.approx(np.sqrt(np.square(means - heldout.actions).mean()), rel=1e-6)


def test_what_was_not_allowed_needs_no_learning() -> None:
    """The demonstrator always takes the one allowed action: under its masks nothing is left to learn, without them all is."""
    random = np.random.default_rng(0)
    actions = random.integers(3, size=60)
    steps = sft.Demonstrations(random.standard_normal((60, 2)).astype(np.float32), actions, np.eye(3, dtype=np.bool_)[actions])
    with seeded(0):
        policy = MLPPolicy(2, 3)
    masked, bare = sft.imitation(policy, steps), sft.imitation(policy, steps._replace(action_masks=None), batch_size=7)
    assert masked == {"loss": 0.0, "accuracy": 1.0}
    assert bare["loss"] == pytest.approx(np.log(3), abs=0.05)
    assert bare["accuracy"] < 0.7
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    sft.clone(policy, steps, steps, sft.CloningConfig(num_epochs=2), quiet=True)
    assert all(torch.equal(before[name], weight) for name, weight in policy.state_dict().items())


def test_demonstrations_that_cannot_be_are_refused() -> None:
    steps = sft.Demonstrations(np.zeros((3, 2), np.float32), np.array([0, 1, 0]))
    with seeded(0):
        policy = MLPPolicy(2, 2)
    with pytest.raises(ValueError, match="mask forbids"):
        sft.clone(policy, steps._replace(action_masks=np.array([[True, False]] * 3)), steps, quiet=True)
    with pytest.raises(ValueError, match="There are 3 actions, but 2 observations"):
        sft.clone(policy, steps, steps._replace(observations=np.zeros((2, 2), np.float32)), quiet=True)
    with pytest.raises(TypeError, match="collect its demonstrations and clone them"):
        sft.Scripted(balance).evaluate(torch.zeros(1, 3, 4), torch.zeros(1, 3))
