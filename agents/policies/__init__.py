"""What acts: the Policy protocol, and the policies that follow it.

Axis legend: T steps, N environments, B rows of one call, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .causal_lm import CausalLMPolicy, small_gpt2
from .cnn import CNNPolicy
from .common import Acted, Evaluated, Memory
from .gaussian import GaussianPolicy
from .gru import GRUPolicy
from .lora import BareBase, load_adapter, merged, save_adapter, with_lora
from .mlp import MLPPolicy
from .seeding import seeded
from .separate import SeparateCritic
from .seq2seq import Seq2SeqPolicy, small_t5
from .tabular import TabularPolicy

__all__ = [
    "Acted",
    "BareBase",
    "CNNPolicy",
    "CausalLMPolicy",
    "Enumerable",
    "Evaluated",
    "GRUPolicy",
    "GaussianPolicy",
    "MLPPolicy",
    "Memory",
    "Policy",
    "SeparateCritic",
    "Seq2SeqPolicy",
    "TabularPolicy",
    "load_adapter",
    "merged",
    "save_adapter",
    "seeded",
    "small_gpt2",
    "small_t5",
    "with_lora",
]


class Policy(Protocol):
    """A distribution over actions and a value, for every observation."""

    sequential: bool  # true where `evaluate` reads columns as sequences: minibatches then keep columns whole

    def initial_state(self, num_envs: int) -> Any:
        """Return what the policy remembers about N rows before their first step (a cache, a hidden state)."""

    def act(
        self,
        observations: NDArray[Any],
        state: Any,
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return sampled actions [N, *], their log-probabilities and values [N], and the next state; temperature 0 is greedy."""

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-probabilities, values and entropies, tensors [T, B], with gradients where they are enabled; only recurrent policies need `memory`."""

    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return V(observations) [B], without gradients; `state` [B, H] is what a recurrent policy remembers of what came before."""

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Return what an optimiser may change."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put the weights back."""


@runtime_checkable
class Enumerable(Protocol):
    """A policy that can tell the chance of every action, as all here can but `GaussianPolicy` and those whose actions are chunks of tokens."""

    def distributions(self, observations: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None) -> Tensor:
        """Return normalised log-probabilities [T, B, A] of all actions, with gradients where they are enabled; what a mask forbids has -inf.

        Arguments are those of `Policy.evaluate`, which picks from this very table.
        """
