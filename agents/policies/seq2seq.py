"""A policy made of any `transformers` encoder-decoder (T5, BART): the prompt is encoded, the continuation decoded.

Token observations are [.., L] ids with the pad id V around them (textgym's layout): columns [0, P) are the encoder's, those behind them,
after the model's start token, the decoder's. Pads are dropped on both sides. Acting encodes a prompt once and decodes the whole
continuation anew for every token (there is no cache of the decoder's keys and values: T5's relative positions are the same for all rows
of a batch, and ours stand in different places); evaluating runs encoder and decoder once per episode segment.
Axis legend: T steps, N rows of play, B rows, L observation columns, P prompt columns, S segments, W compacted tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .causal_lm import VALUE_HEAD
from .common import Acted, Evaluated, Memory, Version, WeightsWatch, acted, evaluated, greedy, log_distribution, to_float64
from .local_models import no_bars
from .prefixes import compact, segments, unmoved
from .seeding import seeded
from .value_head import value_head_for


@dataclass
class Encoded:
    """What the encoder said of each row's prompt under weights of one version. It is changed in place, as `Slots` are."""

    prompts: NDArray[np.int64]  # [N, P], -1 where nothing is encoded yet
    states: Tensor  # [N, P, H]
    watch: WeightsWatch
    version: Version


class Seq2SeqPolicy(nn.Module):
    """An encoder-decoder with a linear value head on the decoder's state that its output layer reads.

    `vocab_size` is the tokenizer's: the environment's action alphabet, and the id of its pad. Embedding rows beyond it are never sampled.
    `prompt_tokens` is P, the task's `max_prompt_tokens`. Dropout is off, always: what acts and what is evaluated are one distribution.
    """

    sequential = True

    def __init__(self, model: nn.Module, vocab_size: int, prompt_tokens: int) -> None:
        super().__init__()
        rows = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if vocab_size > rows:
            raise ValueError(
                f"The tokenizer has {vocab_size} ids, the model embeds {rows}: call model.resize_token_embeddings({vocab_size}), or use the model's tokenizer."
            )
        config: Any = model.config
        if not getattr(config, "is_encoder_decoder", False):
            raise TypeError(f"{type(model).__name__} has no encoder: CausalLMPolicy is for decoders.")
        if getattr(config, "decoder_start_token_id", None) is None:
            raise ValueError("The model does not say how a text begins: set model.config.decoder_start_token_id, T5's is its pad_token_id.")
        if prompt_tokens < 1:
            raise ValueError(f"An encoder reads at least one column, got prompt_tokens={prompt_tokens}: give the task's max_prompt_tokens.")
        self.model, self.vocab_size, self.prompt_tokens, self.start_id = model.eval(), vocab_size, prompt_tokens, int(config.decoder_start_token_id)
        head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        self.value_head = value_head_for(head)
        self.eval()

    def train(self, mode: bool = True) -> Seq2SeqPolicy:
        """Stay in evaluation mode, whatever is asked for: dropout would make acting and evaluating disagree."""
        return super().train(False)

    # -- acting ---------------------------------------------------------------------------------------------------------

    def initial_state(self, num_envs: int) -> Encoded | None:
        """Return nothing yet: prompts are encoded as they are seen."""
        return None

    @torch.no_grad()
    def act(
        self,
        observations: NDArray[Any],
        state: Encoded | None,
        starts: NDArray[np.bool_],
        generator: np.random.Generator,
        action_masks: NDArray[np.bool_] | None = None,
        temperature: float = 1.0,
    ) -> Acted:
        """Return sampled next tokens [N], their log-probabilities and values [N].

        What was encoded is trusted only under the weights that encoded it, and only where the prompt is the same.
        """
        self.check_width(observations.shape[-1])
        state = self._encoded(observations[:, : self.prompt_tokens], state)
        lengths = (state.prompts != self.vocab_size).sum(1)
        logits, values = self._heads(state.states[:, : int(lengths.max())], lengths, observations, np.arange(len(observations)), self._ends(observations))
        return acted(logits, values, state, generator, action_masks, temperature)

    def _encoded(self, prompts: NDArray[np.int64], state: Encoded | None) -> Encoded:
        """Return what the encoder says of prompts [N, P], running it on those rows only whose prompt is new."""
        if state is None or state.prompts.shape != prompts.shape or state.watch() != state.version:
            hidden = self.value_head.in_features
            watch = WeightsWatch(self.model)
            state = Encoded(np.full_like(prompts, -1), torch.zeros(*prompts.shape, hidden, dtype=self._dtype, device=self._device), watch, watch())
        new = np.flatnonzero((state.prompts != prompts).any(1))
        if len(new):
            states, _ = self._encode(prompts[new])
            state.states[torch.from_numpy(new).to(self._device), : states.shape[1]] = states
            state.prompts[new] = prompts[new]
        return state

    # -- evaluating -----------------------------------------------------------------------------------------------------

    def evaluate(
        self, observations: Tensor, actions: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None
    ) -> Evaluated:
        """Return log-probabilities, values and entropies [T, B] of actions [T, B] after prefixes [T, B, L].

        One pass per episode segment: the last prefix of a segment holds all earlier ones, and all have its prompt.
        """
        logits, values = self._after(observations)
        return evaluated(logits, values, actions, action_masks, temperature)

    def distributions(self, observations: Tensor, action_masks: Tensor | None = None, temperature: float = 1.0, memory: Memory | None = None) -> Tensor:
        """Return the log-probabilities [T, B, V] of all tokens after prefixes [T, B, L], by segments as `evaluate` does."""
        return log_distribution(self._after(observations)[0], action_masks, temperature)

    def _after(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [T, B, V] and values [T, B] after prefixes [T, B, L], by segments."""
        self.check_width(observations.shape[-1])
        prefixes, prompt = observations.cpu().numpy(), slice(self.prompt_tokens)
        marked = prefixes.copy()  # pads of the prompt count as known: steps with different prompts never continue one another
        marked[..., prompt] = np.where(prefixes[..., prompt] == self.vocab_size, self.vocab_size + 1, prefixes[..., prompt])
        last, segment = segments(marked, self.vocab_size, again=unmoved(marked))
        whole = prefixes.reshape(-1, prefixes.shape[-1])[last]  # [S, L]
        return self._heads(*self._encode(whole[:, prompt]), whole, segment, self._ends(prefixes))

    @torch.no_grad()
    def value(self, observations: NDArray[Any], state: Any = None) -> NDArray[np.float64]:
        """Return V [B] of prefixes [B, L]."""
        self.check_width(observations.shape[-1])
        encoded = self._encode(observations[:, : self.prompt_tokens])
        return to_float64(self._heads(*encoded, observations, np.arange(len(observations)), self._ends(observations))[1])

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
        """Raise `ValueError` if nothing of `width` columns is left to generate, or the model knows too few positions."""
        if width <= self.prompt_tokens:
            raise ValueError(f"Observations have {width} columns, and prompt_tokens={self.prompt_tokens} of them are the prompt's: give max_prompt_tokens.")
        limit, needed = getattr(self.model.config, "max_position_embeddings", None), max(self.prompt_tokens, width - self.prompt_tokens + 1)
        if isinstance(limit, int) and needed > limit:
            raise ValueError(f"Encoder or decoder must hold {needed} tokens, the model knows {limit} positions: use a shorter budget or a longer model.")

    def _encode(self, prompts: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the encoder's states [B, W, H] of prompts [B, P], and how many of them count [B]."""
        if (prompts == self.vocab_size).all(1).any():
            raise ValueError(f"A prompt is empty: all its {self.prompt_tokens} columns are pads. Is prompt_tokens the task's max_prompt_tokens?")
        tokens, lengths = compact(prompts, self.vocab_size)
        ids = torch.from_numpy(tokens).to(self._device)
        states: Tensor = self.model.get_encoder()(input_ids=ids, attention_mask=self._mask(lengths, tokens.shape[1])).last_hidden_state  # type: ignore[operator]
        return states, lengths

    def _heads(
        self, states: Tensor, prompt_lengths: NDArray[np.int64], observations: NDArray[np.int64], at: NDArray[np.int64], where: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """Decode the continuations in observations [B, L]; return logits [..., V] and values [...] at rows `at` [...], positions `where` [...].

        Right-padded continuations need no mask: under causal attention no token looks at what stands to its right.
        """
        begun = np.concatenate([np.zeros((len(observations), 1), np.int64), observations[:, self.prompt_tokens :]], 1)
        tokens, _ = compact(begun, self.vocab_size)
        tokens[:, 0] = self.start_id  # only now: it may be the very id that pads have outside
        chosen, kept = (torch.from_numpy(at).to(self._device), torch.from_numpy(where).to(self._device)), list[Tensor]()

        def choose(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            kept.append(inputs[0][chosen])
            return kept[0]  # over a large vocabulary the output layer is most of the work: it looks only where it is asked

        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[operator]
        hook = head.register_forward_pre_hook(choose)
        try:
            logits = self.model(
                encoder_outputs=(states,),
                attention_mask=self._mask(prompt_lengths, states.shape[1]),
                decoder_input_ids=torch.from_numpy(tokens).to(self._device),
                use_cache=False,
            ).logits
        finally:
            hook.remove()
        if not kept:
            raise TypeError(f"{type(self.model).__name__} did not call its output embeddings; a model for conditional generation is needed.")
        return logits[..., : self.vocab_size], self.value_head(kept[0].to(self.value_head.weight.dtype)).squeeze(-1)

    def _ends(self, observations: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the decoder's positions [...] where prefixes [..., L] end; the start token stands at 0."""
        ends: NDArray[np.int64] = (observations[..., self.prompt_tokens :] != self.vocab_size).sum(-1)
        return ends

    def _mask(self, lengths: NDArray[np.int64], width: int) -> Tensor:
        return torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64)).to(self._device)

    # -- files ----------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write the model in `save_pretrained` layout (safetensors) and the value head beside it."""
        with no_bars():
            self.model.save_pretrained(Path(folder))  # type: ignore[operator]
        metadata = {"vocab_size": str(self.vocab_size), "prompt_tokens": str(self.prompt_tokens)}
        save_file({name: t.contiguous() for name, t in self.value_head.state_dict().items()}, str(Path(folder) / VALUE_HEAD), metadata)

    @classmethod
    def load(cls, folder: Path | str, vocab_size: int | None = None, prompt_tokens: int | None = None) -> Seq2SeqPolicy:
        """Return the policy that `save` wrote; any local folder of an encoder-decoder works too, if told both sizes, with a new value head."""
        head, told = Path(folder) / VALUE_HEAD, {"vocab_size": vocab_size, "prompt_tokens": prompt_tokens}
        if head.exists():
            with safe_open(str(head), "pt") as file:
                told = {name: int(file.metadata()[name]) if size is None else size for name, size in told.items()}
        if missing := [name for name, size in told.items() if size is None]:
            raise ValueError(f"{folder} holds no {VALUE_HEAD} to say it: pass {' and '.join(missing)}.")
        policy = cls(_load_model(folder), int(told["vocab_size"] or 0), int(told["prompt_tokens"] or 0))
        if head.exists():
            policy.value_head.load_state_dict(load_file(str(head)))
        return policy


def small_t5(vocab_size: int, prompt_tokens: int, *, width: int = 64, layers: int = 2, heads: int = 4, seed: int = 0) -> Seq2SeqPolicy:
    """Return a policy on an untrained T5 of that size, its weights drawn from `seed`; the id `vocab_size` is its pad and its start token."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocab_size + 1,
        d_model=width,
        d_kv=width // heads,
        d_ff=4 * width,
        num_layers=layers,
        num_heads=heads,
        pad_token_id=vocab_size,
        decoder_start_token_id=vocab_size,
        eos_token_id=None,
    )
    with seeded(seed):
        return Seq2SeqPolicy(T5ForConditionalGeneration(config), vocab_size, prompt_tokens)


def _load_model(folder: Path | str) -> nn.Module:
    """Return the encoder-decoder in a local folder; nothing is ever fetched."""
    from transformers import AutoModelForSeq2SeqLM

    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: give a folder written by save_pretrained (nothing is fetched from a hub).")
    with no_bars():
        model: nn.Module = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
    return model
