"""Do Stable-Baselines3's and sb3-contrib's agents learn textgym's environments? `python -m benchmarks.third_party.sb3 --algorithm dqn --task path`.

Theirs: `make_vec_env`, the algorithms, `learn` and `predict`. Ours: the feature extractor, since `MlpPolicy` takes token ids for sizes, and the settings.
An agent is judged by `predict`: stochastic policies sample, Q-learning is greedy (see `Player`).

Axis legend: N rows, A actions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib import QRDQN, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

from agents.adapters.sb3_extractor import TokenExtractor

from .contract import Entrant, Task, Train, Trained
from .script import Args, run

NUM_ENVS = 8
Options = dict[str, Any]

# First settings, tried on seed 10.
ON_POLICY: Options = {"n_steps": 128, "batch_size": 256, "learning_rate": 1e-3, "gae_lambda": 0.95}
# Both frequencies below count steps of the vector environment, of NUM_ENVS transitions each, and a training is one gradient step unless more are named.
OFF_POLICY: Options = {
    "train_freq": 1,
    "gradient_steps": 2,
    "learning_rate": 1e-3,
    "batch_size": 64,
    "buffer_size": 30_000,
    "learning_starts": 1_000,
    "target_update_interval": 400,
    "exploration_fraction": 0.5,
}
OPTIONS: dict[str, Options] = {
    "ppo": {**ON_POLICY, "n_epochs": 4, "ent_coef": 0.01},
    "a2c": {"n_steps": 16, "learning_rate": 1e-3, "gae_lambda": 0.95, "ent_coef": 0.01, "use_rms_prop": False},
    "dqn": OFF_POLICY,
    "maskable_ppo": {**ON_POLICY, "n_epochs": 4, "ent_coef": 0.01},
    "recurrent_ppo": {**ON_POLICY, "n_epochs": 4, "ent_coef": 0.01},
    "trpo": ON_POLICY,
    "qr_dqn": OFF_POLICY,
}
CLASSES: dict[str, type[Any]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN, "maskable_ppo": MaskablePPO, "recurrent_ppo": RecurrentPPO, "trpo": TRPO, "qr_dqn": QRDQN}
PATH: Options = {"gamma": 0.99}
TEXT: Options = {"gamma": 1.0}  # paid at the end
FAR = {"even": 16, "textgen": 24, "path": 3}  # n-step returns of Q-learning: a reward at the end is hardly found one step at a time
# On path two algorithms need more, tuned on the seeds 10 to 12. What helped most there: a wider network for QR-DQN, and for RecurrentPPO, whose minibatches are
# stretches of one or two rows, longer rollouts and more steps on them. QR-DQN's epsilon ends at 0.01 by default.
MORE_ON_PATH: dict[str, Options] = {
    "recurrent_ppo": {"gamma": 0.95, "n_steps": 256, "learning_rate": 2e-3, "n_epochs": 8},
    "qr_dqn": {"gamma": 0.95, "batch_size": 128, "exploration_final_eps": 0.05},
}
POLICIES: dict[str, Options] = {"recurrent_ppo": {"lstm_hidden_size": 64}, "qr_dqn": {"n_quantiles": 25}}
MORE_POLICY_ON_PATH: dict[str, Options] = {"recurrent_ppo": {"enable_critic_lstm": False}, "qr_dqn": {"net_arch": [256, 256]}}


def settings(algorithm: str, task: Task) -> Options:
    """Return what the algorithm is made with on the task."""
    if task.name == "path":
        policy = POLICIES.get(algorithm, {}) | MORE_POLICY_ON_PATH.get(algorithm, {})
        options = OPTIONS[algorithm] | PATH | MORE_ON_PATH.get(algorithm, {})
    else:
        policy = POLICIES.get(algorithm, {}) | {"features_extractor_class": TokenExtractor, "features_extractor_kwargs": {"kind": "mean"}}
        options = OPTIONS[algorithm] | TEXT
    return options | {"policy_kwargs": policy} | ({"n_steps": FAR[task.name]} if CLASSES[algorithm] in (DQN, QRDQN) else {})


def trainer(algorithm: str) -> Train:
    """Return the training of an algorithm."""

    def train(task: Task, steps: int, seed: int) -> Trained:
        env = make_vec_env(task.module_id, n_envs=NUM_ENVS, seed=seed, env_kwargs=dict(task.options))
        policy = "MlpLstmPolicy" if algorithm == "recurrent_ppo" else "MlpPolicy"
        model = CLASSES[algorithm](policy, env, seed=seed, device="cpu", **settings(algorithm, task))
        # MaskablePPO asks for masks unless it is told not to, and every environment of ours answers to `action_masks`, if only by an error where it has none.
        model.learn(steps, **({"use_masking": task.masked} if algorithm == "maskable_ppo" else {}))
        env.close()
        return Trained(Player(model, greedy=CLASSES[algorithm] in (DQN, QRDQN) and task.name != "path"), model.num_timesteps)

    return train


class Player:
    """A trained agent with its memory, where it has one.

    Stochastic policies are judged as they were trained, by sampling: the likeliest action of one that is not settled yet walks in circles on path.
    For the same reason Q-learning keeps its last epsilon of 0.05 there, as `predict` has it by default; elsewhere it is greedy.
    """

    def __init__(self, model: Any, greedy: bool) -> None:
        self._model, self._state, self._greedy = model, None, greedy

    def __call__(self, observations: NDArray[Any], starts: NDArray[Any], masks: NDArray[np.bool_] | None) -> NDArray[Any]:
        """Return an action for each row."""
        masked = {"action_masks": masks} if masks is not None and isinstance(self._model, MaskablePPO) else {}
        actions, self._state = self._model.predict(observations, self._state, starts, deterministic=self._greedy, **masked)
        return np.asarray(actions)


def entrant(library: str, algorithm: str, name: str, text: str = "textgen") -> Entrant:
    """Return an algorithm with its three tasks."""
    return Entrant(library, name, trainer(algorithm), ("even", "path", text), {"path": 50_000})


ENTRANTS = {
    "ppo": entrant("stable-baselines3", "ppo", "PPO"),
    "a2c": entrant("stable-baselines3", "a2c", "A2C"),
    "dqn": entrant("stable-baselines3", "dqn", "DQN"),
    "maskable_ppo": entrant("sb3-contrib", "maskable_ppo", "MaskablePPO", "textgen_constrained"),
    "recurrent_ppo": entrant("sb3-contrib", "recurrent_ppo", "RecurrentPPO"),
    "trpo": entrant("sb3-contrib", "trpo", "TRPO"),
    "qr_dqn": entrant("sb3-contrib", "qr_dqn", "QR-DQN"),
}


def main(args: Args) -> dict[str, Any]:
    """Train one of them and print what was reached."""
    return run(ENTRANTS, args)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
