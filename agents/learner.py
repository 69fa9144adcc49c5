"""Everything that changes while an algorithm learns, in one place, so that it can be saved and put back.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch

from .advantages import running_mean
from .exploration import Noisy, told_apart
from .forks import continued, forkable
from .masking import NLPO, Masked, masking_policy, masks_apart
from .optimizing import step
from .play import AnyVectorEnv, Measure, Played, Position, begin, collect
from .policies import Policy
from .prompting import Prompting, State
from .providing import Provided
from .replay import Experience
from .rollout import BoolArray, FloatArray
from .seeds import Generators, generator_state, generators, restore_generator
from .timing import stage


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
    prompting: Prompting | None = None  # chooses the prompts; without it the environment does
    prompts: State = field(default_factory=dict)  # what `prompting` knows of them
    experience: Experience = field(default_factory=Experience)  # what is kept of what was played
    masked: Masked | None = None  # the policy under NLPO's mask, where it plays so

    @classmethod
    def start(
        cls,
        env: AnyVectorEnv,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        seed: int,
        prompting: Prompting | None = None,
        num_prompts: int | None = None,
    ) -> Learner:
        """Return a learner at the beginning: the environment is reset with the run's own seed."""
        if (prompting is None) != (num_prompts is None):
            raise ValueError("prompting= and num_prompts= belong together: a choice of prompts, and how many the environment has.")
        streams = generators(seed)
        prompts = {} if prompting is None or num_prompts is None else prompting.start(num_prompts)
        return cls(env, policy, optimizer, streams, begin(env, policy, seed=streams.environments), prompting=prompting, prompts=prompts)

    def play(self, num_steps: int, episodes_per_row: int | None = None, temperature: float = 1.0, fill: Provided = Provided()) -> Played:  # noqa: B008
        """Play a window of steps from where play stands or, if `episodes_per_row` is given, whole episodes from a reset.

        With `prompting` each row plays one episode on the prompt chosen for it; the rollout then holds `groups`. What `fill` names is
        filled in: values measured by continuations, and baselines by a greedy episode from the same start or a running mean.
        """
        noisy = Noisy.for_env(self.env, self.policy, fill.epsilon) if fill.epsilon else None
        masked = None if self.masked is None else replace(self.masked, told=[])
        actor = cast(Policy, noisy or masked or self.policy)
        if episodes_per_row is not None:
            played = self._play_episodes(actor, episodes_per_row, temperature, fill)
        elif self.prompting is None:
            measured = self._measure(fill, temperature)
            played = collect(self.env, actor, self.position, self.generators.policy, num_steps=num_steps, temperature=temperature, measured=measured)
        else:
            raise ValueError("Prompts are chosen at a reset, and windows of steps have none: set episodes_per_row=1 for prompting.")
        self.position, rollout = played.position, played.rollout
        if masked is not None:
            rollout = masks_apart(rollout, masked.told or [])
        if noisy is not None:
            return played._replace(rollout=told_apart(rollout, noisy, temperature))
        return played._replace(rollout=rollout._replace(target_log_probs=rollout.log_probs) if fill.target_log_probs else rollout)

    @property
    def actor(self) -> Policy:
        """Return who plays: the policy, under NLPO's mask if it has one. Play asks for no more of a policy than `Masked` has."""
        return cast(Policy, self.masked or self.policy)

    def follow(self, nlpo: NLPO | None, iteration: int) -> None:
        """Let the policy act under the mask of a copy of itself, made anew in every `nlpo.every`-th iteration; None: without."""
        if nlpo is not None and (self.masked is None or iteration % nlpo.every == 0):
            self.masked = Masked(self.policy, masking_policy(self.policy), nlpo.top_p)

    def step(self, max_grad_norm: float) -> torch.Tensor:
        """Move the weights along the gradient that stands in them, cut to `max_grad_norm`; return how long it was."""
        with stage("optimiser step"):
            return step(self.optimizer, self.policy.parameters(), max_grad_norm)

    def _measure(self, fill: Provided, temperature: float) -> Measure | None:
        if not fill.vine:
            return None
        env, generator, actor = forkable(self.env, self.policy, "Vine"), self.generators.policy, self.actor

        def measure(position: Position, rows: BoolArray) -> FloatArray:
            return continued(env, actor, position, rows, generator, num=fill.vine, gamma=fill.gamma, temperature=temperature)

        return measure

    def _play_episodes(self, actor: Policy, episodes_per_row: int, temperature: float, fill: Provided) -> Played:
        generator, measured = self.generators.policy, self._measure(fill, temperature)
        if self.prompting is None:
            prompts, position = None, begin(self.env, self.policy)
        elif episodes_per_row == 1:
            prompts, groups = self.prompting.choose(self.prompts, self.env.num_envs, self.generators.prompts)
            position = begin(self.env, self.policy, options={"prompt": prompts})
        else:
            raise ValueError(f"A prompt is chosen for the one episode that a row plays: set episodes_per_row=1 for prompting, not {episodes_per_row}.")
        greedy = self._greedy_returns(position, fill.gamma) if fill.baselines == "greedy" else None
        played = collect(self.env, actor, position, generator, episodes_per_row=episodes_per_row, temperature=temperature, measured=measured)
        shape = played.rollout.valid.shape
        if prompts is not None:
            scores = scores_of(played)
            told = np.isfinite(scores)
            self.prompts = self.prompting.learn(self.prompts, prompts[told], scores[told]) if self.prompting is not None else self.prompts
            played = played._replace(rollout=played.rollout._replace(groups=np.broadcast_to(groups, shape)))
        if fill.baselines is None:
            return played
        baselines = np.broadcast_to(self._running_mean(played) if greedy is None else greedy, shape)
        return played._replace(rollout=played.rollout._replace(baselines=baselines))

    def _greedy_returns(self, position: Position, gamma: float) -> FloatArray:
        """Return what a greedy episode from each row's start earns [N], played on a copy whose chances are the row's own."""
        env, everyone = forkable(self.env, self.policy, "A greedy baseline"), np.ones(self.env.num_envs, np.bool_)
        return continued(env, self.actor, position, everyone, self.generators.policy, num=1, gamma=gamma, temperature=0.0, fresh=False)

    def _running_mean(self, played: Played) -> float:
        """Return the running mean of the returns before this rollout (of the first rollout: 0), and let it move on."""
        before = self.coefficients.get("mean_return")
        returns = played.ends["return"]
        self.coefficients["mean_return"] = running_mean(before, returns[np.isfinite(returns)])
        return before or 0.0

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
            "prompts": dict(self.prompts),
            "experience": self.experience.get_state(),
            "masked": None if self.masked is None else self.masked.get_state(),
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
        self.prompts = dict(state.get("prompts", {}))
        self.experience = Experience.from_state(state["experience"], self.env) if "experience" in state else Experience()
        self.masked = Masked.from_state(state["masked"], self.policy) if state.get("masked") else None
        if state["environment"] is not None and isinstance(self.env, Resumable):
            self.env.set_state(state["environment"])
            fresh = {"policy_state": self.policy.initial_state(len(state["position"]["starts"]))}  # a cache; what a recurrent policy remembers was saved
            self.position = Position(**fresh | state["position"])
        else:
            warnings.warn(f"{self.env} cannot be put back where it stood: its episodes begin anew, and the run will differ.", stacklevel=2)
            self.position = begin(self.env, self.policy, seed=int(self.generators.minibatches.integers(2**31)))


def scores_of(played: Played) -> FloatArray:
    """Return what the one episode of each row came to [N]: its `score` where the environment tells scores (NaN where it told none), else its return.

    A dense return lacks what the prompt was worth to begin with, so it would not compare prompts.
    """
    told = played.ends.get("score", played.ends["return"])
    return told[played.rollout.ends.argmax(axis=0), np.arange(told.shape[1])]
