"""The single-file PPO counts no step that only resets, and takes a cut episode's value from the state reached; and, slowly, it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from torch import Tensor
from torch.distributions import Categorical

from benchmarks.third_party.cleanrl_entrant import ENTRANTS, TEXT
from benchmarks.third_party.cleanrl_ppo import Agent, Args, Player, Rollout, gae, train, update
from benchmarks.third_party.judge import random_returns, returns
from benchmarks.third_party.tasks import TASKS

ENDS = 3  # steps of an episode
GAMMA, LAMBDA = 0.5, 0.75


class Counter(gym.Env[Any, Any]):
    """Tells how many steps were taken, and pays that number; ends after three, by itself or by being cut."""

    observation_space = gym.spaces.Box(0.0, 10.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, cut: bool) -> None:
        self.cut, self.count = cut, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        over = self.count == ENDS
        return np.full(1, self.count, np.float32), float(self.count), over and not self.cut, over and self.cut, {}


class Known(torch.nn.Module):
    """Draws both actions alike; the value of a state is ten times its number, plus one."""

    def forward(self, observations: Tensor) -> tuple[Categorical, Tensor]:
        return Categorical(logits=torch.zeros(len(observations), 2)), 10 * observations[:, 0] + 1


def played(steps: int = 8) -> tuple[Rollout, Player]:
    """A rollout of a row whose episodes end by themselves and of one whose episodes are cut."""
    envs = SyncVectorEnv([lambda cut=cut: gym.wrappers.RecordEpisodeStatistics(Counter(cut)) for cut in (False, True)])  # type: ignore[misc]
    player = Player(envs, seed=0)
    with torch.random.fork_rng():
        return player.rollout(Known(), steps), player


def exact(cut: bool) -> list[float]:
    """The advantages of one episode by hand: values 1, 11, 21 and, of the state reached, 31; rewards 1, 2, 3."""
    last = 3 + GAMMA * 31 * cut - 21
    middle = 2 + GAMMA * 21 - 11 + GAMMA * LAMBDA * last
    return [1 + GAMMA * 11 - 1 + GAMMA * LAMBDA * middle, middle, last]


def test_steps_that_only_reset_are_marked_and_no_others() -> None:
    rollout, player = played()
    assert rollout.valid.tolist() == [[True] * 2, [True] * 2, [True] * 2, [False] * 2] * 2
    assert rollout.observations[:, 0, 0].tolist() == [0, 1, 2, 3] * 2
    assert player.returns == [6.0] * 4


def test_advantages_are_exact_where_episodes_end_and_where_they_are_cut() -> None:
    rollout, _ = played()
    advantages = gae(rollout, GAMMA, LAMBDA)
    for row, cut in enumerate((False, True)):
        kept = advantages[:, row][rollout.valid[:, row]]
        torch.testing.assert_close(kept, torch.tensor(exact(cut) * 2))


def test_a_rollout_that_stops_amid_an_episode_takes_the_value_of_where_it_stands() -> None:
    rollout, _ = played(2)
    last = 2 + GAMMA * 21 - 11
    torch.testing.assert_close(gae(rollout, GAMMA, LAMBDA)[:, 0], torch.tensor([1 + GAMMA * 11 - 1 + GAMMA * LAMBDA * last, last]))


@pytest.mark.parametrize("wrong", ["cut episodes count as ended", "ends are forgotten"])
def test_twins_that_must_fail(wrong: str) -> None:
    rollout, _ = played()
    none = torch.zeros_like(rollout.terminated)
    over = rollout.terminated | rollout.truncated
    twin = rollout._replace(terminated=over, truncated=none) if wrong.startswith("cut") else rollout._replace(terminated=none, truncated=none)
    found = gae(twin, GAMMA, LAMBDA)[:, 1][rollout.valid[:, 1]]
    assert (found - torch.tensor(exact(True) * 2)).abs().max() > 1


def learned(rollout: Rollout) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        agent = Agent(Counter.observation_space, Counter.action_space)
        update(agent, torch.optim.Adam(agent.parameters(), lr=0.01), rollout, Args(num_minibatches=1, update_epochs=1))
    return {name: weight.clone() for name, weight in agent.state_dict().items()}


def test_what_is_learned_does_not_depend_on_steps_that_only_reset() -> None:
    """Whatever stands in them changes nothing; the twin counts them, and must learn something else."""
    rollout, _ = played()
    spoilt = rollout._replace(actions=torch.where(rollout.valid, rollout.actions, 1 - rollout.actions))
    mine, yours = learned(rollout), learned(spoilt)
    assert all(torch.equal(mine[name], yours[name]) for name in mine)
    twin = learned(rollout._replace(valid=torch.ones_like(rollout.valid)))
    assert any(not torch.equal(mine[name], twin[name]) for name in mine)


def test_it_says_what_it_cannot_play() -> None:
    with pytest.raises(ValueError, match="Discrete actions"):
        train(Args(env_id="Pendulum-v1"), {})
    with pytest.raises(ValueError, match="flat Box"):
        train(Args(env_id="FrozenLake-v1"), {})


def test_it_prints_returns_of_token_observations(capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng():
        _, steps = train(Args(env_id="textgym:TextGen-v0", total_timesteps=700, num_envs=2), {})
    assert steps == 512
    assert capsys.readouterr().out.count("episodic_return=") == 2


@pytest.mark.slow
def test_it_learns_even() -> None:
    task = TASKS["even"]
    reached = returns(task, ENTRANTS["ppo"].train(task, 10_000, 0).actor, 64).mean()
    assert reached > random_returns(task).mean() + 0.1


@pytest.mark.slow
def test_it_balances_the_pole(capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(TEXT, env_id="CartPole-v1", total_timesteps=40_000, gamma=0.99, learning_rate=1e-3), {})
    last = [float(line.split("episodic_return=")[1]) for line in capsys.readouterr().out.splitlines()][-5:]
    assert np.mean(last) > 150  # about 22 at first
