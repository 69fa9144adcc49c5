"""oneDNN in place of the BLAS: the same numbers, the same gradients, and only where it is meant to be."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from agents.policies import products
from agents.policies.gelu import gelu
from agents.policies.onednn import has_onednn
from agents.policies.products import GELU_LEAST, quick_operations

WEIGHT = torch.zeros(1, 1)
pytestmark = pytest.mark.skipif(not has_onednn(WEIGHT, None), reason="oneDNN is not at hand on this processor")


class Two(nn.Module):
    """A layer of each kind that language models are made of."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(96, 160, bias=bias), Conv1D(64, 160)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(F.gelu(self.first(x)))
        return hidden


def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list that fills with the shapes of what goes to oneDNN."""
    shapes: list[tuple[int, ...]] = []
    linear = products._linear

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append((*x.shape, len(weight)))
        return linear(x, weight, bias)

    monkeypatch.setattr(products, "_linear", noted)
    return shapes


@pytest.mark.parametrize("bias", [True, False])
def test_numbers_and_gradients_are_those_of_double_precision(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Two(bias)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    exact, x, weights = copy.deepcopy(model).double(), torch.randn(4, 150, 96, generator=generator), torch.randn(4, 150, 64, generator=generator)
    shapes, inputs = taken(monkeypatch), [x.clone().requires_grad_(), x.double().requires_grad_()]
    with quick_operations(model.first.weight):
        found = model(inputs[0])
    assert shapes == [(600, 96, 160), (600, 160, 64)]
    (found * weights).sum().backward()
    assert len(shapes) == 6, "two products of each layer on the way back"
    (exact(inputs[1]) * weights).sum().backward()
    pairs = [
        (found, exact(inputs[1])),
        (inputs[0].grad, inputs[1].grad),
        *((a.grad, b.grad) for a, b in zip(model.parameters(), exact.parameters(), strict=True)),
    ]
    for ours, theirs in pairs:
        assert float((ours - theirs).detach().abs().max()) < 1e-5 * float(theirs.detach().abs().max())


def test_what_needs_no_gradient_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = Two(True).requires_grad_(False), taken(monkeypatch)
    model.second.bias.requires_grad_(True)
    with quick_operations(model.first.weight):
        model(torch.ones(600, 96)).sum().backward()
    assert len(shapes) == 2
    assert torch.equal(model.second.bias.grad, torch.full((64,), 600.0))


def test_small_double_and_half_precise_products_go_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = taken(monkeypatch)
    with quick_operations(WEIGHT):
        F.linear(torch.ones(3, 4096), torch.ones(512, 4096))
        F.linear(torch.ones(900, 8), torch.ones(8, 8))
        F.linear(torch.ones(900, 96).double(), torch.ones(96, 96).double())
        torch.addmm(torch.ones(900, 96), torch.ones(900, 96), torch.ones(96, 96))
        torch.addmm(torch.ones(96), torch.ones(900, 96), torch.ones(96, 96), beta=2)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(torch.ones(900, 96), torch.ones(96, 96)).dtype == torch.bfloat16
    F.linear(torch.ones(900, 96), torch.ones(96, 96))  # outside
    assert not shapes


def test_a_bias_that_lies_apart_or_is_one_number() -> None:
    """OneDNN takes no notice of a stride; the library's product broadcasts."""
    x, weight = torch.ones(900, 96), torch.ones(160, 96)
    apart = torch.arange(320.0).view(160, 2)[:, 0]
    with quick_operations(WEIGHT):
        assert torch.equal(F.linear(x, weight, apart), torch.ones(900, 160) * 96 + apart)
        assert torch.equal(torch.addmm(torch.ones(1), x, weight.t()), torch.full((900, 160), 97.0))


@pytest.mark.parametrize("large", [False, True])
def test_gelu(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exact as PyTorch's own, at the ends as well, with its gradient; and only by tanh, in single precision, where there is much of it."""
    taken: list[Tensor] = []
    monkeypatch.setattr(products, "gelu", lambda x: taken.append(x) or gelu(x))
    ends = torch.tensor([0.0, -0.0, 1e-30, -1e-30, -6.0, -12.0, 12.0, 3e19, -3e19, torch.inf, torch.nan])
    numbers = 4 * torch.randn(2, GELU_LEAST // 2 if large else 30, generator=torch.Generator().manual_seed(0))
    x = torch.cat([ends.expand(2, -1), numbers], 1).requires_grad_()
    exact = x.detach().double()
    with quick_operations(WEIGHT):
        found = F.gelu(x, approximate="tanh")
        assert len(taken) == large
        for other in (lambda: F.gelu(x), lambda: F.gelu(exact, approximate="tanh"), lambda: F.gelu(x.bfloat16(), approximate="tanh")):
            other()
        assert len(taken) == large
    expected = F.gelu(exact, approximate="tanh")
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    own = x.detach().clone().requires_grad_()
    for said in (found, F.gelu(own, approximate="tanh")):
        said.nansum().backward()
    assert torch.equal(x.grad.nan_to_num(7), own.grad.nan_to_num(7))
