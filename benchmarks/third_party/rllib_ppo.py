"""RLlib's PPO (its new API stack) on textgym's environments: `python -m benchmarks.third_party.rllib_ppo --task even`.

It runs in an environment of its own, since RLlib pins an older gymnasium than the rest (docs/libraries/rllib.md says how to make one).
Importing this file loads no RLlib, so that the list of its entrants can be read without it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .contract import Entrant, Task, Trained
from .script import Args, run

ROWS = 32  # of all environments together
BATCH = 1024  # steps between updates


@contextmanager
def _ray(num_cpus: int) -> Iterator[None]:
    """Run Ray on this machine alone, without its dashboard and its usage report, and end its processes afterwards."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _config(task: Task, runners: int, seed: int) -> Any:
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.tune.registry import register_env

    from agents.adapters.rllib import TokenModule, masked_text_env

    config = PPOConfig()
    # An id goes to gym.make_vec, with env_config as keyword arguments; "module:id", because a remote runner is a process that has not
    # imported textgym. A function is called with the EnvContext, and has to be registered: given as it is, it is "an invalid env specifier".
    if task.masked:
        register_env("masked_text", masked_text_env)
        config.environment("masked_text", env_config={"id": task.module_id, **task.options})
    else:
        config.environment(task.module_id, env_config=dict(task.options))
    config.env_runners(
        num_env_runners=runners,
        num_envs_per_env_runner=ROWS // max(runners, 1),
        # RLlib's default is "sync": a SyncVectorEnv of single environments, although the task has a vector form of its own.
        gym_env_vectorize_mode="vector_entry_point",
        rollout_fragment_length=BATCH // ROWS,
    )
    # The default clips value errors at 10, which no reward here reaches, and weighs a KL divergence; those stay as they are.
    config.training(train_batch_size_per_learner=BATCH, minibatch_size=256, num_epochs=4, lr=1e-3, gamma=1.0, lambda_=0.95, entropy_coeff=0.0)
    if task.name != "path":
        config.rl_module(rl_module_spec=RLModuleSpec(module_class=TokenModule, model_config={"width": 64, "kind": "mean"}))
    return config.debugging(seed=seed, log_level="ERROR")


class _Actor:
    """Samples, as RLlib's own evaluation does unless `explore=False` is in its `evaluation_config`."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, observations: NDArray[Any], starts: NDArray[Any], masks: NDArray[Any] | None) -> NDArray[Any]:
        tokens = torch.from_numpy(observations)
        seen = tokens if masks is None else {"observations": tokens, "action_mask": torch.from_numpy(masks)}
        logits = self._module.forward_exploration({"obs": seen})["action_dist_inputs"]
        return np.asarray(self._module.get_exploration_action_dist_cls().from_logits(logits).sample())


def train(task: Task, steps: int, seed: int, runners: int) -> Trained:
    """Train RLlib's PPO with that many remote environment runners; 0: the environment runs in this process."""
    with _ray(num_cpus=max(runners, 1)):
        algorithm = _config(task, runners, seed).build_algo()
        taken = 0
        while taken < steps:
            taken = int(algorithm.train()["num_env_steps_sampled_lifetime"])
        module = algorithm.get_module()
        algorithm.stop()
    return Trained(_Actor(module), taken)


TASKS = ("even", "path", "textgen_constrained")
STEPS = {"even": 20_000, "path": 40_000, "textgen_constrained": 20_000}
ENTRANTS = {
    "ppo": Entrant("ray", "RLlib PPO", partial(train, runners=0), TASKS, STEPS),
    "ppo_2_runners": Entrant("ray", "RLlib PPO, 2 runners", partial(train, runners=2), TASKS, STEPS),
}


def main(args: Args) -> dict[str, Any]:
    """Train, judge, print and return the figures."""
    return run(ENTRANTS, args)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
