"""NLPO's mask (Ramamurthy et al. 2023, "Is reinforcement learning (not) for natural language processing?", arXiv 2210.01241, section 4.2).

A masking policy, a copy of the policy that is brought up to date now and then, says which actions are likely enough; the others are forbidden,
when actions are sampled and when they are evaluated.
Axis legend: T steps, N environments, B rows, A actions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from . import choices
from .leaving import tells_all
from .policies import Acted, Enumerable, Policy
from .rollout import BoolArray, FloatArray, Rollout


@dataclass(frozen=True)
class NLPO:
    """What is sampled must be among the likeliest actions of the masking policy, which together have the probability `top_p`.

    The masking policy is brought up to date every `every` iterations. The defaults are those of the paper's code (RL4LMs). What the mask forbids
    is not trained, and its probabilities may drift meanwhile; a mask made anew lets in what has drifted, all at once. With `every=1` that comes
    in small steps, and is trained away again.
    """

    top_p: float = choices.number(0.9, 0, 1)
    every: int = choices.count(20)

    def __post_init__(self) -> None:
        choices.check(self)


@dataclass(frozen=True)
class Masked:
    """A policy under the mask of another one: it does what play asks for and no more. The masks come back in `Acted.action_masks`."""

    policy: Policy
    masking: Enumerable
    top_p: float
    told: list[BoolArray | None] | None = None  # where the environment's masks of each step are noted down

    def initial_state(self, num_envs: int) -> Any:
        """Return what the policy remembers."""
        return self.policy.initial_state(num_envs)

    @torch.no_grad()
    def act(
        self,
        observations: NDArray[Any],
        state: Any,
        starts: BoolArray,
        generator: np.random.Generator,
        action_masks: BoolArray | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return the policy's step under both masks, the environment's and the masking policy's at the same temperature (greedy: at 1)."""
        if self.told is not None:
            self.told.append(action_masks)
        allowed = None if action_masks is None else torch.from_numpy(action_masks)[None]
        log_probs = self.masking.distributions(torch.from_numpy(observations)[None], allowed, temperature or 1.0)[0]
        masks = likeliest(log_probs, self.top_p).cpu().numpy()
        return self.policy.act(observations, state, starts, generator, masks, temperature)._replace(action_masks=masks)

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

    def get_state(self) -> dict[str, Any]:
        """Return the masking policy's weights, and how much it allows."""
        return {"weights": cast(Policy, self.masking).state_dict(), "top_p": self.top_p}

    @classmethod
    def from_state(cls, state: dict[str, Any], policy: Policy) -> Masked:
        """Return what `get_state` described, for that policy."""
        masking = masking_policy(policy)
        cast(Policy, masking).load_state_dict(state["weights"])
        return cls(policy, masking, state["top_p"])


def masks_apart(rollout: Rollout, told: Sequence[BoolArray | None]) -> Rollout:
    """Return what `Masked` played, with the environment's masks `told` of each step in `action_masks` and those that it played under in `own_masks`.

    So a reference policy is read under the environment's alone: under the policy's own, whose likeliest actions are other ones the further it has
    left the reference, the distance would hardly be seen, nor paid for.
    """
    played = rollout.require("action_masks")
    free = None if all(masks is None for masks in told) else np.stack([np.ones_like(played[0]) if masks is None else masks for masks in told])
    return rollout._replace(action_masks=free, own_masks=played)


def likeliest(log_probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the fewest likeliest actions, bool [..., A], whose probabilities add up to at least `top_p`: the best one always, an impossible one never.

    Holtzman et al. 2020, "The curious case of neural text degeneration", arXiv 1904.09751, section 3.1. `log_probs` [..., A] are normalised.
    """
    ordered, order = log_probs.exp().sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered  # what the likelier ones have together
    chosen = (before < top_p) & (ordered > 0)
    chosen[..., 0] = True
    return torch.zeros_like(chosen).scatter(-1, order, chosen)


def masking_policy(policy: Policy) -> Enumerable:
    """Return a frozen copy of a policy that can say which actions are likely.

    Raises `TypeError` for policies that cannot tell the chance of every action, or that remember what they saw.
    """
    name = type(policy).__name__
    if isinstance(policy.initial_state(1), np.ndarray):
        raise TypeError(f"NLPO's masking policy sees the present observations only, and {name} remembers earlier ones: set nlpo=None.")
    if not tells_all(policy):
        raise TypeError(f"NLPO forbids single actions by their probability, and {name} cannot tell that of every one: set nlpo=None.")
    frozen: Any = copy.deepcopy(policy)
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    return cast(Enumerable, frozen)


MASKS: dict[str, type[Any]] = {"nlpo": NLPO}


def parse(text: str) -> NLPO | None:
    """Return the mask spelled "nlpo(top_p=0.9, every=20)", or None for "none"; raises `ValueError` saying what is allowed."""
    return None if text.strip().lower() == "none" else cast(NLPO, choices.parse(text, MASKS, "mask"))


def spell(mask: NLPO | None) -> str:
    """Return the text that `parse` reads."""
    return "none" if mask is None else choices.spell(mask, MASKS)


def to_json(mask: NLPO | None) -> dict[str, Any] | None:
    """Return `{"name": "nlpo", "top_p": ..., "every": ...}` or None, which `from_json` reads."""
    return None if mask is None else choices.to_json(mask, MASKS)


def from_json(data: Mapping[str, Any] | None) -> NLPO | None:
    """Return the mask that `to_json` described; raises `ValueError` as `parse` does."""
    return None if data is None else cast(NLPO, choices.from_json(data, MASKS, "mask"))
