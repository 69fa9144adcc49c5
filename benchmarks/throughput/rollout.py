"""The roll-out: tokens a second through the environment, without it, in a plain loop, and by `generate`, on one model object.

Axis legend: N rows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from agents.policies import CausalLMPolicy

from ..environment import Player, speeds
from .ceiling import tokens_per_second
from .lines import Bar, Line, NotRun, show
from .players import bare, generated, plain_loop, through_environment, windows_of_environment
from .shapes import MID, NEOX, PROMPT, SMALL, TINY, Shape, build

BARE = Bar(0.9, 0.95)  # of the same decode without an environment
RAGGED = Bar(2.5, 4.0)
HAZARD, LONGEST = 1 / 16, 64  # of ragged texts: geometric, 16 tokens in the mean, cut at 64
UNIT = "tokens/s"


class Case(NamedTuple):
    """One model at one number of rows, and what the roll-out must be as a multiple of `generate`."""

    shape: Shape
    rows: int
    bar: Bar
    bf16: bool = False
    new: int = 32


CASES = (
    Case(TINY, 1, Bar(3.5, 5.0)),
    Case(TINY, 16, Bar(2.0, 2.6)),
    Case(TINY, 64, Bar(1.6, 2.0)),
    Case(NEOX, 64, Bar(1.2, 1.5)),  # an architecture without a decoder of its own
    Case(MID, 64, Bar(1.5, 1.8)),
    Case(MID, 64, Bar(2.3, 3.0), bf16=True),
    Case(SMALL, 16, Bar(1.0, 1.15)),
    Case(SMALL, 16, Bar(1.8, 2.4), bf16=True),
)
RAGGED_CASES = ((TINY, 64), (MID, 64))


def policy_of(model: nn.Module, shape: Shape, bf16: bool = False, fast: bool = True) -> CausalLMPolicy:
    """Return the policy on a model, which decodes in bfloat16 if it is told to; weights, log-probabilities and training stay float32."""
    return CausalLMPolicy(model, shape.vocab_size, fast=fast, acting_dtype=torch.bfloat16 if bf16 else None)


def fixed(case: Case, activation: str, device: str, seconds: float, rounds: int) -> Iterator[Line]:
    """Yield the comparisons of one case, in which all texts have `case.new` tokens."""
    shape, rows, new = case.shape, case.rows, case.new
    model = build(shape, activation).to(device)
    policy = policy_of(model, shape, case.bf16, fast=not shape.neox)
    players: dict[str, Player] = {
        "ours": through_environment(policy, shape, rows, new),
        "bare": bare(policy, shape, rows, new, torch.bfloat16 if case.bf16 else None),
        "generate": generated(model, shape, rows, new),
        "plain loop with DynamicCache": plain_loop(model, shape, rows, new),
    }
    if case.bf16:
        half = copy.deepcopy(model).to(torch.bfloat16)
        players |= {"generate, weights in bf16": generated(half, shape, rows, new), "plain loop, weights in bf16": plain_loop(half, shape, rows, new)}
    found = speeds(players, seconds, rounds)
    name = f"{shape.name}, {rows} rows{', bf16' if case.bf16 else ''}"
    ours = found.pop("ours")
    yield Line(f"{name} / bare decode", ours, found.pop("bare"), UNIT, BARE)
    for peer, speed in found.items():
        yield Line(f"{name} / {peer}", ours, speed, UNIT, case.bar if peer.startswith("generate") else None)
    if device == "cpu":
        limit = tokens_per_second(shape, rows, PROMPT + new / 2, torch.bfloat16 if case.bf16 else torch.float32)
        yield Line(f"{name} / the machine's limit", ours, limit, UNIT)


def ragged(shape: Shape, rows: int, activation: str, device: str, seconds: float, rounds: int) -> Line:
    """Return the comparison on texts that end at EOS: windows of continuous batching beside batches that wait for their longest text."""
    model = build(shape, activation, hazard=HAZARD).to(device)
    policy = CausalLMPolicy(model, shape.vocab_size)
    players = {"ours": windows_of_environment(policy, shape, rows, LONGEST), "generate": generated(model, shape, rows, LONGEST, ends=True)}
    found = speeds(players, seconds, rounds)
    return Line(f"{shape.name}, {rows} rows, ragged / generate, useful", found["ours"], found["generate"], UNIT, RAGGED)


def measure(*, activation: str, shapes: Sequence[str], seconds: float, rounds: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Print the tables of the roll-out, one after each case, and return their lines."""
    told: list[dict[str, Any]] = []
    for case in (case for case in CASES if case.shape.name.split()[0] in shapes):
        title = f"roll-out on {device}: {case.shape.name}, {case.rows} rows{', bf16' if case.bf16 else ''}, {PROMPT} + {case.new} tokens"
        try:
            lines: list[Line | NotRun] = [*fixed(case, activation, device, seconds, rounds)]
        except (TypeError, ValueError) as error:
            lines = [NotRun(title, str(error))]
        told += show(title, lines)
    lines = [ragged(shape, rows, activation, device, seconds, rounds) for shape, rows in RAGGED_CASES if shape.name in shapes]
    return told + show(f"roll-out on {device}, ragged: {PROMPT} + at most {LONGEST} tokens, {1 / HAZARD:.0f} in the mean", lines)
