"""A policy made of any `transformers` decoder: prefix in, next-token distribution and value out.

Token observations are [.., L] ids with the pad id V around them (textgym's layout). They are compacted: pads are dropped,
positions count from the first token. Acting decodes over a cache by slots; evaluating runs one forward per episode segment.
Axis legend: T steps, N rows of a cache, B rows, L observation columns, S segments, W compacted tokens, K kept positions,
H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .common import Acted, Evaluated, Memory, acted, evaluated, greedy, to_float64, weights_version
from .seeding import seeded
from .slot_cache import SlotCache

VALUE_HEAD = "value_head.safetensors"


@dataclass
class Slots:
    """What the cache holds: keys and values under weights of one version, and the prefix [N, L] that each slot has seen.

    It is changed in place: whoever still holds an older position of play learns from it what the slots hold by now.
    """

    cache: SlotCache
    seen: NDArray[np.int64]  # [N, L] the last observation
    lengths: NDArray[np.int64]  # [N] how many of its tokens are cached
    version: tuple[tuple[int, int], ...]  # see `weights_version`


class CausalLMPolicy(nn.Module):
    """A decoder with a linear value head on the hidden state that its output layer reads.

    `vocab_size` is the tokenizer's: the environment's action alphabet, and the id of its pad. Embedding rows beyond it
    are never sampled. Dropout is off, always: what acts and what is evaluated are one distribution.
    """

    sequential = True

    def __init__(self, model: nn.Module, vocab_size: int, *, use_cache: bool = True) -> None:
        super().__init__()
        rows = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if vocab_size > rows:
            raise ValueError(
                f"The tokenizer has {vocab_size} ids, the model embeds {rows}: ids from {rows} on would be out of range. "
                f"Call model.resize_token_embeddings({vocab_size}), or use the model's own tokenizer."
            )
        self.model, self.vocab_size, self.use_cache = model.eval(), vocab_size, use_cache
        head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        weight: Tensor = head.weight  # type: ignore[assignment]
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.value_head = nn.utils.skip_init(nn.Linear, weight.shape[1], 1, dtype=dtype, device=weight.device)  # it draws nothing: it begins at 0
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._head_input: Tensor | None = None
        head.register_forward_pre_hook(self._keep_head_input)
        self.eval()

    def train(self, mode: bool = True) -> CausalLMPolicy:
        """Stay in evaluation mode, whatever is asked for: dropout would make acting and evaluating disagree."""
        return super().train(False)

    def _keep_head_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # The one place where every decoder shows its final hidden states at just the kept positions.
        self._head_input = inputs[0]

    # -- acting ---------------------------------------------------------------------------------------------------------

    def initial_state(self, num_envs: int) -> Slots | None:
        """Return nothing yet: the cache is laid out at the first observation, which tells its width."""
        return None

    @torch.no_grad()
    def act(
        self,
        observations: NDArray[Any],
        state: Slots | None,
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return sampled next tokens, their log-probabilities and values [N].

        Slots are trusted only where the weights are those that filled them and the prefix extends the one seen.
        """
        self.check_width(observations.shape[-1])
        logits, values, state = self._step(observations, state, starts)
        return acted(logits, values, state, generator, action_masks, temperature)

    def _step(self, observations: NDArray[np.int64], state: Slots | None, starts: NDArray[np.bool_]) -> tuple[Tensor, Tensor, Slots | None]:
        tokens, lengths = compact(observations, self.vocab_size)
        if not self.use_cache:
            return (*self._last(tokens, lengths), None)
        state = self._trusted(observations, state, starts)
        new = lengths - np.minimum(state.lengths, lengths - 1)
        logits = torch.empty(len(tokens), self.vocab_size, dtype=self._dtype, device=self._device)
        values = torch.empty(len(tokens), dtype=self.value_head.weight.dtype, device=self._device)
        # One token a row is the common case; rows that begin anew (or got an answer) are encoded together beside it.
        for rows in (np.flatnonzero(new == 1), np.flatnonzero(new > 1)):
            if len(rows):
                at = torch.from_numpy(rows).to(self._device)
                logits[at], values[at] = self._extend(state.cache, tokens[rows], lengths[rows], new[rows], at)
        state.seen, state.lengths = observations.copy(), lengths
        return logits, values, state

    def _trusted(self, observations: NDArray[np.int64], state: Slots | None, starts: NDArray[np.bool_]) -> Slots:
        num_rows, width = observations.shape
        version = weights_version(self.model)
        if state is None or state.seen.shape != observations.shape:
            config = self.model.config.get_text_config()  # type: ignore[operator, union-attr]
            window = getattr(config, "sliding_window", None)
            if isinstance(window, int) and window < width:
                raise ValueError(f"This model attends to {window} tokens at a time, observations hold up to {width}; pass use_cache=False to the policy.")
            cache = SlotCache(num_rows, width, config.num_hidden_layers)
            return Slots(cache, np.full_like(observations, self.vocab_size), np.zeros(num_rows, np.int64), version)
        same = ((state.seen == observations) | (state.seen == self.vocab_size)).all(1) & ~starts
        same &= (state.seen != self.vocab_size).argmax(1) == (observations != self.vocab_size).argmax(1)
        state.lengths, state.version = np.where(same & (state.version == version), state.lengths, 0), version
        return state

    def _extend(self, cache: SlotCache, tokens: NDArray[np.int64], lengths: NDArray[np.int64], new: NDArray[np.int64], rows: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the last `new` [B] tokens of each row into its slot; return logits [B, V] and values [B] at its end."""
        first, width = lengths - new, int(new.max())
        columns = np.minimum(first[:, None] + np.arange(width), tokens.shape[1] - 1)
        ids = torch.from_numpy(np.take_along_axis(tokens, columns, 1)).to(self._device)
        positions, mask = cache.place(rows, torch.from_numpy(first).to(self._device), width, self._dtype)
        keep = width - int(new.min()) + 1
        logits, hidden = self._forward(ids, keep, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True)
        last = torch.from_numpy(new - 1 - (width - keep)).to(self._device)
        at = torch.arange(len(last), device=self._device)
        return logits[at, last], self._values(hidden[at, last])

    # -- evaluating -----------------------------------------------------------------------------------------------------

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-probabilities, values and entropies [T, B] of token observations [T, B, L].

        One forward per episode segment: the last prefix of a segment holds all earlier ones, and action t stands where
        prefix t ends. Where observations do not extend one another every step is a segment of its own.
        """
        self.check_width(observations.shape[-1])
        prefixes = observations.cpu().numpy()
        last, segment = segments(prefixes, self.vocab_size)
        lengths = (prefixes != self.vocab_size).sum(-1)  # [T, B]
        tokens, _ = compact(prefixes.reshape(-1, prefixes.shape[-1])[last], self.vocab_size)
        keep = tokens.shape[1] - int(lengths.min()) + 1
        logits, hidden = self._forward(torch.from_numpy(tokens).to(self._device), keep)
        at = torch.from_numpy(segment).to(self._device)
        where = torch.from_numpy(lengths - 1 - (tokens.shape[1] - keep)).to(self._device)
        return evaluated(logits[at, where], self._values(hidden[at, where]), actions, action_masks, temperature)

    @torch.no_grad()
    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return V [B] of prefixes [B, L]."""
        return to_float64(self._last(*compact(observations, self.vocab_size))[1])

    def next_token_logits(self, tokens: Tensor) -> Tensor:
        """Return logits [B, W, V] of right-padded token sequences [B, W], with gradients where they are enabled."""
        return self._forward(tokens.to(self._device), tokens.shape[1])[0]

    def predict(
        self, obs: NDArray[Any], state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.int64], Any]:
        """Return the most likely token of each row, as other libraries' evaluators ask for it; `deterministic` must be True."""
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
        """Raise `ValueError` if the model knows fewer positions than `width`."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if isinstance(limit, int) and width > limit:
            raise ValueError(f"Observations hold up to {width} tokens, the model knows {limit} positions: use a shorter budget or a longer model.")

    def _forward(self, ids: Tensor, keep: int, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, V] and hidden states [B, K, H] of the last `keep` positions.

        Right-padded ids need no mask: under causal attention no token looks at what stands to its right.
        """
        logits = self.model(input_ids=ids, logits_to_keep=keep, **({"use_cache": False} | inputs)).logits
        if self._head_input is None:
            raise TypeError(f"{type(self.model).__name__} did not call its output embeddings; a causal language model is needed.")
        hidden, self._head_input = self._head_input, None
        return logits[..., : self.vocab_size], hidden

    def _last(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        keep = tokens.shape[1] - int(lengths.min()) + 1
        logits, hidden = self._forward(torch.from_numpy(tokens).to(self._device), keep)
        at, last = torch.arange(len(tokens), device=self._device), torch.from_numpy(lengths - 1 - (tokens.shape[1] - keep)).to(self._device)
        return logits[at, last], self._values(hidden[at, last])

    def _values(self, hidden: Tensor) -> Tensor:
        return self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1)

    # -- files ----------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write the model in `save_pretrained` layout (safetensors) and the value head beside it."""
        folder = Path(folder)
        with _no_bars():
            self.model.save_pretrained(folder)  # type: ignore[operator]
        metadata = {"vocab_size": str(self.vocab_size)}
        save_file({name: t.contiguous() for name, t in self.value_head.state_dict().items()}, str(Path(folder) / VALUE_HEAD), metadata)

    @classmethod
    def load(cls, folder: Path | str, vocab_size: int | None = None) -> CausalLMPolicy:
        """Return the policy that `save` wrote; any local folder of a causal `transformers` model works too, with a new value head.

        Such a folder does not know the tokenizer: then `vocab_size` must be given.
        """
        head = Path(folder) / VALUE_HEAD
        if vocab_size is None:
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"{folder} is not a folder; give one that CausalLMPolicy.save or save_pretrained wrote.")
            if not head.exists():
                raise ValueError(f"{folder} holds no {VALUE_HEAD}, so it does not say how many ids the tokenizer has: pass vocab_size.")
            with safe_open(str(head), "pt") as file:
                vocab_size = int(file.metadata()["vocab_size"])
        policy = cls(load_model(folder), vocab_size)
        if head.exists():
            policy.value_head.load_state_dict(load_file(str(head)))
        return policy


def small_gpt2(
    vocab_size: int, num_positions: int, *, eos_id: int | None = None, width: int = 64, layers: int = 2, heads: int = 4, seed: int = 0
) -> CausalLMPolicy:
    """Return a policy on an untrained GPT-2 of that size, its weights drawn from `seed`.

    `eos_id` is written into the model's configuration, where `generate` of `transformers` looks for it.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=num_positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own formula in one kernel: 1.4 times faster to train at this size
        initializer_range=0.08,  # GPT-2's 0.02 is meant for a width of 768
        bos_token_id=eos_id,
        eos_token_id=eos_id,
    )
    with seeded(seed):
        return CausalLMPolicy(GPT2LMHeadModel(config), vocab_size)


def load_model(folder: Path | str) -> nn.Module:
    """Return the causal language model in a local folder; nothing is ever fetched."""
    from transformers import AutoModelForCausalLM

    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: give a folder written by save_pretrained (nothing is fetched from a hub).")
    with _no_bars():
        model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the library's progress bars for weights, which break into ours, off the screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def compact(observations: NDArray[np.int64], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the tokens [B, W] of prefixes [B, L] shifted to the left (0 where there is none) and their lengths [B]."""
    real = observations != pad
    lengths, first = real.sum(1), real.argmax(1)
    if not lengths.all():
        raise ValueError("An observation holds no token at all: it is the pad id everywhere.")
    columns = np.arange(int(lengths.max()))
    tokens = np.take_along_axis(observations, np.minimum(first[:, None] + columns, observations.shape[1] - 1), 1)
    return np.where(columns < lengths[:, None], tokens, 0), lengths


def segments(observations: NDArray[np.int64], pad: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which flat steps (t * B + b) [S] end a segment, and the segment [T, B] that each step belongs to.

    Step t + 1 continues step t where its prefix begins in the same column, is longer, and repeats every token.
    """
    num_steps, num_rows = observations.shape[:2]
    before, after = observations[:-1], observations[1:]
    real = observations != pad
    lengths, first = real.sum(-1), real.argmax(-1)
    extends = ((before == after) | ~real[:-1]).all(-1) & (lengths[1:] > lengths[:-1]) & (first[1:] == first[:-1])
    ends = np.concatenate([~extends, np.ones((1, num_rows), np.bool_)])  # [T, B]
    by_row = ends.T.reshape(-1)  # row after row, so that a segment is a run of steps
    number = np.concatenate([[0], np.cumsum(by_row)[:-1]]).reshape(num_rows, num_steps).T
    order = np.flatnonzero(by_row)
    return (order % num_steps) * num_rows + order // num_steps, number
