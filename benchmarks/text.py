"""The default text task over several seeds, or SST-2: `python -m benchmarks.text --seeds 5`, `--algorithm a2c`, `--sst2 FOLDER`.

Every seed is the whole job of `python -m agents ppo`, a2c or policy_gradient (warm-up, learning, held-out samples) in a folder that is
thrown away, and every figure is held against its bar.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from agents import ppo, sft
from agents.files import write_json
from agents.kl import FixedKL
from agents.recipes import Job, Model, Outcome, PPOText, Text, TextJob, train
from agents.recipes.choices import COMMANDS

from .machine import describe, print_table


class Bar(NamedTuple):
    """What one figure of an outcome must be."""

    name: str
    text: str
    figure: Callable[[Outcome], float]
    holds: Callable[[float], bool]


def _after(name: str) -> Callable[[Outcome], float]:
    return lambda outcome: (outcome.after or {})[name]


def _change(name: str) -> Callable[[Outcome], float]:
    return lambda outcome: (outcome.after or {})[name] - outcome.before[name]


FILM_BARS = (
    Bar("warm-up gap, nats", "<= 0.1", lambda o: o.warmup_nats - (o.entropy_rate or 0.0), lambda x: x <= 0.1),
    Bar("score before", "about 0.5", lambda o: o.before["score"], lambda x: 0.4 <= x <= 0.6),
    Bar("score", ">= 0.95", _after("score"), lambda x: x >= 0.95),
    Bar("KL, nats", "<= 5", _after("kl"), lambda x: x <= 5),
    Bar("grammatical", ">= 0.90", _after("gold"), lambda x: x >= 0.9),
    Bar("EOS, change", ">= 0", _change("eos"), lambda x: x >= 0),
    Bar("distinct", ">= 0.80", _after("distinct"), lambda x: x >= 0.8),
    Bar("seconds", "<= 60", lambda o: o.seconds, lambda x: x <= 60),
)
SST2_BARS = (
    Bar("score, change", ">= 0.25", _change("score"), lambda x: x >= 0.25),
    Bar("unpaid judge, change", ">= 0.15", _change("gold"), lambda x: x >= 0.15),
    Bar("distinct-2, ratio", "> 0.5", lambda o: _after("distinct_2")(o) / o.before["distinct_2"], lambda x: x > 0.5),
    Bar("KL, nats", "< 10", _after("kl"), lambda x: x < 10),
    Bar("seconds", "<= 600", lambda o: o.seconds, lambda x: x <= 600),
)


@dataclass(frozen=True)
class Choices:
    """Run a text task over several seeds and hold its figures against their bars."""

    algorithm: Literal["ppo", "a2c", "policy_gradient"] = "ppo"
    """Who learns the film reviews, with its defaults; the bars are PPO's."""
    seeds: int = 5
    """How many seeds, from 0 on."""
    sst2: Path | None = None
    """Folder with SST-2's train.tsv and dev.tsv, which PPO learns; without it, the embedded film reviews."""
    short: bool = False
    """A third of the steps: a smoke test that need not meet the bars."""
    json: Path | None = None
    """File for the figures."""


def sst2_job(folder: Path) -> PPOText:
    """Return the job of the README's SST-2 command."""
    text = Text(data=folder / "train.tsv", heldout=folder / "dev.tsv", text_column="0", label_column="1")
    job = Job(text=text, model=Model(width=128), warmup=sft.Config(num_updates=1500))
    return PPOText(job, ppo.Config(total_timesteps=200_000, kl=FixedKL(0.03)))


def shortened(choice: TextJob) -> TextJob:
    """Return the same job with a third of its updates and steps."""
    warmup = replace(choice.job.warmup, num_updates=choice.job.warmup.num_updates // 3)
    algorithm: Any = replace(choice.algorithm, total_timesteps=choice.algorithm.total_timesteps // 3)
    return replace(choice, job=replace(choice.job, warmup=warmup), algorithm=algorithm)


def run_seeds(choices: Choices) -> list[Outcome]:
    """Return the outcome of each seed."""
    if choices.sst2 is not None and choices.algorithm != "ppo":
        raise SystemExit("--sst2 is a task of PPO's: leave out --algorithm.")
    choice: TextJob = COMMANDS[choices.algorithm][0]() if choices.sst2 is None else sst2_job(choices.sst2)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(choices.seeds):
            one = replace(choice, job=replace(choice.job, seed=seed, quiet=True, folder=Path(folder) / str(seed)))
            outcome = train(shortened(one) if choices.short else one)
            if outcome is None or outcome.after is None:
                raise KeyboardInterrupt
            print(f"seed {seed}: score {outcome.before['score']:.3f} -> {outcome.after['score']:.3f} in {outcome.seconds:.0f} s", flush=True)
            outcomes.append(outcome)
    return outcomes


def main(choices: Choices) -> int:
    """Print the table; return 0 if every seed meets every bar, else 1."""
    bars = FILM_BARS if choices.sst2 is None else SST2_BARS
    outcomes = run_seeds(choices)
    rows: list[dict[str, Any]] = []
    for bar in bars:
        figures = [bar.figure(outcome) for outcome in outcomes]
        rows.append({"figure": bar.name, "bar": bar.text, "seeds": figures, "met": sum(map(bar.holds, figures))})
    columns = ("figure", "bar", *(f"seed {seed}" for seed in range(choices.seeds)), "met")
    cells = [(row["figure"], row["bar"], *(f"{x:.3g}" for x in row["seeds"]), f"{row['met']} of {choices.seeds}") for row in rows]
    print_table(
        f"{choices.algorithm}, {'film reviews' if choices.sst2 is None else 'SST-2'}, held-out samples; {describe('torch', 'transformers')}", columns, cells
    )
    if choices.json is not None:
        write_json(choices.json, {"machine": describe("torch", "transformers"), "rows": rows})
    return 0 if all(row["met"] == choices.seeds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Choices, description=__doc__)))
