"""A policy of Stable-Baselines3 around a language model: it decodes over a cache when it plays, and reads whole episodes when it learns.

Axis legend: N rows, B steps of a batch, C tokens of a chunk, L observation columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from ..policies import CausalLMPolicy, small_gpt2
from ..policies.common import Acted
from ..policies.slots import Slots
from .sb3_extractor import NORMALISED, token_shape


class TransformerPolicy(ActorCriticPolicy):
    """An `ActorCriticPolicy` that is a `CausalLMPolicy`: next-token distribution and value of a `transformers` decoder.

        PPO(TransformerPolicy, env, n_steps=16, batch_size=16 * env.num_envs)

    Playing reads one new token a row and step, over the policy's slots of keys and values. Learning sorts a batch of steps into chains of prefixes of
    which each holds the one before (`chained`) and reads each chain once. A shuffled batch that is a small part of a rollout holds few such
    chains: `batch_size = n_steps * n_envs` reads every episode once (A2C always does). Dropout is off.

    Args:
        observation_space, action_space, lr_schedule, use_sde: given by the algorithm.
        make: returns the `CausalLMPolicy`, as `functools.partial(CausalLMPolicy.load, "folder")` does; loading a saved model calls it again, so it must be
            picklable. Without it a small untrained GPT-2.
        seed: of sampling. Stable-Baselines3's own `seed` seeds environments and the order of batches, but not this.
        optimizer_class, optimizer_kwargs: as everywhere in Stable-Baselines3; Adam with eps 1e-5 if not given. Optimisers with `fused=True` are refused:
            they do not count their writes, and the cache would not notice that weights have changed.

    Raises:
        ValueError: if the observations are no token ids, the vocabulary is not the model's, or a choice above does not work here.
    """

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Callable[[float], float],
        use_sde: bool = False,
        *,
        make: Callable[[], CausalLMPolicy] | None = None,
        seed: int = 0,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if use_sde:
            raise ValueError("use_sde=True draws noise for real actions; tokens are sampled.")
        if optimizer_kwargs is not None and optimizer_kwargs.get("fused"):
            raise ValueError("fused=True writes weights unseen, and the cache of keys and values would go stale: leave it out.")
        self._make, self._seed = make, seed
        super().__init__(observation_space, action_space, lr_schedule, optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        """Make the model and its optimiser (the constructor of the class above calls this)."""
        pad, length = token_shape(self.observation_space, "TransformerPolicy")
        self.language_model = small_gpt2(pad, length) if self._make is None else self._make()
        self._check(pad)
        self._generator = np.random.default_rng(self._seed)
        self._state: Slots | None = None
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _check(self, pad: int) -> None:
        model, space = self.language_model, self.action_space
        if not isinstance(model, CausalLMPolicy):
            raise TypeError(f"make() must return a CausalLMPolicy, and returned {type(model).__name__}.")
        if model.vocab_size != pad:
            raise ValueError(f"The environment's vocabulary has {pad} ids, that of the policy {model.vocab_size}: one tokenizer must have made both.")
        chunk = 1 if isinstance(space, gym.spaces.Discrete) else int(space.shape[0])
        if model.chunk != chunk:
            raise ValueError(f"An action of the environment has {chunk} tokens, one of the policy {model.chunk}: build the policy with chunk={chunk}.")

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space, "lr_schedule": self._dummy_schedule}
        return {**spaces, "make": self._make, "seed": self._seed, "optimizer_class": self.optimizer_class, "optimizer_kwargs": self.optimizer_kwargs}

    # -- playing --------------------------------------------------------------------------------------------------------

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions [N] or [N, C], values [N, 1] and log-probabilities [N] after prefixes [N, L]."""
        step = self._act(obs, deterministic)
        values, log_probs = (torch.from_numpy(array).to(self.device, torch.float32) for array in (step.values, step.log_probs))
        return torch.from_numpy(step.actions).to(self.device), values[:, None], log_probs

    def _predict(self, observation: Tensor, deterministic: bool = False) -> Tensor:
        return torch.from_numpy(self._act(observation, deterministic).actions)

    def _act(self, obs: Tensor, deterministic: bool) -> Acted:
        prefixes = _ids(obs)
        starts = np.zeros(len(prefixes), np.bool_)  # not looked at: slots are trusted as far as a prefix repeats them
        step = self.language_model.act(prefixes, self._state, starts, self._generator, temperature=0.0 if deterministic else 1.0)
        self._state = step.state
        return step

    def predict_values(self, obs: Tensor) -> Tensor:
        """Return values [N, 1] after prefixes [N, L], without gradients."""
        prefixes, state = _ids(obs), self._state
        known = state is not None and state.seen.shape == prefixes.shape  # else it is asked of other rows, such as those that were truncated
        values = self.language_model.value(prefixes, state.of_rows(np.ones(len(prefixes), np.bool_)) if known and state is not None else None)
        return torch.from_numpy(values).to(self.device, torch.float32)[:, None]

    # -- learning -------------------------------------------------------------------------------------------------------

    def evaluate_actions(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values [B, 1], log-probabilities and entropies [B] of actions [B] or [B, C] after prefixes [B, L], in any order."""
        order = chained(_ids(obs), self.language_model.vocab_size)
        back = torch.from_numpy(np.argsort(order)).to(self.device)
        steps = torch.from_numpy(order).to(self.device)
        found = self.language_model.evaluate(obs[steps, None], actions.long()[steps, None])
        return found.values[back], found.log_probs[back, 0], found.entropy[back, 0]

    def get_distribution(self, obs: Tensor) -> Distribution:
        """Return the distribution of the next token after prefixes [N, L]; raises `ValueError` where actions are chunks."""
        return self.action_dist.proba_distribution(action_logits=self.language_model.distributions(obs[None])[0])


def _ids(obs: Tensor) -> NDArray[np.int64]:
    if obs.is_floating_point():
        raise ValueError(NORMALISED)
    return obs.cpu().numpy().astype(np.int64, copy=False)


def chained(prefixes: NDArray[np.int64], pad: int) -> NDArray[np.int64]:
    """Return an order [B] of prefixes [B, L] in which chains stand together, each prefix behind one that it continues, if there is one.

    Equal prefixes (two texts that begin alike) go into different chains. Every prefix continues the longest one that nothing has continued yet:
    in lexicographic order those that it may continue are on the stack of a walk through the tree of all prefixes.
    """
    keys = np.where(prefixes == pad, -1, prefixes)
    order = np.lexsort(keys.T[::-1])
    ordered = keys[order]
    ends = prefixes.shape[1] - (ordered >= 0)[:, ::-1].argmax(1)  # the column behind the last token
    differs = np.pad(ordered[1:] != ordered[:-1], ((0, 0), (0, 1)), constant_values=True)
    shared = [0, *differs.argmax(1).tolist()]  # columns that a prefix shares with the one before it, pads included
    chains: list[list[int]] = []
    stack: list[tuple[int, int]] = []  # (the column behind a prefix, its chain), of those that may still be continued
    for step, end, common in zip(order.tolist(), ends.tolist(), shared, strict=True):
        while stack and stack[-1][0] > common:
            stack.pop()
        before = len(stack) - 1
        while before >= 0 and stack[before][0] >= end:  # equal prefixes
            before -= 1
        if before < 0:
            chains.append([])
        number = stack.pop(before)[1] if before >= 0 else len(chains) - 1
        chains[number].append(step)
        stack.append((end, number))
    return np.array([step for chain in chains for step in chain], np.int64)
