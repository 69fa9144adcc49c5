"""What policies share: their results, and sampling by inverse CDF.

Axis legend: T steps, N environments, B rows, A actions, C tokens of a chunk.
"""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 128  # actions whose probabilities are summed up at once
FEW = 2**13  # numbers in a table: up to there NumPy samples from it quicker, since each of its calls costs less than one of torch
NOTHING_ALLOWED = "An action mask allows nothing at all; a state that is not over needs at least one action."


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
    """Return sampled actions from logits [N, A], with their log-probabilities, values [N] and the next state; temperature 0 draws nothing."""
    if action_masks is not None and not action_masks.any(-1).all():
        raise ValueError(NOTHING_ALLOWED)
    scaled = tempered(logits, None if action_masks is None else torch.from_numpy(action_masks).to(logits.device), temperature)
    if temperature and scaled.numel() <= FEW and scaled.device.type == "cpu":
        return Acted(*sampled_from(scaled.detach().numpy(), generator), to_float64(values), state)
    if temperature == 0.0:
        actions = scaled.argmax(-1, keepdim=True)
        chances = torch.ones_like(actions, dtype=scaled.dtype)
    else:
        probabilities = torch.softmax(scaled, dim=-1)
        actions = sample(probabilities, generator)
        chances = probabilities.gather(-1, actions)
    chosen, chance, told = _on_host(actions, chances, values)
    if not (chance > 0).all():  # rounding: the number met the whole sum, or a sum in parallel did not stand still
        chosen, chance = _mended(chosen, chance, to_float64(probabilities))
    return Acted(chosen, np.log(chance), told, state)


@np.errstate(all="ignore")  # scores that are not finite come to nan, which is told below
def sampled_from(scores: NDArray[Any], generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return one action a row [N] from scores [N, A] by softmax and inverse CDF, and its log-probability [N]: what `acted` does, for small tables.

    Raises `FloatingPointError` if the probabilities are nan.
    """
    if len(scores) == 1:
        return _sampled_one(scores[0], generator)
    likely = scores - np.maximum.reduce(scores, axis=1, keepdims=True)
    np.exp(likely, out=likely)
    cumulative = torch.from_numpy(likely).cumsum(1).numpy()  # three times quicker than NumPy's
    total = cumulative[:, -1:]
    # The first sum that reaches the number, for the last one always does: an action of probability 0 is found where the number is 0, and that is mended.
    chosen = (cumulative >= (generator.random((len(scores), 1)) * total).astype(scores.dtype)).argmax(axis=1)
    chance = likely[np.arange(len(chosen)), chosen] / total[:, 0].astype(np.float64)
    if not np.minimum.reduce(chance) > 0:
        chosen, chance = _mended(chosen, chance, likely / total)
    return chosen, np.log(chance)


def _sampled_one(scores: NDArray[Any], generator: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Do for one row [A] what `sampled_from` does for many, with numbers in the place of arrays."""
    likely = np.exp(scores - np.maximum.reduce(scores))
    cumulative = np.add.accumulate(likely)
    total = float(cumulative[-1])
    chosen = int(cumulative.searchsorted(scores.dtype.type(generator.random() * total)))
    chance = float(likely[min(chosen, len(likely) - 1)]) / total
    if not chance > 0:
        found, certain = _mended(np.array([chosen]), np.array([chance]), likely[None] / total)
        return found, np.log(certain)
    return np.array([chosen]), np.array([math.log(chance)])


def _mended(chosen: NDArray[np.int64], chance: NDArray[np.float64], likely: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the best action of probabilities [N, A] instead of one that rounding chose, whose probability is 0; raise `FloatingPointError` for nan."""
    if np.isnan(chance).any():
        raise FloatingPointError("The policy's probabilities are nan: its weights are not finite. Load weights of before, and train with smaller steps.")
    wrong = chance == 0
    return np.where(wrong, likely.argmax(1), chosen), np.where(wrong, likely.max(1), chance)


def _on_host(actions: Tensor, chances: Tensor, values: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return actions and probabilities [N, 1] and values [N] as arrays [N]; from a GPU they come in one transfer, since each waits for it."""
    if actions.device.type == "cpu":
        return actions.numpy()[:, 0], to_float64(chances)[:, 0], to_float64(values)
    stacked = to_float64(torch.stack([actions[:, 0].double(), chances[:, 0].double(), values.detach().double()]))
    return stacked[0].astype(np.int64), stacked[1], stacked[2]


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
    if action_masks is not None:
        action_masks = action_masks.to(logits.device)
        if not bool(action_masks.any(-1).all()):
            raise ValueError(NOTHING_ALLOWED)
    scaled = tempered(logits, action_masks, temperature)
    if temperature == 0.0:
        best = torch.zeros_like(scaled).scatter(-1, scaled.argmax(-1, keepdim=True), 1.0)
        return best.log()
    return torch.log_softmax(scaled, dim=-1)


def tempered(logits: Tensor, action_masks: Tensor | None, temperature: float) -> Tensor:
    """Return logits [..., A] in float32 or better, -inf where forbidden, and divided by the temperature unless it is 0."""
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    if action_masks is not None:
        logits = logits.masked_fill(~action_masks, -torch.inf)
    return logits if temperature in (0.0, 1.0) else logits / temperature


def sample(probabilities: Tensor, generator: np.random.Generator) -> Tensor:
    """Return one action a row, int64 [B, 1], from probabilities [B, A], with one uniform number a row.

    Inverse CDF: the first action whose cumulative probability exceeds the number; `torch.multinomial` is over ten times slower on a CPU. An action
    of probability 0 adds nothing to the sum and is never the first to exceed, but for rounding at the ends of sums.
    Where there are many actions the sums of blocks are searched first, and then one block: a sum over all of them in order is slow.
    """
    number = torch.from_numpy(generator.random((len(probabilities), 1))).to(probabilities)
    num = probabilities.shape[1]
    if num <= 8 * BLOCK:
        cumulative = probabilities.cumsum(-1)
        return torch.searchsorted(cumulative, number * cumulative[:, -1:], right=True).clamp_(max=num - 1)
    whole = num - num % BLOCK
    sums = probabilities[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    if whole < num:
        sums = torch.cat([sums, probabilities[:, whole:].sum(-1, keepdim=True)], -1)
    cumulative = sums.cumsum(-1)
    number *= cumulative[:, -1:]
    block = torch.searchsorted(cumulative, number, right=True).clamp_(max=sums.shape[1] - 1)
    number -= cumulative.gather(1, block) - sums.gather(1, block)
    columns = block * BLOCK + torch.arange(BLOCK, device=block.device)
    inner = probabilities.gather(1, columns.clamp(max=num - 1)).masked_fill_(columns >= num, 0.0).cumsum(-1)
    return (block * BLOCK + torch.searchsorted(inner, number, right=True).clamp_(max=BLOCK - 1)).clamp_(max=num - 1)


def entropy_of(log_probs: Tensor) -> Tensor:
    """Return the entropy [...] in nats of normalised log-probabilities [..., A]; 0 log 0 is 0, with a zero gradient."""
    safe = log_probs.masked_fill(log_probs == -torch.inf, 0.0)
    return -(log_probs.exp() * safe).sum(-1)


def picked(log_probs: Tensor, actions: Tensor) -> Tensor:
    """Return the log-probability [...] of each action [...] out of [..., A]."""
    return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def to_float64(values: Tensor) -> NDArray[np.float64]:
    """Return a tensor as a float64 array on the host."""
    values = values.detach()
    if values.dtype.itemsize < 4:  # NumPy has no bfloat16
        values = values.float()
    array: NDArray[np.float64] = values.cpu().numpy().astype(np.float64)
    return array


Version = tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...]]


class WeightsWatch:
    """Tells whenever a weight of a module is replaced, or written in place as optimisers and `load_state_dict` do.

    It is what tells a cache of keys and values that it has gone stale; adapters (peft's) that are switched off, on or over count as well.
    What escapes it until the next reset of all rows: submodules that are exchanged, hooks that are added and adapters that are scaled. What escapes it
    for good: writing in place through `parameter.data`, and optimisers with `fused=True`, which do not count their writes (`Learner.step` does it for them).
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._places = [(one._parameters, name) for one in module.modules() for name, value in one._parameters.items() if value is not None]
        self._adapters = [one for one in module.modules() if hasattr(one, "_disable_adapters")]

    def __call__(self) -> Version:
        """Return what differs before and after."""
        weights = [holder[name] for holder, name in self._places]
        switches = tuple((one._disable_adapters, str(one._active_adapter)) for one in self._adapters)
        return tuple(map(Tensor.data_ptr, weights)), tuple(map(_WRITTEN, weights)), switches  # type: ignore[arg-type]


_WRITTEN = attrgetter("_version")
