"""Diagnostic token tasks: best and random return against every text there is, their scores by example, their two forms against each other."""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from test_vector import assert_same

import textgym
from textgym import GymEnv, GymVectorEnv
from textgym.core import ALL_ROWS, Streams, take_rows
from textgym.episodes import TextCore
from textgym.toy import tokens
from textgym.toy.diagnostics import prompts_of
from textgym.toy.puzzles import Countdown, reckoned
from textgym.toy.tokens import best_return, diagnostic, random_return

pytestmark = pytest.mark.core

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("Bandit", {}),
    ("Bandit", {"vocab_size": 3}),
    ("Even", {"vocab_size": 4, "prompt_tokens": 1, "max_new_tokens": 4}),
    ("Even", {"vocab_size": 5, "prompt_tokens": 2, "max_new_tokens": 3, "dense": True}),
    ("Copy", {"vocab_size": 4, "prompt_tokens": 2, "max_new_tokens": 3}),
    ("Reverse", {"vocab_size": 4, "prompt_tokens": 3, "max_new_tokens": 4, "dense": True}),
    ("Reverse", {"vocab_size": 4, "prompt_tokens": 3, "max_new_tokens": 2}),
    ("Recall", {"vocab_size": 4, "prompt_tokens": 2, "max_new_tokens": 4}),
    ("Password", {"vocab_size": 4, "max_new_tokens": 3}),
    ("Password", {"vocab_size": 3, "max_new_tokens": 4, "password": [0, 1, 1, 0]}),
    ("Successor", {"vocab_size": 5, "prompt_tokens": 1, "max_new_tokens": 4}),
    ("Successor", {"vocab_size": 5, "prompt_tokens": 2, "max_new_tokens": 4, "dense": True, "num_prompts": 3}),
    ("IncreasingNumbers", {"vocab_size": 7, "max_new_tokens": 4}),
    ("IncreasingNumbers", {"vocab_size": 6, "max_new_tokens": 3, "dense": True}),
    ("Brackets", {"kinds": 1, "depth": 3, "max_new_tokens": 6}),
    ("Brackets", {"kinds": 2, "depth": 2, "max_new_tokens": 5}),
    ("Brackets", {"kinds": 3, "depth": 2, "max_new_tokens": 2}),
    ("Countdown", {"num_numbers": 2, "num_prompts": 12}),
    ("Countdown", {"num_numbers": 2, "num_prompts": 5, "valid_score": 0.0}),
]
OPTIONS: list[tuple[str, dict[str, Any]]] = [(id.split("/")[1][:-3], {}) for id in tokens.DIAGNOSTICS]
OPTIONS += [(name, {"dense": True}) for name in ("Even", "Copy", "Reverse", "Successor", "IncreasingNumbers")]


def named(name: str) -> str:
    return f"textgym/{name}-v0"


def exact(core: TextCore, state: dict[str, Any], reduce: Callable[..., np.ndarray]) -> np.ndarray:
    """Return what a core pays from each of the states on, by playing every token there is and reducing over tokens (max or mean)."""
    rows, ids = len(state["index"]), int(core.action_space.n)
    children = core.like(rows * ids)
    children.set_state(take_rows(state, np.repeat(np.arange(rows), ids)))
    values, terminated, _ = children.advance(ALL_ROWS, np.tile(np.arange(ids), rows), Streams([]))
    alive = np.flatnonzero(~terminated)
    if len(alive):
        values[alive] += exact(core, take_rows(children.get_state(), alive), reduce)
    return reduce(values.reshape(rows, ids), axis=1)


def begun(name: str, options: dict[str, Any]) -> tuple[TextCore, dict[str, Any]]:
    """Return a core, and its state with every prompt on a row of its own."""
    task = diagnostic(named(name), **options)
    core = task.core(len(prompts_of(task)))
    rows = np.arange(core.num_rows)
    core.start(rows, Streams.from_seeds([0] * core.num_rows), {"prompt": rows})
    return core, core.get_state()


@pytest.mark.parametrize(("name", "options"), SMALL)
def test_best_and_random_return_are_those_of_every_text_there_is(name: str, options: dict[str, Any]) -> None:
    core, state = begun(name, options)
    assert best_return(named(name), **options) == pytest.approx(exact(core, state, np.max).mean(), abs=1e-12)
    assert random_return(named(name), **options) == pytest.approx(exact(core, state, np.mean).mean(), abs=1e-12)


@pytest.mark.parametrize(("name", "options"), OPTIONS + SMALL)
def test_the_reference_of_every_prompt_is_one_of_the_best_continuations(name: str, options: dict[str, Any]) -> None:
    core, _ = begun(name, options)
    tokenizer, budget = core.task.tokenizer, core.task.max_new_tokens
    references = [tokenizer.encode(core.task.prompts[i].reference or "") for i in range(core.num_rows)]
    returns, alive = np.zeros(core.num_rows), np.arange(core.num_rows)
    for t in range(budget):
        actions = np.array([references[i][t] if t < len(references[i]) else tokenizer.eos_id for i in alive.tolist()], dtype=np.int64)
        step = core.advance(alive, actions, Streams([]))
        returns[alive] += step.rewards
        alive = alive[~step.terminated]
    assert not len(alive)
    np.testing.assert_allclose(returns, best_return(named(name), **options))


@pytest.mark.parametrize("name", [id.split("/")[1][:-3] for id in tokens.DIAGNOSTICS])
def test_random_play_at_the_registered_size_returns_what_was_computed(name: str) -> None:
    rows, random = 20_000, np.random.default_rng(5)
    core = diagnostic(named(name)).core(rows)
    core.start(np.arange(rows), Streams.from_seeds(list(range(rows))), {"prompt": random.integers(len(core.task.prompts), size=rows)})
    returns, alive = np.zeros(rows), np.arange(rows)
    while len(alive):
        step = core.advance(alive, random.integers(core.action_space.n, size=len(alive)), Streams([]))
        returns[alive] += step.rewards
        alive = alive[~step.terminated]
    expected = random_return(named(name))
    assert abs(returns.mean() - expected) < 4 * max(returns.std(), expected**0.5 / 4) / rows**0.5


def score(name: str, prompt: str, text: str, **options: Any) -> float:
    """Return what a text that ends itself (or its budget) is worth after a prompt."""
    env = GymEnv(diagnostic(named(name), **options).core)
    source, tokenizer = env.core.task.prompts, env.core.task.tokenizer
    env.reset(options={"prompt": [source[i].text for i in range(len(source))].index(prompt)})
    for token in [*tokenizer.encode(text), tokenizer.eos_id]:
        _, reward, terminated, _, info = env.step(token)
        if terminated:
            assert info["score"] == reward
            return reward
    raise AssertionError("the text did not end")


@pytest.mark.parametrize(
    ("name", "prompt", "text", "options", "expected"),
    [
        ("Bandit", "0", "3", {}, 3 / 6),
        ("Bandit", "0", "", {}, 0.0),
        ("Even", "1", "0 1 2 3", {"vocab_size": 5, "prompt_tokens": 1, "max_new_tokens": 4}, 0.5),
        ("Even", "1", "0", {"vocab_size": 5, "prompt_tokens": 1, "max_new_tokens": 4}, 0.25),  # EOS is id 4 and yet not even
        ("Copy", "1 2", "1 2 2 2", {"vocab_size": 5, "prompt_tokens": 2, "max_new_tokens": 4}, 0.75),
        ("Reverse", "1 2 3", "3 2 1 3", {"vocab_size": 5, "prompt_tokens": 3, "max_new_tokens": 4}, 1.0),
        ("Recall", "2 0", "0 1 2", {"vocab_size": 4, "prompt_tokens": 2, "max_new_tokens": 3}, 1.0),
        ("Recall", "2 0", "2 2", {"vocab_size": 4, "prompt_tokens": 2, "max_new_tokens": 3}, 0.0),
        ("Password", "0", "1 2", {"vocab_size": 4, "max_new_tokens": 2, "password": [1, 2]}, 1.0),
        ("Password", "0", "1 1", {"vocab_size": 4, "max_new_tokens": 2, "password": [1, 2]}, 0.0),
        ("Successor", "3", "0 1 3 0", {"vocab_size": 5, "prompt_tokens": 1, "max_new_tokens": 4}, 0.75),
        ("IncreasingNumbers", "0", "1 3 2 4", {"vocab_size": 8, "max_new_tokens": 4}, 0.5),
        ("IncreasingNumbers", "2", "2 3 4 5", {"vocab_size": 8, "max_new_tokens": 4}, 0.0),
        ("Brackets", "( [", "] )", {}, 1.0),
        ("Brackets", "( [", "] ( ) ) [ ]", {}, 1.0),
        ("Brackets", "( [", ") ]", {}, 0.0),
        ("Brackets", "( [", "]", {}, 0.0),
        ("Brackets", "(", ") ) (", {}, 0.0),
        ("Brackets", "(", ") ( ( ( ) ) ) [", {}, 0.0),  # the budget ends it with one bracket open
        ("Countdown", "7 5 6 = 1 8", "5 + 6 + 7", {}, 1.0),
        ("Countdown", "7 5 6 = 1 8", "5 * 6 + 7", {}, 0.1),
        ("Countdown", "7 5 6 = 1 8", "5 + 6 + 6", {}, 0.0),
        ("Countdown", "7 5 6 = 1 8", "5 + 6 = 7", {}, 0.0),
        ("Countdown", "7 5 6 = 1 8", "5 + 6", {}, 0.0),
    ],
)
def test_scores_by_example(name: str, prompt: str, text: str, options: dict[str, Any], expected: float) -> None:
    assert score(name, prompt, text, **options) == expected


def test_expressions_are_reckoned_as_python_does() -> None:
    random = np.random.default_rng(0)
    ids = np.zeros((500, 9), dtype=np.int64)
    ids[:, ::2], ids[:, 1::2] = random.integers(1, 10, size=(500, 5)), random.integers(10, 13, size=(500, 4))
    words = Countdown().words()
    expected = [eval("".join(words[i] for i in row)) for row in ids.tolist()]  # the test's own numbers: nothing else is evaluated
    assert reckoned(ids, 10).tolist() == expected


def test_every_puzzle_of_countdown_is_solvable_and_distinct() -> None:
    source = prompts_of(Countdown(num_numbers=4, num_prompts=300))
    texts = [source[i].text for i in range(len(source))]
    assert len(set(texts)) == 300
    for i in range(300):
        given, _, target = texts[i].partition(" = ")
        reference = source[i].reference or ""
        assert sorted(re.findall(r"\d", reference)) == sorted(given.split())
        assert eval(reference) == int(target.replace(" ", ""))


class TestDense:
    @pytest.mark.parametrize("name", ["Even", "Copy", "Reverse", "Successor", "IncreasingNumbers"])
    def test_the_rewards_add_up_to_the_sparse_one(self, name: str) -> None:
        dense, sparse = (gym.make_vec(named(name), num_envs=64, autoreset_mode="Disabled", dense=dense, vocab_size=18) for dense in (True, False))
        assert np.array_equal(dense.reset(seed=0)[0], sparse.reset(seed=0)[0])
        random, total, running = np.random.default_rng(0), np.zeros(64), np.ones(64, dtype=np.bool_)
        for _ in range(5):
            actions = random.integers(17, size=64)  # no row ends: the budgets are longer
            ours, theirs = dense.step(actions), sparse.step(actions)
            assert not theirs[1].any()
            total += ours[1]
        ours, theirs = (env.step(np.full(64, 17)) for env in (dense, sparse))
        assert running[ours[2]].all()
        np.testing.assert_allclose(total + ours[1], theirs[1], atol=1e-15)
        assert np.array_equal(ours[4]["score"], theirs[1])
        assert theirs[1].max() > 0

    def test_a_right_token_pays_when_it_is_written(self) -> None:
        env = GymEnv(diagnostic(named("Successor"), vocab_size=6, prompt_tokens=1, max_new_tokens=4, dense=True).core)
        env.reset(options={"prompt": 3})
        assert [env.step(token)[1] for token in (4, 0, 3, 4)] == [0.25, 0.25, 0.0, 0.25]

    def test_every_episode_begins_at_nothing(self) -> None:
        env = gym.make(named("Even"), dense=True, vocab_size=5)
        for seed in range(4):
            env.reset(seed=seed)
            steps = [env.step(token) for token in [0] * 7 + [1, 4]]
            assert sum(step[1] for step in steps) == steps[-1][4]["score"] == 7 / 16

    def test_the_trap_of_successor_is_worth_three_quarters(self) -> None:
        env = gym.make(named("Successor"), dense=True)
        first = int(env.reset(seed=0)[0][3])
        assert sum(env.step((first + (1, 2, 3, 0)[t % 4]) % 31)[1] for t in range(16)) == 0.75

    def test_a_fork_takes_its_potential_along(self) -> None:
        env = gym.make_vec(named("Successor"), num_envs=2, dense=True)
        env.reset(seed=0)
        env.step(env.reset(options={"prompt": np.array([5, 6])})[0][:, 3] % 30 + 1)
        fork = env.fork([1], 2)
        actions = np.array([3, 31])
        assert np.array_equal(fork.step(actions[[1, 1]])[1], np.repeat(env.step(actions)[1][1], 2))


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_native_equals_sync(name: str, options: dict[str, Any], mode: AutoresetMode) -> None:
    ours = gym.make_vec(named(name), num_envs=4, autoreset_mode=mode, **options)
    theirs = SyncVectorEnv([lambda: GymEnv(diagnostic(named(name), **options).core)] * 4, autoreset_mode=mode)
    assert_same(ours.reset(seed=3), theirs.reset(seed=3), "reset")
    random, ends = np.random.default_rng(0), 0
    for t in range(400):
        actions = random.integers(ours.single_action_space.n, size=4)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions), f"step {t}")
        ended = step[2] | step[3]
        ends += ended.sum()
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended.copy()}), f"reset {t}")
    assert ends > 50


def test_prompts_are_all_or_the_number_asked_for_and_split_by_their_text() -> None:
    assert len(prompts_of(tokens.Copy(vocab_size=4, prompt_tokens=2))) == 9
    many = prompts_of(tokens.Copy(num_prompts=2000))
    assert len({many[i].text for i in range(len(many))}) == len(many) == 2000
    parts = [prompts_of(tokens.Copy(num_prompts=2000, split=split)) for split in ("train", "val", "test")]
    texts = [{part[i].text for i in range(len(part))} for part in parts]
    assert sum(map(len, texts)) == 2000
    assert not any(one & other for one, other in itertools.combinations(texts, 2))


def test_every_diagnostic_is_registered_documented_and_picklable() -> None:
    for id, kind in tokens.DIAGNOSTICS.items():
        spec = gym.spec(id)
        factory = getattr(tokens, spec.kwargs["core"].partition(":")[2])
        assert factory.__doc__ == kind.__doc__
        question = (kind.__doc__ or "").splitlines()[0]
        assert "?" in question or question.startswith("A task")
        assert "Best" in question
        assert "random" in question
        env = pickle.loads(pickle.dumps(textgym.GymVectorEnv(spec.kwargs["core"], 2)))
        assert env.reset(seed=0)[0].shape[0] == 2
        assert 0 < random_return(id) < best_return(id) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("Bandit", {"vocab_size": 2}, "Bandit: vocab_size must be an integer of at least 3, got 2"),
            ("Even", {"vocab_size": 1}, "Even: vocab_size must be an integer of at least 2, got 1"),
            ("Even", {"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
            ("Copy", {"prompt_tokens": 1.5}, "prompt_tokens must be an integer of at least 1, got 1.5"),
            ("Copy", {"num_prompts": True}, "num_prompts must be an integer"),
            ("Copy", {"dense": "no"}, "Copy: dense must be True or False, got 'no'"),
            ("Copy", {"split": "tests"}, "no split 'tests'"),
            ("Password", {"password": [1, 2]}, r"password must be 4 symbols \(max_new_tokens\) in \[0, 7\), got \[1, 2\]"),
            ("Password", {"password": [1, 2, 3, 7]}, "password must be 4 symbols"),
            ("IncreasingNumbers", {"vocab_size": 17}, "need vocab_size of at least 18, got 17"),
            ("IncreasingNumbers", {"prompt_tokens": 2}, "a prompt is one number"),
            ("Brackets", {"kinds": 5}, r"kinds must be one of 1 .. 4 \(\(\) \[\] \{\} <>\), got 5"),
            ("Brackets", {"depth": 9}, "9 brackets cannot be closed by 8 tokens"),
            ("Countdown", {"num_numbers": 1}, "num_numbers must be an integer of at least 2"),
            ("Countdown", {"num_numbers": 6}, "num_numbers must be one of 2 .. 5"),
            ("Countdown", {"valid_score": 2.0}, r"valid_score must lie in \[0, 1\], got 2.0"),
        ],
    )
    def test_sizes_that_make_no_task(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            gym.make(named(name), **options)

    def test_an_unknown_option_and_an_unknown_task(self) -> None:
        with pytest.raises(TypeError, match="vocabulary"):
            gym.make(named("Even"), vocabulary=4)
        with pytest.raises(ValueError, match="did you mean 'textgym/Even-v0'"):
            best_return("textgym/Evn-v0")

    def test_a_state_of_another_size(self) -> None:
        with pytest.raises(ValueError, match="other rows or another task"):
            GymVectorEnv(tokens.successor, 3, dense=True).core.set_state(GymVectorEnv(tokens.successor, 2, dense=True).core.get_state())
