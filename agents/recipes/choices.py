"""What a training job on text may be told, as documented dataclasses: they drive the command line and are saved beside the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from .. import advantages, ppo, sft, surrogates
from ..kl import FixedKL, kl_price_from_json, kl_price_to_json


@dataclass(frozen=True)
class Text:
    """Which text is continued, and what it is worth."""

    data: Path | None = None
    """File of texts (.txt one a line, .tsv, .csv, .jsonl) to learn the language from; without it, the embedded film reviews."""
    heldout: Path | None = None
    """File of the same kind whose beginnings are the held-out prompts; without it, a tenth of --data is held out."""
    text_column: str | None = None
    """Column of the text, by name or by position from 0; without it "text", or the first."""
    label_column: str | None = None
    """Column of a label 0 or 1: a classifier of one half of the labels pays, one of the other half is measured and never paid."""
    scorer: str | None = None
    """Who pays instead: a registered scorer such as "repetition" or "length(target=12)", or your own as "module:function"."""
    tokenizer: str = "bpe"
    """With --data: "bpe" or "words", trained on the file, or the folder of a saved tokenizer."""
    vocab_size: int = 2000
    """Size of a tokenizer that is trained."""
    prompt_tokens: int = 5
    """With --data: how many tokens of a text are its prompt."""
    max_new_tokens: int = 24
    """Budget of generated tokens."""
    constraint: tuple[str, ...] = ()
    """What the text must keep to, all of them: registered constraints such as film_grammar, "no_repeat(n=3)" or "pattern(regex='[a-z ]+')"."""


@dataclass(frozen=True)
class Model:
    """The language model that learns."""

    model: Path | None = None
    """Folder of a local transformers model to start from; without it, a small GPT-2 is built."""
    width: int = 64
    """Hidden size of the small GPT-2."""
    layers: int = 2
    """Its number of layers."""
    heads: int = 4
    """Its number of attention heads."""

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1 or self.width % self.heads:
            raise ValueError(f"width={self.width}, layers={self.layers}, heads={self.heads}: give at least 1 of each, and a width that heads divides.")


@dataclass(frozen=True)
class PPOText:
    """Train a language model by PPO on TextGen-v0: warm it up on the text, then let it be rewarded."""

    text: Annotated[Text, arg(name="")] = field(default_factory=Text)
    model: Annotated[Model, arg(name="")] = field(default_factory=Model)
    warmup: sft.Config = field(default_factory=sft.Config)
    ppo: Annotated[ppo.Config, arg(name="")] = field(default_factory=lambda: ppo.Config(kl=FixedKL(0.06)))
    num_envs: int = 128
    """Texts written side by side."""
    num_eval: int = 1024
    """Held-out samples before and after."""
    evaluate_every: int = 10
    """Iterations between held-out evaluations while it trains."""
    seed: int = 0
    """Of everything random."""
    folder: Path | None = None
    """Run folder; without it, runs/ppo-NAME-seedN-TIME."""
    save_every: int = 20
    """Iterations between checkpoints."""
    threads: int = 1
    """Threads of torch; small models gain little from a second one, and lose much where it has to be shared."""
    quiet: bool = False
    """Print nothing."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_eval", "evaluate_every", "save_every", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


# The choices of an algorithm that are objects: how each becomes JSON, and comes back.
SPELLED: dict[str, tuple[Callable[[Any], dict[str, Any]], Callable[[Any], Any]]] = {
    "advantage": (advantages.to_json, advantages.from_json),
    "surrogate": (surrogates.to_json, surrogates.from_json),
    "kl": (kl_price_to_json, kl_price_from_json),
}


def to_json(choice: PPOText) -> dict[str, Any]:
    """Return a job as JSON values; paths become absolute, so that the job can be repeated from anywhere."""
    return {"command": "ppo", **_values(choice)}


def from_json(data: Mapping[str, Any]) -> PPOText:
    """Return the job that `to_json` described; raises `ValueError` if it is another one."""
    rest: dict[str, Any] = dict(data)
    if rest.pop("command", None) != "ppo":
        raise ValueError(f"This configuration is of the command {data.get('command')!r}, not of 'ppo'.")
    try:
        algorithm = dict(rest.pop("ppo"))
        algorithm |= {name: read(algorithm[name]) for name, (_, read) in SPELLED.items()}
        text, model = Text(**_typed(Text, rest.pop("text"))), Model(**_typed(Model, rest.pop("model")))
        warmup = sft.Config(**rest.pop("warmup"))
        return PPOText(text=text, model=model, warmup=warmup, ppo=ppo.Config(**algorithm), **_typed(PPOText, rest))
    except (KeyError, TypeError) as error:
        raise ValueError(f"This configuration does not fit this version of the program: {error}.") from error


def _values(choice: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in fields(choice):
        value = getattr(choice, one.name)
        if isinstance(value, Path):
            value = str(value.resolve())
        elif one.name in SPELLED:
            value = SPELLED[one.name][0](value)
        elif isinstance(value, (Text, Model, sft.Config, ppo.Config)):
            value = _values(value)
        found[one.name] = value
    return found


def _typed(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with those strings as paths that `kind` annotates so, and lists, which is what JSON makes of them, as tuples."""
    path_names = {one.name for one in fields(kind) if "Path" in str(one.type)}
    typed = {name: Path(value) if name in path_names and value is not None else value for name, value in data.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in typed.items()}
