"""Constraints to what a reference model finds probable; NLPO's mask, refreshed; the n-gram rule against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import PROMPTS, SmallCore, tiny_language_model
from transformers import NoRepeatNGramLogitsProcessor

from textgym import GymEnv, GymVectorEnv
from textgym.constraints import All, NoRepeat, TopK, TopP, make
from textgym.constraints.references import nucleus
from textgym.language_models import LanguageModel

V = 6


def reference(seed: int = 0) -> LanguageModel:
    torch.set_num_threads(1)
    return LanguageModel(tiny_language_model(seed, positions=8).model, V, dtype="float64")


class Fixed:
    """A reference that says the same of every prefix."""

    def __init__(self, *probs: float) -> None:
        self.log_probs = np.log(probs)

    def next_log_probs(self, tokens: np.ndarray) -> np.ndarray:
        return np.tile(self.log_probs, (len(tokens), 1))

    def top(self, tokens: np.ndarray, k: int) -> np.ndarray:
        return np.argsort(-self.next_log_probs(tokens), axis=1, kind="stable")[:, :k]


def test_top_k_and_top_p_are_those_of_the_reference_at_every_prefix() -> None:
    model, random = reference(), np.random.default_rng(0)
    top_k = GymVectorEnv(SmallCore(constraint=TopK(model, 3)), 6, autoreset_mode="SameStep")
    top_p = GymVectorEnv(SmallCore(constraint=TopP(model, 0.5)), 6, autoreset_mode="SameStep")
    observations, _ = top_k.reset(seed=0)
    top_p.reset(seed=0)
    for _ in range(25):
        log_probs = model.next_log_probs(observations)
        ranks = np.argsort(np.argsort(-log_probs, axis=1), axis=1)
        masks = top_k.action_masks()
        assert np.array_equal(masks, ranks < 3)
        kept = np.exp(np.where(top_p.action_masks(), log_probs, -np.inf))
        assert (kept.sum(axis=1) >= 0.5).all()
        least = np.where(kept > 0, kept, np.inf).min(axis=1)
        assert (kept.sum(axis=1) - least < 0.5).all(), "without its last member the set would not reach p"
        actions = np.array([random.choice(np.flatnonzero(mask)) for mask in masks & top_p.action_masks()])
        observations = top_k.step(actions)[0]
        assert np.array_equal(observations, top_p.step(actions)[0])


@pytest.mark.parametrize(
    ("p", "expected"), [(0.1, "000010"), (0.5, "000010"), (0.51, "010010"), (0.75, "010010"), (0.76, "110010"), (0.93, "111110"), (1.0, "111111")]
)
def test_the_nucleus_is_the_smallest_set_that_reaches_p(p: float, expected: str) -> None:
    probs = np.array([[1 / 16, 1 / 4, 1 / 16, 1 / 16, 1 / 2, 1 / 16]])  # sums of these are exact
    assert "".join(map(str, nucleus(np.log2(probs) * np.log(2), p)[0].astype(int))) == expected


def test_a_refreshed_reference_renews_the_mask() -> None:
    constraint = TopK(reference(0), 2)
    env = GymEnv(SmallCore(constraint=constraint))
    masks = {}
    for seed in (0, 1):
        constraint.reference.refresh(tiny_language_model(seed).model)
        expected = reference(seed)
        for prompt in range(len(PROMPTS)):
            observation, info = env.reset(options={"prompt": prompt})
            assert set(np.flatnonzero(info["action_mask"])) == set(expected.top(observation[None], 2)[0])
            masks[seed, prompt] = info["action_mask"].tolist()
    assert any(masks[0, prompt] != masks[1, prompt] for prompt in range(len(PROMPTS)))
    observation, _ = env.reset(options={"prompt": 0})
    constraint.reference.refresh(tiny_language_model(2).model)  # between two steps: the next mask is the new weights'
    observation, _, _, _, info = env.step(int(np.flatnonzero(env.action_masks()[1:])[0]) + 1)
    assert set(np.flatnonzero(info["action_mask"])) == set(reference(2).top(observation[None], 2)[0])


def test_a_model_may_be_named_by_its_folder(tmp_path: Path) -> None:
    tiny_language_model(3).model.save_pretrained(tmp_path)
    env = GymEnv(SmallCore(constraint=make({"name": "top_k", "reference": str(tmp_path), "k": 2})))
    observation, info = env.reset(seed=0)
    assert set(np.flatnonzero(info["action_mask"])) == set(LanguageModel(tmp_path).top(observation[None], 2)[0])


def test_with_other_constraints() -> None:
    env = GymEnv(SmallCore(constraint=All(TopK(Fixed(0.3, 0.25, 0.2, 0.15, 0.06, 0.04), 3), NoRepeat(1))))
    assert np.flatnonzero(env.reset(options={"prompt": 0})[1]["action_mask"]).tolist() == [0, 2]  # "a" has come
    with pytest.raises(ValueError, match=r"no token at all after 'a b c \|"):
        GymEnv(SmallCore(constraint=All(TopK(Fixed(0.01, 0.4, 0.3, 0.2, 0.05, 0.04), 3), NoRepeat(1)))).reset(options={"prompt": 2})


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_repeat_is_that_of_transformers(n: int) -> None:
    env = GymVectorEnv(SmallCore(constraint=NoRepeat(n), forbidden_ends=False, forbidden_penalty=0.0), 32, autoreset_mode="SameStep")
    observations, _ = env.reset(seed=0)
    random = np.random.default_rng(0)
    for _ in range(40):
        for observation, mask in zip(observations, env.action_masks(), strict=True):
            text = torch.tensor([[token for token in observation.tolist() if token != V]])
            scores = NoRepeatNGramLogitsProcessor(n)(text, torch.zeros(1, V))
            assert np.array_equal(torch.isfinite(scores)[0].numpy(), mask)
        masks = env.action_masks()
        actions = [random.choice(np.flatnonzero(mask)) for mask in masks]
        observations = env.step(np.array(actions))[0]


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (lambda: TopK(Fixed(*[1 / 6] * 6), 7), "TopK: k=7 exceeds the vocabulary of 6 tokens"),
        (lambda: TopK(Fixed(*[1 / 6] * 6), 0), "k=0 must be 1 or more"),
        (lambda: TopP(Fixed(*[1 / 6] * 6), 0.0), r"p=0.0 must lie in \(0, 1\]"),
        (lambda: TopP(Fixed(*[1 / 6] * 6), 1.5), r"p=1.5 must lie in \(0, 1\]"),
        (lambda: TopK(LanguageModel(tiny_language_model().model, 5), 2), "knows 5 ids, the tokenizer 6"),
    ],
)
def test_errors(constraint: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GymEnv(SmallCore(constraint=constraint()))


def test_what_is_no_reference() -> None:
    with pytest.raises(TypeError, match=r"A reference has top\(tokens\).*got 3"):
        TopK(3, 2)
    with pytest.raises(TypeError, match=r"A reference has next_log_probs\(tokens\)"):
        TopP(LanguageModel, 0.5)
    with pytest.raises(FileNotFoundError, match="nothing is fetched"):
        TopK("no/such/folder", 2)


@pytest.mark.parametrize("k", [2.5, "2", None])
def test_a_part_of_a_token_is_no_number_of_them(k: Any) -> None:
    with pytest.raises(TypeError, match="must be a whole number of tokens"):
        TopK(Fixed(*[1 / 6] * 6), k)
