"""Training iterations: ours beside a single-file loop, TRL's GRPO, RLOO and PPO, and Stable-Baselines3's PPO.

All play 64 whole texts of 16 + 32 tokens an iteration (8 of each prompt), and take one step on all of them at once.
Axis legend: N rows.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from agents import policy_gradient, ppo
from agents.advantages import GRPO, RLOO, Advantage
from agents.kl import FixedKL
from agents.policies import CausalLMPolicy, SeparateCritic
from agents.prompting import Groups

from ..environment import Player, speeds
from .lines import Bar, Line, NotRun, show
from .peers import sb3_ppo, single_file, worker, write_task
from .shapes import TINY, Shape, build
from .task import NUM_PROMPTS, environment

ROWS, NEW, GROUP = 64, 32, 8
ITERATIONS = 4  # of a call
TOKENS = ROWS * NEW  # of an iteration
SHAPE: Shape = TINY
GROUPED, TRL_PPO, SB3 = Bar(1.5, 2.0), Bar(4, 6), Bar(30, 60)
UNIT = "tokens/s"


def our_gradient(model: nn.Module, advantage: Advantage) -> Player:
    """Return a player of `policy_gradient.train` without a critic: each call is a whole run of a few iterations, its set-up included."""
    env, policy = environment(SHAPE, ROWS, NEW), CausalLMPolicy(model, SHAPE.vocab_size)
    config = policy_gradient.Config(ITERATIONS * TOKENS, NEW, learning_rate=1e-5, anneal_lr=False, advantage=advantage, vf_coef=0.0)

    def play() -> int:
        policy_gradient.train(env, policy, config, prompting=Groups(GROUP), num_prompts=NUM_PROMPTS, quiet=True)
        return ITERATIONS * TOKENS

    return play


def our_ppo(model: nn.Module, *, separate: bool, reference: bool) -> Player:
    """Return a player of `ppo.train`, one epoch and one minibatch: values from a model of their own or from a head, with a reference or without."""
    env, policy = environment(SHAPE, ROWS, NEW), _policy(model)
    learner: Any = SeparateCritic(policy, _policy(model)) if separate else policy
    kl = FixedKL(0.05 if reference else 0.0)
    config = ppo.Config(ITERATIONS * TOKENS, NEW, 1, learning_rate=1e-5, anneal_lr=False, num_epochs=1, num_minibatches=1, kl=kl, kl_exact_every=0)
    frozen = _policy(model) if reference else None

    def play() -> int:
        ppo.train(env, learner, config, reference=frozen, quiet=True)
        return ITERATIONS * TOKENS

    return play


def _policy(model: nn.Module) -> CausalLMPolicy:
    return CausalLMPolicy(copy.deepcopy(model), SHAPE.vocab_size)


def compared(
    ours: Mapping[str, Player], peers: Mapping[str, Player], kinds: Mapping[str, str], python: Path | None, bar: Bar, folder: Path, seconds: float, rounds: int
) -> list[Line | NotRun]:
    """Return each of `ours` beside each of `peers`, which no bar is held against, and beside trainers of TRL (`kinds`, by name), if they are there."""
    theirs, left_out = dict(peers), []
    with ExitStack() as stack:
        for name, kind in kinds.items():
            option, version = ("--trl-ppo", "1.12") if kind == "ppo" else ("--trl", "1.16")
            if python is None:
                pins = "-c constraints.txt" if kind != "ppo" else "torch==2.13.0 transformers==5.23.*"  # constraints pin the newer TRL
                left_out.append(NotRun(f"{name} of TRL", f"in an environment of its own `pip install {pins} trl=={version}.*`; {option} PYTHON"))
                continue
            try:
                theirs[f"{name} of TRL {version}"] = stack.enter_context(worker(python, kind, folder, ITERATIONS, TOKENS))
            except (RuntimeError, OSError) as error:
                left_out.append(NotRun(f"{name} of TRL", str(error)))
        found = speeds({**ours, **theirs}, seconds, rounds) if theirs else {}
    pairs = [(name, peer) for name in ours for peer in theirs]
    return [*(Line(f"{name} / {peer}", found[name], found[peer], UNIT, bar if "TRL" in peer else None) for name, peer in pairs), *left_out]


def beside_sb3(model: nn.Module, seconds: float, rounds: int) -> Line | NotRun:
    """Return our PPO without a reference beside Stable-Baselines3's."""
    try:
        theirs = sb3_ppo(copy.deepcopy(model), SHAPE, ROWS, NEW)
    except ImportError:
        return NotRun("PPO of SB3", "pip install stable-baselines3")
    found = speeds({"ours": our_ppo(model, separate=False, reference=False), "theirs": theirs}, seconds, rounds)
    return Line("PPO / PPO of SB3", found["ours"], found["theirs"], UNIT, SB3)


def measure(*, activation: str, quick: bool, trl: Path | None, trl_ppo: Path | None, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Print the tables of training and return their lines."""
    model = build(SHAPE, activation)
    policy_gradients: dict[str, Callable[[], Advantage]] = {"GRPO": GRPO, "RLOO": RLOO}
    told: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(folder, model, SHAPE, ROWS, NEW, GROUP)
        for kind, advantage in policy_gradients.items():
            peers = {"single-file loop with DynamicCache": single_file(copy.deepcopy(model), SHAPE, ROWS, NEW, GROUP, ITERATIONS)}
            players = {kind: our_gradient(copy.deepcopy(model), advantage())}
            lines = compared(players, peers, {kind: kind.lower()}, trl, GROUPED, folder, seconds, rounds)
            told += show(f"training: {kind}, {ROWS} texts, one step", lines)
        players = {f"PPO, value {part}": our_ppo(model, separate=part == "model", reference=True) for part in ("model", "head")}
        lines = compared(players, {}, {"PPO": "ppo"}, trl_ppo, TRL_PPO, folder, seconds, rounds)
        told += show("training: PPO with a reference, one epoch, one minibatch", lines)
    if quick:
        return told
    return told + show("training: PPO without a reference, value head", [beside_sb3(model, seconds, rounds)])
