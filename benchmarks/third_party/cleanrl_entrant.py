"""Does a PPO in CleanRL's manner learn textgym's environments? `python -m benchmarks.third_party.cleanrl_entrant --task even`.

The agent is the whole file beside this one, `cleanrl_ppo.py`. It is judged as CleanRL's evaluation acts: it samples.

Axis legend: N rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from .cleanrl_ppo import Agent, train
from .cleanrl_ppo import Args as Options
from .contract import Entrant, Task, Trained
from .script import Args, run

# First settings, tried on seed 10.
TEXT = Options(num_envs=8, learning_rate=2e-3, gamma=1.0)
PATH = replace(TEXT, gamma=0.99, ent_coef=0.001)


class Player:
    """A trained agent that samples."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    @torch.no_grad()
    def __call__(self, observations: NDArray[Any], starts: NDArray[Any], masks: NDArray[Any] | None) -> NDArray[Any]:
        """Return an action for each row."""
        actions: NDArray[Any] = self._agent(torch.from_numpy(observations))[0].sample().numpy()
        return actions


def learn(task: Task, steps: int, seed: int) -> Trained:
    """Train on a task."""
    options = PATH if task.name == "path" else TEXT
    agent, taken = train(replace(options, env_id=task.module_id, total_timesteps=steps, seed=seed), task.options, quiet=True)
    return Trained(Player(agent), taken)


ENTRANTS = {"ppo": Entrant("textgym", "PPO in CleanRL's manner", learn, ("even", "path", "textgen"))}


def main(args: Args) -> dict[str, Any]:
    """Train it and print what was reached."""
    return run(ENTRANTS, args)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
