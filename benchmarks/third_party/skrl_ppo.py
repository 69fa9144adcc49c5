"""Does skrl's PPO learn textgym's environments? `python -m benchmarks.third_party.skrl_ppo --task even`.

Theirs: `wrap_env`, `PPO`, `RandomMemory`, `SequentialTrainer`, the distribution. Ours: what a user of skrl writes, two models. skrl knows no action masks.
An agent is judged as skrl's own `trainer.eval()` acts: it asks for mean actions, a categorical model has none, and so its samples are taken.

Axis legend: B rows, L observation columns, E features.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from numpy.typing import NDArray
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.resources.preprocessors.torch import RunningStandardScaler
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import Tensor, nn

import textgym  # noqa: F401 (registers the suite)
from agents.adapters.networks import TokenNetwork

from .contract import Entrant, Task, Trained
from .script import Args, run

NUM_ENVS = 16
ROLLOUT = 64  # steps a row between two updates


def body(space: gym.Space[Any]) -> tuple[nn.Module, int]:
    """Return a network from observations [B, L] to features [B, E], and E: token ids are embedded, other numbers go through a tanh layer."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise TypeError(f"Observations should be a flat Box, got {space}.")
    if space.dtype.kind == "i":
        return TokenNetwork(int(space.high.max()), space.shape[0], width=64, kind="mean"), 64
    return nn.Sequential(nn.Linear(space.shape[0], 64), nn.Tanh()), 64


class Actor(CategoricalMixin, Model):
    """Logits over actions; skrl wants the mixin before `Model`, and each initialised by its own name."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device="cpu")
        CategoricalMixin.__init__(self, unnormalized_log_prob=True)
        features, width = body(observation_space)
        self.net = nn.Sequential(features, nn.Linear(width, 64), nn.Tanh(), last := nn.Linear(64, self.num_actions))
        nn.init.zeros_(last.weight)  # every action alike at first

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """Return logits [B, A]."""
        return self.net(inputs["observations"]), {}


class Critic(DeterministicMixin, Model):
    """The value of an observation."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device="cpu")
        DeterministicMixin.__init__(self)
        features, width = body(observation_space)
        self.net = nn.Sequential(features, nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1))

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """Return values [B, 1]."""
        return self.net(inputs["observations"]), {}


def config(task: Task) -> PPO_CFG:
    """Return the settings of PPO; without `experiment` skrl writes logs and checkpoints to a folder "runs" where it is called from."""
    return PPO_CFG(
        rollouts=ROLLOUT,
        learning_epochs=4,
        mini_batches=4,
        discount_factor=0.99 if task.name == "path" else 1.0,
        gae_lambda=0.95,
        learning_rate=1e-3,
        entropy_loss_scale=0.01,
        value_loss_scale=0.5,
        value_preprocessor=RunningStandardScaler,
        value_preprocessor_kwargs={"size": 1, "device": "cpu"},
        # False, the default, takes a truncated episode for one that goes on with the next episode's first step. True bootstraps from the observation
        # that the step returned: the last of its episode only where the environment resets at the next step, as Gymnasium's vector environments do.
        time_limit_bootstrap=True,
        experiment={"write_interval": 0, "checkpoint_interval": 0},
    )


def train(task: Task, steps: int, seed: int) -> Trained:
    """Train skrl's PPO; `set_seed` seeds Python's, NumPy's and torch's global generators, and the wrapper's first reset."""
    set_seed(seed)
    # The wrapper makes float32 of integer observations by itself: token ids arrive exact, and DtypeObservation is not needed.
    env = wrap_env(gym.make_vec(task.id, num_envs=NUM_ENVS, **task.options), verbose=False)
    models = {"policy": Actor(env.observation_space, env.action_space), "value": Critic(env.observation_space, env.action_space)}
    memory = RandomMemory(memory_size=ROLLOUT, num_envs=NUM_ENVS, device="cpu")
    agent = PPO(models=models, memory=memory, cfg=config(task), observation_space=env.observation_space, action_space=env.action_space, device="cpu")
    timesteps = steps // NUM_ENVS
    # headless: without it every step renders. close_environment_at_exit: without False an exit hook keeps the environment, and logs at the end.
    cfg = {"timesteps": timesteps, "headless": True, "disable_progressbar": True, "close_environment_at_exit": False}
    SequentialTrainer(env=env, agents=agent, cfg=cfg).train()
    env.close()
    agent.enable_training_mode(False)
    return Trained(Player(agent), timesteps * NUM_ENVS)


class Player:
    """A trained agent that samples, as skrl's evaluation does."""

    def __init__(self, agent: PPO) -> None:
        self._agent = agent

    @torch.no_grad()
    def __call__(self, observations: NDArray[Any], starts: NDArray[Any], masks: NDArray[Any] | None) -> NDArray[Any]:
        """Return an action for each row."""
        seen = torch.as_tensor(observations, dtype=torch.float32)
        actions: NDArray[Any] = self._agent.act(seen, None, timestep=0, timesteps=0)[0][:, 0].numpy()
        return actions


ENTRANTS = {"ppo": Entrant("skrl", "PPO", train, ("even", "path", "textgen"), {"even": 20_000, "path": 60_000, "textgen": 20_000})}


def main(args: Args) -> dict[str, Any]:
    """Train one of them and print what was reached."""
    return run(ENTRANTS, args)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
