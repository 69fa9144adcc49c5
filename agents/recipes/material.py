"""The material of a training job: tokenizer, prompts, texts to learn the language from, and who judges.

Axis legend: M sequences of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import textgym
from textgym import constraints, scorers, tokenizers
from textgym import prompts as prompt_sources
from textgym.film_reviews import film_reviews
from textgym.scorers import NgramClassifier
from textgym.task import Completions, Constraint, PromptSource

from .. import choices as choices_of
from ..play import AnyVectorEnv
from ..sft import Sequences, pad_sequences
from .choices import Text

NUM_REVIEWS = 20_000  # sampled to learn the language of the film reviews from
NUM_HELDOUT_REVIEWS = 2_000


class Material(NamedTuple):
    """All that a job on text is made of."""

    name: str
    tokenizer: textgym.Tokenizer
    train_prompts: PromptSource
    heldout_prompts: PromptSource
    scorer: textgym.Scorer
    gold: textgym.Scorer | None  # measured, never paid
    gold_name: str
    train_texts: Sequences
    heldout_texts: Sequences
    max_prompt_tokens: int
    max_new_tokens: int
    entropy_rate: float | None  # nats a token: what no language model of this text can go below, where it is known
    constraint: Constraint | None
    notes: tuple[str, ...]  # what the user should know of it

    @property
    def is_judged(self) -> bool:
        """Return whether somebody pays; supervised training needs nobody."""
        return self.scorer is not unjudged

    @property
    def num_positions(self) -> int:
        """Return how many tokens a prompt and its continuation may have together."""
        return self.max_prompt_tokens + self.max_new_tokens

    def environment(self, num_envs: int, *, heldout: bool = False) -> AnyVectorEnv:
        """Return TextGen-v0 on this material; only the held-out one measures the gold scorer."""
        return gym.make_vec(
            "TextGen-v0",
            num_envs=num_envs,
            prompts=self.heldout_prompts if heldout else self.train_prompts,
            tokenizer=self.tokenizer,
            scorer=self.scorer,
            gold=self.gold if heldout else None,
            max_prompt_tokens=self.max_prompt_tokens,
            max_new_tokens=self.max_new_tokens,
            constraint=self.constraint,
            autoreset_mode="SameStep",
        )


def unjudged(completions: Completions) -> NDArray[np.float64]:
    """Return zeros [B]: the score of texts where nobody was named to judge them."""
    return np.zeros(len(completions))


def gather(choices: Text, seed: int, *, judged: bool = True) -> Material:
    """Return the material that the choices name: the embedded film reviews, or that of a file; `judged` if somebody must be named who pays."""
    given = {"--heldout": choices.heldout, "--text-column": choices.text_column, "--label-column": choices.label_column}
    given["--tokenizer"] = None if choices.tokenizer == "bpe" else choices.tokenizer
    if choices.data is None and (idle := [name for name, value in given.items() if value is not None]):
        raise ValueError(f"{', '.join(idle)} means nothing without --data: the embedded film reviews have their own. Give --data FILE.")
    return _of_film_reviews(choices, seed) if choices.data is None else _of_file(choices, choices.data, judged)


def _of_film_reviews(choices: Text, seed: int) -> Material:
    grammar, tokenizer = film_reviews(), tokenizers.make("film_reviews")
    prompts = prompt_sources.make("film_reviews")
    max_prompt_tokens = 8
    limit = max_prompt_tokens + choices.max_new_tokens
    generator = np.random.default_rng([seed, 1])  # of the texts alone, apart from the run's own streams

    def sample(num: int) -> Sequences:
        return pad_sequences([[*tokenizer.encode(" ".join(grammar.sample(generator))), tokenizer.eos_id] for _ in range(num)], limit)

    return Material(
        name="film_reviews",
        tokenizer=tokenizer,
        train_prompts=prompt_sources.split(prompts, "train"),
        heldout_prompts=prompt_sources.split(prompts, "test"),
        scorer=_scorer(choices.scorer or "sentiment"),
        gold=scorers.make("film_grammar"),
        gold_name="grammatical",
        train_texts=sample(NUM_REVIEWS),
        heldout_texts=sample(NUM_HELDOUT_REVIEWS),
        max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=choices.max_new_tokens,
        entropy_rate=grammar.entropy_rate(skip=1, length=limit),
        constraint=_constraint(choices.constraint),
        notes=(f"film reviews: {len(grammar.words)} words",),
    )


def _of_file(choices: Text, path: Path, judged: bool) -> Material:
    source: PromptSource = prompt_sources.load_file(path, _column(choices.text_column), _column(choices.label_column))
    train: PromptSource
    heldout: PromptSource
    if choices.heldout is not None:
        train, heldout = source, prompt_sources.load_file(choices.heldout, _column(choices.text_column), _column(choices.label_column))
    else:
        train, heldout = prompt_sources.split(source, "train"), prompt_sources.split(source, "test")
    texts, heldout_texts = ([source[i].text for i in range(len(source))] for source in (train, heldout))
    tokenizer = _tokenizer(choices, texts)
    scorer, gold, notes = _judges(choices, train, heldout) if judged or choices.scorer or choices.label_column else (unjudged, None, [])
    limit = choices.prompt_tokens + choices.max_new_tokens

    def encode(texts: Sequence[str]) -> Sequences:
        return pad_sequences([[*tokenizer.encode(text), tokenizer.eos_id] for text in texts], limit)

    return Material(
        name=path.stem,
        tokenizer=tokenizer,
        train_prompts=prompt_sources.FirstTokens(train, tokenizer, choices.prompt_tokens),
        heldout_prompts=prompt_sources.FirstTokens(heldout, tokenizer, choices.prompt_tokens),
        scorer=scorer,
        gold=gold,
        gold_name="other half",
        train_texts=encode(texts),
        heldout_texts=encode(heldout_texts),
        max_prompt_tokens=choices.prompt_tokens,
        max_new_tokens=choices.max_new_tokens,
        entropy_rate=None,
        constraint=_constraint(choices.constraint),
        notes=(f"{path.name}: {len(train)} texts, {len(heldout)} held out, {tokenizer.vocab_size} tokens", *notes),
    )


def _scorer(spelling: str) -> textgym.Scorer:
    """Return the scorer that "name", "name(argument=value, ...)" or "module:function" spells."""
    return scorers.make(_described(spelling, "scorer", "length(target=12)"))


def _constraint(spellings: Sequence[str]) -> Constraint | None:
    """Return all the constraints together that are spelled as scorers are; None if there is none."""
    return constraints.make([_described(spelling, "constraint", "no_repeat(n=3)") for spelling in spellings]) if spellings else None


def _described(spelling: str, kind: str, example: str) -> Any:
    name, args, kwargs = choices_of.call_of(spelling)
    if args:
        raise ValueError(f"{spelling!r}: name the arguments of a {kind}, as in {example}.")
    return choices_of.imported(name, kind) if ":" in name else {"name": name, **kwargs}


def _column(name: str | None) -> str | int | None:
    return int(name) if name is not None and name.isdigit() else name


def _tokenizer(choices: Text, texts: Sequence[str]) -> textgym.Tokenizer:
    if choices.tokenizer == "bpe":
        return tokenizers.train_bpe(texts, choices.vocab_size)
    if choices.tokenizer == "words":
        return tokenizers.WordTokenizer.train(texts, choices.vocab_size)
    if choices.tokenizer == "byte":
        return tokenizers.make("byte")
    if not Path(choices.tokenizer).is_dir():
        raise ValueError(f"--tokenizer {choices.tokenizer!r} is not known, and no folder. Give bpe, words, byte, or the folder of a saved tokenizer.")
    return tokenizers.make(Path(choices.tokenizer))


def _judges(choices: Text, train: PromptSource, heldout: PromptSource) -> tuple[textgym.Scorer, textgym.Scorer | None, list[str]]:
    """Return who pays, who is only measured, and what is to be said of them."""
    if choices.label_column is None:
        if choices.scorer is None:
            raise ValueError("Who judges the text? Give --label-column (a classifier is trained on half of the labels), or --scorer NAME.")
        return _scorer(choices.scorer), None, []
    halves = [NgramClassifier.train(*_labelled(train, half)) for half in (0, 1)]
    accuracies = [classifier.accuracy(*_labelled(heldout)) for classifier in halves]
    notes = [f"classifier of one half of the labels, which pays: accuracy {accuracies[0]:.3f} on the held-out texts"]
    notes += [f"classifier of the other half, which is only measured: accuracy {accuracies[1]:.3f}"]
    return (halves[0] if choices.scorer is None else _scorer(choices.scorer)), halves[1], notes


def _labelled(source: PromptSource, half: int | None = None) -> tuple[list[str], list[int]]:
    """Return texts and labels: all, or every other one from `half` on; where such a half has one label only, every other one of each label.

    Raises `ValueError` for other labels than 0 and 1, and where a half still has only one of them: a classifier would learn to say that, and be right.
    """
    prompts = [source[i] for i in range(len(source))]
    labels = [str(prompt.data["label"]) for prompt in prompts]
    if wrong := next((label for label in labels if label not in ("0", "1")), None):
        raise ValueError(f"A label must be 0 or 1, got {wrong!r}; name the right column with --label-column.")
    rows = list(range(len(prompts)))
    if half is not None:
        if min(len(set(labels[first::2])) for first in (0, 1)) < 2:  # labels that take turns
            rows.sort(key=labels.__getitem__)
        rows = rows[half::2]
        if len({labels[row] for row in rows}) < 2:
            raise ValueError(
                "Each of two classifiers is trained on half of the rows, and has nothing to tell apart where all of them have one label: give rows with "
                "both labels, two of each at least, or name the right column with --label-column."
            )
    return [prompts[row].text for row in rows], [int(labels[row]) for row in rows]
