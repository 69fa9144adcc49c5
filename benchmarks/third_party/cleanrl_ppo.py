"""PPO in one file, in CleanRL's manner: `python -m benchmarks.third_party.cleanrl_ppo --env-id textgym:TextGen-v0 --total-timesteps 30000`.

Written for this project with CleanRL's flags and order of events, for `Discrete` actions, and exact under
Gymnasium's default autoreset, NEXT_STEP: where an episode ended, the next step only resets. That step's action is ignored, so nothing is learned from it; its
observation is the state that the episode ended in, so a truncated episode takes its value from there.

Axis legend: T steps of a rollout, N environments, B steps of a minibatch, A actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical

from agents.adapters.networks import TokenNetwork


@dataclass(frozen=True)
class Args:
    """Train PPO on one environment and print the returns of its episodes."""

    env_id: str = "CartPole-v1"
    """the id of the environment; `textgym:TextGen-v0` imports textgym first"""
    seed: int = 1
    """of the environments, the network and the samples"""
    total_timesteps: int = 100_000
    """steps of all environments together"""
    learning_rate: float = 2.5e-4
    """of Adam"""
    num_envs: int = 4
    """environments side by side"""
    num_steps: int = 128
    """steps of each environment between two updates"""
    anneal_lr: bool = True
    """let the learning rate fall to zero"""
    gamma: float = 0.99
    """discount factor"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation"""
    num_minibatches: int = 4
    """minibatches of an epoch"""
    update_epochs: int = 4
    """epochs of an update"""
    norm_adv: bool = True
    """normalise the advantages of a minibatch"""
    clip_coef: float = 0.2
    """by how much a probability may change before its gradient is cut"""
    ent_coef: float = 0.01
    """weight of the entropy"""
    vf_coef: float = 0.5
    """weight of the critic's loss"""
    max_grad_norm: float = 0.5
    """the gradient's greatest norm"""


class Agent(nn.Module):
    """An actor and a critic with a body each; raises `ValueError` for actions that are not `Discrete`, or observations that are no flat Box."""

    def __init__(self, observations: gym.Space[Any], actions: gym.Space[Any]) -> None:
        super().__init__()
        if not isinstance(actions, gym.spaces.Discrete):
            raise ValueError(f"This PPO draws from Discrete actions, and the environment has {actions}: give another --env-id.")
        self.actor = nn.Sequential(body(observations), logits := nn.Linear(64, int(actions.n)))
        self.critic = nn.Sequential(body(observations), value := nn.Linear(64, 1))
        nn.init.orthogonal_(logits.weight, 0.01)
        nn.init.orthogonal_(value.weight, 1.0)

    def forward(self, observations: Tensor) -> tuple[Categorical, Tensor]:
        """Return the distribution of the next action and the value [*] of observations [*, L]."""
        return Categorical(logits=self.actor(observations)), self.critic(observations).squeeze(-1)


def body(space: gym.Space[Any]) -> nn.Module:
    """Return a network from observations to 64 features: token ids are embedded, other numbers go through an MLP."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise ValueError(f"This PPO reads flat Box observations, and the environment has {space}: wrap it, or give another --env-id.")
    if space.dtype.kind == "i":
        return nn.Sequential(TokenNetwork(int(space.high.max()), space.shape[0], width=64, kind="mean"), nn.Linear(64, 64), nn.Tanh())
    return nn.Sequential(nn.Linear(space.shape[0], 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())


class Rollout(NamedTuple):
    """What was seen and done, [T, N, *]."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor  # [T + 1, N]: the last row is of the observation behind the last step
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor  # False where the step only reset: its observation is the end of the episode before


class Player:
    """The environments and where they stand."""

    def __init__(self, envs: SyncVectorEnv, seed: int) -> None:
        self.envs = envs
        self.observations, _ = envs.reset(seed=seed)
        self.over = np.zeros(envs.num_envs, np.bool_)  # the episode has ended, so that the next step resets
        self.returns: list[float] = []  # of the episodes that ended, as RecordEpisodeStatistics tells them

    @torch.no_grad()
    def rollout(self, agent: nn.Module, num_steps: int) -> Rollout:
        """Play `num_steps` steps."""
        steps: list[tuple[Tensor, ...]] = []
        for _ in range(num_steps):
            observations = _tensor(self.observations)
            distribution, values = agent(observations)
            actions = distribution.sample()
            valid = ~self.over
            self.observations, rewards, terminated, truncated, infos = self.envs.step(actions.numpy())
            self.over = terminated | truncated
            told = (torch.as_tensor(x) for x in (rewards.astype(np.float32), terminated, truncated, valid))
            steps.append((observations, actions, distribution.log_prob(actions), values, *told))
            if "episode" in infos:
                self.returns += infos["episode"]["r"][infos["_episode"]].tolist()
        fields = [torch.stack(field) for field in zip(*steps, strict=True)]
        fields[3] = torch.cat((fields[3], agent(_tensor(self.observations))[1][None]))
        return Rollout(*fields)


def _tensor(observations: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(observations if observations.dtype.kind == "i" else observations.astype(np.float32))


def gae(rollout: Rollout, gamma: float, gae_lambda: float) -> Tensor:
    """Return advantages [T, N] (Schulman et al. 2015, eq. 16); those of steps that only reset mean nothing.

    The value behind step t is values[t + 1] even where the episode ended there: under NEXT_STEP that is the state reached, not the next episode's first.
    """
    rewards, values = rollout.rewards, rollout.values
    follows, over = (~rollout.terminated).to(rewards), rollout.terminated | rollout.truncated
    advantages, ahead = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * values[t + 1] * follows[t] - values[t]
        advantages[t] = ahead = delta + gamma * gae_lambda * (~over[t]).to(rewards) * ahead
    return advantages


def update(agent: nn.Module, optimiser: torch.optim.Optimizer, rollout: Rollout, args: Args) -> None:
    """Learn from a rollout: `update_epochs` times over the steps that were played, in minibatches."""
    advantages = gae(rollout, args.gamma, args.gae_lambda)
    targets, kept = advantages + rollout.values[:-1], rollout.valid
    fields = (rollout.observations, rollout.actions, rollout.log_probs, advantages, targets)
    observations, actions, log_probs, advantages, targets = (field[kept] for field in fields)
    for _ in range(args.update_epochs):
        for some in torch.randperm(len(actions)).chunk(args.num_minibatches):
            distribution, values = agent(observations[some])
            advantage = advantages[some]
            if args.norm_adv:
                advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
            ratio = (distribution.log_prob(actions[some]) - log_probs[some]).exp()
            policy_loss = -torch.min(advantage * ratio, advantage * ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)).mean()
            value_loss = 0.5 * (values - targets[some]).square().mean()
            optimiser.zero_grad()
            (policy_loss + args.vf_coef * value_loss - args.ent_coef * distribution.entropy().mean()).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimiser.step()


def train(args: Args, options: Mapping[str, Any], quiet: bool = False) -> tuple[Agent, int]:
    """Train on `args.env_id`, made with the keyword arguments `options`; return the agent and the steps that were taken."""
    torch.manual_seed(args.seed)
    envs = SyncVectorEnv([lambda: gym.wrappers.RecordEpisodeStatistics(gym.make(args.env_id, **options))] * args.num_envs)
    agent = Agent(envs.single_observation_space, envs.single_action_space)
    optimiser = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    player, size = Player(envs, args.seed), args.num_envs * args.num_steps
    updates = max(args.total_timesteps // size, 1)
    for number in range(updates):
        if args.anneal_lr:
            optimiser.param_groups[0]["lr"] = args.learning_rate * (1 - number / updates)
        seen = len(player.returns)
        update(agent, optimiser, player.rollout(agent, args.num_steps), args)
        if player.returns[seen:] and not quiet:
            print(f"global_step={(number + 1) * size}, episodic_return={np.mean(player.returns[seen:]):.3f}", flush=True)
    envs.close()
    return agent, updates * size


if __name__ == "__main__":
    import tyro

    train(tyro.cli(Args), {})
