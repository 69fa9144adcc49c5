"""Agents on tasks whose truth is known: `python -m benchmarks.toy`.

TwoState against its closed form; path planning on one map, on maps never seen, and through a small window.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro

import textgym  # noqa: F401 (registers the suite)
from agents import ppo
from agents.advantages import GAE
from agents.files import write_json
from agents.play import evaluate
from agents.policies import CNNPolicy, GRUPolicy, MLPPolicy, Policy, TabularPolicy, seeded
from agents.report import Panel, learning_curve
from agents.run import Run
from agents.sft import CloningConfig, Demonstrations, clone
from textgym.toy import baselines
from textgym.toy.map_families import generate
from textgym.toy.maps import load_maps
from textgym.toy.path_drawing import draw
from textgym.toy.path_planning import demonstrations
from textgym.toy.two_state import best_return

from .machine import describe, print_table

EASY = {"family": "walls", "size": 8, "density": 0.15}  # the easy family of maps
UNSEEN = 200
PATHS = "textgym/PathPlanning-v0"
TWO_STATE = ppo.Config(total_timesteps=40_000, num_steps=20, learning_rate=0.1, advantage=GAE(gamma=0.9, gae_lambda=0.95), num_epochs=4)
# Returns are 10 here: the value loss would drown the policy's gradient at its usual weight.
MAPS = ppo.Config(
    total_timesteps=1_000_000,
    num_steps=32,
    learning_rate=1e-3,
    advantage=GAE(gamma=0.95, gae_lambda=0.95),
    num_epochs=3,
    num_minibatches=8,
    vf_coef=0.01,
    ent_coef=0.005,
)
Row = tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """Train agents on the toy tasks and compare them with what is known."""

    tasks: tuple[str, ...] = ("two_state", "fixed_map", "unseen_maps", "window")
    """Which tables to print."""
    seeds: int = 3
    """How many seeds, from 0 on."""
    scale: float = 1.0
    """Share of the usual steps: 0.01 is a smoke test."""
    json: Path | None = None
    """File for the figures."""
    pictures: Path | None = None
    """Folder for two pictures: the policy learned on the map of four rooms, and the curves of cloning."""


def scaled(config: ppo.Config, scale: float) -> ppo.Config:
    """Return the same choices with a share of the steps."""
    return replace(config, total_timesteps=max(1, int(config.total_timesteps * scale)))


def make(id: str, num_envs: int, **options: Any) -> Any:
    """Return a vector environment in the mode that loses no step."""
    return gym.make_vec(id, num_envs=num_envs, autoreset_mode="SameStep", **options)


def two_state(choices: Choices) -> list[Row]:
    """Return the learned return over the best one, for both slips and every seed."""
    rows: list[Row] = []
    for slip in (0.0, 0.2):
        for seed in range(choices.seeds):
            env = make("textgym/TwoState-v0", 32, slip=slip)
            policy = TabularPolicy.for_env(env)
            ppo.train(env, policy, scaled(TWO_STATE, choices.scale), seed=seed, quiet=True)
            reached = evaluate(make("textgym/TwoState-v0", 2000, slip=slip), policy, np.random.default_rng(seed), seed=10**6).returns.mean()
            best = best_return(20, slip=slip)
            rows.append((f"slip {slip}, seed {seed}", f"{reached:.3f}", f"{best:.1f}", f"{reached / best:.4f}"))
    return rows


def spl(policy: Any, env: Any, temperature: float, seed: int) -> float:
    """Return the mean success weighted by path length of one episode on each row's map."""
    played = evaluate(env, policy, np.random.default_rng(seed), options={"map": np.arange(env.num_envs)}, temperature=temperature)
    return float(played.ends["spl"].mean())


def fixed_map(choices: Choices) -> list[Row]:
    """Return the success weighted by path length on the map of four rooms, learned by a table."""
    rows: list[Row] = []
    for seed in range(choices.seeds):
        policy = train_on_fixed_map(seed, choices.scale)
        played = evaluate(make(PATHS, 20, view="cell"), policy, np.random.default_rng(seed), temperature=0.0)
        rows.append((f"seed {seed}", f"{played.ends['spl'].mean():.3f}"))
    return rows


def train_on_fixed_map(seed: int, scale: float = 1.0) -> TabularPolicy:
    """Return a tabular policy trained on the map of four rooms, from every cell."""
    env = make(PATHS, 64, view="cell", start="random")
    policy = TabularPolicy.for_env(env)
    config = ppo.Config(total_timesteps=200_000, num_steps=32, learning_rate=0.1, advantage=GAE(gamma=0.97, gae_lambda=0.95), num_epochs=4, vf_coef=0.5)
    ppo.train(env, policy, scaled(config, scale), seed=seed, quiet=True)
    return policy


def unseen_maps(choices: Choices) -> list[Row]:
    """Return the success weighted by path length on unseen maps: baselines, cloning and PPO."""
    maps = generate("walls", 8, 0.15, UNSEEN, "test")
    known: dict[str, tuple[baselines.Act, str | None]] = {
        "random walk": (baselines.random_walk(), None),
        "straight to the goal": (baselines.go_straight, None),
        "straight, around walls": (baselines.go_straight_around, "map"),
        "shortest path": (baselines.shortest_path(maps), None),
    }
    rows: list[Row] = [(name, "", f"{baselines.spl(act, maps, view=view).mean():.3f}", "") for name, (act, view) in known.items()]
    env = make(PATHS, UNSEEN, **EASY, num_maps=UNSEEN, split="test", view="map")
    learners: dict[str, Callable[[CNNPolicy, int, float], Run]] = {"cloned from shortest paths": cloned, "PPO": trained}
    for name, learn in learners.items():
        for seed in range(choices.seeds):
            with seeded(seed):
                policy = CNNPolicy.for_env(env)
            learn(policy, seed, choices.scale)
            rows.append((name, str(seed), f"{spl(policy, env, 0.0, seed):.3f}", f"{spl(policy, env, 1.0, seed):.3f}"))
    return rows


def cloned(policy: CNNPolicy, seed: int, scale: float, evaluate: Callable[[np.random.Generator], dict[str, float]] | None = None) -> Run:
    """Clone what to do from every cell of 1,000 training maps."""
    shown, heldout = (demonstrations(generate("walls", 8, 0.15, num, split), view="map", every_cell=True) for num, split in ((1000, "train"), (200, "val")))
    config = CloningConfig(num_epochs=max(1, int(15 * scale)), learning_rate=2e-3)
    steps = [Demonstrations(d.observations, d.actions) for d in (shown, heldout)]
    return clone(policy, steps[0], steps[1], config, seed=seed, evaluate=evaluate, quiet=True)


def trained(policy: CNNPolicy, seed: int, scale: float) -> Run:
    """Train by PPO on the same 1,000 maps, from random starts to random goals."""
    env = make(PATHS, 128, **EASY, num_maps=1000, split="train", view="map", start="random", goal="random", max_steps=48)
    return ppo.train(env, policy, scaled(MAPS, scale), seed=seed, quiet=True)


def window(choices: Choices) -> list[Row]:
    """Return the success weighted by path length of a policy that remembers and of one that does not, both with a window of 3 x 3 cells."""
    rows: list[Row] = []
    local = {"family": "mazes", "size": 7, "view": "local", "radius": 1}
    config = ppo.Config(
        total_timesteps=1_200_000, num_steps=64, learning_rate=2e-3, advantage=GAE(gamma=0.95, gae_lambda=0.95), num_epochs=3, vf_coef=0.01, ent_coef=0.005
    )
    for seed in range(choices.seeds):
        env = make(PATHS, 64, **local, num_maps=1000, split="train", start="random", goal="random", max_steps=64)
        heldout = make(PATHS, UNSEEN, **local, num_maps=UNSEEN, split="test", max_steps=64)
        with seeded(seed):
            policies: dict[str, Policy] = {"GRU": GRUPolicy.for_env(env), "MLP": MLPPolicy.for_env(env)}
        for name, policy in policies.items():
            ppo.train(env, policy, scaled(config, choices.scale), seed=seed, quiet=True)
            rows.append((name, str(seed), f"{spl(policy, heldout, 0.0, seed):.3f}", f"{spl(policy, heldout, 1.0, seed):.3f}"))
    return rows


def draw_pictures(folder: Path, scale: float) -> None:
    """Draw the learned policy as arrows over its values, and the curves of cloning with the path error on unseen maps."""
    from matplotlib.image import imsave

    folder.mkdir(parents=True, exist_ok=True)
    policy = train_on_fixed_map(0, scale)
    maps = load_maps("four_rooms")
    shape = (maps.height, maps.width)
    arrows = policy.logits.detach().argmax(1).numpy().reshape(shape)
    imsave(folder / "four_rooms.png", draw(maps.walls[0], goal=int(maps.goals[0]), values=policy.values.detach().numpy().reshape(shape), moves=arrows))
    env = make(PATHS, UNSEEN, **EASY, num_maps=UNSEEN, split="test", view="map")
    with seeded(0):
        learner = CNNPolicy.for_env(env)
    run = cloned(learner, 0, scale, lambda generator: {"path_error": 1 - spl(learner, env, 0.0, 0)})
    panels = (
        Panel("Nats a step", ("loss", "heldout_loss")),
        Panel("Accuracy", ("accuracy", "heldout_accuracy")),
        Panel("1 - SPL, unseen maps", ("eval/path_error",)),
    )
    learning_curve(run.history, folder / "cloning.png", panels, title="Cloning shortest paths", x="iteration")


TABLES: dict[str, tuple[str, Row, Callable[[Choices], list[Row]]]] = {
    "two_state": ("TwoState: return learned by PPO, sampled", ("", "reached", "best", "share"), two_state),
    "fixed_map": ("PathPlanning, the map of four rooms: PPO with a table, greedy", ("", "SPL"), fixed_map),
    "unseen_maps": (f"PathPlanning, {UNSEEN} unseen maps of 8 x 8 cells, 15 % walls", ("", "seed", "SPL greedy", "SPL sampled"), unseen_maps),
    "window": ("PathPlanning, 200 unseen mazes of 7 x 7 cells, seen through a window of 3 x 3", ("", "seed", "SPL greedy", "SPL sampled"), window),
}


def main(choices: Choices) -> None:
    """Print the tables that were asked for."""
    torch.set_num_threads(1)
    found: dict[str, list[Row]] = {}
    print(describe("torch", "gymnasium"))
    for task in choices.tasks:
        if task not in TABLES:
            sys.exit(f"There is no table {task!r}; choose among {', '.join(TABLES)}.")
        title, columns, rows_of = TABLES[task]
        found[task] = rows_of(choices)
        print_table(title, columns, found[task])
    if choices.pictures is not None:
        draw_pictures(choices.pictures, choices.scale)
    if choices.json is not None:
        write_json(choices.json, {"machine": describe("torch", "gymnasium"), "tables": found})


if __name__ == "__main__":
    main(tyro.cli(Choices, description=__doc__))
