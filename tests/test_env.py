"""Law 1: every registered id behaves as Gymnasium and its users expect, without a warning."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from helpers import WORDS, Echo, SmallCore, TwoParts, small_task

import textgym
from textgym import GymEnv
from textgym.constraints import MinLength
from textgym.episodes import ScorerError, TextCore
from textgym.prompts import ListPrompts
from textgym.task import RESERVED, Completions, Prompt

pytestmark = pytest.mark.core

OURS = sorted(id for id, spec in gym.registry.items() if isinstance(spec.entry_point, str) and spec.entry_point.startswith("textgym."))


def play(env: gym.Env, steps: int, seed: int) -> list[object]:
    env.action_space.seed(seed)
    seen: list[object] = [env.reset(seed=seed)]
    for _ in range(steps):
        seen.append(env.step(env.action_space.sample()))
        if seen[-1][2] or seen[-1][3]:
            seen.append(env.reset())
    return seen


@pytest.mark.parametrize("id", OURS)
class TestEveryId:
    def test_passes_gymnasiums_checker_without_a_warning(self, id: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env = gym.make(id)
            check_env(env.unwrapped)

    def test_is_deterministic_under_its_seed_and_differs_under_another(self, id: str) -> None:
        first, second, other = (play(gym.make(id), 200, seed) for seed in (3, 3, 4))
        assert data_equivalence(first, second, exact=True)
        assert not data_equivalence(first, other, exact=True)

    def test_reset_refuses_options_that_it_does_not_know(self, id: str) -> None:
        for env in (gym.make(id), gym.make_vec(id, num_envs=2)):
            with pytest.raises(ValueError, match=r"holds 'promt', but this task knows '(prompt|map)'"):
                env.reset(options={"promt": 0})

    def test_survives_pickling_in_mid_episode(self, id: str) -> None:
        env = gym.make(id).unwrapped
        env.reset(seed=1)
        if any(env.step(1)[2:4]):  # an episode of one step
            env.reset()
        copy = pickle.loads(pickle.dumps(env))
        env.action_space.seed(0)
        for _ in range(100):
            action = env.action_space.sample()
            ours, theirs = env.step(action), copy.step(action)
            assert data_equivalence(ours, theirs, exact=True)
            if ours[2] or ours[3]:
                assert data_equivalence(env.reset(), copy.reset(), exact=True)

    def test_spec_goes_through_json(self, id: str) -> None:
        spec = gym.spec(id)
        again = type(spec).from_json(spec.to_json())
        assert again == spec
        assert gym.make(again).reset(seed=0)[0].shape == gym.make(id).reset(seed=0)[0].shape

    def test_native_form_is_what_make_vec_gives(self, id: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env = gym.make_vec(id, num_envs=3)
        assert isinstance(env, textgym.GymVectorEnv)
        assert env.reset(seed=0)[0].shape[0] == 3

    def test_ansi_returns_text_and_human_prints_it(self, id: str, capsys: pytest.CaptureFixture[str]) -> None:
        env = gym.make(id, render_mode="ansi")
        env.reset(seed=0)
        drawn = env.render()
        assert isinstance(drawn, str)
        assert capsys.readouterr().out == ""
        gym.make(id, render_mode="human").reset(seed=0)
        assert capsys.readouterr().out.strip() == drawn.strip()

    def test_observations_and_infos_are_fresh(self, id: str) -> None:
        env = gym.make(id)
        before, _ = env.reset(seed=0)
        kept = before.copy()
        after = env.step(1)[0]
        if isinstance(after, np.ndarray):  # a discrete observation is a number, and shares nothing
            after[:] = 0
            assert not np.array_equal(env.unwrapped.core.observe(slice(None))[0], after)
        assert np.array_equal(before, kept)


def test_the_prompt_is_right_aligned_and_the_text_grows_from_column_p_on() -> None:
    env = GymEnv(SmallCore())
    observation, _ = env.reset(options={"prompt": 1})  # "b c"
    pad = len(WORDS)
    assert observation.tolist() == [pad, 2, 3, pad, pad, pad, pad, pad]
    assert env.step(4)[0].tolist() == [pad, 2, 3, 4, pad, pad, pad, pad]
    assert env.step(1)[0].tolist() == [pad, 2, 3, 4, 1, pad, pad, pad]


def test_eos_and_budget_terminate_and_are_scored_and_nothing_before() -> None:
    env = GymEnv(SmallCore())
    env.reset(options={"prompt": 0})
    assert env.step(1)[1:] == (0.0, False, False, {})
    assert env.step(2)[1:] == (0.0, False, False, {})
    assert env.step(0)[1:] == (0.5, True, False, {"score": 0.5})  # "a b <eos>"
    env.reset(options={"prompt": 0})
    steps = [env.step(1) for _ in range(5)]
    assert [step[2] for step in steps] == [False] * 4 + [True]
    assert [step[1] for step in steps] == [0.0] * 4 + [1.0]


def test_info_holds_parts_gold_and_text_where_asked_for() -> None:
    task = small_task(scorer=TwoParts(), gold=SmallCore().changes.get("gold", TwoParts()), info_text=True)
    env = GymEnv(lambda num_rows: TextCore(task, num_rows))
    env.reset(options={"prompt": 0})
    env.step(2)
    info = env.step(0)[4]
    assert info == {"score": 1.25, "share": 1.0, "length": 2.0, "gold": 1.25, "text": "b"}
    assert env.texts() == ["b"]


def test_a_state_is_a_value() -> None:
    env = GymEnv(SmallCore())
    env.reset(seed=5)
    env.step(1)
    state = env.get_state()

    def onward() -> list[object]:
        seen: list[object] = []
        for action in (2, 3, 0):
            seen.append(env.step(action))
        return [*seen, env.reset(), env.reset(), env.np_random.random()]

    first = onward()
    env.set_state(state)
    assert data_equivalence(first, onward(), exact=True)


class TestErrors:
    @pytest.mark.parametrize("action", [-1, 6, 10**9])
    def test_an_action_outside_the_space(self, action: int) -> None:
        env = GymEnv(SmallCore())
        env.reset()
        with pytest.raises(ValueError, match=rf"Action {action} is outside.*Discrete\(6\)"):
            env.step(action)

    def test_a_float_is_no_token(self) -> None:
        env = GymEnv(SmallCore())
        env.reset()
        with pytest.raises(ValueError, match="integers"):
            env.step(1.5)

    def test_step_before_reset_and_after_the_end(self) -> None:
        env = GymEnv(SmallCore())
        with pytest.raises(ResetNeeded, match="reset"):
            env.step(0)
        env.reset()
        env.step(0)
        with pytest.raises(ResetNeeded, match="reset"):
            env.step(0)
        with pytest.raises(ResetNeeded):
            gym.make("TextGen-v0").step(0)

    def test_a_prompt_longer_than_its_budget_is_cut_on_the_left_only_when_asked(self) -> None:
        long = ListPrompts(["a", "a b c d"])
        with pytest.raises(ValueError, match=r"Prompt 1 has 4 tokens, max_prompt_tokens is 3.*cut_prompts=True"):
            TextCore(small_task(prompts=long), 1)
        core = TextCore(small_task(prompts=long, cut_prompts=True), 1)
        env = GymEnv(lambda num_rows: core)
        assert env.reset(options={"prompt": 1})[0][:3].tolist() == [2, 3, 4]

    def test_a_prompt_without_tokens_or_with_foreign_ids(self) -> None:
        with pytest.raises(ValueError, match=r"Prompt 0.*no tokens"):
            TextCore(small_task(prompts=ListPrompts([Prompt("", ids=())])), 1)
        with pytest.raises(ValueError, match="outside the tokenizer's vocabulary of 6"):
            TextCore(small_task(prompts=ListPrompts([Prompt("x", ids=(6,))])), 1)

    def test_a_tokenizer_without_eos(self) -> None:
        class NoEnd:
            vocab_size, eos_id = 6, None

            def encode(self, text: str) -> list[int]:
                return [1]

            def decode(self, ids: object) -> str:
                return ""

        with pytest.raises(ValueError, match="NoEnd has no EOS"):
            TextCore(small_task(tokenizer=NoEnd()), 1)

    @pytest.mark.parametrize(
        ("scorer", "message"),
        [
            (lambda completions: np.full(len(completions), np.nan), "returned nan for prompt 'a', text 'b'"),
            (lambda completions: np.zeros((len(completions), 1)), r"shape \(1,\) must come out, got \(1, 1\)"),
            (lambda completions: 1 / 0, "raised ZeroDivisionError.*'a' -> 'b'"),
        ],
    )
    def test_a_scorer_that_fails_is_told_with_prompt_and_text(self, scorer: object, message: str) -> None:
        env = GymEnv(SmallCore(scorer=scorer))
        env.reset(options={"prompt": 0})
        env.step(2)
        with pytest.raises(ScorerError, match=message):
            env.step(0)

    @pytest.mark.parametrize("flag", ["dense", "cut_prompts", "info_text", "info_mask", "forbidden_ends"])
    def test_a_flag_is_no_text_that_would_count_as_true(self, flag: str) -> None:
        for value in ("false", 0, None):
            with pytest.raises(ValueError, match=f"{flag}={value!r} must be True or False"):
                gym.make("TextGen-v0", **{flag: value})

    @pytest.mark.parametrize("prompt", [6, -1, 0.5, [0, 1], "a"])
    def test_a_prompt_index_that_does_not_exist(self, prompt: object) -> None:
        with pytest.raises(ValueError, match="prompt"):
            GymEnv(SmallCore()).reset(options={"prompt": prompt})

    def test_an_unknown_render_mode_and_an_unknown_option(self) -> None:
        with pytest.raises(ValueError, match="render_mode"):
            GymEnv(SmallCore(), render_mode="hologram")
        with pytest.raises(TypeError, match="max_new_token"):
            gym.make("TextGen-v0", max_new_token=3)

    @pytest.mark.parametrize(
        ("option", "name", "nearest"), [("scorer", "sentimen", "sentiment"), ("prompts", "film_review", "film_reviews"), ("tokenizer", "bite", "byte")]
    )
    def test_an_unknown_name_suggests_the_nearest(self, option: str, name: str, nearest: str) -> None:
        with pytest.raises(ValueError, match=nearest):
            gym.make("TextGen-v0", **{option: name})


def test_a_score_that_is_no_number_and_an_action_that_is_no_id() -> None:
    env = GymEnv(SmallCore(scorer=lambda completions: ["good"] * len(completions)))
    env.reset()
    with pytest.raises(ValueError, match="one token id a row"):
        env.step(np.array([1]))
    with pytest.raises(ScorerError, match="returned list, which is no array of numbers"):
        env.step(0)


def test_options_of_generated_maps_need_a_family() -> None:
    with pytest.raises(ValueError, match="give family="):
        gym.make("textgym/PathPlanning-v0", size=20)
    with pytest.raises(ValueError, match="finite"):
        gym.make("textgym/PathPlanning-v0", step_cost=float("nan"))


class Named:
    """A composed scorer of one part, which is worth 7 and pays nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def parts(self, completions: Completions) -> dict[str, np.ndarray]:
        return {self.name: np.full(len(completions), 7.0)}

    def combine(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        return 0 * parts[self.name]

    def __call__(self, completions: Completions) -> np.ndarray:
        return self.combine(self.parts(completions))


@pytest.mark.parametrize("name", [*sorted(RESERVED), "_share"])
def test_no_part_takes_a_name_of_the_infos_own(name: str) -> None:
    env = GymEnv(SmallCore(scorer=Named(name)))
    env.reset(seed=0)
    with pytest.raises(ScorerError, match=f"^Scorer Named has a part called '{name}'.*call it"):
        env.step(0)


def test_every_fact_in_the_info_is_reserved() -> None:
    """So that a fact added to the core cannot be written over by a part."""
    changes = {"chunk": 2, "info_text": True, "gold": TwoParts(), "responder": Echo(), "max_response_tokens": 9, "constraint": MinLength(1)}
    env = GymEnv(SmallCore(**changes))
    infos = env.reset(seed=0)[1] | env.step(np.array([1, 0]))[4]
    assert len(infos) >= 8
    assert set(infos) <= RESERVED


def test_a_scorer_that_cannot_read_unfinished_texts_is_told_that_dense_rewards_have_them() -> None:
    def last_word(completions: Completions) -> np.ndarray:
        return np.array([float(len(text.split()[-1])) for text in completions.texts])

    env = GymEnv(SmallCore(scorer=last_word, dense=True))
    with pytest.raises(ScorerError, match=r"raised IndexError.*dense=True has unfinished and empty texts scored"):
        env.reset(seed=0)
    sparse = GymEnv(SmallCore(scorer=last_word))
    sparse.reset(seed=0)
    with pytest.raises(ScorerError, match="raised IndexError") as caught:
        sparse.step(0)
    assert "dense" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.01}, r"gamma=1.01 must be a number in \[0, 1\]"),
        ({"gamma": -0.1}, "gamma=-0.1"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"gamma": "1"}, "gamma='1'"),
        ({"forbidden_penalty": -1.0}, "forbidden_penalty=-1.0"),
        ({"forbidden_penalty": float("inf")}, "forbidden_penalty=inf"),
        ({"forbidden_penalty": float("nan")}, "forbidden_penalty=nan"),
        ({"forbidden_penalty": None}, "forbidden_penalty=None"),
        ({"chunk": 2.0}, "chunk=2.0 must be an integer"),
        ({"chunk": True}, "chunk=True must be an integer"),
        ({"max_new_tokens": "5"}, "max_new_tokens='5' must be an integer"),
        ({"max_prompt_tokens": 3.5}, "max_prompt_tokens=3.5 must be an integer"),
        ({"max_response_tokens": None}, "max_response_tokens=None must be an integer"),
        ({"prompt_weights": (1, 1, -0.5, 1, 1, 1)}, "got -0.5 for prompt 2"),
        ({"prompt_weights": (1, 1, 1, float("nan"), 1, 1)}, "got nan for prompt 3"),
        ({"prompt_weights": (0,) * 6}, "got only zeros"),
        ({"prompt_weights": "123456"}, "got str '123456'"),
        ({"prompt_weights": list("123456")}, "got list"),
        ({"prompt_weights": dict.fromkeys("abcdef", 1.0)}, "got dict"),
        ({"prompt_weights": (1,) * 5}, r"got shape \(5,\)"),
    ],
)
def test_numbers_that_describe_no_task(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmallCore(**changes)(1)


def test_numpy_numbers_describe_a_task() -> None:
    assert SmallCore(chunk=np.int64(2), gamma=np.float32(0.5), forbidden_penalty=0, max_new_tokens=np.int32(4), prompt_weights=np.ones(6))(1).task.chunk == 2
