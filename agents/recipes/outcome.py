"""What came of a job: weights, figures, a learning curve and samples, in its folder and on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files import new_folder, write_json, write_text
from ..policies import CausalLMPolicy
from ..report import PANELS, SUPERVISED_PANELS, Sample, learning_curve, samples_markdown
from ..run import Run
from ..timing import Stopwatch
from .card import card
from .choices import AnyJob, SFTText, command_of
from .fitting import fit
from .material import Material
from .measure import Measured

NUM_SHOWN = 6  # prompts continued before and after
EXPLAINED = {
    "nats": "a token of the held-out texts, in the mean",
    "accuracy": "share of these tokens that were the most likely",
    "score": "mean score: what rewarded training pays",
    "gold": "measured, never paid",
    "kl": "nats a sample from the warm-up model",
    "eos": "share that end themselves",
    "distinct": "share of different continuations",
    "distinct_2": "share of different bigrams",
    "length": "tokens generated",
}


class Facts(NamedTuple):
    """What is to be told of a finished job."""

    choice: AnyJob
    known: dict[str, float | None]  # of the material and the warm-up: "warmup_nats", "entropy_rate"
    before: Measured
    after: Measured


def report(folder: Path, material: Material, policy: CausalLMPolicy, run: Run, facts: Facts, console: Console) -> None:
    """Write and print what came of it: weights, figures, a learning curve and samples."""
    before, after, name = facts.before, facts.after, command_of(facts.choice)
    rows = [_sample(material, row, before, after) for row in range(min(NUM_SHOWN, len(before.tokens)))]
    with new_folder(folder / "policy", replace=True) as temporary:
        fit(policy, material, temporary)
        write_text(temporary / "README.md", card(facts.choice, material, facts.known, before, after, [(one.prompt, one.after) for one in rows]))
    write_json(folder / "evaluation.json", {**facts.known, "before": before.metrics, "after": after.metrics, "gold": material.gold_name})
    supervised = isinstance(facts.choice, SFTText)
    if run.history:
        title, x = f"{name} on {material.name}", "iteration" if supervised else "steps"
        learning_curve(run.history, folder / "learning_curve.png", SUPERVISED_PANELS if supervised else PANELS, title=title, x=x)
    samples_markdown(rows, folder / "samples.md")
    console.print(metrics_table(material, {"before": before, "after": after}))
    samples = Table(title="The same held-out prompts, continued before and after", title_justify="left", show_lines=True)
    for heading in ("prompt", "before", "after"):
        samples.add_column(heading)
    for sample in rows:
        told = [(sample.before, sample.score_before), (sample.after, sample.score_after)]
        samples.add_row(Text(sample.prompt), *(Text(f"{text}  ({score:.2f})" if material.is_judged else text) for text, score in told))
    console.print(samples)


def metrics_table(material: Material, measured: Mapping[str, Measured], *, intervals: bool = False) -> Table:
    """Return what held-out samples are like, a metric a line; with their 95 % intervals if asked for."""
    num = len(next(iter(measured.values())).tokens)
    table = Table(title=f"{num:,} held-out samples", title_justify="left")
    for heading in ("", *measured, ""):
        table.add_column(heading, justify="right" if heading else "left")
    for name in [name for name in EXPLAINED if any(name in one.metrics for one in measured.values())]:
        meaning = f"{material.gold_name}: {EXPLAINED[name]}" if name == "gold" else EXPLAINED[name]
        table.add_row(name, *(_cell(one, name, intervals) for one in measured.values()), meaning)
    return table


def _cell(measured: Measured, name: str, intervals: bool) -> str:
    if name not in measured.metrics:
        return "-"
    error = f" +- {1.96 * measured.errors[name]:.3f}" if intervals and name in measured.errors else ""
    return f"{measured.metrics[name]:.3f}{error}"


def _sample(material: Material, row: int, before: Measured, after: Measured) -> Sample:
    decode = material.tokenizer.decode
    prompt = material.heldout_prompts[row % len(material.heldout_prompts)].text
    return Sample(prompt, decode(before.tokens[row]), decode(after.tokens[row]), before.scores[row], after.scores[row])


def profile_table(watch: Stopwatch, iterations: int) -> Table:
    """Return where the time went, a stage a line."""
    table = Table(title=f"Where the time of {iterations} iterations went", title_justify="left")
    for heading in ("stage", "seconds", "ms an iteration", "share"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, seconds, share in watch.table():
        table.add_row(name, f"{seconds:.2f}", f"{1e3 * seconds / max(1, iterations):.2f}", f"{share:.1%}")
    return table
