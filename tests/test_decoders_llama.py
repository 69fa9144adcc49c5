"""The quick decoder of Llama and its kin, beside the library's full forward."""

from typing import Any

import pytest
import torch
from decoding import NUM_SLOTS, VOCABULARY, WIDTH, worst_of_play
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agents.policies import seeded
from agents.policies.decoders import decoder_for, why_not_fast

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-6}
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama with biases": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama with one head of keys": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 1, "head_dim": 10}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"head_dim": 12}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "mistral with a long window": (MistralForCausalLM, MistralConfig, {"sliding_window": WIDTH}),
}


def make(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    kind, config, own = KINDS[name]
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    rest = {"num_key_value_heads": 2, "max_position_embeddings": WIDTH, "initializer_range": 0.2, "bos_token_id": None, "eos_token_id": None}
    with seeded(0):
        model = kind(config(**{**sizes, **rest, **own, **options})).eval()
        with torch.no_grad():  # biases of 0 and norms of 1 would hide mistakes
            for weight in model.parameters():
                if weight.dim() == 1:
                    weight.add_(0.3 * torch.randn_like(weight))
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", KINDS)
def test_logits_and_hidden_states_are_those_of_the_uncached_forward(name, dtype):
    model = make(name, dtype)
    decoder = decoder_for(model, NUM_SLOTS, WIDTH)
    assert decoder.name == f"{name.split()[0]} (fast)"
    assert worst_of_play(model, decoder, 40) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_librarys_forward_over_slots_agrees_too(name):
    model = make(name)
    assert worst_of_play(model, decoder_for(model, NUM_SLOTS, WIDTH, fast=False), 20) < 1e-9


def test_weights_changed_in_place_are_seen_at_once():
    model = make("qwen3")
    decoder = decoder_for(model, NUM_SLOTS, WIDTH)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1).add_(0.01)
    assert worst_of_play(model, decoder, 5) < 1e-9


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_bfloat16_is_near(dtype):
    model = make("llama", torch.float32 if dtype is not None else torch.bfloat16, hidden_size=256, intermediate_size=512)
    assert 1e-5 < worst_of_play(model, decoder_for(model, NUM_SLOTS, WIDTH, dtype=dtype), 5) < 0.2


def test_other_rotary_positions_and_activations_go_through_the_library():
    scaled = make("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    assert "rotary" in str(why_not_fast(scaled, WIDTH))
    assert "activation" in str(why_not_fast(make("llama", hidden_act="gelu"), WIDTH))
    decoder = decoder_for(scaled, NUM_SLOTS, WIDTH)
    assert decoder.name == "any (library)"
    assert worst_of_play(scaled, decoder, 5) < 1e-9


def test_a_window_shorter_than_the_slots_is_refused_by_both():
    model = make("mistral", sliding_window=WIDTH - 1)
    assert "attends to" in str(why_not_fast(model, WIDTH))
    with pytest.raises(ValueError, match="use_cache=False"):
        decoder_for(model, NUM_SLOTS, WIDTH)
    assert why_not_fast(model, WIDTH - 1) is None
