"""How fast the environments are, in steps a second on one thread: `python -m benchmarks.environment`, `--toy`, `--powers`.

The toy tasks are another table, and so is TextGen-v0 with each power of the core switched on.

Random tokens drawn beforehand, real prompts, ends and rewards. The ways of playing take turns in slices of time, and the median slice counts.
A step that only resets a row (NEXT_STEP) is no token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

import textgym  # noqa: F401 (registers the suite)
from agents.files import write_json
from textgym.film_reviews import film_reviews
from textgym.prompts import make, split

from .machine import describe, print_table

ID = "TextGen-v0"
BARS = {"native": 10e6, "native with text": 5e6, "single": 110e3}  # tokens a second; the native ones at 1,024 rows
TOY: dict[str, tuple[str, dict[str, Any], float | None]] = {  # id, options, and the bar at 1,024 rows
    "TwoState": ("textgym/TwoState-v0", {}, 4e6),
    "TwoState, slip": ("textgym/TwoState-v0", {"slip": 0.2}, 2e6),
    "grid": ("textgym/PathPlanning-v0", {}, 4e6),
    "grid, slip": ("textgym/PathPlanning-v0", {"slip": 0.2}, 2e6),
    "grid, 1,000 maps": ("textgym/PathPlanning-v0", {"family": "walls"}, 4e6),
    "grid, 1,000 maps, random ends": ("textgym/PathPlanning-v0", {"family": "walls", "start": "random", "goal": "random"}, None),
    "grid, whole map shown": ("textgym/PathPlanning-v0", {"family": "walls", "view": "map"}, None),
    "plane": ("textgym/PathPlanning-v0", {"continuous": True}, None),
    "path planning as text": ("textgym/PathPlanningText-v0", {}, None),
    "Even": ("textgym/Even-v0", {}, None),
    "Countdown": ("textgym/Countdown-v0", {}, None),
}
NUM_PROMPTS = len(split(make("film_reviews"), "train"))
KEEP = {"forbidden_ends": False}  # random tokens break every rule: they shall cost and not end the text, or all texts would be short
ALLOW_LIST = {"name": "allow_list", "words": list(film_reviews().words[:100])}
SUMS: dict[str, Any] = {"prompts": ["12 + 3", "4 - 9"], "tokenizer": "byte", "scorer": {"name": "length", "target": 12}}
POWERS: dict[str, dict[str, Any]] = {  # options of TextGen-v0
    "nothing": {},
    "allow-list of 100 words": {"constraint": ALLOW_LIST, **KEEP},
    "allow-list, mask on request": {"constraint": ALLOW_LIST, "info_mask": False, **KEEP},
    "no bigram twice": {"constraint": {"name": "no_repeat", "n": 2}, **KEEP},
    "minimum length": {"constraint": {"name": "min_length", "n": 8}, **KEEP},
    "grammar": {"constraint": "film_grammar", **KEEP},
    "three together": {"constraint": [{"name": "no_repeat", "n": 2}, {"name": "min_length", "n": 4}, ALLOW_LIST], **KEEP},
    "dense rewards": {"dense": True},
    "chunks of 4": {"chunk": 4},
    "whole responses": {"chunk": 24},
    "chunks of 4, dense": {"chunk": 4, "dense": True},
    "weighted prompts": {"prompt_weights": list(range(1, 1 + NUM_PROMPTS))},
    "composed score, gold": {"scorer": {"name": "weighted_sum", "parts": {"good": ["sentiment", 1.0], "varied": ["repetition", 0.5]}}, "gold": "film_grammar"},
    "sums, in bytes": SUMS,
    "the same with a calculator": {**SUMS, "responder": "calculator", "max_response_tokens": 96},
}
STEPS = 48  # of one call of a player: two budgets of tokens, so that every slice sees ends
BLOCKS = 10  # of random actions drawn beforehand, played in turn

Player = Callable[[], int]  # plays on for STEPS steps and returns how many tokens it wrote


@dataclass(frozen=True)
class Args:
    """Measure the speed of TextGen-v0, or of the toy tasks."""

    toy: bool = False
    """the toy tasks instead"""
    powers: bool = False
    """TextGen-v0 with each power of the core switched on instead"""
    num_envs: int = 1024
    """rows of the native vector environment"""
    seconds: float = 2.0
    """how long each way of playing is measured, in all"""
    rounds: int = 7
    """slices that this time is cut into; the median counts"""
    json: Path | None = None
    """also write the figures to this file"""


class Way(NamedTuple):
    """A way of playing: what it is called, how it plays, and the bar it is held to."""

    name: str
    player: Player
    bar: float | None


class Figure(NamedTuple):
    """What was measured of a way."""

    name: str
    tokens_per_second: int
    bar: float | None
    met: bool | None  # None where there is no bar

    def cells(self, first: int | None = None) -> list[str]:
        """Return its line of the table: held to its bar, or beside the `first`."""
        if first is not None:
            return [self.name, f"{self.tokens_per_second:,}", f"{self.tokens_per_second / first:.2f}", ""]
        held = ["", ""] if self.bar is None else [f"{self.bar:,.0f}", "yes" if self.met else "NO"]
        return [self.name, f"{self.tokens_per_second:,}", *held]


def vector_player(env: VectorEnv[Any, Any, Any]) -> Player:
    """Return a player of a vector environment in its own autoreset mode."""
    mode, n, space = env.metadata["autoreset_mode"], env.num_envs, env.single_action_space
    ids = space.n if isinstance(space, Discrete) else space.nvec[0]  # type: ignore[attr-defined]
    blocks = cycle(np.random.default_rng(0).integers(ids, size=(BLOCKS, STEPS, n, *(space.shape or ()))))
    chunk = max(1, int(np.prod(space.shape or ())))
    env.reset(seed=0)
    over = np.zeros(n, dtype=np.bool_)

    def play() -> int:
        nonlocal over
        tokens = n * STEPS * chunk
        for row in next(blocks):
            if mode is AutoresetMode.NEXT_STEP:
                tokens -= int(np.count_nonzero(over))
            _, _, terminated, truncated, infos = env.step(row)
            over = terminated | truncated
            if chunk > 1:
                tokens -= int(infos["dropped_tokens"].sum() + infos.get("final_info", {}).get("dropped_tokens", np.zeros(1)).sum())
            if mode is AutoresetMode.DISABLED and over.any():
                env.reset(options={"reset_mask": over})
        return tokens

    return play


def single_player(env: gym.Env[Any, Any]) -> Player:
    """Return a player of a single environment."""
    blocks = cycle(np.random.default_rng(0).integers(env.action_space.n, size=(BLOCKS, STEPS)).tolist())  # type: ignore[attr-defined]
    env.reset(seed=0)

    def play() -> int:
        for action in next(blocks):
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return STEPS

    return play


def ways(num_envs: int) -> list[Way]:
    """Return every way of playing that is measured."""
    found = []
    for kind, with_text in (("native", False), ("native with text", True)):
        for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
            env = gym.make_vec(ID, num_envs=num_envs, autoreset_mode=mode.value, info_text=with_text)
            found.append(Way(f"{kind}, {num_envs} rows, {mode.name}", vector_player(env), BARS[kind] if num_envs == 1024 else None))
    found.append(Way("SyncVectorEnv, 64 rows, NEXT_STEP", vector_player(SyncVectorEnv([lambda: gym.make(ID)] * 64)), None))
    found.append(Way("single, gym.make", single_player(gym.make(ID)), BARS["single"]))
    return found


def toy_ways(num_envs: int) -> list[Way]:
    """Return the toy tasks, native and in SAME_STEP mode."""
    found = []
    for name, (id, options, bar) in TOY.items():
        env = gym.make_vec(id, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP.value, **options)
        found.append(Way(f"{name}, {num_envs} rows", vector_player(env), bar if num_envs == 1024 else None))
    return found


def power_ways(num_envs: int) -> list[Way]:
    """Return TextGen-v0 with each power switched on, native and in SAME_STEP mode."""
    found = []
    for name, options in POWERS.items():
        env = gym.make_vec(ID, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP.value, **options)
        found.append(Way(f"{name}, {num_envs} rows", vector_player(env), None))
    return found


def speeds(players: Mapping[str, Player], seconds: float, rounds: int) -> dict[str, float]:
    """Return the median speed of each player in tokens a second; they take turns."""
    seen: dict[str, list[float]] = {name: [] for name in players}
    for player in players.values():
        player()
    for _ in range(rounds):
        for name, player in players.items():
            seen[name].append(_speed(player, seconds / rounds))
    return {name: statistics.median(slices) for name, slices in seen.items()}


def _speed(player: Player, seconds: float) -> float:
    began, tokens, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < seconds:
        tokens += player()
        elapsed = time.perf_counter() - began
    return tokens / elapsed


def main(args: Args) -> dict[str, Any]:
    """Measure, print, write and return the figures."""
    machine = describe("numpy", "gymnasium")
    chosen = (toy_ways if args.toy else power_ways if args.powers else ways)(args.num_envs)
    found = speeds({way.name: way.player for way in chosen}, args.seconds, args.rounds)
    figures = [Figure(way.name, round(found[way.name]), way.bar, None if way.bar is None else found[way.name] >= way.bar) for way in chosen]
    print(machine)
    columns = ["way", "steps/s" if args.toy else "tokens/s", "of the first" if args.powers else "bar", "" if args.powers else "met"]
    first = figures[0].tokens_per_second if args.powers else None
    print_table(f"{'Toy tasks' if args.toy else ID}, one thread, medians of {args.rounds} slices", columns, [figure.cells(first) for figure in figures])
    report = {
        "machine": machine,
        "num_envs": args.num_envs,
        "seconds": args.seconds,
        "rounds": args.rounds,
        "figures": [figure._asdict() for figure in figures],
    }
    if args.json is not None:
        write_json(args.json, report)
    return report


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
