"""Decoders over slots: GPT-2's quick one and the library's, which one a model gets, and what is refused.

Every comparison is with the library's full, uncached forward.
"""

from typing import Any

import numpy as np
import pytest
import torch
from decoding import NUM_SLOTS, VOCABULARY, WIDTH, Play, worst_of_play
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from agents.policies import seeded
from agents.policies.common import acted
from agents.policies.decoders import cache_bytes, decoder_for, matmul, small, why_not_fast
from agents.policies.decoders.matmul import Product
from agents.policies.decoders.plain import short_window

MOST = small.MOST
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-6}


def gpt2(dtype: torch.dtype = torch.float64, seed: int = 0, kind: Any = GPT2LMHeadModel, **options: Any) -> Any:
    sizes = {"vocab_size": VOCABULARY, "n_positions": WIDTH, "n_embd": 24, "n_layer": 2, "n_head": 3, "initializer_range": 0.2}
    with seeded(seed):
        return kind(GPT2Config(bos_token_id=None, eos_token_id=None, **{**sizes, **options})).eval().to(dtype)


@pytest.fixture(params=["NumPy", "torch"])
def work(request, monkeypatch):
    """Work that is small, as all of it is here, and work that is called large."""
    monkeypatch.setattr(small, "MOST", 0 if request.param == "torch" else MOST)


@pytest.fixture(params=["NumPy", "torch", "library"])
def fast(request, monkeypatch):
    """The quick decoder in both its forms, and the library's."""
    monkeypatch.setattr(small, "MOST", 0 if request.param == "torch" else MOST)
    return request.param != "library"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_and_hidden_states_are_those_of_the_uncached_forward(dtype, fast, seed):
    model = gpt2(dtype, seed)
    decoder = decoder_for(model, NUM_SLOTS, WIDTH, fast=fast)
    assert decoder.name == ("gpt2 (fast)" if fast else "any (library)")
    assert worst_of_play(model, decoder, seed=seed) < TOLERANCE[dtype]


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "gelu", "relu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_activation_that_is_known(activation, dtype, work):
    model = gpt2(dtype, activation_function=activation, n_inner=40)
    assert why_not_fast(model, WIDTH) is None
    assert worst_of_play(model, decoder_for(model, NUM_SLOTS, WIDTH), 10) < TOLERANCE[dtype]


def test_attention_that_is_not_scaled(work):
    model = gpt2(scale_attn_weights=False)
    assert why_not_fast(model, WIDTH) is None
    assert worst_of_play(model, decoder_for(model, NUM_SLOTS, WIDTH), 10) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", [{}, {"activation_function": "relu"}, {"scale_attn_weights": False}], ids=["gelu_new", "relu", "unscaled"])
@torch.no_grad()
def test_small_work_and_large_read_what_the_other_wrote(options, dtype):
    """Up to three tokens at once are computed by NumPy here, whichever slots are theirs, and more by torch."""
    model = gpt2(dtype, **options)
    decoder: Any = decoder_for(model, NUM_SLOTS, WIDTH)
    decoder._small.most = 3
    play = Play(model, decoder)
    play.extend(list(range(NUM_SLOTS)), [0] * NUM_SLOTS, [4, 2, 5, 1, 3, 3, 2])
    for row in (3, 0, 6, 3, 3, 5):
        play.extend([row], [int(play.lengths[row])], [1])
    play.extend(list(range(NUM_SLOTS)), play.lengths.tolist(), [1] * NUM_SLOTS)
    play.extend([3], [2], [1])  # a step back
    play.extend([1, 4], play.lengths[[1, 4]].tolist(), [1, 1])
    play.extend([2], [int(play.lengths[2])], [3])
    play.extend(list(range(NUM_SLOTS)), play.lengths.tolist(), [1] * NUM_SLOTS)
    assert play.worst < TOLERANCE[dtype]


@torch.no_grad()
def test_what_overflows_says_so_by_what_comes_of_it_only():
    """No warning of NumPy's: weights of 1e20 are the diverged run's, and whoever samples from nan is told."""
    model = gpt2(torch.float32)
    model.transformer.h[0].attn.c_attn.weight.mul_(1e30)
    model.transformer.h[1].mlp.c_fc.weight.mul_(1e20)
    logits, _ = decoder_for(model, 2, WIDTH).extend(torch.tensor([[1, 2], [3, 1]]), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(FloatingPointError, match="not finite"):
        acted(logits, torch.zeros(2), None, np.random.default_rng(0), None, 1.0)


def test_where_small_work_is_left_to_torch():
    for options in ({"activation_function": "gelu"}, {"vocab_size": 120_000, "n_embd": 96}):
        decoder: Any = decoder_for(gpt2(torch.float32, **options), 1, WIDTH)
        assert decoder._small is None
    coarse: Any = decoder_for(gpt2(torch.float32), 1, WIDTH, dtype=torch.bfloat16)
    assert coarse._small is None


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_products_large_enough_for_the_other_kernel_are_as_exact(activation, monkeypatch):
    monkeypatch.setattr(matmul, "ONEDNN_WORK", 2**20)  # what is large enough is a matter of speed
    model = gpt2(torch.float32, n_embd=192, n_head=4, activation_function=activation, initializer_range=0.1)
    decoder: Any = decoder_for(model, NUM_SLOTS, WIDTH)
    assert decoder.architecture.blocks[0].up.least in (None, 4)  # rows from which on it is used
    assert worst_of_play(model, decoder, 20) < TOLERANCE[torch.float32]


def test_one_slot(fast):
    model = gpt2()
    decoder = decoder_for(model, 1, WIDTH, fast=fast)
    ids = torch.arange(WIDTH).unsqueeze(0)
    decoder.extend(ids[:, :5], torch.tensor([0]))
    for position in range(5, WIDTH):
        logits, _ = decoder.extend(ids[:, position : position + 1], torch.tensor([position]))
    torch.testing.assert_close(logits, model(ids).logits[:, -1].detach(), rtol=0, atol=1e-9)


def test_a_pad_never_reaches_another_token_even_at_the_last_column(fast):
    model = gpt2()
    play = Play(model, decoder_for(model, NUM_SLOTS, WIDTH, fast=fast))
    every = list(range(NUM_SLOTS))
    play.extend(every, [0] * NUM_SLOTS, [WIDTH - 4, WIDTH - 3, WIDTH - 2, WIDTH - 1, 1, 2, 3])
    play.extend(every, [WIDTH - 4, WIDTH - 3, WIDTH - 2, WIDTH - 1, 1, 2, 3], [4, 3, 2, 1, 1, 4, 3])
    play.extend([3, 5], [WIDTH - 1, 6], [1, 1])
    assert play.worst < 1e-9


def test_rows_that_begin_anew_beside_rows_that_go_on(fast):
    model = gpt2()
    play = Play(model, decoder_for(model, NUM_SLOTS, WIDTH, fast=fast))
    every = list(range(NUM_SLOTS))
    play.extend(every, [0] * NUM_SLOTS, [5, 5, 3, 3, 2, 2, 1])
    play.extend(every, [0, 5, 3, 3, 2, 2, 1], [6, 1, 3, 1, 2, 3, 5])  # no token stands behind the longest new prompt
    play.extend([2, 4], [4, 0], [1, 5])
    assert play.worst < 1e-9


# -- weights --------------------------------------------------------------------------------------------------------------


def test_weights_changed_in_place_are_seen_at_once(work):
    model = gpt2()
    decoder = decoder_for(model, NUM_SLOTS, WIDTH)
    worst_of_play(model, decoder, 0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1).add_(0.01)
    assert worst_of_play(model, decoder, 5) < 1e-9


def test_weights_that_were_replaced_are_seen_after_rebind(work):
    model = gpt2()
    decoder = decoder_for(model, NUM_SLOTS, WIDTH)
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(weight.detach() * 1.1 + 0.01))
    model.tie_weights()
    assert worst_of_play(model, decoder, 0) > 1e-3
    decoder.rebind()
    assert worst_of_play(model, decoder, 5) < 1e-9


def test_nothing_of_the_model_is_copied():
    model = gpt2()
    decoder: Any = decoder_for(model, NUM_SLOTS, WIDTH)
    own = {weight.data_ptr() for weight in model.parameters()}
    products = [product for block in decoder.architecture.blocks for product in block if isinstance(product, Product)]
    assert {tensor.data_ptr() for product in [*products, decoder.architecture.head] for tensor in (product.weight, product.read)} <= own


def test_rebind_refuses_modules_that_were_exchanged():
    model = gpt2()
    decoder = decoder_for(model, NUM_SLOTS, WIDTH)
    model.transformer.h[0].mlp.c_proj = nn.Linear(96, 24)
    with pytest.raises(RuntimeError, match="make a new one"):
        decoder.rebind()


# -- bfloat16 -------------------------------------------------------------------------------------------------------------


def test_bfloat16_is_near(fast):
    model = gpt2(torch.float32, n_embd=384, n_head=6)
    decoder: Any = decoder_for(model, NUM_SLOTS, WIDTH, fast=fast, dtype=torch.bfloat16)
    worst = worst_of_play(model, decoder, 5)
    assert 1e-5 < worst < 0.1
    ids = torch.zeros(NUM_SLOTS, 1, dtype=torch.long)
    assert decoder.extend(ids, torch.zeros(NUM_SLOTS, dtype=torch.long))[0].dtype == torch.float32


def test_the_bfloat16_copy_is_refreshed_by_rebind():
    model = gpt2(torch.float32, n_embd=384, n_head=6)
    decoder = decoder_for(model, NUM_SLOTS, WIDTH, dtype=torch.bfloat16)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.weight.zero_()
        model.transformer.h[0].mlp.c_proj.weight.mul_(-1.0)
    stale = worst_of_play(model, decoder, 0)
    decoder.rebind()
    assert worst_of_play(model, decoder, 0) < 0.05 < stale


# -- which decoder --------------------------------------------------------------------------------------------------------


class Subclass(GPT2LMHeadModel):
    """Somebody's own model: what it computes cannot be known."""


def hooked(model: Any) -> Any:
    model.transformer.h[1].mlp.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def overridden(model: Any) -> Any:
    model.transformer.h[1].mlp.forward = lambda x: x * 2
    return model


def with_adapters(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    adapters = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
    return peft.inject_adapter_in_model(adapters, model)


def with_another_layer(model: Any) -> Any:
    model.transformer.h[0].attn.c_proj = nn.Linear(24, 24).double()  # of the same shape, but it means the transpose
    return model


def parametrised(model: Any) -> Any:
    torch.nn.utils.parametrizations.weight_norm(model.transformer.h[0].mlp.c_fc, "weight")
    return model.eval()


@pytest.mark.parametrize(
    "make",
    [
        lambda: gpt2(kind=Subclass),
        lambda: hooked(gpt2()),
        lambda: overridden(gpt2()),
        lambda: with_adapters(gpt2()).eval(),
        lambda: with_another_layer(gpt2()),
        lambda: parametrised(gpt2()),
        lambda: gpt2(scale_attn_by_inverse_layer_idx=True),
        lambda: gpt2(activation_function="silu"),
    ],
    ids=["subclass", "hook", "forward", "lora", "linear", "parametrised", "scaled by layer", "activation"],
)
def test_what_is_not_plain_goes_through_the_library_and_is_exact_there(make):
    model = make()
    assert why_not_fast(model, WIDTH) is not None
    decoder = decoder_for(model, NUM_SLOTS, WIDTH)
    assert decoder.name == "any (library)"
    assert worst_of_play(model, decoder, 5) < 1e-9


def test_other_reasons_for_the_library():
    assert "add_cross_attention" in str(why_not_fast(gpt2(add_cross_attention=True), WIDTH))
    assert "reorder_and_upcast_attn" in str(why_not_fast(gpt2(reorder_and_upcast_attn=True), WIDTH))
    assert "training" in str(why_not_fast(gpt2().train(), WIDTH))
    mixed = gpt2()
    mixed.transformer.h[0].ln_1.float()
    assert "several types" in str(why_not_fast(mixed, WIDTH))


def test_a_hook_on_the_output_embeddings_and_the_librarys_own_recorders_are_no_reason():
    model = gpt2()
    model.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: None)
    model(torch.zeros(1, 1, dtype=torch.long), output_hidden_states=True, output_attentions=True)
    assert why_not_fast(model, WIDTH) is None


def test_choosing_draws_nothing_from_the_global_generator():
    model, before = gpt2(), torch.get_rng_state()
    decoder_for(model, NUM_SLOTS, WIDTH)
    assert torch.equal(before, torch.get_rng_state())


# -- refusals -------------------------------------------------------------------------------------------------------------


def test_tokens_that_do_not_fit_are_refused(fast):
    decoder = decoder_for(gpt2(), 2, WIDTH, fast=fast)
    token = torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match=f"positions 3 to {WIDTH}"):
        decoder.extend(token, torch.tensor([3, WIDTH]))
    with pytest.raises(ValueError, match="positions -1 to 3"):
        decoder.extend(token, torch.tensor([3, -1]))
    with pytest.raises(ValueError, match="2 slots and 1 rows"):
        decoder.extend(token[:1], torch.tensor([0]))


def test_the_bytes_are_those_that_are_allocated():
    model = gpt2(torch.float32)
    decoder: Any = decoder_for(model, NUM_SLOTS, WIDTH)
    assert cache_bytes(model, NUM_SLOTS, WIDTH) == sum(store.numel() * 4 for store in decoder.architecture.slots.stores)
    generic: Any = decoder_for(model, NUM_SLOTS, WIDTH, fast=False)
    generic.extend(torch.zeros(NUM_SLOTS, 1, dtype=torch.long), torch.zeros(NUM_SLOTS, dtype=torch.long))
    assert cache_bytes(model, NUM_SLOTS, WIDTH, fast=False) == sum(layer.keys.numel() * 8 for layer in generic.cache.layers)
    copied = cache_bytes(model, NUM_SLOTS, WIDTH, torch.bfloat16) - cache_bytes(model, NUM_SLOTS, WIDTH)
    assert copied == 2 * (2 * (12 * 24 * 24 + 9 * 24) + 24 * VOCABULARY)


def test_too_large_a_request_is_refused_before_anything_is_allocated():
    model = gpt2()
    with pytest.raises(MemoryError, match=r"need [0-9,]+ bytes.*fewer environments"):
        decoder_for(model, 10**9, WIDTH)
    needed = cache_bytes(model, NUM_SLOTS, WIDTH)
    with pytest.raises(MemoryError, match=f"{needed:,} bytes, {needed - 1:,} are allowed"):
        decoder_for(model, NUM_SLOTS, WIDTH, limit=needed - 1)
    decoder_for(model, NUM_SLOTS, WIDTH, limit=needed)


def test_a_precision_that_is_not_offered_is_refused():
    with pytest.raises(ValueError, match=r"torch\.float64 computes in that"):
        decoder_for(gpt2(), NUM_SLOTS, WIDTH, dtype=torch.bfloat16)


def test_a_model_that_counts_positions_of_its_own_is_refused() -> None:
    """RoBERTa's begin behind the pad's id, whatever it is told; OPT's too, but it takes what it is told, and is played."""
    sizes = {"vocab_size": 13, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    roberta = RobertaForCausalLM(RobertaConfig(**sizes, intermediate_size=8, pad_token_id=1, is_decoder=True, initializer_range=0.5)).eval()
    with pytest.raises(ValueError, match="RobertaForCausalLM cannot be played over a cache of slots: pass use_cache=False"):
        decoder_for(roberta, 2, 9)
    opt = OPTForCausalLM(OPTConfig(**sizes, ffn_dim=8, word_embed_proj_dim=8, init_std=0.5)).eval()
    assert decoder_for(opt, 2, 9).name == "any (library)"


def test_a_model_that_fails_over_slots_is_told_of() -> None:
    bloom = BloomForCausalLM(BloomConfig(vocab_size=13, hidden_size=8, n_layer=1, n_head=2)).eval()
    with pytest.raises(ValueError, match=r"BloomForCausalLM cannot be played over a cache of slots: pass use_cache=False to the policy. It failed with"):
        decoder_for(bloom, 2, 9)


def test_a_model_without_heads_is_told_of() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=13, hidden_size=8, num_hidden_layers=1, state_size=2)).eval()
    with pytest.raises(ValueError, match=r"MambaForCausalLM keeps no keys and values of heads.*use_cache=False"):
        decoder_for(mamba, 2, 9)


def test_a_window_of_nothing_is_none() -> None:
    assert [short_window(MistralConfig(sliding_window=window), 9) for window in (0, 8, 9, None)] == [None, 8, None, None]


def test_a_model_of_two_ids_is_tried_with_those():
    model = gpt2(vocab_size=2)
    assert decoder_for(model, 2, 9, fast=False).name == "any (library)"
