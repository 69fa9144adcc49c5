"""Peak memory of one whole training iteration at a vocabulary of 50,257, each side in a process of its own.

16 texts of 16 + 496 tokens on GPT-2 small's shape: play, loss, gradient, one step of Adam. The naive side turns the logits [B, L, V] of all
texts into log-probabilities at once, and need not play: it is given its texts. A process tells its peak beyond what it held before the
iteration; the allocator is left as it is there, so that what is freed goes back.
Axis legend: B texts, L tokens, V vocabulary.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .lines import Bar, Line, NotRun, show
from .shapes import LONG, PROMPT, Shape, build

ROWS = 16
BAR = Bar(0.5, 0.3, below=True)
MIB = 2**20


def status(field: str) -> int:
    """Return a line of this process's status in bytes: VmRSS (now) or VmHWM (the peak)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def naive(model: nn.Module, shape: Shape, rows: int) -> Callable[[], object]:
    """Return a step on float32 log-probabilities [B, L, V]; its texts are random and cost it nothing."""
    generator = np.random.default_rng(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    ids = torch.from_numpy(generator.integers(shape.vocab_size - 1, size=(rows, shape.positions)))
    advantages = torch.from_numpy(generator.normal(size=(rows, 1))).float()

    def iteration() -> None:
        log_probs = torch.log_softmax(model(input_ids=ids[:, :-1], use_cache=False).logits.float(), dim=-1)
        loss = -(log_probs.gather(-1, ids[:, 1:, None])[..., 0] * advantages)[:, PROMPT - 1 :].mean()
        loss.backward()
        optimizer.step()

    return iteration


def ours(model: nn.Module, shape: Shape, rows: int, micro_batch: int | None = None) -> Callable[[], object]:
    """Return an iteration of `policy_gradient.train`, which reads `micro_batch` texts at a time for its one step (None: what 4,096 tokens are)."""
    from agents import policy_gradient
    from agents.policies import CausalLMPolicy

    from .task import environment

    new = shape.positions - PROMPT
    env, policy = environment(shape, rows, new), CausalLMPolicy(model, shape.vocab_size)
    config = policy_gradient.Config(rows * new, new, learning_rate=1e-5, vf_coef=0.0, micro_batch=micro_batch)
    return lambda: policy_gradient.train(env, policy, config, quiet=True)


SIDES: dict[str, Callable[[nn.Module, Shape, int], Callable[[], object]]] = {
    "naive": naive,
    "ours": ours,
    "all texts at once": partial(ours, micro_batch=ROWS),
    "micro_batch=1": partial(ours, micro_batch=1),
}


def peak(side: str, shape: Shape, rows: int, activation: str) -> int:
    """Return the bytes that an iteration of a side needs beyond what this process held before."""
    iteration = SIDES[side](build(shape, activation), shape, rows)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before = status("VmRSS")
    iteration()
    return status("VmHWM") - before


def measured(side: str, shape: Shape, rows: int, activation: str) -> int:
    """Return `peak` of a process of its own."""
    command = [sys.executable, "-m", "benchmarks.throughput.memory", side, json.dumps(vars(shape)), str(rows), activation]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the side {side!r} failed with {done.returncode}: {done.stderr.strip()[-300:]}")
    return int(done.stdout.split()[-1])


def measure(*, activation: str, shape: Shape = LONG, rows: int = ROWS) -> list[dict[str, Any]]:
    """Print the table of peak memory and return its lines."""
    title = f"memory: peak of one training iteration, {shape.name}, {rows} x {shape.positions} tokens, V = {shape.vocab_size:,}"
    if not Path("/proc/self/clear_refs").exists():
        return show(title, [NotRun(title, "it reads /proc, which Linux has")])
    needed = {side: measured(side, shape, rows, activation) / MIB for side in SIDES}
    theirs = needed.pop("naive")
    return show(title, [Line(f"{side} / naive", mebibytes, theirs, "MiB", BAR) for side, mebibytes in needed.items()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, side, sizes, rows, activation = sys.argv
    print(peak(side, Shape(**json.loads(sizes)), int(rows), activation))
