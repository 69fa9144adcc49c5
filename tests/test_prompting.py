"""Choices of prompts: their distributions exactly, groups, what they learn, and PPO on whole episodes (laws 3 and 6, and no learning claim).

Axis legend: N rows, M prompts, E episodes.
"""

from __future__ import annotations

import copy
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import TransformReward
from helpers import PROMPTS, WORDS, LetterShare, SmallCore, tiny_language_model
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import files, ppo
from agents.advantages import GAE, MonteCarlo
from agents.learner import Learner, scores_of
from agents.policies import MLPPolicy, seeded
from agents.prompting import Chosen, Curriculum, Groups, Priority, Prompting, State, Uniform
from agents.rollout import Rollout
from agents.run import Run
from textgym import GymVectorEnv
from textgym.task import Completions

MODES = list(AutoresetMode)
M = 6
HARD = (5.0, 1.0, 3.0, 2.0, 4.0, 0.0)  # from easy to hard: 5 1 3 2 4 0
CRITICAL = 30.0  # chi-square with 5 degrees of freedom exceeds it once in 70,000 seeds
CHOICES: list[Prompting] = [
    Uniform(),
    Priority(),
    Priority(temperature=0.1, staleness=0.5, rate=1.0),
    Curriculum(HARD, first_share=0.5, every=2),
    Curriculum(HARD, first_share=0.4, threshold=0.5),
]
ALL = [*CHOICES, *(Groups(3, choice) for choice in CHOICES)]


def after(choice: Prompting, batches: int, seed: int = 0) -> State:
    """Return what a choice knows after a few batches of six episodes of random scores."""
    random, state = np.random.default_rng(seed), choice.start(M)
    for _ in range(batches):
        state = choice.learn(state, random.integers(M, size=6), random.random(6))
    return state


def chi_square(prompts: np.ndarray, chances: np.ndarray) -> float:
    counts, expected = np.bincount(prompts, minlength=len(chances)), len(prompts) * chances
    assert (counts[expected == 0] == 0).all()
    may = expected > 0
    return float(((counts - expected)[may] ** 2 / expected[may]).sum())


class TestEveryChoice:
    @pytest.mark.parametrize("batches", [0, 1, 5, 40])
    @pytest.mark.parametrize("choice", CHOICES, ids=str)
    def test_draws_what_its_chances_say(self, choice: Any, batches: int) -> None:
        state = after(choice, batches)
        chances = choice.chances(state)
        assert chances.sum() == pytest.approx(1, abs=1e-12)
        assert (chances >= 0).all()
        assert chi_square(choice.choose(state, 20_000, np.random.default_rng(1)).prompts, chances) < CRITICAL
        grouped = Groups(4, choice).choose(state, 80_000, np.random.default_rng(2)).prompts
        assert chi_square(grouped[::4], chances) < CRITICAL

    @pytest.mark.parametrize("choice", ALL, ids=str)
    def test_one_generator_is_one_result_and_nothing_is_written(self, choice: Prompting) -> None:
        state = after(choice, 3)
        before = copy.deepcopy(state)
        first, again, other = (choice.choose(state, 12, np.random.default_rng(seed)) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert first.prompts.tolist() != other.prompts.tolist()
        choice.learn(state, first.prompts, np.linspace(0, 1, 12))
        assert state.keys() == before.keys()
        for name in before:
            np.testing.assert_array_equal(state[name], before[name])

    @pytest.mark.parametrize("choice", ALL, ids=str)
    def test_what_it_knows_can_be_saved(self, choice: Prompting, tmp_path: Path) -> None:
        state = after(choice, 7)
        files.save_state(tmp_path, dict(state))
        loaded = files.load_state(tmp_path)
        for _ in range(3):
            ours, theirs = (choice.choose(s, 12, np.random.default_rng(3)) for s in (state, loaded))
            np.testing.assert_array_equal(ours, theirs)
            state, loaded = (choice.learn(s, ours.prompts, np.sin(np.arange(12))) for s in (state, loaded))

    @pytest.mark.parametrize("choice", ALL, ids=str)
    def test_no_prompts_are_refused_and_no_scores_are_fine(self, choice: Prompting) -> None:
        with pytest.raises(ValueError, match="at least 1 prompt"):
            choice.start(0)
        state = choice.learn(choice.start(M), np.zeros(0, np.int64), np.zeros(0))
        assert len(choice.choose(state, 6, np.random.default_rng(0)).prompts) == 6


class TestGroups:
    def test_each_prompt_comes_size_times_side_by_side(self) -> None:
        chosen = Groups(4).choose(Uniform().start(M), 24, np.random.default_rng(0))
        assert chosen.groups.tolist() == np.repeat(np.arange(6), 4).tolist()
        table = chosen.prompts.reshape(6, 4)
        assert (table == table[:, :1]).all()
        assert len(np.unique(table[:, 0])) < 6, "this seed draws a prompt twice, which makes two groups"
        inner = Uniform().choose(Uniform().start(M), 6, np.random.default_rng(0))
        assert table[:, 0].tolist() == inner.prompts.tolist()

    def test_without_groups_each_row_is_its_own(self) -> None:
        assert Uniform().choose(Uniform().start(M), 5, np.random.default_rng(0)).groups.tolist() == [0, 1, 2, 3, 4]

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="10 rows cannot be cut into groups of 4: make num_envs a multiple of 4"):
            Groups(4).choose(Groups(4).start(M), 10, np.random.default_rng(0))
        for size in (0, 2.5, "2"):
            with pytest.raises(ValueError, match="at least 1 row"):
                Groups(size)  # type: ignore[arg-type]


class TestPriority:
    def test_by_hand(self) -> None:
        choice = Priority(temperature=0.5, staleness=0.25, rate=0.5)
        state = choice.start(4)
        assert choice.chances(state).tolist() == [0.25] * 4
        state = choice.learn(state, np.array([0, 1, 1]), np.array([0.0, 1.0, 0.5]))  # mean of the first batch: 0.5
        assert state["values"].tolist() == [0, 0.75, 0, 0]
        assert state["surprises"].tolist() == [0.5, 0.25, 0, 0]
        assert state["visits"].tolist() == [1, 2, 0, 0]
        state = choice.learn(state, np.array([1, 2]), np.array([0.25, 0.875]))  # 2 is new: V is the mean of 0 and 0.75
        assert state["values"].tolist() == [0, 0.5, 0.875, 0]
        assert state["surprises"].tolist() == [0.5, 0.5, 0.5, 0]
        state = choice.learn(state, np.array([1]), np.array([0.25]))
        assert state["surprises"].tolist() == [0.5, 0.25, 0.5, 0]
        assert (int(state["episodes"]), state["last"].tolist()) == (6, [3, 6, 5, 0])
        # Ranks 1 and 2 are shared by 0 and 2: (1 + 1/4) / 2 each, 1/9 for rank 3; ages 3, 0 and 1. A quarter of the prompts is new.
        by_rank = np.array([0.625, 1 / 9, 0.625]) / (1.25 + 1 / 9)
        expected = 0.75 * (0.75 * by_rank + 0.25 * np.array([3, 0, 1]) / 4)
        np.testing.assert_allclose(choice.chances(state), [*expected, 0.25])

    def test_equal_surprises_are_equally_likely(self) -> None:
        choice = Priority(staleness=0.0)
        state = choice.learn(choice.start(M), np.arange(M), np.full(M, 0.5))
        np.testing.assert_allclose(choice.chances(state), np.full(M, 1 / M))

    def test_only_what_is_still_learned_stays_likely(self) -> None:
        """Of a prompt always solved, one never solved and one solved every other time, the last comes most often."""
        choice, random = Priority(), np.random.default_rng(0)
        state = choice.start(3)
        for _ in range(50):
            prompts = choice.choose(state, 8, random).prompts
            state = choice.learn(state, prompts, np.choose(prompts, [np.ones(8), np.zeros(8), random.integers(2, size=8).astype(float)]))
        assert choice.chances(state)[2] > 0.5

    def test_what_was_long_ago_comes_back(self) -> None:
        choice = Priority(temperature=0.05, staleness=0.3)
        state = choice.learn(choice.start(2), np.array([0, 1]), np.array([0.0, 1.0]))
        for _ in range(30):
            state = choice.learn(state, np.array([1]), np.random.default_rng(0).random(1) + 5)
        assert choice.chances(state)[0] >= 0.3

    @settings(max_examples=100, deadline=None)
    @given(scores=st.lists(st.floats(-5, 5), min_size=2, max_size=12), temperature=st.floats(0.05, 10))
    def test_a_larger_surprise_is_never_less_likely(self, scores: list[float], temperature: float) -> None:
        choice = Priority(temperature=temperature, staleness=0.0)
        state = choice.learn(choice.start(len(scores)), np.arange(len(scores)), np.array(scores))
        chances, surprises = choice.chances(state), state["surprises"]
        order = np.argsort(surprises)
        assert chances.sum() == pytest.approx(1)
        assert (np.diff(chances[order]) >= -1e-12).all()

    @pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"staleness": 1.5}, {"rate": 0.0}, {"temperature": float("nan")}, {"temperature": "1"}])
    def test_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="Priority needs"):
            Priority(**wrong)


class TestCurriculum:
    def opened(self, choice: Curriculum, state: State) -> list[int]:
        return np.flatnonzero(choice.chances(state)).tolist()

    def test_opens_from_easy_to_hard(self) -> None:
        choice = Curriculum(HARD, first_share=0.2, growth=1.5, every=2)
        state, found = choice.start(M), []
        for _ in range(12):
            found.append(self.opened(choice, state))
            state = choice.learn(state, np.array([0]), np.array([0.0]))
        easiest = [5, 1, 3, 2, 4, 0]
        sizes = [2, 2, 2, 2, 3, 3, 5, 5, 6, 6, 6, 6]  # 6 times 0.2, 0.3, 0.45, 0.675, 1.01, each for two batches, rounded up
        assert found == [sorted(easiest[:size]) for size in sizes]
        chances = choice.chances(choice.start(M))
        assert chances[[5, 1]].tolist() == [0.5, 0.5]

    def test_waits_for_a_mean_score(self) -> None:
        choice = Curriculum(HARD, first_share=1 / 6, growth=2.0, every=2, threshold=0.5)
        state, found = choice.start(M), []
        for scores in ([0.0], [0.4, 0.6], [0.9], [0.2], [0.0], [1.0], [1.0], [0.9]):  # means 1/3, 0.55, 0.5, 0.95
            state = choice.learn(state, np.zeros(len(scores), np.int64), np.array(scores))
            found.append(len(self.opened(choice, state)))
        assert found == [1, 1, 1, 2, 2, 4, 4, 6]

    def test_a_stretch_in_which_nothing_was_scored_passes_no_threshold(self) -> None:
        choice = Curriculum(HARD, every=1, threshold=-1.0)
        assert int(choice.learn(choice.start(M), np.zeros(0, np.int64), np.zeros(0))["stage"]) == 0

    def test_an_endless_run_ends_with_all_prompts(self) -> None:
        choice = Curriculum(HARD, every=1, growth=10.0)
        state = after(choice, 2000)
        assert int(state["stage"]) == 1
        np.testing.assert_allclose(choice.chances(state), np.full(M, 1 / M))

    def test_difficulty_may_be_a_function_of_the_index(self) -> None:
        states = [Curriculum(difficulty).start(M) for difficulty in (HARD, lambda i: HARD[i], np.array(HARD))]
        for state in states:
            assert state["order"].tolist() == [5, 1, 3, 2, 4, 0]
        assert Curriculum([1.0] * M).start(M)["order"].tolist() == list(range(M))

    def test_a_share_that_is_whole_is_not_rounded_up(self) -> None:
        assert len(self.opened(Curriculum(np.arange(100), first_share=0.1 * 3), Curriculum(np.arange(100)).start(100))) == 30

    @pytest.mark.parametrize("wrong", [{"first_share": 0.0}, {"first_share": 1.1}, {"growth": 1.0}, {"every": 0}, {"every": 2.5}, {"threshold": "x"}])
    def test_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="Curriculum needs"):
            Curriculum(HARD, **wrong)

    @pytest.mark.parametrize("difficulty", [HARD[:-1], (*HARD[:-1], float("nan")), [HARD]])
    def test_a_difficulty_for_each_prompt(self, difficulty: Any) -> None:
        with pytest.raises(ValueError, match="a finite difficulty for each of the 6 prompts"):
            Curriculum(difficulty).start(M)


# -- in the loop ---------------------------------------------------------------------------------------------------------

SMALL = ppo.Config(total_timesteps=5 * 8 * 5, num_steps=5, episodes_per_row=1, learning_rate=0.01, num_minibatches=2)  # five iterations on eight rows


def text_env(mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 8, **changes: Any) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(**changes), num_envs, autoreset_mode=mode)


def mlp() -> MLPPolicy:
    with seeded(0):
        return MLPPolicy(8, len(WORDS), (16,))


def learner(env: GymVectorEnv, prompting: Prompting | None, policy: Any = None) -> Learner:
    policy = policy or mlp()
    return Learner.start(env, policy, torch.optim.Adam(policy.parameters()), 3, prompting, None if prompting is None else M)


def prompt_of(observation: np.ndarray) -> int:
    """Return the index of the prompt that an observation shows."""
    return PROMPTS.index(" ".join(WORDS[token] for token in observation[:3] if token < len(WORDS)))


class Watching:
    """Monte Carlo returns that keep the rollouts they were asked about."""

    def __init__(self) -> None:
        self.seen: list[Rollout] = []

    def __call__(self, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
        self.seen.append(rollout)
        return MonteCarlo(gamma=1.0)(rollout)


def train(policy: Any, env: GymVectorEnv, config: ppo.Config = SMALL, **choices: Any) -> Run:
    return ppo.train(env, policy, config, quiet=True, **choices)


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run.history]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [mlp, tiny_language_model], ids=["mlp", "language model"])
def test_each_row_plays_one_whole_episode_on_its_groups_prompt(make: Any, mode: AutoresetMode) -> None:
    watching = Watching()
    run = train(make(), text_env(mode), replace(SMALL, advantage=watching), prompting=Groups(4), num_prompts=M)
    assert run.done == 5
    assert max(row["ratio_error"] for row in run.history) < 1e-4
    for rollout, row in zip(watching.seen, run.history, strict=True):
        assert rollout.starts[0].all()
        assert (rollout.ends.sum(axis=0) == 1).all()
        assert row["episodes"] == 8
        groups = rollout.require("groups")
        assert groups.tolist() == [[0] * 4 + [1] * 4] * len(rollout.valid)
        prompts = [prompt_of(observation) for observation in rollout.observations[0]]
        assert prompts == [prompts[0]] * 4 + [prompts[4]] * 4
    assert len({prompt_of(rollout.observations[0, row]) for rollout in watching.seen for row in (0, 4)}) > 2


def test_steps_are_those_that_were_played() -> None:
    watching = Watching()
    run = train(mlp(), text_env(), replace(SMALL, advantage=watching, episodes_per_row=2))
    played = np.cumsum([int(rollout.valid.sum()) for rollout in watching.seen])
    assert run.total == 2, "two episodes of at most five steps count as ten"
    assert [row["steps"] for row in run.history] == played.tolist()
    assert [row["episodes"] for row in run.history] == [16, 16]
    assert [row["learning_rate"] for row in run.history] == pytest.approx([0.01, 0.005])


def test_without_a_choice_whole_episodes_have_the_environments_prompts() -> None:
    watching = Watching()
    train(mlp(), text_env(num_envs=40, prompt_weights=(0, 0, 1, 0, 0, 2)), replace(SMALL, advantage=watching, total_timesteps=2000))
    prompts = [prompt_of(observation) for rollout in watching.seen for observation in rollout.observations[0]]
    assert set(prompts) == {2, 5}
    assert watching.seen[0].groups is None
    assert len(watching.seen) == 10


class TestResume:
    """Law 6: what was learned of the prompts, and the stream that chooses them, come back too."""

    def run(self, folder: Path, mode: AutoresetMode, prompting: Prompting | None, evaluate: Any = None, **choices: Any) -> tuple[Run, torch.Tensor]:
        policy = tiny_language_model()
        number = None if prompting is None else M
        run = train(policy, text_env(mode), folder=folder, seed=4, prompting=prompting, num_prompts=number, evaluate=evaluate, evaluate_every=1, **choices)
        return run, torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()

    @pytest.mark.parametrize(
        ("prompting", "mode", "k"),
        [(None, MODES[0], 1), (Curriculum(HARD, every=1), MODES[1], 3), (Groups(2), MODES[1], 1), *((Groups(4, Priority()), mode, 2) for mode in MODES)],
        ids=str,
    )
    def test_stopped_and_resumed_equals_uninterrupted(self, tmp_path: Path, prompting: Prompting | None, mode: AutoresetMode, k: int) -> None:
        calls = 0

        def draw(generator: np.random.Generator) -> dict[str, float]:
            return {"draw": generator.random()}

        def stop(generator: np.random.Generator) -> dict[str, float]:
            nonlocal calls
            calls += 1
            if calls == k:
                os.kill(os.getpid(), signal.SIGINT)
            return draw(generator)

        whole = self.run(tmp_path / "whole", mode, prompting, draw)
        stopped = self.run(tmp_path / "stopped", mode, prompting, stop, save_every=None)
        assert stopped[0].done == k
        resumed = self.run(tmp_path / "stopped", mode, prompting, draw, resume=True)
        assert timeless(resumed[0]) == timeless(whole[0])
        assert torch.equal(resumed[1], whole[1])
        for file in ("state.json", "arrays.safetensors"):
            assert (tmp_path / "whole/checkpoints/000005" / file).read_bytes() == (tmp_path / "stopped/checkpoints/000005" / file).read_bytes()

    def test_a_choice_changes_no_other_stream(self) -> None:
        """Uniform choices differ from the environment's own draws in nothing but the prompts."""
        states = []
        for prompting in (None, Uniform()):
            one = learner(text_env(), prompting)
            one.play(5, 1)
            states.append(one.get_state()["generators"])
        assert states[0]["prompts"] != states[1]["prompts"]
        assert {name: state for name, state in states[0].items() if name in ("minibatches", "evaluation")} == {
            name: state for name, state in states[1].items() if name in ("minibatches", "evaluation")
        }


class MinusPrompt:
    """The score minus ten times the index of the prompt: dense returns leave that out, scores do not."""

    def __call__(self, completions: Completions) -> np.ndarray:
        return LetterShare("a")(completions) - 10 * completions.prompt_indices


class Ledger(Uniform):
    """A choice that keeps what it was told."""

    told: list[tuple[list[int], list[float]]]

    def learn(self, state: State, prompts: np.ndarray, scores: np.ndarray) -> State:
        self.told.append((prompts.tolist(), scores.tolist()))
        return state


def ledger() -> Ledger:
    choice = Ledger()
    object.__setattr__(choice, "told", [])
    return choice


class TestWhatIsLearned:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("dense", [False, True])
    def test_scores_go_to_the_prompts_that_earned_them(self, dense: bool, mode: AutoresetMode) -> None:
        choice = ledger()
        one = learner(text_env(mode, dense=dense, scorer=MinusPrompt()), choice)
        for _ in range(4):
            one.play(5, 1)
        assert len(choice.told) == 4
        for prompts, scores in choice.told:
            assert len(prompts) == len(scores) == 8
            np.testing.assert_array_equal(np.ceil(np.array(scores) / -10 - 0.2), prompts)

    def test_without_a_score_it_is_the_return(self) -> None:
        class Sevens(LetterShare):
            def __call__(self, completions: Completions) -> np.ndarray:
                return 7.0 + completions.prompt_indices

        env = text_env(scorer=Sevens())
        one = learner(env, None)
        played = one.play(5, 1)
        by_score = scores_of(played)
        by_return = scores_of(played._replace(ends={name: values for name, values in played.ends.items() if name != "score"}))
        np.testing.assert_array_equal(by_score, by_return)
        assert by_score.min() >= 7

    def test_episodes_that_were_cut_from_outside_teach_nothing(self) -> None:
        choice = ledger()
        env = GymVectorEnv(SmallCore(), 8, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=2)
        one = learner(env, choice)
        played = [one.play(5, 1) for _ in range(6)]
        finished = sum(int(p.rollout.terminated.sum()) for p in played)
        assert 0 < finished < 48
        assert sum(len(prompts) for prompts, _ in choice.told) == finished

    def test_a_wrapped_environment_takes_prompts_too(self) -> None:
        env = TransformReward(text_env(), lambda reward: reward * 3)
        watching = Watching()
        ppo.train(env, mlp(), replace(SMALL, advantage=watching), quiet=True, prompting=Groups(8), num_prompts=M)
        prompts = {prompt_of(observation) for observation in watching.seen[0].observations[0]}
        assert len(prompts) == 1


class TestRefused:
    def test_choices_and_numbers_belong_together(self) -> None:
        for choices in ({"prompting": Uniform()}, {"num_prompts": 6}):
            with pytest.raises(ValueError, match="belong together"):
                train(mlp(), text_env(), **choices)

    def test_windows_have_no_prompts(self) -> None:
        with pytest.raises(ValueError, match="set episodes_per_row=1"):
            train(mlp(), text_env(), replace(SMALL, episodes_per_row=None), prompting=Uniform(), num_prompts=M)

    def test_one_prompt_is_one_episode(self) -> None:
        with pytest.raises(ValueError, match="set episodes_per_row=1 for prompting, not 2"):
            train(mlp(), text_env(), replace(SMALL, episodes_per_row=2), prompting=Uniform(), num_prompts=M)

    def test_more_prompts_than_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"must lie in \[0, 6\)"):
            train(mlp(), text_env(), prompting=Curriculum(lambda i: -i), num_prompts=99)

    def test_no_episodes(self) -> None:
        with pytest.raises(ValueError, match="episodes_per_row must be at least 1, or None"):
            ppo.Config(episodes_per_row=0)


@pytest.mark.parametrize("advantage", [MonteCarlo(gamma=1.0), GAE(gamma=1.0)], ids=str)
def test_ppo_learns_on_whole_episodes(advantage: Any) -> None:
    config = replace(SMALL, total_timesteps=40 * 5 * 32, num_steps=5, advantage=advantage)
    run = ppo.train(text_env(num_envs=32), mlp(), config, quiet=True)
    assert run.history[0]["return"] < 0.4
    assert np.mean([row["return"] for row in run.history[-5:]]) > 0.7


def test_chosen_is_two_arrays() -> None:
    assert Chosen._fields == ("prompts", "groups")
