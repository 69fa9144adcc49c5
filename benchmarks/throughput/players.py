"""Ways of writing the same texts: ours through the environment, ours without it, a plain loop, and `generate`.

A player writes one batch (or window) of texts each time it is called, and returns how many tokens of it are of use.
Axis legend: N rows, P prompt tokens, G new tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.play import begin, collect
from agents.policies import CausalLMPolicy
from agents.policies.common import acted, picked, to_float64
from agents.policies.decoders import decoder_for
from agents.policies.steady import steady_weights

from ..environment import Player
from .shapes import PROMPT, Shape, prompt_ids
from .task import environment


def through_environment(policy: CausalLMPolicy, shape: Shape, rows: int, num_new: int) -> Player:
    """Play one whole episode a row by `collect`: observations, sampling, log-probabilities, values, rewards, and a `Rollout` of it all."""
    env, generator = environment(shape, rows, num_new), np.random.default_rng(0)
    env.reset(seed=0)

    def play() -> int:
        return int(collect(env, policy, begin(env, policy), generator, episodes_per_row=1).rollout.valid.sum())

    return play


def windows_of_environment(policy: CausalLMPolicy, shape: Shape, rows: int, num_new: int) -> Player:
    """Play windows of `num_new` steps by `collect`: a row that ends begins its next text while the others go on."""
    env, generator = environment(shape, rows, num_new), np.random.default_rng(0)
    position = begin(env, policy, seed=0)

    def play() -> int:
        nonlocal position
        played = collect(env, policy, position, generator, num_steps=num_new)
        position = played.position
        return int(played.rollout.valid.sum())

    return play


def bare(policy: CausalLMPolicy, shape: Shape, rows: int, num_new: int, dtype: torch.dtype | None = None) -> Player:
    """Decode as the policy does, with its own decoder, sampling, log-probabilities and values, but with no environment around it."""
    prompts, generator = torch.from_numpy(prompt_ids(shape, rows)).to(policy.value_head.weight.device), np.random.default_rng(0)

    @torch.no_grad()
    def play() -> int:
        decoder = decoder_for(policy.model, rows, PROMPT + num_new, dtype=dtype)
        ids, starts = prompts, torch.zeros(rows, dtype=torch.int64, device=prompts.device)
        with steady_weights():
            for _ in range(num_new):
                logits, hidden = decoder.extend(ids, starts)
                one = acted(logits[:, : policy.vocab_size], policy.values_of(hidden), None, generator, None, 1.0)
                starts = starts + ids.shape[1]
                ids = torch.from_numpy(one.actions)[:, None].to(ids.device)
        return rows * num_new

    return play


def generated(model: nn.Module, shape: Shape, rows: int, num_new: int, *, ends: bool = False) -> Player:
    """Call `generate(do_sample=True)` of `transformers` on `rows` prompts: tokens alone, with neither log-probabilities nor values.

    It samples from the whole distribution as all others do (no top-k, which would only slow it down). Where texts have one length it is told
    of no EOS and so carries no processor or test for it; with `ends` it stops at EOS, and a batch lasts as long as its longest text.
    """
    from transformers import GenerationConfig

    device, eos = next(model.parameters()).device, shape.vocab_size - 1
    prompts = torch.from_numpy(prompt_ids(shape, rows)).to(device)
    told = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "use_cache": True, "max_new_tokens": num_new, "pad_token_id": eos}
    config, mask = GenerationConfig(**told, eos_token_id=eos if ends else None), torch.ones_like(prompts)
    kept: Any = model.generation_config
    if not ends:
        kept.eos_token_id = None  # else it would be filled in from there

    def play() -> int:
        written: Tensor = model.generate(prompts, attention_mask=mask, generation_config=config)[:, PROMPT:]  # type: ignore[operator]
        return useful(written, eos)

    return play


def useful(written: Tensor, eos: int) -> int:
    """Return how many of the tokens [N, G] stand before or at the first EOS of their row: the others are padding."""
    ends = (written == eos).long()
    return int((ends.cumsum(1) - ends == 0).sum())


def plain_loop(model: nn.Module, shape: Shape, rows: int, num_new: int) -> Player:
    """Decode as a single-file trainer would: the model itself over a `DynamicCache`, inverse-CDF sampling, log-probabilities, no values."""
    from transformers import DynamicCache

    device, generator = next(model.parameters()).device, np.random.default_rng(0)
    prompts = torch.from_numpy(prompt_ids(shape, rows)).to(device)

    @torch.no_grad()
    def play() -> int:
        cache, ids = DynamicCache(config=model.config), prompts
        for _ in range(num_new):
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            log_probs = torch.log_softmax(logits.float(), dim=-1)
            ids = inverse_cdf(log_probs, generator)
            to_float64(picked(log_probs, ids[:, 0]))
        return rows * num_new

    return play


def inverse_cdf(log_probs: Tensor, generator: np.random.Generator) -> Tensor:
    """Return one id a row, int64 [N, 1], from log-probabilities [N, V]: many times faster than `torch.multinomial` on a CPU."""
    cumulative = log_probs.exp().cumsum(-1)
    uniform = torch.from_numpy(generator.random((len(log_probs), 1))).to(cumulative)
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).clamp_(max=log_probs.shape[1] - 1)
