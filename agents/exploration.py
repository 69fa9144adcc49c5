"""Exploring: actions that the policy would not have chosen, and a bonus for what was tried rarely.

Axis legend: T steps, N environments, S states, A actions, D numbers of an observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from .play import AnyVectorEnv, log_probs_under
from .policies import Acted, Policy
from .rollout import BoolArray, FloatArray, IntArray, Rollout

MOST_PAIRS = 1_000_000  # of states and actions that are still a table


@dataclass(frozen=True)
class Noisy:
    """A policy's epsilon-greedy sister: (1 - epsilon) pi + epsilon uniform, over the actions that are allowed.

    It does what play asks for and no more. The log-probability of an action that the noise chose is NaN: `told_apart` fills it in.
    """

    policy: Policy
    epsilon: float
    num_actions: int

    @classmethod
    def for_env(cls, env: AnyVectorEnv, policy: Policy, epsilon: float) -> Noisy:
        """Return the sister of a policy that plays `env`; raises `TypeError` unless an action is a single choice."""
        actions = env.single_action_space
        if getattr(policy, "chunk", 1) != 1 or not isinstance(actions, Discrete):
            raise TypeError(f"epsilon draws single choices evenly, and the actions are {actions}: set epsilon=0.")
        return cls(policy, epsilon, int(actions.n))

    def initial_state(self, num_envs: int) -> Any:
        """Return what the policy remembers."""
        return self.policy.initial_state(num_envs)

    def act(
        self,
        observations: NDArray[Any],
        state: Any,
        starts: BoolArray,
        generator: np.random.Generator,
        action_masks: BoolArray | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return the policy's step, with `epsilon` of the actions [N] drawn anew."""
        step = self.policy.act(observations, state, starts, generator, action_masks, temperature)
        noise, lots = generator.random((2, len(observations)))
        allowed = np.ones((len(observations), self.num_actions), np.bool_) if action_masks is None else action_masks
        drawn = (allowed.cumsum(axis=1) > (lots * allowed.sum(axis=1)).astype(np.int64)[:, None]).argmax(axis=1)
        noisy = noise < self.epsilon
        return step._replace(actions=np.where(noisy, drawn, step.actions), log_probs=np.where(noisy, np.nan, step.log_probs))

    def value(self, observations: NDArray[Any], state: Any = None) -> FloatArray:
        """Return the policy's V [B]."""
        return self.policy.value(observations, state)

    @property
    def values_later(self) -> bool:
        """Return whether the policy's values are asked for when a rollout is complete."""
        return getattr(self.policy, "values_later", False)

    def evaluate_values(self, observations: torch.Tensor) -> torch.Tensor:
        """Return them, [T, B]; only where `values_later`."""
        values: torch.Tensor = self.policy.evaluate_values(observations)  # type: ignore[attr-defined]
        return values


def told_apart(rollout: Rollout, noisy: Noisy, temperature: float) -> Rollout:
    """Return what `Noisy` played, with `log_probs` of the mixture sampled from and `target_log_probs` of the policy alone.

        mu(a | s) = (1 - epsilon) pi(a | s) + epsilon / (number of allowed actions)

    Where the policy itself chose, `target_log_probs` is what it said when it acted; elsewhere it is asked now.
    """
    target = np.where(np.isnan(rollout.log_probs), log_probs_under(noisy.policy, rollout, temperature), rollout.log_probs)
    choices = noisy.num_actions if rollout.action_masks is None else rollout.action_masks.sum(axis=-1)
    with np.errstate(divide="ignore"):  # epsilon = 1 leaves nothing of the policy
        mixture = np.logaddexp(np.log(1 - noisy.epsilon) + target, np.log(noisy.epsilon / choices))
    return rollout._replace(log_probs=mixture, target_log_probs=target)


@dataclass
class Visits:
    """How often each action was tried in each state of a task that is a table."""

    low: IntArray  # [D] the least that each number of an observation can be
    sizes: IntArray  # [D] how many values it has
    counts: IntArray  # [S, A]

    @classmethod
    def for_env(cls, env: AnyVectorEnv) -> Visits:
        """Return counts of nothing; raises `TypeError` unless observations are Discrete or a small Box of integers, and actions are Discrete."""
        seen, actions = env.single_observation_space, env.single_action_space
        if isinstance(seen, Discrete):
            low, sizes = [int(seen.start)], [int(seen.n)]
        elif isinstance(seen, Box) and np.issubdtype(seen.dtype, np.integer):
            low = seen.low.ravel().tolist()
            sizes = [high - least + 1 for high, least in zip(seen.high.ravel().tolist(), low, strict=True)]
        else:
            low, sizes = [], [MOST_PAIRS + 1]
        if not isinstance(actions, Discrete) or math.prod(sizes) * int(actions.n) > MOST_PAIRS:
            raise TypeError(
                f"bonus_coef counts visits in a table of states and actions, at most {MOST_PAIRS:,}; observations {seen} and actions {actions} are none: "
                "set bonus_coef=0, and explore by ent_coef, temperature or epsilon."
            )
        return cls(np.array(low), np.array(sizes), np.zeros((math.prod(sizes), int(actions.n)), np.int64))

    def add(self, rollout: Rollout) -> None:
        """Count the valid steps of a rollout."""
        np.add.at(self.counts, tuple(pair[rollout.valid] for pair in self._pairs(rollout)), 1)

    def bonus(self, rollout: Rollout, coef: float) -> FloatArray:
        """Return coef / sqrt(N(s, a)) of each step [T, N], in units of reward, 0 where not valid; N counts all that was added, this rollout too.

        Strehl & Littman 2008, "An analysis of model-based interval estimation for Markov decision processes", section 3.2 (MBIE-EB), where it is
        a bonus in planning; as a reward of a learner without a model, Bellemare et al. 2016, arXiv 1606.01868, section 4.
        """
        return np.where(rollout.valid, coef / np.sqrt(np.maximum(self.counts[self._pairs(rollout)], 1)), 0.0)

    def share(self) -> float:
        """Return the share of the table's pairs that were ever tried."""
        return float((self.counts > 0).mean())

    def _pairs(self, rollout: Rollout) -> tuple[IntArray, IntArray]:
        """Return states and actions [T, N] as indices into `counts`."""
        numbers = rollout.observations.reshape(*rollout.valid.shape, -1).astype(np.int64) - self.low
        return np.ravel_multi_index(tuple(np.moveaxis(numbers, -1, 0)), tuple(self.sizes)), rollout.actions.astype(np.int64)
