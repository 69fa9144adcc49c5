"""What came of a job: weights, figures, a learning curve and samples, in its folder and on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from textgym import tokenizers

from ..files import new_folder, write_json
from ..policies import CausalLMPolicy
from ..report import Sample, learning_curve, samples_markdown
from ..run import Run
from ..timing import Stopwatch
from .material import Material
from .measure import Measured

NUM_SHOWN = 6  # prompts continued before and after
EXPLAINED = {
    "score": "mean score, which is paid",
    "gold": "measured, never paid",
    "kl": "nats a sample from the warm-up model",
    "eos": "share that end themselves",
    "distinct": "share of different continuations",
    "distinct_2": "share of different bigrams",
    "length": "tokens generated",
}


def report(
    folder: Path,
    material: Material,
    policy: CausalLMPolicy,
    run: Run,
    before: Measured,
    after: Measured,
    facts: Mapping[str, Any],
    console: Console,
    title: str,
) -> None:
    """Write and print what came of it: weights, figures, a learning curve and samples."""
    with new_folder(folder / "policy", replace=True) as temporary:
        policy.save(temporary)
        tokenizers.save(material.tokenizer, temporary)
        if isinstance(material.tokenizer, tokenizers.WordTokenizer):  # so that plain transformers can read the folder
            tokenizers.to_transformers(material.tokenizer).save_pretrained(str(temporary))
    write_json(folder / "evaluation.json", {**facts, "before": before.metrics, "after": after.metrics, "gold": material.gold_name})
    learning_curve(run.history, folder / "learning_curve.png", title=title)
    rows = [_sample(material, row, before, after) for row in range(min(NUM_SHOWN, len(before.tokens)))]
    samples_markdown(rows, folder / "samples.md")
    table = Table(title=f"{len(before.tokens):,} held-out samples", title_justify="left")
    for heading in ("", "before", "after", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for name in [name for name in EXPLAINED if name in after.metrics]:
        meaning = f"{material.gold_name}: {EXPLAINED[name]}" if name == "gold" else EXPLAINED[name]
        table.add_row(name, f"{before.metrics[name]:.3f}", f"{after.metrics[name]:.3f}", meaning)
    console.print(table)
    samples = Table(title="The same held-out prompts, continued before and after", title_justify="left", show_lines=True)
    for heading in ("prompt", "before", "after"):
        samples.add_column(heading)
    for sample in rows:
        samples.add_row(sample.prompt, f"{sample.before}  ({sample.score_before:.2f})", f"{sample.after}  ({sample.score_after:.2f})")
    console.print(samples)


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
