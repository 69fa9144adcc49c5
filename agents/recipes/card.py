"""The model card of a trained policy: what it is, what it scored, how to load it, and how to train it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .choices import AnyJob, SFTText, command_of
from .material import Material
from .measure import Measured
from .saved import to_json

NAMES = {"ppo": "PPO", "a2c": "A2C", "policy_gradient": "policy gradient (REINFORCE)", "sft": "supervised training"}
MEANINGS = {
    "nats": "nats a token of the held-out texts",
    "accuracy": "share of the held-out tokens that were the most likely",
    "score": "score, which was paid",
    "kl": "KL from the warm-up model, nats a sample",
    "eos": "share that end themselves",
    "distinct": "share of different continuations",
    "distinct_2": "share of different bigrams",
    "length": "tokens generated",
}


def card(choice: AnyJob, material: Material, known: Mapping[str, float | None], before: Measured, after: Measured, samples: Sequence[tuple[str, str]]) -> str:
    """Return the card as Markdown with the front matter that model hubs read; its snippet is run from within the folder.

    Args:
        choice: the job.
        material: what it learned on.
        known: "warmup_nats" and "entropy_rate", where they are.
        before: held-out samples before training.
        after: ... and after.
        samples: prompts and what the trained policy wrote behind them.
    """
    name = command_of(choice)
    parts = [
        _front_matter(choice, name),
        f"# {name} on {material.name}\n\n{_introduction(choice, material, name)}",
        _results(choice, material, known, before, after),
        _usage(choice, material, [prompt for prompt, _ in samples]),
        _repeating(choice, name),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(choice: AnyJob, name: str) -> str:
    tags = ["text-generation", "textgym", name, *(() if isinstance(choice, SFTText) else ("reinforcement-learning",))]
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join([*lines, "# license: yours to choose before you publish; mind those of the texts and of the model you started from", "---"])


def _introduction(choice: AnyJob, material: Material, name: str) -> str:
    start = "a small GPT-2 built for the task" if choice.job.model.model is None else f"the local model `{choice.job.model.model.name}`"
    if isinstance(choice, SFTText):
        return f"This is {start}, trained on the texts of {material.name} by textgym, next token by next token."
    judge = f"the scorer `{choice.job.text.scorer}`" if choice.job.text.scorer else "a classifier of the labels" if choice.job.text.data else "`sentiment`"
    return (
        f"This is {start}, warmed up on the texts of {material.name} and then trained by {NAMES[name]} with textgym: "
        f"it continues prompts of up to {material.max_prompt_tokens} tokens by up to {material.max_new_tokens}, and {judge} pays for the text."
    )


def _results(choice: AnyJob, material: Material, known: Mapping[str, float | None], before: Measured, after: Measured) -> str:
    lines = [
        f"## Held-out samples\n\n{len(after.tokens):,} samples of held-out prompts, temperature 1, seed {choice.job.seed}; +- is half of a 95 % interval.\n",
        "| | before | after |\n|---|--:|--:|",
    ]
    meanings = {**MEANINGS, "gold": f"{material.gold_name}, which was never paid"} | ({"score": "score"} if isinstance(choice, SFTText) else {})
    lines += [f"| {meaning} | {_figure(before, metric)} | {_figure(after, metric)} |" for metric, meaning in meanings.items() if metric in after.metrics]
    facts = [("The warm-up model needs {:.3f} nats a token on held-out texts.", known.get("warmup_nats"))]
    facts += [("No model of these texts can go below {:.3f} nats a token.", known.get("entropy_rate"))]
    told = [sentence.format(value) for sentence, value in facts if value is not None]
    return "\n".join(lines + (["", " ".join(told)] if told else []))


def _figure(measured: Measured, name: str) -> str:
    error = f" +- {1.96 * measured.errors[name]:.3f}" if name in measured.errors else ""
    return f"{measured.metrics[name]:.3f}{error}"


def _usage(choice: AnyJob, material: Material, prompts: Sequence[str]) -> str:
    constraint = " What the constraint forbids, `generate` does not know of." if choice.job.text.constraint else ""
    return f"""## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file is
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
prompts = {json.dumps(list(prompts[:2]), ensure_ascii=False)}
inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
print(tokenizer.batch_decode(written, skip_special_tokens=True))
```

That is greedy and up to {material.max_new_tokens} tokens. It was trained, and measured above, by samples:
`generate(**inputs, do_sample=True, top_k=0)`.{constraint}
`value_head.safetensors` is the critic's, which transformers does not read; `agents.policies.CausalLMPolicy.load(folder)` does."""


def _repeating(choice: AnyJob, name: str) -> str:
    config = {key: value for key, value in _named(to_json(choice)).items() if key != "folder"}
    return f"""## Train it again

`python -m agents {name} --config config.json`, with `config.json` of the run folder around this one: the same numbers on the same machine. It says
(of paths, only the names stand here):

```json
{json.dumps(config, indent=1, ensure_ascii=False)}
```"""


def _named(value: Any) -> Any:
    """Return JSON values with paths cut to their names: a card is made to be published."""
    if isinstance(value, dict):
        return {key: _named(item) for key, item in value.items()}
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
