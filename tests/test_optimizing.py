"""What all optimisers' steps have in common: weights move along a gradient of bounded length, and whoever watches them notices."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agents.optimizing import adam, fusable, step


def moved(fused: bool, max_grad_norm: float) -> tuple[nn.Linear, float]:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.fill_(0.5)
    layer(torch.tensor([3.0, 0.0, 4.0])).sum().backward()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, eps=1.0, fused=fused)
    return layer, float(step(optimizer, layer.parameters(), max_grad_norm))


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_is_noticed_and_cut(fused: bool) -> None:
    """Adam's first step is lr g / (|g| + eps), here of a gradient of length sqrt(52) that is cut to 0.5."""
    layer, length = moved(fused, 0.5)
    assert length == pytest.approx(52**0.5)
    gradient = torch.tensor([3.0, 0.0, 4.0]) * 0.5 / 52**0.5
    torch.testing.assert_close(layer.weight.detach(), 0.5 - (0.1 * gradient / (gradient + 1)).expand(2, 3), rtol=1e-5, atol=0)
    before = layer.weight._version
    step(torch.optim.Adam(layer.parameters(), fused=fused), layer.parameters(), 0.5)
    assert layer.weight._version > before


def test_who_can_be_fused() -> None:
    layer, quantised = nn.Linear(3, 2), nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    assert fusable(layer.parameters())
    assert not fusable([*layer.parameters(), quantised])
    assert [adam(weights, 0.1).param_groups[0]["fused"] for weights in (layer.parameters(), [*layer.parameters(), quantised])] == [True, False]
    assert not fusable(nn.Linear(3, 2, device="meta").parameters())
