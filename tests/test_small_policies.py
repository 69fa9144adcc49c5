"""Laws 3 and 6 for the tabular, the convolutional and the recurrent policy; a memory task that only the recurrent one can learn.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents import ppo
from agents.advantages import GAE
from agents.play import Played, begin, collect, evaluate, log_probs_under
from agents.policies import CNNPolicy, GRUPolicy, Memory, MLPPolicy, TabularPolicy, seeded


class Echo(gym.Env[Any, Any]):
    """The first observation shows a bit; three steps later it must be said. Kinds of observation: "box", "discrete", "map"."""

    def __init__(self, kind: str, limit: int = 4, truncate: bool = False) -> None:
        self.kind, self.limit, self.truncate = kind, limit, truncate
        box = gym.spaces.Box(0.0, 1.0, (3,) if kind == "box" else (2, 3, 3), np.float32)
        self.observation_space = gym.spaces.Discrete(15) if kind == "discrete" else box
        self.action_space = gym.spaces.Discrete(2)

    def _see(self) -> Any:
        shown = float(self.bit) if self.t == 0 else 0.5
        if self.kind == "discrete":
            return 3 * self.t + int(2 * shown)
        features = np.array([shown, self.t / self.limit, 1.0], dtype=np.float32)
        return features if self.kind == "box" else np.broadcast_to(features[:2, None, None], (2, 3, 3)).copy()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.bit, self.t = int(self.np_random.integers(2)), 0
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        done = self.t == self.limit
        reward = float(action == self.bit) if done else 0.0
        self.t = min(self.t, self.limit - 1)
        return self._see(), reward, done and not self.truncate, done and self.truncate, {}


KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "tabular": ("discrete", TabularPolicy.for_env),
    "cnn": ("map", lambda env: CNNPolicy.for_env(env, channels=4, hidden=8)),
    "gru": ("box", lambda env: GRUPolicy.for_env(env, hidden=8)),
}


def envs(kind: str, mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 5, **options: Any) -> SyncVectorEnv:
    """Return environments whose rows do not end together."""
    return SyncVectorEnv([lambda limit=3 + i % 3: Echo(kind, limit, **options) for i in range(num_envs)], autoreset_mode=mode)


def build(name: str, env: SyncVectorEnv) -> Any:
    with seeded(1):
        policy = KINDS[name][1](env).double()
    for parameter in policy.parameters():  # away from the symmetric beginning
        parameter.data += 0.3 * torch.from_numpy(np.random.default_rng(2).standard_normal(parameter.shape))
    return policy


def again(policy: Any, played: Played) -> Any:
    rollout = played.rollout
    memory = None if rollout.memory is None else Memory(torch.from_numpy(rollout.memory[0]), torch.from_numpy(rollout.starts))
    return policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions), None, 0.8, memory)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", KINDS)
def test_law_3_over_the_border_of_rollouts(name: str, mode: AutoresetMode) -> None:
    env = envs(KINDS[name][0], mode)
    policy, generator = build(name, env), np.random.default_rng(0)
    position = begin(env, policy, seed=0)
    for _ in range(4):
        played = collect(env, policy, position, generator, num_steps=7, temperature=0.8)
        position, evaluated, rollout = played.position, again(policy, played), played.rollout
        np.testing.assert_allclose((evaluated.log_probs.detach().numpy() - rollout.log_probs)[rollout.valid], 0, atol=1e-12)
        np.testing.assert_allclose((evaluated.values.detach().numpy() - rollout.values)[rollout.valid], 0, atol=1e-12)
        for columns in (1, 2, 5):
            np.testing.assert_allclose((log_probs_under(policy, rollout, 0.8, columns) - rollout.log_probs)[rollout.valid], 0, atol=1e-12)
        for parameter in policy.parameters():  # the weights move, what was remembered stays
            parameter.data *= 1.1


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_recurrent_value_at_a_truncation_and_at_the_border_knows_the_past(mode: AutoresetMode) -> None:
    env = envs("box", mode, truncate=True)
    policy = build("gru", env)
    played = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=8)
    rollout = played.rollout
    seen = torch.from_numpy(rollout.observations)
    state = torch.zeros(5, 8, dtype=torch.float64)
    for t in range(8):
        state = policy._remembered(seen[t : t + 1], Memory(state, torch.from_numpy(rollout.starts[t : t + 1])))[0].detach()
        for row in np.flatnonzero(rollout.truncated[t] & rollout.valid[t]):
            final = np.array([[0.5, (2 + row % 3) / (3 + row % 3), 1.0]], dtype=np.float32)
            assert rollout.next_values[t, row] == pytest.approx(policy.value(final, state[row : row + 1].numpy())[0], abs=1e-12)
            assert rollout.next_values[t, row] != pytest.approx(policy.value(final)[0], abs=1e-6), "the memory made no difference"
    alive = ~rollout.ends[-1] & rollout.valid[-1]
    assert alive.any()
    expected = policy.value(played.position.observations[alive], played.position.policy_state[alive])
    np.testing.assert_allclose(rollout.next_values[-1][alive], expected, atol=1e-12)


def test_a_minibatch_of_columns_keeps_each_rows_own_memory() -> None:
    env = envs("box")
    policy = build("gru", env)
    config = ppo.Config(total_timesteps=5 * 6 * 4, num_steps=6, num_epochs=1, num_minibatches=5)
    run = ppo.train(env, policy, config, quiet=True)
    assert max(row["ratio_error"] for row in run.history) < 1e-9


def test_memory_is_needed_and_spaces_must_fit() -> None:
    env = envs("box")
    policy = build("gru", env)
    with pytest.raises(ValueError, match=r"pass memory="):
        policy.evaluate(torch.zeros(1, 5, 3), torch.zeros(1, 5, dtype=torch.long))
    for kind in (TabularPolicy, CNNPolicy):
        with pytest.raises(TypeError, match="needs"):
            kind.for_env(env)
    with pytest.raises(TypeError, match="needs"):
        GRUPolicy.for_env(envs("discrete"))


@pytest.mark.parametrize("name", KINDS)
def test_predict_takes_a_batch_or_one(name: str) -> None:
    env = envs(KINDS[name][0])
    policy = build(name, env)
    observations, _ = env.reset(seed=0)
    actions, state = policy.predict(observations, deterministic=True)
    assert actions.shape == (5,)
    one, _ = policy.predict(observations[0], deterministic=True)
    assert one == actions[0]
    policy.predict(observations, state, np.zeros(5, np.bool_), deterministic=True)
    with pytest.raises(ValueError, match="deterministic=True"):
        policy.predict(observations)


def learned(policy: Any) -> float:
    env = SyncVectorEnv([lambda: Echo("box")] * 16, autoreset_mode=AutoresetMode.SAME_STEP)
    ppo.train(env, policy, ppo.Config(total_timesteps=12_000, num_steps=16, learning_rate=5e-3, advantage=GAE(1.0, 0.95), num_epochs=4), quiet=True)
    return float(evaluate(env, policy, np.random.default_rng(0), episodes_per_row=8, temperature=0.0, seed=9).returns.mean())


def test_only_who_remembers_can_echo() -> None:
    with seeded(0):
        recurrent, forgetful = GRUPolicy(3, 2, hidden=16), MLPPolicy(3, 2, hidden=(16,))
    assert learned(recurrent) > 0.95
    assert learned(forgetful) < 0.75


def test_law_6_what_is_remembered_is_saved(tmp_path: Path) -> None:
    class Kept(SyncVectorEnv):
        """Environments whose state is a value."""

        def get_state(self) -> dict[str, Any]:
            return {"rows": [[env.bit, env.t] for env in self.envs], "generators": [env.np_random.bit_generator.state for env in self.envs]}

        def set_state(self, state: dict[str, Any]) -> None:
            for env, (bit, t), generator in zip(self.envs, state["rows"], state["generators"], strict=True):
                env.reset(seed=0)
                env.bit, env.t = bit, t
                env.np_random.bit_generator.state = generator

    def run(folder: Path, stop: int | None, resume: bool = False) -> Any:
        env = Kept([lambda limit=3 + i % 3: Echo("box", limit) for i in range(4)], autoreset_mode=AutoresetMode.SAME_STEP)
        policy = build("gru", env)

        def maybe_stop(generator: np.random.Generator) -> dict[str, float]:
            if stop is not None and not resume:
                raise KeyboardInterrupt
            return {}

        config = ppo.Config(total_timesteps=4 * 5 * 6, num_steps=5, num_minibatches=2)
        try:
            return ppo.train(
                env, policy, config, evaluate=maybe_stop, evaluate_every=stop or 100, folder=folder, save_every=1, resume=resume, quiet=True
            ), policy
        except KeyboardInterrupt:
            return None, policy

    whole, trained = run(tmp_path / "whole", None)
    run(tmp_path / "stopped", 3)
    resumed, same = run(tmp_path / "stopped", 3, resume=True)
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert {k: v for k, v in ours.items() if not k.startswith("time/")} == {k: v for k, v in theirs.items() if not k.startswith("time/")}
    for ours, theirs in zip(same.parameters(), trained.parameters(), strict=True):
        assert torch.equal(ours, theirs)
