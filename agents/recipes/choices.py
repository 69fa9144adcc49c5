"""What a training job on text may be told, as documented dataclasses: they drive the command line and are saved beside the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from .. import a2c, advantages, masking, policy_gradient, ppo, prompting_names, sft, surrogates
from ..kl import FixedKL, kl_price_from_json, kl_price_to_json
from ..prompting import Prompting


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
    acting_dtype: Literal["float32", "bfloat16"] = "float32"
    """What acting decodes in; bfloat16 is faster for large models and coarser: training stays in float32, and the metric ratio_error tells how far the
    two differ."""

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads) < 1 or self.width % self.heads:
            raise ValueError(f"width={self.width}, layers={self.layers}, heads={self.heads}: give at least 1 of each, and a width that heads divides.")


@dataclass(frozen=True)
class Job:
    """What a job is apart from its algorithm: material, model, and how it is run."""

    text: Annotated[Text, arg(name="")] = field(default_factory=Text)
    model: Annotated[Model, arg(name="")] = field(default_factory=Model)
    warmup: sft.Config = field(default_factory=sft.Config)
    prompting: Prompting | None = None
    """Which prompts are played, with --episodes-per-row 1: uniform, priority, curriculum (from short to long) or "groups(size=8)", which methods that
    compare the answers to one prompt need. None: each row draws its own, uniformly."""
    num_envs: int = 128
    """Texts written side by side."""
    num_eval: int = 1024
    """Held-out samples before and after."""
    evaluate_every: int = 10
    """Iterations between held-out evaluations while it trains."""
    seed: int = 0
    """Of everything random."""
    folder: Path | None = None
    """Run folder; without it, runs/ALGORITHM-NAME-seedN-TIME."""
    save_every: int = 20
    """Iterations between checkpoints."""
    threads: int = 1
    """Threads of torch; small models gain little from a second one, and lose much where it has to be shared."""
    profile: bool = False
    """Print where the time of training went: acting, environment, forward, backward ..."""
    quiet: bool = False
    """Print nothing."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_eval", "evaluate_every", "save_every", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True)
class PPOText:
    """Train a language model by PPO on TextGen-v0: warm it up on the text, then let it be rewarded."""

    job: Annotated[Job, arg(name="")] = field(default_factory=Job)
    algorithm: Annotated[ppo.Config, arg(name="")] = field(default_factory=lambda: ppo.Config(kl=FixedKL(0.06)))


@dataclass(frozen=True)
class A2CText:
    """Train a language model by A2C on TextGen-v0: warm it up on the text, then let it be rewarded."""

    job: Annotated[Job, arg(name="")] = field(default_factory=lambda: Job(num_envs=32, evaluate_every=40, save_every=80))
    algorithm: Annotated[a2c.Config, arg(name="")] = field(
        default_factory=lambda: a2c.Config(
            total_timesteps=120_000,
            num_steps=24,
            optimizer="adam",
            learning_rate=1e-3,
            anneal_lr=True,
            advantage=advantages.GAE(gamma=1.0, gae_lambda=0.95),
            normalise="batch",
            kl=FixedKL(0.06),
        )
    )


@dataclass(frozen=True)
class PolicyGradientText:
    """Train a language model by REINFORCE on TextGen-v0: warm it up on the text, then let it be rewarded.

    With --supervised-coef the texts of the warm-up go on being learned beside it (MIXER, Ranzato et al. 2016, arXiv 1511.06732).
    """

    job: Annotated[Job, arg(name="")] = field(default_factory=lambda: Job(num_envs=32, evaluate_every=40, save_every=80))
    algorithm: Annotated[policy_gradient.Config, arg(name="")] = field(default_factory=lambda: policy_gradient.Config(kl=FixedKL(0.08)))


TextJob = PPOText | A2CText | PolicyGradientText
COMMANDS: dict[str, tuple[type[Any], type[Any]]] = {  # what each job is called, and its two classes: the job's, and its algorithm's choices
    "ppo": (PPOText, ppo.Config),
    "a2c": (A2CText, a2c.Config),
    "policy_gradient": (PolicyGradientText, policy_gradient.Config),
}

# The choices that are objects: how each becomes JSON, and comes back.
SPELLED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "advantage": (advantages.to_json, advantages.from_json),
    "surrogate": (surrogates.to_json, surrogates.from_json),
    "kl": (kl_price_to_json, kl_price_from_json),
    "prompting": (prompting_names.to_json, prompting_names.from_json),
    "nlpo": (masking.to_json, masking.from_json),
}


def command_of(choice: TextJob) -> str:
    """Return what a job is called: "ppo", "a2c" or "policy_gradient"."""
    return next(name for name, (kind, _) in COMMANDS.items() if type(choice) is kind)


def to_json(choice: TextJob) -> dict[str, Any]:
    """Return a job as JSON values; paths become absolute, so that the job can be repeated from anywhere."""
    name = command_of(choice)
    return {"command": name, **_values(choice.job), name: _values(choice.algorithm)}


def from_json(data: Mapping[str, Any]) -> TextJob:
    """Return the job that `to_json` described; raises `ValueError` if it is none of these, or of another version."""
    rest: dict[str, Any] = dict(data)
    name = rest.pop("command", None)
    if name not in COMMANDS:
        raise ValueError(f"This configuration is of the command {name!r}, not of one of {', '.join(COMMANDS)}.")
    kind, config = COMMANDS[name]
    try:
        algorithm = config(**_read(rest.pop(name)))
        text, model = Text(**_typed(Text, rest.pop("text"))), Model(**_typed(Model, rest.pop("model")))
        job = Job(text=text, model=model, warmup=sft.Config(**rest.pop("warmup")), **_typed(Job, _read(rest)))
        found: TextJob = kind(job, algorithm)
    except (KeyError, TypeError) as error:
        raise ValueError(f"This configuration does not fit this version of the program: {error}.") from error
    return found


def _values(choice: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in fields(choice):
        value = getattr(choice, one.name)
        if isinstance(value, Path):
            value = str(value.resolve())
        elif one.name in SPELLED and value is not None:
            value = SPELLED[one.name][0](value)
        elif isinstance(value, (Text, Model, sft.Config)):
            value = _values(value)
        found[one.name] = value
    return found


def _read(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with the choices that are objects as such."""
    return {name: SPELLED[name][1](value) if name in SPELLED and value is not None else value for name, value in data.items()}


def _typed(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with those strings as paths that `kind` annotates so, and lists, which is what JSON makes of them, as tuples."""
    path_names = {one.name for one in fields(kind) if "Path" in str(one.type)}
    typed = {name: Path(value) if name in path_names and value is not None else value for name, value in data.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in typed.items()}
