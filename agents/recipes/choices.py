"""What a training job on text may be told, as documented dataclasses: they drive the command line and are saved beside the run.

Their `name`s are the headings under which the help shows the options; the options themselves have no prefix but that of the warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, arg

from textgym import constraints, scorers

from .. import a2c, advantages, policy_gradient, ppo, sft
from ..choices import call_of
from ..kl import FixedKL
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
    """With --data: "bpe" or "words", trained on the file, "byte", or the folder of a saved tokenizer."""
    vocab_size: int = 2000
    """Size of a tokenizer that is trained."""
    prompt_tokens: int = 5
    """With --data: how many tokens of a text are its prompt."""
    max_new_tokens: int = 24
    """Budget of generated tokens."""
    constraint: tuple[str, ...] = ()
    """What the text must keep to, all of them: registered constraints such as film_grammar, "no_repeat(n=3)" or "pattern(regex='[a-z ]+')"."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a name that nobody registered; what it is made with is looked at when it is made."""
        named: list[tuple[Any, str]] = [(constraints, spelling) for spelling in self.constraint]
        if self.scorer is not None:
            named.append((scorers, self.scorer))
        for registry, spelling in named:
            name = call_of(spelling)[0]
            if ":" not in name and name not in registry.names():
                registry.make(name)  # it says what there is


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


def check_seed(seed: int) -> None:
    """Raise `ValueError` for a seed that no generator takes."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}.")


@dataclass(frozen=True)
class Job:
    """What a job is apart from its algorithm: material, model, and how it is run."""

    text: Annotated[Text, arg(name="text"), OmitArgPrefixes] = field(default_factory=Text)
    model: Annotated[Model, arg(name="model"), OmitArgPrefixes] = field(default_factory=Model)
    warmup: Annotated[sft.Config, arg(help="The supervised training that comes first.")] = field(default_factory=sft.Config)
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
        check_seed(self.seed)


@dataclass(frozen=True)
class PPOText:
    """Train a language model by PPO on TextGen-v0: warm it up on the text, then let it be rewarded."""

    job: Annotated[Job, arg(name="")] = field(default_factory=Job)
    algorithm: Annotated[ppo.Config, arg(name="ppo"), OmitArgPrefixes] = field(default_factory=lambda: ppo.Config(kl=FixedKL(0.06)))


@dataclass(frozen=True)
class A2CText:
    """Train a language model by A2C on TextGen-v0: warm it up on the text, then let it be rewarded."""

    job: Annotated[Job, arg(name="")] = field(default_factory=lambda: Job(num_envs=32, evaluate_every=40, save_every=80))
    algorithm: Annotated[a2c.Config, arg(name="a2c"), OmitArgPrefixes] = field(
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
    algorithm: Annotated[policy_gradient.Config, arg(name="policy gradient"), OmitArgPrefixes] = field(
        default_factory=lambda: policy_gradient.Config(kl=FixedKL(0.08))
    )


@dataclass(frozen=True)
class SFTJob:
    """What supervised training is apart from its algorithm: material, model, and how it is run."""

    text: Annotated[Text, arg(name="text"), OmitArgPrefixes] = field(default_factory=Text)
    model: Annotated[Model, arg(name="model"), OmitArgPrefixes] = field(default_factory=Model)
    num_eval: int = 1024
    """Held-out samples before and after."""
    seed: int = 0
    """Of everything random."""
    folder: Path | None = None
    """Run folder; without it, runs/sft-NAME-seedN-TIME."""
    threads: int = 1
    """Threads of torch; small models gain little from a second one, and lose much where it has to be shared."""
    quiet: bool = False
    """Print nothing."""

    def __post_init__(self) -> None:
        for name in ("num_eval", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        check_seed(self.seed)


@dataclass(frozen=True)
class SFTText:
    """Train a language model on texts, next token by next token: the warm-up of the other commands, standing alone."""

    job: Annotated[SFTJob, arg(name="")] = field(default_factory=SFTJob)
    algorithm: Annotated[sft.Config, arg(name="sft"), OmitArgPrefixes] = field(default_factory=sft.Config)


TextJob = PPOText | A2CText | PolicyGradientText
AnyJob = TextJob | SFTText
COMMANDS: dict[str, tuple[type[Any], type[Any]]] = {  # what each job is called, and its two classes: the job's, and its algorithm's choices
    "ppo": (PPOText, ppo.Config),
    "a2c": (A2CText, a2c.Config),
    "policy_gradient": (PolicyGradientText, policy_gradient.Config),
    "sft": (SFTText, sft.Config),
}


def command_of(choice: AnyJob) -> str:
    """Return what a job is called: "ppo", "a2c", "policy_gradient" or "sft"."""
    return next(name for name, (kind, _) in COMMANDS.items() if type(choice) is kind)
