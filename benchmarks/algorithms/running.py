"""One run, and all of them: in this process or in two, each figure written down as soon as it is known."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from agents.advantages import Advantage
from agents.learner import Learner
from agents.providing import provided
from agents.rollout import Rollout

from .entrants import ALGORITHMS, entrant
from .tasks import TASKS, Setting

FIGURES = "figures.jsonl"
QUICK = 50  # a smoke test has that part of the steps


class Key(NamedTuple):
    """Which run."""

    task: str
    algorithm: str
    estimator: str
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.algorithm} {self.estimator} seed {self.seed}"


class Figure(NamedTuple):
    """What a run came to."""

    key: Key
    measured: dict[str, float]  # empty where it diverged
    steps: int
    seconds: float


class Spent(Exception):
    """The budget is spent."""


class Counting:
    """An estimator that counts the steps it has judged, and otherwise is the one it was given."""

    def __init__(self, of: Advantage) -> None:
        self.of, self.steps = of, 0

    def __call__(self, rollout: Rollout, /) -> Any:
        """Return what `of` does."""
        self.steps += int(rollout.valid.sum())
        return self.of(rollout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of, name)  # what it needs, and its discount


def refusal(task: str, algorithm: str, estimator: str, folder: Path) -> str | None:
    """Return why an algorithm will not take an estimator on a task, in its own words; None if it does."""
    one = TASKS[task]
    if task == "TextGen":  # no language model is warmed up to ask: all of its estimators are taken elsewhere
        return None
    entry = one.entries[algorithm]
    config, prompting = entrant(entry, estimator, one.gamma, one.length)
    setting = one.begin(0, entry.num_envs, folder, True)
    try:
        fill = provided(config, setting.env, setting.policy, prompting)
        if fill.vine:  # whether prefixes can be measured shows when they are
            learner = Learner.start(setting.env, setting.policy, torch.optim.SGD(setting.policy.parameters()), 0)
            learner.play(config.num_steps, config.episodes_per_row, fill=fill)
    except (TypeError, ValueError) as error:
        return str(error).replace(repr(config.advantage), estimator)  # one reason for all discounts
    return None


def measure(key: Key, folder: Path, quick: bool = False) -> Figure:
    """Train and judge; raises `KeyboardInterrupt` if Ctrl-C came."""
    torch.set_num_threads(1)  # networks this small only wait for a second one
    task = TASKS[key.task]
    entry = task.entries[key.algorithm]
    config, prompting = entrant(entry, key.estimator, task.gamma, task.length)
    if quick:
        config = replace(config, total_timesteps=config.total_timesteps // QUICK)
    setting = task.begin(key.seed, entry.num_envs, folder, quick)
    counting = Counting(config.advantage)
    began = time.perf_counter()
    measured: dict[str, float] = {}
    try:
        _learn(key, replace(config, advantage=counting), prompting, setting, counting, config.total_timesteps if task.counted else math.inf)
        measured = setting.judge(setting.policy)
    except FloatingPointError:
        pass  # it diverged: no figure
    return Figure(key, measured, counting.steps, time.perf_counter() - began)


def _learn(key: Key, config: Any, prompting: Any, setting: Setting, counting: Counting, budget: float) -> None:
    def spent(generator: np.random.Generator) -> dict[str, float]:
        if counting.steps >= budget:
            raise Spent
        return {}

    try:
        run = ALGORITHMS[key.algorithm].train(
            setting.env,
            setting.policy,
            config,
            seed=key.seed,
            reference=setting.reference,
            prompting=prompting,
            num_prompts=None if prompting is None else setting.num_prompts,
            evaluate=spent,
            evaluate_every=1,
            quiet=True,
        )
    except Spent:
        return
    if run.interrupted:
        raise KeyboardInterrupt


def read(folder: Path) -> list[Figure]:
    """Return the figures that a folder holds; a last line that was not written to its end is left out."""
    path = folder / FIGURES
    found: list[Figure] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        found.append(Figure(Key(*told["key"]), told["measured"], told["steps"], told["seconds"]))
    return found


def write(folder: Path, figure: Figure) -> None:
    """Add a figure to those of the folder, on a line of its own even where the last one was not written to its end."""
    path = folder / FIGURES
    before = path.read_bytes() if path.exists() else b""
    with open(path, "a", encoding="utf-8") as file:
        file.write(("\n" if before and not before.endswith(b"\n") else "") + json.dumps(figure._asdict()) + "\n")


def all_of(keys: Sequence[Key], folder: Path, quick: bool, workers: int) -> Iterator[Figure]:
    """Yield each run's figure when it is known, of one process or of `workers`; the runs of one process keep their order.

    Of several processes, what has begun when Ctrl-C comes is finished and yielded before `KeyboardInterrupt` is raised.
    """
    if workers == 1:
        yield from (measure(key, folder, quick) for key in keys)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _deaf) as pool:
        waiting = {pool.submit(measure, key, folder, quick) for key in keys}
        try:
            for done in as_completed(tuple(waiting)):
                waiting.remove(done)
                yield done.result()
        except KeyboardInterrupt:
            yield from (done.result() for done in as_completed([one for one in waiting if not one.cancel()]))
            raise
        except GeneratorExit:
            for one in waiting:
                one.cancel()
            raise


def _deaf() -> None:
    """Leave Ctrl-C to the first process, so that what has begun is finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
