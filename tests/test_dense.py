"""Dense rewards: the discounted return is the sparse one less what the prompt was worth, for any scorer, discount and company of powers.

Axis legend: N rows, B completions.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import Echo, LetterShare, SmallCore, TwoParts
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from test_vector import assert_same

from textgym import GymEnv, GymVectorEnv
from textgym.allowed import Allowed
from textgym.episodes import TextCore
from textgym.scorers import TextFunction, WeightedSum
from textgym.task import Completions, Prefixes, Scorer, Tokenizer
from textgym.toy.tokens import diagnostic

pytestmark = pytest.mark.core

ROWS, STEPS = 3, 25


@dataclass(frozen=True)
class AnyNumber:
    """A scorer without any sense: another number for every text, of either sign, and one for the empty text too."""

    salt: int
    scale: float

    def __call__(self, completions: Completions) -> np.ndarray:
        rows = zip(completions.prompt_indices.tolist(), completions.texts, completions.ended.tolist(), strict=True)
        return np.array([self.scale * (zlib.crc32(repr((self.salt, *row)).encode()) / 2**31 - 1) for row in rows])


@dataclass(frozen=True)
class Clipped:
    """Another scorer's score, kept within bounds: it often stands still."""

    of: Scorer
    bound: float

    def __call__(self, completions: Completions) -> np.ndarray:
        return np.clip(self.of(completions), -self.bound, self.bound)


def letters(prompt: str, text: str) -> float:
    """Score by text: how many more words there are than the prompt has, and one for every "c"."""
    return len(text.split()) - len(prompt.split()) + text.count("c")


@dataclass(frozen=True)
class NotTwice:
    """A constraint with a memory: no word right after itself."""

    def rules(self, tokenizer: Tokenizer, max_prompt_tokens: int, max_new_tokens: int) -> NotTwice:
        return self

    def begin(self, prefixes: Prefixes) -> np.ndarray:
        return np.full((len(prefixes.tokens), 1), -1, dtype=np.int64)

    def follow(self, memory: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        return tokens[:, None]

    def allowed(self, memory: np.ndarray, prefixes: Prefixes) -> Allowed:
        return Allowed(banned=np.where(memory < 0, 6, memory))


LEAVES = st.one_of(
    st.builds(AnyNumber, st.integers(0, 999), st.sampled_from([1e-3, 1.0, 50.0])),
    st.just(TextFunction(letters)),
    st.just(TwoParts()),
    st.builds(LetterShare, st.sampled_from("abc")),
)
SCORERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Clipped, inner, st.sampled_from([0.0, 0.25, 1.0])),
        st.builds(lambda one, other, weight: WeightedSum({"one": (one, 1.0), "other": (other, weight)}), inner, inner, st.floats(-3, 3)),
    ),
    max_leaves=3,
)
CONSTRAINTS = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"constraint": st.just(NotTwice()), "forbidden_penalty": st.sampled_from([0.0, 0.75, 0.5]), "forbidden_ends": st.booleans()}),
)
TURNS = st.sampled_from([{}, {"responder": Echo(), "max_response_tokens": 40}])


def twins(mode: AutoresetMode = AutoresetMode.SAME_STEP, **changes: Any) -> tuple[GymVectorEnv, GymVectorEnv]:
    """Return a dense and a sparse environment of the same task."""
    dense, sparse = (GymVectorEnv(SmallCore(**changes, dense=paid), ROWS, autoreset_mode=mode) for paid in (True, False))
    return dense, sparse


def worth(env: GymVectorEnv) -> np.ndarray:
    """Return the score of the texts as they stand [N], asked of the scorer itself."""
    assert isinstance(env.core, TextCore)
    completions = env.core.completions(np.arange(ROWS))
    return np.array(
        [env.core.task.scorer(Completions(*(part_of(completions, name, row) for name in Completions.__dataclass_fields__)))[0] for row in range(ROWS)]
    )


def part_of(completions: Completions, name: str, row: int) -> Any:
    values = getattr(completions, name)
    return values[row : row + 1] if isinstance(values, np.ndarray) else values


def actions_of(random: np.random.Generator, env: GymVectorEnv) -> np.ndarray:
    drawn = random.integers(6, size=env.action_space.shape)
    return np.where((drawn == 0) & (random.random(drawn.shape) < 0.5), 4, drawn)


@settings(max_examples=60, deadline=None)
@example(scorer=AnyNumber(0, 1.0), gamma=0.0, chunk=1, constraint={}, turns={}, seed=0)
@example(scorer=AnyNumber(0, 1.0), gamma=0.5, chunk=3, constraint={"constraint": NotTwice(), "forbidden_ends": False}, turns={}, seed=1)
@given(
    scorer=SCORERS,
    gamma=st.one_of(st.just(1.0), st.floats(0, 1)),
    chunk=st.integers(1, 4),
    constraint=CONSTRAINTS,
    turns=TURNS,
    seed=st.integers(0, 2**20),
)
def test_the_discounted_return_is_the_sparse_one_less_what_the_prompt_was_worth(
    scorer: Scorer, gamma: float, chunk: int, constraint: dict[str, Any], turns: dict[str, Any], seed: int
) -> None:
    """That is, sum gamma^t r_t = sum gamma^t r'_t - phi(s_0), penalties included; and all else that is told is the same."""
    dense, sparse = twins(scorer=scorer, gamma=gamma, chunk=chunk, info_text=True, **constraint, **turns)
    assert_same(dense.reset(seed=seed), sparse.reset(seed=seed), "reset")
    random, discounts, first = np.random.default_rng(seed), np.ones(ROWS), worth(sparse)
    ours, theirs, ends = np.zeros(ROWS), np.zeros(ROWS), 0
    for t in range(STEPS):
        actions = actions_of(random, dense)
        paid, told = dense.step(actions), sparse.step(actions)
        assert_same([paid[0], *paid[2:]], [told[0], *told[2:]], f"step {t}")
        ours, theirs, discounts = ours + discounts * paid[1], theirs + discounts * told[1], discounts * gamma
        over = told[2]
        np.testing.assert_allclose(ours[over], (theirs - first)[over], rtol=1e-9, atol=1e-9)
        ours[over], theirs[over], discounts[over], first[over], ends = 0, 0, 1, worth(sparse)[over], ends + int(over.sum())
    event(f"{min(ends, 20) // 5 * 5} or more episodes")
    assert ends >= 3


@settings(max_examples=60, deadline=None)
@given(scorer=SCORERS, gamma=st.floats(0, 1), chunk=st.integers(1, 4), turns=TURNS, seed=st.integers(0, 2**20))
def test_every_step_pays_what_the_potential_grew_by(scorer: Scorer, gamma: float, chunk: int, turns: dict[str, Any], seed: int) -> None:
    """r_t = gamma phi(s_{t+1}) - phi(s_t), and at the end score - phi(s_t), each phi asked of the scorer one text at a time."""
    dense, sparse = twins(AutoresetMode.DISABLED, scorer=scorer, gamma=gamma, chunk=chunk, **turns)
    dense.reset(seed=seed)
    sparse.reset(seed=seed)
    random = np.random.default_rng(seed)
    for _ in range(STEPS):
        before, actions = worth(sparse), actions_of(random, dense)
        rewards, (_, _, over, _, infos) = dense.step(actions)[1], sparse.step(actions)
        after = worth(sparse)
        np.testing.assert_allclose(rewards, np.where(over, after, gamma * after) - before, rtol=1e-9, atol=1e-9)
        if over.any():
            np.testing.assert_array_equal(infos["score"][over], after[over])
            for env in (dense, sparse):
                env.reset(options={"reset_mask": over.copy()})


def test_a_penalty_is_paid_at_the_step_that_earns_it() -> None:
    """By hand: "a", "a" again (forbidden, the text goes on), "b", EOS, worth 1, 1, 2/3, 2/3."""
    penalised = {"constraint": NotTwice(), "forbidden_penalty": 0.25, "forbidden_ends": False}
    env = GymEnv(SmallCore(scorer=LetterShare("a"), dense=True, gamma=0.5, **penalised))
    env.reset(seed=0)
    steps = [env.step(token) for token in (1, 1, 2, 0)]
    assert [step[1] for step in steps] == pytest.approx([0.5 * 1 - 0, 0.5 * 1 - 1 - 0.25, 0.5 * 2 / 3 - 1, 2 / 3 - 2 / 3])
    assert steps[-1][2]
    assert steps[-1][4]["score"] == pytest.approx(2 / 3)
    assert steps[-1][4]["forbidden"] == 1


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_rows_are_paid_what_single_environments_are_paid(mode: AutoresetMode) -> None:
    core = SmallCore(scorer=AnyNumber(3, 1.0), dense=True, gamma=0.9)
    native = GymVectorEnv(core, ROWS, autoreset_mode=mode)
    sync = SyncVectorEnv([lambda: GymEnv(core)] * ROWS, autoreset_mode=mode)
    assert_same(native.reset(seed=2), sync.reset(seed=2), "reset")
    random, over = np.random.default_rng(0), np.zeros(ROWS, dtype=np.bool_)
    for t in range(200):
        if mode is AutoresetMode.DISABLED and over.any():
            assert_same(*(env.reset(options={"reset_mask": over.copy()}) for env in (native, sync)), f"reset {t}")
        step = native.step(actions := actions_of(random, native))
        assert_same(step, sync.step(actions), f"step {t}")
        over = step[2]


def test_a_state_keeps_what_the_text_was_worth() -> None:
    env, other = (GymVectorEnv(SmallCore(scorer=AnyNumber(4, 1.0), dense=True, gamma=0.9), ROWS) for _ in range(2))
    env.reset(seed=1)
    env.step(np.array([1, 2, 3]))
    other.reset(seed=9)
    other.set_state(env.get_state())
    assert_same(env.step(np.array([3, 2, 1])), other.step(np.array([3, 2, 1])), "after set_state")


@pytest.mark.parametrize("name", ["Even", "Copy", "Reverse", "Successor", "IncreasingNumbers"])
def test_the_ids_that_have_dense_rewards_return_the_score(name: str) -> None:
    """Their empty text is worth 0, so the undiscounted returns are equal, and dense rewards come early."""
    env = GymVectorEnv(diagnostic(f"textgym/{name}-v0", vocab_size=8, max_new_tokens=4, dense=True).core, 64, autoreset_mode="SameStep")
    env.reset(seed=0)
    random, returns, early = np.random.default_rng(0), np.zeros(64), 0
    for _ in range(30):
        _, rewards, over, _, infos = env.step(random.integers(7, size=64))
        returns += rewards
        early += int((rewards[~over] > 0).sum())
        if over.any():
            np.testing.assert_allclose(returns[over], infos["final_info"]["score"][over], atol=1e-12)
            returns[over] = 0
    assert early > 50
