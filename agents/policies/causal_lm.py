"""A policy made of any `transformers` decoder: prefix in, next-token distribution and value out.

Token observations are [.., L] ids with the pad id V around them (textgym's layout). They are compacted: pads are dropped,
positions count from the first token. Acting decodes over a cache by slots; evaluating runs one forward per episode segment.
An action is one token, or a chunk of C tokens whose log-probability is the sum of theirs.
Axis legend: T steps, N rows of a cache, B rows, C tokens of a chunk, L observation columns, S segments, W compacted tokens,
K kept positions, M tokens that count, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import output_layer
from .common import Acted, Evaluated, Memory, acted, greedy, to_float64
from .decoders import cache_bytes, decoder_for, why_not_fast
from .evaluating import evaluate_segments, logits_where, segment_distributions, segment_values
from .local_models import load_model, new_gpt2, no_bars
from .prefixes import compact, counted_tokens, room_left
from .slots import Cache, Slots, SomeSlots, built, read
from .steady import promise
from .value_head import value_head_for

VALUE_HEAD = "value_head.safetensors"
NUM_CACHES = 3  # are kept at most: those of training, of its forks and of evaluation

Ahead = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # from the first j tokens of chunks [N, j] to the masks [N, V] of the next one


class CausalLMPolicy(nn.Module):
    """A decoder with a linear value head on the hidden state that its output layer reads.

    `vocab_size` is the tokenizer's: the environment's action alphabet, and the id of its pad. Embedding rows beyond it
    are never sampled. Dropout is off, always: what acts and what is evaluated are one distribution.

    Acting decodes over slots of keys and values (`use_cache`), by a decoder of our own where the library's class is one that it knows exactly
    (`fast`; see `decoders.why_not_fast`). `acting_dtype=torch.bfloat16` decodes in half precision, which is faster and coarser: evaluating stays as
    it is, and how far the two differ is the metric `ratio_error` of every algorithm.

    `chunk` is how many tokens an action has, as the environment's option of that name. Of a chunk, only those tokens count that can
    be written: none behind one of `stop_ids` (EOS, the ends of a turn), none beyond the last column. The others are 0, are in no
    log-probability, and the environment drops them. A token that it drops for a reason that cannot be seen here (a stop id that was
    not named; the budget of a task that answers back, whose answers have columns too) does count: that is noise, but no bias.
    """

    sequential = True

    def __init__(
        self,
        model: nn.Module,
        vocab_size: int,
        *,
        use_cache: bool = True,
        fast: bool = True,
        acting_dtype: torch.dtype | None = None,
        chunk: int = 1,
        stop_ids: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"An action has at least one token, got chunk={chunk}.")
        if wrong := [i for i in stop_ids if not 0 <= i < vocab_size]:
            raise ValueError(f"stop_ids are token ids in [0, {vocab_size}), got {wrong[0]}.")
        rows = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if vocab_size > rows:
            raise ValueError(
                f"The tokenizer has {vocab_size} ids, the model embeds {rows}: ids from {rows} on would be out of range. "
                f"Call model.resize_token_embeddings({vocab_size}), or use the model's own tokenizer."
            )
        self.model, self.vocab_size, self.chunk = model.eval(), vocab_size, chunk
        self.use_cache, self.fast, self.acting_dtype = use_cache, fast, acting_dtype
        self.stops = np.isin(np.arange(vocab_size), list(stop_ids))  # [V]
        self.value_head = value_head_for(output_layer.layer_of(model))
        self._head: tuple[object, Any] = None, None  # the value head's arrays, and the promise under which they were looked up
        self._caches: dict[tuple[str | int, ...], Cache] = {}  # by what for, and by the shape of the observations
        self.eval()

    def train(self, mode: bool = True) -> CausalLMPolicy:
        """Stay in evaluation mode, whatever is asked for: dropout would make acting and evaluating disagree."""
        return super().train(False)

    # -- acting ---------------------------------------------------------------------------------------------------------

    def initial_state(self, num_envs: int) -> Slots | None:
        """Return nothing yet: the cache is laid out at the first observation, which tells its width."""
        return None

    @torch.inference_mode()
    def act(
        self,
        observations: NDArray[Any],
        state: Slots | None,
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | Ahead | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return sampled next tokens [N], or chunks of them [N, C], their log-probabilities and values [N].

        The log-probability of a chunk is the sum over the tokens that count. Its masks are [N, C * V], or asked for token by token: what was
        answered then comes back in `Acted.action_masks`.
        Slots are trusted only where the weights are those that filled them, and only as far as the prefix repeats what they have seen; so `starts` need
        not be looked at.
        """
        if self.chunk > 1 or callable(action_masks):
            return self._act_chunks(observations, state, generator, action_masks, temperature)
        logits, heads, state = self._step(observations, state)
        one = acted(logits, heads, state, generator, action_masks, temperature)
        if state is not None:
            state.drawn(one.actions)
        return one

    def _act_chunks(
        self,
        observations: NDArray[Any],
        state: Slots | None,
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | Ahead | None,
        temperature: float,
    ) -> Acted:
        """Do what `act` promises for chunks: one token after the other, on the rows that go on."""
        num_rows, asked = len(observations), callable(action_masks)
        masks = np.ones((num_rows, self.chunk, self.vocab_size), np.bool_) if asked else None
        masks = action_masks.reshape(num_rows, self.chunk, -1) if isinstance(action_masks, np.ndarray) else masks
        prefixes, room = np.array(observations, dtype=np.int64), room_left(observations, self.vocab_size)
        actions, log_probs, values = np.zeros((num_rows, self.chunk), np.int64), np.zeros(num_rows), np.zeros(0)
        rows = np.arange(num_rows)  # those that go on
        for j in range(self.chunk):
            if callable(action_masks) and masks is not None:
                masks[rows, j] = action_masks(actions[:, :j])[rows]
            logits, heads, state = self._step(prefixes, state, rows)
            one = acted(logits, heads, state, generator, None if masks is None else masks[rows, j], temperature)
            actions[rows, j], log_probs[rows] = one.actions, log_probs[rows] + one.log_probs
            if state is not None:
                state.drawn(one.actions, rows)
            values = one.values if j == 0 else values
            rows = rows[(j + 1 < room[rows]) & ~self.stops[one.actions]]
            if not len(rows):
                break
            prefixes[rows, prefixes.shape[1] - room[rows] + j] = actions[rows, j]
        told = masks.reshape(num_rows, -1) if asked and masks is not None else None
        return Acted(actions if self.chunk > 1 else actions[:, 0], log_probs, values, state, told)

    def acts_by(self, num_envs: int, width: int) -> str:
        """Return in words which decoder `num_envs` rows of `width` columns are played by, why, and how much memory its cache takes."""
        if not self.use_cache:
            return "without a cache: every prefix is read again at every step"
        size = cache_bytes(self.model, num_envs, width, self.acting_dtype, fast=self.fast) / 2**20
        reason = why_not_fast(self.model, width) if self.fast else "fast=False"
        which = "the library's forward" if reason else "the fast decoder of " + type(self.model).__name__
        return f"{which}{f' ({reason})' if reason else ''}, {num_envs} slots of {width} tokens, {size:,.1f} MiB"

    def counted(self, observations: NDArray[np.int64], actions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which tokens of actions [..., C] after prefixes [..., L] count, bool [..., C]; C is 1 where actions are single tokens [...]."""
        chunks = actions.reshape(*observations.shape[:-1], self.chunk)
        return counted_tokens(chunks, room_left(observations, self.vocab_size), self.stops)

    def _step(self, prefixes: NDArray[np.int64], state: Slots | None, rows: NDArray[np.int64] | None = None) -> tuple[Tensor, Tensor, Slots | None]:
        """Return logits [B, V] and values [B] at the ends of the prefixes [N, L] of `rows` [B] (in ascending order; None: all), and the slots."""
        if not self.use_cache:
            self.check_width(prefixes.shape[1])
            tokens, lengths = compact(prefixes if rows is None else prefixes[rows], self.vocab_size)
            return (*self._last(tokens, lengths), None)
        if state is None or state.seen.shape != prefixes.shape or state.cache.model is not self.model or state.cache.kind != (self.fast, self.acting_dtype):
            state = Slots(self._cache(prefixes.shape), np.full(prefixes.shape, self.vocab_size, np.int64))
        decoder = state.hold()
        try:
            for part in state.unread(prefixes, self.vocab_size, rows):
                logits, hidden = read(decoder, part)
        except BaseException:
            state.cache.holder = None  # what was to be read may not have been
            raise
        known = logits if logits.shape[1] == self.vocab_size else logits[:, : self.vocab_size]
        return known, self.values_of(hidden), state

    @torch.inference_mode()
    def fork_state(self, state: Slots | None, rows: NDArray[np.int64]) -> Slots | None:
        """Return a state of play for copies of `rows` [B] of the rows that `state` is of: their keys and values are copied, not computed anew."""
        if state is None or state.cache.model is not self.model:
            return None
        return state.fork(rows, self._cache((len(rows), state.seen.shape[1]), "forks"))

    def _cache(self, shape: tuple[int, ...], use: str = "play") -> Cache:
        """Return a cache for prefixes of that shape [N, L]: one that was made before, if the model is still built as it was then."""
        kept = self._caches.pop((use, *shape), None)
        if kept is None or kept.model is not self.model or kept.kind != (self.fast, self.acting_dtype):
            self.check_width(shape[1])
            kept = Cache(
                self.model, (self.fast, self.acting_dtype), partial(decoder_for, self.model, shape[0], shape[1], fast=self.fast, dtype=self.acting_dtype)
            )
        elif built(self.model) != kept.built:
            kept.renew()
        self._caches[use, *shape] = kept  # the newest is the last
        for oldest in list(self._caches)[:-NUM_CACHES]:
            del self._caches[oldest]
        return kept

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle takes along: no caches, which are large and soon made anew."""
        return self.__dict__ | {"_caches": {}, "_head": (None, None)}

    # -- evaluating -----------------------------------------------------------------------------------------------------

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-probabilities, values and entropies [T, B] of actions [T, B], or of chunks [T, B, C], after prefixes [T, B, L].

        One forward per episode segment: the last prefix of a segment, with its chunk behind it, holds all earlier ones, and token j of
        action t stands j tokens behind the end of prefix t. Where observations do not extend one another every step is a segment of its own.
        The entropy of a chunk is the sum of those of the distributions that its counted tokens were drawn from: its mean over chunks is theirs.
        """
        self.check_width(observations.shape[-1])
        return evaluate_segments(self, observations.cpu().numpy(), actions.cpu().numpy(), action_masks, temperature)

    def distributions(self, observations: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None) -> Tensor:
        """Return the log-probabilities [T, B, V] of all next tokens after prefixes [T, B, L]; raises `ValueError` where actions are chunks."""
        self.check_width(observations.shape[-1])
        return segment_distributions(self, observations.cpu().numpy(), action_masks, temperature)

    def evaluate_values(self, observations: Tensor) -> Tensor:
        """Return the values [T, B] of prefixes [T, B, L], with gradients where they are enabled: all that a critic of its own is asked for."""
        self.check_width(observations.shape[-1])
        return segment_values(self, observations.cpu().numpy())

    @torch.inference_mode()
    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return V [B] of prefixes [B, L]; with `state`, the slots of their rows (`Slots.of_rows`), only what these have not read is read."""
        if not isinstance(state, SomeSlots):
            return to_float64(self._last(*compact(observations, self.vocab_size))[1])
        every = state.with_prefixes(observations)
        return to_float64(self._step(every, state.slots, state.rows)[1])

    def next_token_logits(self, tokens: Tensor, asked: Tensor | None = None) -> Tensor:
        """Return logits [B, W, V] of right-padded token sequences [B, W], with gradients where they are enabled.

        With `asked`, bool [B, W], those of the places alone that are asked for, [M, V], row after row: nothing else is computed, pads least of all.
        """
        if asked is not None and asked.any():
            return logits_where(self, tokens.cpu().numpy(), asked.cpu().numpy())
        every = self.forward_tokens(tokens.to(self._device), tokens.shape[1])[0]
        return every if asked is None else every[asked.to(self._device)]

    def predict(
        self, obs: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the most likely token of each row, or a chunk of such, as other libraries' evaluators ask for it; `deterministic` must be True."""
        return greedy(self, obs, state, episode_start, deterministic, obs_ndim=1)

    # -- the model ------------------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]
        return dtype

    @property
    def _device(self) -> torch.device:
        return self.value_head.weight.device

    def check_width(self, width: int) -> None:
        """Raise `ValueError` if the model knows fewer positions than `width`, or has other angles for all of them in texts as long as that."""
        limit, rope = getattr(self.model.config, "max_position_embeddings", None), getattr(self.model.config, "rope_parameters", None) or {}
        if isinstance(limit, int) and width > limit:
            raise ValueError(f"Observations hold up to {width} tokens, the model knows {limit} positions: use a shorter budget or a longer model.")
        if rope.get("rope_type") == "longrope" and width > rope["original_max_position_embeddings"]:
            raise ValueError(
                f"Observations hold up to {width} tokens, and beyond {rope['original_max_position_embeddings']} this model turns all positions by other angles "
                "(longrope): what it says of a token would depend on how long the texts beside it are. Use a shorter budget."
            )

    def forward_tokens(self, ids: Tensor, keep: int, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, V] and hidden states [B, K, H] of the last `keep` positions.

        Right-padded ids need no mask: under causal attention no token looks at what stands to its right.
        """
        ids = ids.to(self._device)
        logits, hidden = output_layer.forward(self.model, input_ids=ids, logits_to_keep=keep, **({"use_cache": False} | inputs))
        return logits[..., : self.vocab_size], hidden

    def _last(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        keep = tokens.shape[1] - int(lengths.min()) + 1
        logits, hidden = self.forward_tokens(torch.from_numpy(tokens).to(self._device), keep)
        at, last = torch.arange(len(tokens), device=self._device), torch.from_numpy(lengths - 1 - (tokens.shape[1] - keep)).to(self._device)
        return logits[at, last], self.values_of(hidden[at, last])

    def values_of(self, hidden: Tensor) -> Tensor:
        """Return values [...] of hidden states [..., H]."""
        if not torch.is_grad_enabled() and hidden.device.type == "cpu":
            dtype, arrays = self._head_arrays()
            if hidden.dtype == dtype and arrays is not None:
                return torch.from_numpy(np.dot(hidden.numpy(), arrays[0]) + arrays[1])  # PyTorch's BLAS takes long for one column
        head = self.value_head
        return head(hidden.to(head.weight.dtype)).squeeze(-1)

    def _head_arrays(self) -> tuple[torch.dtype, tuple[NDArray[Any], NDArray[Any]] | None]:
        """Return the value head's precision, and its weight [H] and bias [1] where NumPy has it: looked up once where weights are promised not to change."""
        now = promise()
        if now is None or self._head[0] is not now:
            weight, bias = self.value_head.weight.detach(), self.value_head.bias.detach()
            self._head = now, (weight.dtype, (weight.numpy()[0], bias.numpy()) if weight.dtype in (torch.float32, torch.float64) else None)
        return self._head[1]

    # -- files ----------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write the model in `save_pretrained` layout (safetensors) and the value head beside it."""
        folder = Path(folder)
        with no_bars():
            self.model.save_pretrained(folder)  # type: ignore[operator]
        metadata = {"vocab_size": str(self.vocab_size)}
        save_file({name: t.contiguous() for name, t in self.value_head.state_dict().items()}, str(Path(folder) / VALUE_HEAD), metadata)

    @classmethod
    def load(cls, folder: Path | str, vocab_size: int | None = None, *, chunk: int = 1, stop_ids: Sequence[int] = ()) -> CausalLMPolicy:
        """Return the policy that `save` wrote; any local folder of a causal `transformers` model works too, with a new value head.

        Such a folder does not know the tokenizer: then `vocab_size` must be given. How weights are played is no part of a folder:
        `chunk` and `stop_ids` are those of the constructor. Weights keep the precision that they were saved in: call `float()` on a policy in half
        precision before it is trained, which loses most of the optimiser's small steps otherwise.
        """
        head = Path(folder) / VALUE_HEAD
        if vocab_size is None:
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"{folder} is not a folder; give one that CausalLMPolicy.save or save_pretrained wrote.")
            if not head.exists():
                raise ValueError(f"{folder} holds no {VALUE_HEAD}, so it does not say how many ids the tokenizer has: pass vocab_size.")
            with safe_open(str(head), "pt") as file:
                vocab_size = int(file.metadata()["vocab_size"])
        policy = cls(load_model(folder), vocab_size, chunk=chunk, stop_ids=stop_ids)
        if head.exists():
            policy.value_head.load_state_dict(load_file(str(head)))
        return policy


def small_gpt2(
    vocab_size: int, num_positions: int, *, eos_id: int | None = None, width: int = 64, layers: int = 2, heads: int = 4, chunk: int = 1, seed: int = 0
) -> CausalLMPolicy:
    """Return a policy on an untrained GPT-2 of that size, its weights drawn from `seed`.

    `eos_id` is written into the model's configuration, where `generate` of `transformers` looks for it, and stops a chunk.
    """
    model = new_gpt2(vocab_size, num_positions, eos_id=eos_id, width=width, layers=layers, heads=heads, seed=seed)
    return CausalLMPolicy(model, vocab_size, chunk=chunk, stop_ids=() if eos_id is None else (eos_id,))
