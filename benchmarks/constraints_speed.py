"""What a constraint costs in the environment, at a vocabulary of 50,257 tokens: `python -m benchmarks.constraints_speed`.

The constraint is a top-100 by the last token, from a table (`NextTokens`): a reference model's own forward is not the environment's time.
Every environment plays the same random tokens, which the constraint nearly always forbids at no price and without an end, so that all
texts are equally long and all steps do all their work. An environment and its free twin take turns slice by slice; a ratio is the median
of the ratios of neighbouring slices.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import textgym  # noqa: F401 (registers the suite)
from agents.files import write_json
from textgym.constraints import NextTokens
from textgym.tokenizers import WordTokenizer

from .environment import Player, _speed, single_player, vector_player
from .machine import describe, print_table

ID = "TextGen-v0"
VOCABULARY, K = 50_257, 100
BAR = 1 / 3  # of the free twin's speed


@dataclass(frozen=True)
class Args:
    """Measure what a constraint costs the environment."""

    num_envs: int = 1024
    """rows of the large vector environment"""
    seconds: float = 3.0
    """how long each environment is measured, in all"""
    rounds: int = 15
    """slices that this time is cut into; the median counts"""
    json: Path | None = None
    """also write the figures to this file"""


class Figure(NamedTuple):
    """An environment under the constraint beside its free twin."""

    name: str
    free: int  # tokens a second
    constrained: int
    ratio: float
    held: bool  # to the bar
    met: bool | None

    def cells(self) -> list[str]:
        """Return its line of the table."""
        return [self.name, f"{self.free:,}", f"{self.constrained:,}", f"{self.ratio:.2f}", f"{BAR:.2f}" if self.held else "", _yes(self.met)]


def _yes(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "NO"


def options() -> dict[str, Any]:
    """Return a text task of 50,257 words."""
    words = [f"w{i}" for i in range(VOCABULARY - 1)]
    prompts = [" ".join(words[7 * i : 7 * i + 4]) for i in range(512)]
    return {"prompts": prompts, "tokenizer": WordTokenizer(words), "scorer": {"name": "length", "target": 24}}


def constraint() -> NextTokens:
    """Return a random table of 100 successors a token, EOS never among them."""
    ids = np.random.default_rng(0).integers(VOCABULARY - 1, size=(VOCABULARY, K))
    return NextTokens(ids)


def player(num_envs: int | None, **more: Any) -> Player:
    """Return a player of one environment (None) or of a vector of them."""
    if num_envs is None:
        return single_player(gym.make(ID, **options(), **more))
    return vector_player(gym.make_vec(ID, num_envs=num_envs, autoreset_mode="SameStep", **options(), **more))


def measured(name: str, num_envs: int | None, held: bool, args: Args, info_mask: bool) -> Figure:
    """Return the speeds of one form of the environment, free and constrained."""
    free = player(num_envs)
    bound = player(num_envs, constraint=constraint(), forbidden_penalty=0.0, forbidden_ends=False, info_mask=info_mask)
    slices = []
    for turn in range(args.rounds + 1):  # the first warms up
        pair = [_speed(play, args.seconds / args.rounds) for play in (free, bound)]
        slices += [pair] if turn else []
    speeds = [round(statistics.median(column)) for column in zip(*slices, strict=True)]
    ratio = statistics.median(one / other for other, one in slices)
    return Figure(name, speeds[0], speeds[1], ratio, held, ratio >= BAR if held else None)


def main(args: Args) -> dict[str, Any]:
    """Measure, print, write and return the figures."""
    machine = describe("numpy", "gymnasium")
    measure = partial(measured, args=args)
    figures = [
        measure(f"native, {args.num_envs} rows, mask on request", args.num_envs, args.num_envs == 1024, info_mask=False),
        measure("native, 64 rows, mask on request", 64, False, info_mask=False),
        measure("native, 64 rows, mask in the info", 64, False, info_mask=True),
        measure("single, gym.make, mask on request", None, True, info_mask=False),
        measure("single, gym.make, mask in the info", None, True, info_mask=True),
    ]
    print(machine)
    columns = ["way", "free tokens/s", "constrained", "ratio", "bar", "met"]
    print_table(f"{ID}, V = {VOCABULARY:,}, top-{K}, one thread, medians of {args.rounds} slices", columns, [figure.cells() for figure in figures])
    report = {"machine": machine, "vocab_size": VOCABULARY, "k": K, "rounds": args.rounds, "figures": [figure._asdict() for figure in figures]}
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
