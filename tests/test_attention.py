"""Attention of one token in NumPy: the numbers of the library's function, and nobody else's business.

Axis legend: B rows, H query heads, K heads of keys, U positions, D head size.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_evaluating import COMMON, SIZES, WIDTH, V, reader
from torch import Tensor, nn
from transformers import FalconConfig, FalconForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agents.policies import with_lora
from agents.policies.attention import LEAST, NAME, attend
from agents.policies.decoders import decoder_for
from agents.policies.decoders.generic import LibraryDecoder

B, U, D = 16, 19, 8


def inputs(heads: int, keys: int, dtype: torch.dtype, new: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values; the latter are views of wider ones, as a cache holds them."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(B, num, width, D, dtype=dtype, generator=generator) for num, width in ((heads, new), (keys, U + 4), (keys, U + 4))]
    return made[0], made[1][:, :, :U], made[2][:, :, :U]


def layer(groups: int) -> nn.Module:
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = groups, True  # type: ignore[assignment]
    return module


@torch.no_grad()
@pytest.mark.parametrize("mask", ["none", "seen", "added"])
@pytest.mark.parametrize(("heads", "keys"), [(4, 4), (6, 2)])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-14), (torch.float32, 4e-6)])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_the_numbers_of_the_library(mask: str, heads: int, keys: int, dtype: torch.dtype, rounding: float, scaling: float | None) -> None:
    seen = torch.arange(U) <= torch.arange(2, 2 + B)[:, None, None, None]
    given = {"none": None, "seen": seen, "added": torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)}[mask]
    asked: Any = (layer(heads // keys), *inputs(heads, keys, dtype), given)
    found, expected = attend(*asked, scaling=scaling)[0], sdpa_attention_forward(*asked, scaling=scaling)[0]
    assert found.shape == (B, 1, heads, D)
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding)


def test_what_it_cannot_do_it_leaves_to_the_library() -> None:
    """Several tokens, few rows, half precision, gradients, and what a model adds to its scores."""
    few = tuple(each[:2] for each in inputs(4, 4, torch.float64))
    several, half, query = inputs(4, 4, torch.float64, new=3), inputs(4, 4, torch.bfloat16), inputs(4, 4, torch.float64)
    bias = torch.linspace(-1, 1, U, dtype=torch.float64).expand(1, 4, 1, U)
    with torch.no_grad():
        for given in (several, few, half):
            assert torch.equal(attend(layer(1), *given, None)[0], sdpa_attention_forward(layer(1), *given, None)[0])
        biased = attend(layer(1), *query, None, position_bias=bias)[0]
        assert torch.equal(biased, sdpa_attention_forward(layer(1), *query, None, position_bias=bias)[0])
        assert not torch.allclose(biased, attend(layer(1), *query, None)[0])
        by_head = attend(layer(1), *query, bias.expand(B, -1, -1, -1))[0]
        torch.testing.assert_close(by_head, biased, rtol=0, atol=1e-14)
    query[0].requires_grad_()
    attend(layer(1), *query, None)[0].sum().backward()
    assert query[0].grad is not None


def implementations(model: nn.Module, config: Any) -> list[str]:
    """Return the list in which it will be noted what attention the configuration names whenever the model is called."""
    named: list[str] = []
    model.register_forward_pre_hook(lambda *_: named.append(config._attn_implementation))
    return named


@pytest.mark.parametrize("adapted", [False, True])
def test_a_model_is_told_of_it_only_while_it_decodes(adapted: bool) -> None:
    policy = with_lora(reader(), rank=2, seed=1) if adapted else reader()
    config = policy.model.config
    decoder = decoder_for(policy.model, LEAST, WIDTH, fast=False)
    named = implementations(policy.model, config)
    ids = torch.randint(V, (LEAST, 5), generator=torch.Generator().manual_seed(0))
    decoder.extend(ids[:, :3], torch.zeros(LEAST, dtype=torch.int64))
    one = decoder.extend(ids[:, 3:4], torch.full((LEAST,), 3))[0]
    first = torch.arange(LEAST) % 2 + 3  # half of the rows are read once more: they stand apart, and there is a mask
    two = decoder.extend(ids.gather(1, first[:, None]), first)[0]
    assert named == ["sdpa", NAME, NAME]
    assert config._attn_implementation == "sdpa"
    expected = policy.next_token_logits(ids).detach()
    torch.testing.assert_close(one[:, :V], expected[:, 3], rtol=0, atol=1e-12)
    torch.testing.assert_close(two[:, :V], expected[torch.arange(LEAST), first], rtol=0, atol=1e-12)
    with pytest.raises(IndexError):
        decoder.extend(ids[:, 4:] + 700, torch.full((LEAST,), 4))
    assert config._attn_implementation == "sdpa"


def test_whom_it_is_not_for() -> None:
    """Models that ask for another attention, at whatever time, and those that compare its name with PyTorch's (Falcon)."""
    model: Any = reader("llama").model
    decoder = decoder_for(model, LEAST, WIDTH, fast=False)
    named = implementations(model, model.config)
    ids, starts = torch.ones(LEAST, 1, dtype=torch.int64), torch.zeros(LEAST, dtype=torch.int64)
    decoder.extend(ids, starts)
    model.set_attn_implementation("eager")
    decoder.extend(ids, starts + 1)
    assert (named, model.config._attn_implementation) == ([NAME, "eager"], "eager")
    falcon: Any = FalconForCausalLM(FalconConfig(**COMMON, hidden_size=SIZES["hidden_size"], num_hidden_layers=1, num_attention_heads=2))
    named = implementations(falcon, falcon.config)
    LibraryDecoder(falcon.eval(), LEAST, WIDTH).extend(ids, starts)
    assert named == ["sdpa"]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_half_precision_by_autocast(kind: str) -> None:
    """Rotary positions leave queries and keys in single precision, and values in half."""
    policy = reader(kind).float()
    decoder = decoder_for(policy.model, LEAST, WIDTH, fast=False, dtype=torch.bfloat16)
    ids = torch.randint(V, (LEAST, 2), generator=torch.Generator().manual_seed(0))
    decoder.extend(ids[:, :1], torch.zeros(LEAST, dtype=torch.int64))
    found = decoder.extend(ids[:, 1:], torch.ones(LEAST, dtype=torch.int64))[0]
    torch.testing.assert_close(found[:, :V], policy.next_token_logits(ids)[:, 1].detach(), rtol=0, atol=0.4)  # of logits of 2 and more
