"""Do Tianshou's agents learn textgym's environments? `python -m benchmarks.third_party.tianshou_agents --algorithm dqn --task textgen_constrained`.

Theirs: `DummyVectorEnv`, `Collector`, the buffers, the algorithms and `run_training`. Ours: networks, settings, and `MaskInObservation` for masks, which its
Q-learning reads from the observation and its PPO not at all. An agent is judged as its policy acts outside of training: PPO samples (`deterministic_eval` is
False by default), DQN is greedy, on path with an epsilon of 0.05.

Axis legend: N rows, A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from tianshou.algorithm import DQN, PPO
from tianshou.algorithm.algorithm_base import Algorithm, Policy
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams, OnPolicyTrainerParams
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from torch import Tensor, nn

from agents.adapters.networks import TokenNetwork
from agents.adapters.tianshou import MaskInObservation

from .contract import Entrant, Task, Train, Trained
from .script import Args, run

NUM_ENVS = 16
WIDTH = 64


class Features(nn.Module):
    """What Tianshou calls a preprocessing network: observations, as arrays, and a state that is handed through."""

    def __init__(self, space: gym.Space[Any]) -> None:
        super().__init__()
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise TypeError(f"Observations should be a flat Box, got {space}.")
        self.ids = space.dtype.kind == "i"
        first: nn.Module = TokenNetwork(int(space.high.max()), space.shape[0], WIDTH, "mean") if self.ids else nn.Linear(space.shape[0], WIDTH)
        self.layers = nn.Sequential(first, nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())

    def get_output_dim(self) -> int:
        """Return the number of features."""
        return WIDTH

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        """Return features [N, WIDTH] and the state."""
        return self.layers(torch.as_tensor(np.asarray(obs), dtype=torch.int64 if self.ids else torch.float32)), state


def make(task: Task) -> Callable[[], gym.Env[Any, Any]]:
    """Return what makes one environment; with masks in the observation where there are any."""
    return lambda: MaskInObservation(gym.make(task.id, **task.options)) if task.masked else gym.make(task.id, **task.options)


def num_actions(env: gym.Env[Any, Any]) -> int:
    """Return how many actions an environment of ours has."""
    assert isinstance(env.action_space, gym.spaces.Discrete)
    return int(env.action_space.n)


def ppo(task: Task, steps: int, seed: int) -> Trained:
    """Train Tianshou's PPO."""
    env = make(task)()
    policy = DiscreteActorPolicy(
        # Logits: by default the actor ends in a softmax, and the policy takes what comes for logits, without a word.
        actor=DiscreteActor(preprocess_net=Features(env.observation_space), action_shape=num_actions(env), softmax_output=False),
        action_space=env.action_space,
        observation_space=env.observation_space,
    )
    algorithm: Any = PPO(
        policy=policy,
        critic=DiscreteCritic(preprocess_net=Features(env.observation_space)),
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=0.99 if task.name == "path" else 1.0,
        ent_coef=0.01,
        max_grad_norm=0.5,
    )
    collector = collected(algorithm, task, seed, size=NUM_ENVS * 64)
    rollout = NUM_ENVS * 64
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            collection_step_num_env_steps=rollout,
            batch_size=256,
            update_step_num_repetitions=4,
            **one_epoch(steps // rollout * rollout),
        )
    )
    return finished(algorithm, collector)


def dqn(task: Task, steps: int, seed: int) -> Trained:
    """Train Tianshou's double DQN; epsilon falls from 1 to 0.05 in the first half."""
    env, path = make(task)(), task.name == "path"
    space = env.observation_space["obs"] if isinstance(env.observation_space, gym.spaces.Dict) else env.observation_space
    policy: Any = DiscreteQLearningPolicy(
        model=DiscreteActor(preprocess_net=Features(space), action_shape=num_actions(env), softmax_output=False),
        action_space=env.action_space,
        observation_space=env.observation_space,
        eps_training=1.0,
        eps_inference=0.05 if path else 0.0,  # the likeliest action alone may walk in a circle
    )
    algorithm: Any = DQN(
        policy=policy,
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=0.95 if path else 1.0,
        n_step_return_horizon=3 if path else 16,
        target_update_freq=200,
        huber_loss_delta=1.0,
    )
    collector = collected(algorithm, task, seed, size=30_000)
    # Nothing is collected before: `collect(random=True)` draws from all actions, masks or not, and epsilon counts within the trainer only.
    algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector,
            collection_step_num_env_steps=64,
            batch_size=128 if path else 64,
            update_step_num_gradient_steps_per_sample=0.5 if path else 0.125,
            training_fn=lambda epoch, step: policy.set_eps_training(max(0.05, 1.0 - 1.9 * step / steps)),
            **one_epoch(steps),
        )
    )
    return finished(algorithm, collector)


def one_epoch(steps: int) -> dict[str, Any]:
    """Return the trainer's choices for a training of one epoch, without tests and bars."""
    return {"max_epochs": 1, "epoch_num_steps": steps, "verbose": False, "show_progress": False}


def collected(algorithm: Algorithm[Any, Any], task: Task, seed: int, size: int) -> Collector[Any]:
    """Return a collector that has begun, with a buffer of `size` transitions."""
    envs = DummyVectorEnv([make(task)] * NUM_ENVS)
    envs.seed(seed)
    collector = Collector(algorithm, envs, VectorReplayBuffer(size, NUM_ENVS), exploration_noise=True)
    collector.reset()  # forgets the seed of no environment, since it gives none
    return collector


def finished(algorithm: Any, collector: Collector[Any]) -> Trained:
    """Close the environments and return the agent."""
    collector.close()
    return Trained(Player(algorithm.policy), collector.collect_step)


class Player:
    """A trained policy, as it acts outside of training."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy.eval()

    @torch.no_grad()
    def __call__(self, observations: NDArray[Any], starts: NDArray[Any], masks: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Return an action for each row."""
        seen: Any = Batch(obs=observations if masks is None else Batch(obs=observations, mask=masks), info=Batch())
        # The policy alone is greedy: its epsilon is added by whoever plays, as a `Collector` does.
        return np.asarray(self._policy.add_exploration_noise(np.asarray(self._policy(seen).act), seen))


def trainer(algorithm: Callable[[Task, int, int], Trained]) -> Train:
    """Return a training with Tianshou's global generators seeded: networks, samples, epsilon and minibatches come from torch's and NumPy's."""

    def train(task: Task, steps: int, seed: int) -> Trained:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (Tianshou draws from it)
        return algorithm(task, steps, seed)

    return train


ENTRANTS = {
    "ppo": Entrant("tianshou", "PPO", trainer(ppo), ("even", "path", "textgen")),
    "dqn": Entrant("tianshou", "DQN", trainer(dqn), ("even", "path", "textgen_constrained"), {"textgen_constrained": 20_000, "path": 40_000}),
}


def main(args: Args) -> dict[str, Any]:
    """Train one of them and print what was reached."""
    return run(ENTRANTS, args)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
