"""What all optimisers' steps have in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def fusable(parameters: Iterable[nn.Parameter]) -> bool:
    """Return whether Adam has one kernel for all that it does to such weights; without it a step of a small model takes four times as long."""
    return all(each.is_floating_point() and each.device.type in ("cpu", "cuda") for each in parameters)


def adam(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Return Adam with the epsilon of 1e-5 that is usual in reinforcement learning (OpenAI Baselines)."""
    weights = list(parameters)
    return torch.optim.Adam(weights, lr=learning_rate, eps=1e-5, fused=fusable(weights))


def step(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_grad_norm: float) -> torch.Tensor:
    """Move weights along the gradient that stands in them, cut to `max_grad_norm`; return how long it was."""
    weights = list(parameters)
    length: torch.Tensor = torch.nn.utils.clip_grad_norm_(weights, max_grad_norm)
    optimizer.step()
    torch.autograd.graph.increment_version(weights)  # fused optimisers do not, and caches would not notice
    return length
