"""Everything that changes while an algorithm learns, in one place, so that it can be saved and put back.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from .play import AnyVectorEnv, Position, begin
from .policies import Policy
from .seeds import Generators, generator_state, generators, restore_generator


@runtime_checkable
class Resumable(Protocol):
    """An environment whose state is a value; textgym's are."""

    def get_state(self) -> dict[str, Any]:
        """Return all that changes."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `get_state` stood."""


@dataclass
class Learner:
    """A policy that learns on an environment: what its next iteration depends on."""

    env: AnyVectorEnv
    policy: Policy
    optimizer: torch.optim.Optimizer
    generators: Generators
    position: Position
    coefficients: dict[str, float] = field(default_factory=dict)  # what an algorithm adapts as it goes

    @classmethod
    def start(cls, env: AnyVectorEnv, policy: Policy, optimizer: torch.optim.Optimizer, seed: int) -> Learner:
        """Return a learner at the beginning: the environment is reset with the run's own seed."""
        streams = generators(seed)
        return cls(env, policy, optimizer, streams, begin(env, policy, seed=streams.environments))

    def get_state(self) -> dict[str, Any]:
        """Return weights, optimiser, random streams, environment and position, as `files.save_state` takes them."""
        where = self.position
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": {name: generator_state(g) for name, g in self.generators._asdict().items() if isinstance(g, np.random.Generator)},
            "environment": self.env.get_state() if isinstance(self.env, Resumable) else None,
            "position": {name: value for name, value in where._asdict().items() if name != "policy_state" or isinstance(value, np.ndarray)},
            "coefficients": self.coefficients,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `get_state` stood; caches are built anew from the observations.

        An environment that cannot be set (one that is not textgym's) begins new episodes instead, and a warning says so.
        """
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["generators"].items():
            restore_generator(getattr(self.generators, name), value)
        self.coefficients = dict(state["coefficients"])
        if state["environment"] is not None and isinstance(self.env, Resumable):
            self.env.set_state(state["environment"])
            fresh = {"policy_state": self.policy.initial_state(len(state["position"]["starts"]))}  # a cache; what a recurrent policy remembers was saved
            self.position = Position(**fresh | state["position"])
        else:
            warnings.warn(f"{self.env} cannot be put back where it stood: its episodes begin anew, and the run will differ.", stacklevel=2)
            self.position = begin(self.env, self.policy, seed=int(self.generators.minibatches.integers(2**31)))
