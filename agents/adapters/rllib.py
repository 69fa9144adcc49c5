"""RLlib's new API stack on text: a module that reads token ids and keeps to masks, and the mask where RLlib looks for it, in the observation.

Axis legend: N rows, B rows of a batch, L observation columns, V vocabulary (V itself is the pad id).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn

from .networks import TokenNetwork

OBSERVATIONS, MASK = "observations", "action_mask"  # the names of RLlib's own examples
NEVER = -1e9  # a masked logit: finite, so that a KL divergence over it, zero times a difference, is a number


class TokenModule(TorchRLModule, ValueFunctionAPI):
    """The `RLModule` of an actor-critic (PPO, IMPALA, APPO) on token observations [B, L], one body each for policy and value.

    Observations may also be a dictionary {"observations": [B, L], "action_mask": [B, V]}, as `masked_text_env` gives them: forbidden ids then have
    probability 0. `model_config` may hold `width` and `kind` of `TokenNetwork` (64 and "gru").
    """

    def setup(self) -> None:
        """Build the networks from the spaces and `model_config`; raises `TypeError` for spaces that hold no tokens."""
        space, self.masked = self.observation_space, isinstance(self.observation_space, Dict)
        tokens = space[OBSERVATIONS] if self.masked else space
        if not isinstance(tokens, Box) or len(tokens.shape) != 1 or not isinstance(self.action_space, Discrete):
            raise TypeError(
                f"TokenModule reads token ids [L] and writes one of V, but the spaces are {space} and {self.action_space}: see docs/libraries/rllib.md."
            )
        chosen = self.model_config or {}  # RLlib adds choices of its own, which mean something to its own modules
        width, kind = int(chosen.get("width", 64)), chosen.get("kind", "gru")
        self.body, self.critic = (TokenNetwork(int(tokens.high.max()), tokens.shape[0], width, kind) for _ in range(2))
        self.logits, self.value = nn.Linear(width, int(self.action_space.n)), nn.Linear(width, 1)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the logits [B, V] of a batch; RLlib calls this to explore, to evaluate and to train."""
        seen = batch[Columns.OBS]
        if not self.masked:
            return {Columns.ACTION_DIST_INPUTS: self.logits(self.body(seen))}
        logits = self.logits(self.body(seen[OBSERVATIONS]))
        return {Columns.ACTION_DIST_INPUTS: logits.masked_fill(seen[MASK] == 0, NEVER)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any | None = None) -> Tensor:
        """Return the values [B] of a batch."""
        seen = batch[Columns.OBS]
        values: Tensor = self.value(self.critic(seen[OBSERVATIONS] if self.masked else seen)).squeeze(-1)
        return values


class _MaskedObservations(VectorWrapper):
    """Shows {"observations": [N, L], "action_mask": int8 [N, V]}; where a text is over, every id is allowed."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.single_action_space, Discrete)
        mask = Box(0, 1, (int(env.single_action_space.n),), np.int8)
        self.single_observation_space = Dict({OBSERVATIONS: env.single_observation_space, MASK: mask})
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._seen(observations, infos), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        return self._seen(observations, infos), rewards, terminated, truncated, infos

    def _seen(self, observations: Any, infos: dict[str, Any]) -> dict[str, Any]:
        return {OBSERVATIONS: observations, MASK: infos.pop(MASK)}  # not twice: RLlib keeps every info of an episode


def masked_text_env(context: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
    """Return a constrained text task as RLlib's masking modules want it: `register_env("masked_text", masked_text_env)`.

    Args:
        context: RLlib's `EnvContext`: `id`, and the keyword arguments of `gym.make_vec` for it, `constraint` among them; `num_envs` comes from RLlib.

    Raises:
        ValueError: if RLlib asks for single environments, if there is no id, or if the task forbids nothing.
    """
    options = dict(context)
    if "num_envs" not in options:
        raise ValueError('masked_text_env makes vector environments: config.env_runners(gym_env_vectorize_mode="vector_entry_point").')
    if "id" not in options:
        raise ValueError('masked_text_env needs the id of a text task: env_config={"id": "textgym:TextGen-v0", "constraint": ...}.')
    env = gym.make_vec(options.pop("id"), num_envs=options.pop("num_envs"), vectorization_mode="vector_entry_point", **options)
    if MASK not in env.reset()[1]:
        raise ValueError('This task shows no masks: give it a constraint ("constraint": "film_grammar"), or train without masked_text_env.')
    return _MaskedObservations(env)
