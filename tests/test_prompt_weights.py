"""Weighted prompts of the environment: the frequencies, zeros, both faces alike, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import PROMPTS, SmallCore
from test_vector import assert_same

from textgym import GymEnv, GymVectorEnv
from textgym.episodes import TextCore
from textgym.episodes.encoding import cumulative_weights

pytestmark = pytest.mark.core

WEIGHTS = (1.0, 0.0, 3.0, 0.5, 2.5, 0.0)
CRITICAL = 30.0  # chi-square with 5 degrees of freedom exceeds it once in 70,000 draws of a seed


def drawn(num: int, **changes: Any) -> np.ndarray:
    """Return how often each prompt came in `num` episodes, on 500 rows at a time."""
    env = GymVectorEnv(SmallCore(**changes), 500)
    counts = np.zeros(len(PROMPTS), dtype=np.int64)
    for episode in range(num // 500):
        env.reset(seed=7 if episode == 0 else None)
        counts += np.bincount(env.core.get_state()["index"], minlength=len(PROMPTS))
    return counts


def chi_square(counts: np.ndarray, weights: Any) -> float:
    expected = counts.sum() * np.asarray(weights) / np.sum(weights)
    may = expected > 0
    return float(((counts - expected)[may] ** 2 / expected[may]).sum())


@pytest.mark.parametrize("weights", [WEIGHTS, (1, 1, 1, 1, 1, 1), (1e-6, 1e-6, 2e-6, 3e-6, 1e-6, 1e-6), (1e9, 2e9, 1e9, 1e9, 1e9, 1e9)])
def test_prompts_come_as_often_as_their_weights_say(weights: Any) -> None:
    counts = drawn(20_000, prompt_weights=weights)
    assert chi_square(counts, weights) < CRITICAL
    assert (counts[np.asarray(weights) == 0] == 0).all()


def test_without_weights_all_come_equally_often() -> None:
    counts = drawn(20_000)
    assert chi_square(counts, np.ones(6)) < CRITICAL
    assert chi_square(counts, (1, 1, 3, 1, 2, 1)) > CRITICAL, "the test could not tell these weights from equal ones"


@pytest.mark.parametrize("only", range(6))
def test_a_single_weight_is_a_single_prompt(only: int) -> None:
    weights = np.zeros(6)
    weights[only] = 0.3
    assert np.flatnonzero(drawn(500, prompt_weights=weights)).tolist() == [only]


@pytest.mark.parametrize("weights", [(0.1,) * 10 + (0.0,) * 3, (0, 0, 0.1, 0, 0.7, 0.2, 0), (*np.random.default_rng(0).random(999), 0.0)])
def test_no_number_below_one_falls_on_a_weight_of_zero(weights: tuple[float, ...]) -> None:
    """Not even the smallest, the largest, or those at the very edges between prompts, where sums are rounded."""
    cumulative = cumulative_weights(weights, len(weights))
    assert cumulative is not None
    edges = np.concatenate([[0.0, np.nextafter(1.0, 0.0)], cumulative, np.nextafter(cumulative, 0.0), np.nextafter(cumulative, 1.0)])
    index = np.searchsorted(cumulative, edges[edges < 1], side="right")
    assert index.max() < len(weights)
    assert (np.asarray(weights)[index] > 0).all()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_rows_draw_what_single_environments_draw(mode: AutoresetMode) -> None:
    core = SmallCore(prompt_weights=WEIGHTS, max_new_tokens=3)
    native = GymVectorEnv(core, 3, autoreset_mode=mode)
    sync = SyncVectorEnv([lambda: GymEnv(core)] * 3, autoreset_mode=mode)
    generator = np.random.default_rng(0)
    assert_same(native.reset(seed=5), sync.reset(seed=5), "reset")
    over = np.zeros(3, dtype=np.bool_)
    for step in range(600):
        if mode is AutoresetMode.DISABLED and over.any():
            ours, theirs = (env.reset(options={"reset_mask": over.copy()}) for env in (native, sync))
            np.testing.assert_array_equal(ours[0], theirs[0])
        actions = generator.integers(6, size=3)
        ours, theirs = native.step(actions), sync.step(actions)
        assert_same(ours, theirs, f"step {step}")
        over = ours[2] | ours[3]


def test_a_chosen_prompt_is_played_whatever_its_weight() -> None:
    env = GymVectorEnv(SmallCore(prompt_weights=WEIGHTS), 6)
    env.reset(seed=0, options={"prompt": np.arange(6)})
    core = env.core
    assert isinstance(core, TextCore)
    assert core.get_state()["index"].tolist() == list(range(6))
    env.reset(options={"prompt": 1})
    assert core.get_state()["index"].tolist() == [1] * 6


def test_choosing_draws_nothing() -> None:
    """So that the prompts drawn later do not depend on whether one was chosen before."""
    found = []
    for options in (None, {"prompt": 2}):
        env = GymVectorEnv(SmallCore(prompt_weights=WEIGHTS), 4)
        env.reset(seed=3)
        if options:
            env.reset(options=options)
        env.reset()
        found.append(env.core.get_state()["index"].tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "weights", [(1.0,) * 5, (1.0,) * 7, [[1.0] * 6], (1, 1, -0.1, 1, 1, 1), (0.0,) * 6, (1, 1, np.nan, 1, 1, 1), (1, 1, np.inf, 1, 1, 1), (), 1.0]
)
def test_weights_that_are_none(weights: Any) -> None:
    with pytest.raises(ValueError, match="prompt_weights must be 6 finite numbers, one a prompt, none negative and not all 0"):
        SmallCore(prompt_weights=weights)(2)
