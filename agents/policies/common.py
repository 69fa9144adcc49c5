"""What policies share: their results, and sampling by inverse CDF.

Axis legend: T steps, N environments, B rows, A actions, C tokens of a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Acted(NamedTuple):
    """One step of N rows."""

    actions: NDArray[Any]  # int64 [N], or chunks of tokens [N, C]; real numbers [N, *]
    log_probs: NDArray[np.float64]  # [N] of the distribution sampled from, mask and temperature included
    values: NDArray[np.float64]  # [N]
    state: Any
    action_masks: NDArray[np.bool_] | None = None  # [N, C * V] that a chunk was sampled under, where they were asked for token by token


class Evaluated(NamedTuple):
    """What the present weights say about T steps of B rows that were played before."""

    log_probs: Tensor  # [T, B]
    values: Tensor  # [T, B]
    entropy: Tensor  # [T, B] nats, of the masked and tempered distribution


class Memory(NamedTuple):
    """What a recurrent policy needs to go through steps again."""

    state: Tensor  # [B, H] remembered before the first step
    starts: Tensor  # [T, B] bool: the observation begins an episode, nothing is remembered


def acted(logits: Tensor, values: Tensor, state: Any, generator: np.random.Generator, action_masks: NDArray[np.bool_] | None, temperature: float) -> Acted:
    """Return sampled actions from logits [N, A], with their log-probabilities, values [N] and the next state."""
    log_probs = log_distribution(logits, None if action_masks is None else torch.from_numpy(action_masks), temperature)
    actions = sample(log_probs, generator)
    return Acted(actions.cpu().numpy(), to_float64(picked(log_probs, actions)), to_float64(values), state)


def evaluated(logits: Tensor, values: Tensor, actions: Tensor, action_masks: Tensor | None, temperature: float) -> Evaluated:
    """Return what logits [T, B, A] and values [T, B] say of actions [T, B]."""
    log_probs = log_distribution(logits, action_masks, temperature)
    return Evaluated(picked(log_probs, actions.to(log_probs.device)), values, entropy_of(log_probs))


def greedy(policy: Any, obs: NDArray[Any], state: Any, episode_start: Any, deterministic: bool, obs_ndim: int) -> tuple[Any, Any]:
    """Return the most likely action of each row, or of the one observation if `obs` has `obs_ndim` dimensions, and the next state.

    It is what `predict` of every policy does: other libraries' evaluators call that. Sampling needs a generator, for which
    their signature has no place: `deterministic` must be True.
    """
    if not deterministic:
        raise ValueError("predict() has no generator to sample with: pass deterministic=True, or sample by act().")
    obs = np.asarray(obs)
    batch = obs[None] if obs.ndim == obs_ndim else obs
    starts = np.ones(len(batch), np.bool_) if episode_start is None else np.asarray(episode_start, np.bool_)
    step = policy.act(batch, policy.initial_state(len(batch)) if state is None else state, starts, np.random.default_rng(0), temperature=0.0)
    return (step.actions[0] if obs.ndim == obs_ndim else step.actions), step.state


def log_distribution(logits: Tensor, action_masks: Tensor | None, temperature: float) -> Tensor:
    """Return normalised log-probabilities [..., A]; forbidden actions get -inf, temperature 0 leaves the best one only.

    Half precision becomes float32: a bfloat16 sum over a vocabulary is no distribution.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if action_masks is not None:
        action_masks = action_masks.to(logits.device)
        if not bool(action_masks.any(-1).all()):
            raise ValueError("An action mask allows nothing at all; a state that is not over needs at least one action.")
        logits = logits.masked_fill(~action_masks, -torch.inf)
    if temperature == 0.0:
        best = torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
        return best.log()
    return torch.log_softmax(logits / temperature if temperature != 1.0 else logits, dim=-1)


def sample(log_probs: Tensor, generator: np.random.Generator) -> Tensor:
    """Return one action a row, int64 [B], from normalised log-probabilities [B, A], with one uniform number a row.

    Inverse CDF: the first action whose cumulative probability exceeds the number; `torch.multinomial` is over ten
    times slower on a CPU. An action of probability 0 adds nothing to the sum and is never the first to exceed.
    """
    probabilities = log_probs.exp()
    cumulative = probabilities.cumsum(-1)
    uniform = torch.from_numpy(generator.random((len(log_probs), 1))).to(cumulative)
    actions = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp_(max=log_probs.shape[1] - 1)
    impossible = probabilities.gather(-1, actions) == 0  # rounding: the number met the whole sum, or a sum in parallel did not stand still
    if bool(impossible.any()):
        actions = torch.where(impossible, probabilities.argmax(-1, keepdim=True), actions)
    return actions.squeeze(1)


def entropy_of(log_probs: Tensor) -> Tensor:
    """Return the entropy [...] in nats of normalised log-probabilities [..., A]; 0 log 0 is 0, with a zero gradient."""
    safe = log_probs.masked_fill(log_probs == -torch.inf, 0.0)
    return -(log_probs.exp() * safe).sum(-1)


def picked(log_probs: Tensor, actions: Tensor) -> Tensor:
    """Return the log-probability [...] of each action [...] out of [..., A]."""
    return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def to_float64(values: Tensor) -> NDArray[np.float64]:
    """Return a tensor as a float64 array on the host."""
    array: NDArray[np.float64] = values.detach().to("cpu", torch.float64).numpy()
    return array


def weights_version(module: torch.nn.Module) -> tuple[tuple[int, int], ...]:
    """Return what changes whenever a weight is replaced, or written in place as optimisers and `load_state_dict` do.

    It is what tells a cache of keys and values that it has gone stale. Writing in place through `parameter.data` escapes it.
    """
    return tuple((parameter.data_ptr(), parameter._version) for parameter in module.parameters())
