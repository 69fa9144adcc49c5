"""Observation wrappers: what each shows, by example and by law; and that their two forms are one, in every autoreset mode."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Text
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from helpers import WORDS, SmallCore
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vector import assert_same

from textgym import GymEnv, GymVectorEnv, wrappers
from textgym.recording import RecordEpisode, RecordVectorEpisode, Verdict, verify
from textgym.tokenizers import ByteTokenizer, CharTokenizer
from textgym.wrappers import vector

pytestmark = pytest.mark.core

V, L = len(WORDS), 8  # of `small_task`: three prompt columns and five more
Wrap = Callable[[Any, Any], Any]  # (where the names are, env) -> wrapped env


class Bigrams:
    """A language model of one table: features and next tokens follow from the last token alone."""

    vocab_size, hidden_size = V, 3

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.order = np.stack([random.permutation(V) for _ in range(V)])
        self.features = random.normal(size=(V, 3)).astype(np.float32)

    def last(self, tokens: np.ndarray) -> np.ndarray:
        return np.array([[token for token in row if token != V][-1] for row in tokens.tolist()])

    def hidden(self, tokens: np.ndarray) -> np.ndarray:
        return self.features[self.last(tokens)]

    def top(self, tokens: np.ndarray, k: int) -> np.ndarray:
        return self.order[self.last(tokens), :k]


MODEL = Bigrams()
WRAPS: dict[str, Wrap] = {
    "dict": lambda form, env: form.DictObservation(env),
    "one-hot": lambda form, env: form.OneHotObservation(env),
    "last": lambda form, env: form.LastTokens(env, 3),
    "float": lambda form, env: form.FloatObservation(env),
    "scaled": lambda form, env: form.FloatObservation(env, scaled=True),
    "text": lambda form, env: form.TextObservation(env),
    "hidden": lambda form, env: form.HiddenState(env, MODEL),
    "top": lambda form, env: form.TopKActions(env, MODEL, 3),
    "last, then float": lambda form, env: form.FloatObservation(form.LastTokens(env, 4)),
    "last, then dict": lambda form, env: form.DictObservation(form.LastTokens(env, 4)),
    "last, then hidden": lambda form, env: form.HiddenState(form.LastTokens(env, 1), MODEL),
    "top, then one-hot": lambda form, env: form.OneHotObservation(form.TopKActions(env, MODEL, 4, keep_eos=True)),
    "last, then top, then text": lambda form, env: form.TextObservation(form.TopKActions(form.LastTokens(env, 2), MODEL, 2)),
}


def drawn(random: np.random.Generator, space: gym.Space[Any], n: int) -> np.ndarray:
    """Actions of n rows."""
    return random.integers(space.n, size=n)


def play_both(wrap: Wrap, mode: AutoresetMode, limit: int | None = None, steps: int = 100, rows: int = 4, **changes: Any) -> None:
    """Play the two forms of a wrapper side by side: everything told is the same, and fits the spaces."""

    def single() -> gym.Env:
        env: gym.Env = GymEnv(SmallCore(**changes))
        return wrap(wrappers, env if limit is None else TimeLimit(env, limit))

    ours = wrap(vector, GymVectorEnv(SmallCore(**changes), rows, autoreset_mode=mode, max_episode_steps=limit))
    theirs = SyncVectorEnv([single] * rows, autoreset_mode=mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == mode
    assert_same(ours.reset(seed=5), theirs.reset(seed=5), "reset")
    random, together = np.random.default_rng(0), 0
    for t in range(steps):
        actions = drawn(random, ours.single_action_space, rows)
        step = ours.step(actions)
        assert_same(step, theirs.step(actions), f"{mode} step {t}")
        assert step[0] in ours.observation_space
        ended = step[2] | step[3]
        together += ended.sum() > 1
        for row in np.flatnonzero(step[4].get("_final_obs", [])):
            assert step[4]["final_obs"][row] in ours.single_observation_space
        if mode is AutoresetMode.DISABLED and ended.any():
            assert_same(ours.reset(options={"reset_mask": ended}), theirs.reset(options={"reset_mask": ended.copy()}), f"reset {t}")
    assert together > 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", WRAPS)
def test_the_vector_form_is_sync_of_the_single_form(name: str, mode: AutoresetMode) -> None:
    play_both(WRAPS[name], mode)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", ["last", "text", "top", "dict"])
def test_so_it_is_where_a_step_limit_cuts(name: str, mode: AutoresetMode) -> None:
    play_both(WRAPS[name], mode, limit=3)


@pytest.mark.parametrize("name", WRAPS)
class TestEveryWrapper:
    def test_passes_gymnasiums_checker_without_a_warning(self, name: str) -> None:
        env = WRAPS[name](wrappers, GymEnv(SmallCore()))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")  # a hint that wrappers are wrapped
            check_env(env, skip_render_check=True)

    def test_pickles_in_mid_episode(self, name: str) -> None:
        for env in (WRAPS[name](wrappers, GymEnv(SmallCore())), WRAPS[name](vector, GymVectorEnv(SmallCore(), 2))):
            env.reset(seed=0)
            action = np.array([1, 1]) if hasattr(env, "num_envs") else 1
            env.step(action)
            copy = pickle.loads(pickle.dumps(env))
            assert data_equivalence(env.step(action), copy.step(action), exact=True)

    def test_a_fork_wraps_the_fork_and_replays_exactly(self, name: str) -> None:
        env = WRAPS[name](vector, GymVectorEnv(SmallCore(), 3, autoreset_mode="SameStep"))
        env.reset(seed=0)
        env.step(np.array([1, 1, 1]))
        rows = [row for row in range(3) if not env.unwrapped._over[row]][:2]
        fork = env.fork(rows[::-1], 2)
        assert type(fork) is type(env)
        assert fork.num_envs == 4
        assert fork.unwrapped is not env.unwrapped
        assert fork.observation_space == WRAPS[name](vector, GymVectorEnv(SmallCore(), 4)).observation_space
        random, index = np.random.default_rng(0), np.repeat(rows[::-1], 2)
        for _ in range(60):
            actions = drawn(random, env.single_action_space, 3)
            ours, copies = env.step(actions), fork.step(actions[index])
            assert copies[0] in fork.observation_space
            for row, parent in enumerate(index.tolist()):
                assert data_equivalence(row_of(copies[0], row), row_of(ours[0], parent), exact=True)
                assert [float(part[row]) for part in copies[1:4]] == [float(part[parent]) for part in ours[1:4]]

    def test_the_state_continues_exactly(self, name: str) -> None:
        first, second = (WRAPS[name](vector, GymVectorEnv(SmallCore(), 3)) for _ in range(2))
        random = np.random.default_rng(0)
        first.reset(seed=1)
        for _ in range(7):
            first.step(drawn(random, first.single_action_space, 3))
        second.set_state(first.get_state())
        for t in range(40):
            actions = drawn(random, first.single_action_space, 3)
            assert_same(first.step(actions), second.step(actions), f"step {t}")

    def test_texts_pass_through(self, name: str) -> None:
        env = WRAPS[name](vector, GymVectorEnv(SmallCore(), 2))
        env.reset(seed=0)
        env.step(np.array([1, 1]))
        assert env.texts() == env.unwrapped.texts()
        single = WRAPS[name](wrappers, GymEnv(SmallCore()))
        single.reset(seed=0)
        assert single.get_wrapper_attr("texts")() == [""]


def row_of(observations: Any, row: int) -> Any:
    return {key: part[row] for key, part in observations.items()} if isinstance(observations, dict) else observations[row]


JSON_WRAPS: dict[str, Wrap] = {name: wrap for name, wrap in WRAPS.items() if not {"hidden", "top"} & set(name.replace(",", "").split())}


@pytest.mark.parametrize("name", JSON_WRAPS)
def test_a_spec_goes_through_json_and_builds_the_wrappers_again(name: str) -> None:
    env = WRAPS[name](wrappers, gym.make("textgym/Copy-v0"))
    again = gym.make(type(env.spec).from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    assert str(again) == str(env)
    assert data_equivalence(env.reset(seed=3), again.reset(seed=3), exact=True)
    assert data_equivalence(env.step(1), again.step(1), exact=True)


def shown(wrap: Wrap, actions: list[int], prompt: int = 1) -> Any:
    """Return what is observed after the actions, on the prompt "b c"; both forms."""
    env, envs = wrap(wrappers, GymEnv(SmallCore())), wrap(vector, GymVectorEnv(SmallCore(), 2, autoreset_mode="Disabled"))
    (one, _), (many, _) = (face.reset(options={"prompt": prompt}) for face in (env, envs))
    for action in actions:
        one, many = env.step(action)[0], envs.step(np.array([action] * 2))[0]
    assert data_equivalence(one, row_of(many, 1), exact=True)
    return one


class TestByExample:
    def test_the_dict_says_which_columns_are_tokens(self) -> None:
        seen = shown(WRAPS["dict"], [4, 0])
        assert seen["tokens"].tolist() == [6, 2, 3, 4, 0, 6, 6, 6]
        assert seen["mask"].tolist() == [0, 1, 1, 1, 1, 0, 0, 0]
        assert seen["length"] == 4
        space = WRAPS["dict"](wrappers, GymEnv(SmallCore())).observation_space
        assert space == Dict({"tokens": Box(0, V, (L,), np.int64), "length": Discrete(L + 1), "mask": Box(0, 1, (L,), np.int8)})

    def test_one_hot_has_a_flag_an_id_and_none_at_pads(self) -> None:
        seen = shown(WRAPS["one-hot"], [4])
        assert seen.shape == (L, V)
        assert seen.dtype == np.uint8
        assert np.argwhere(seen).tolist() == [[1, 2], [2, 3], [3, 4]]

    def test_last_tokens_are_those_before_the_gap(self) -> None:
        assert shown(WRAPS["last"], []).tolist() == [6, 2, 3]
        assert shown(WRAPS["last"], [5]).tolist() == [2, 3, 5]
        assert shown(WRAPS["last"], [5, 4, 3, 2, 1]).tolist() == [3, 2, 1]

    def test_floats_are_the_ids_or_their_share_of_the_pad(self) -> None:
        raw, scaled = shown(WRAPS["float"], [5]), shown(WRAPS["scaled"], [5])
        assert raw.dtype == scaled.dtype == np.float32
        assert raw.tolist() == [6, 2, 3, 5, 6, 6, 6, 6]
        assert np.array_equal(scaled, raw / np.float32(6))

    def test_text_is_prompt_and_continuation_without_eos(self) -> None:
        assert shown(WRAPS["text"], []) == "b c"
        assert shown(WRAPS["text"], [4, 1, 0]) == "b c d a"
        space = WRAPS["text"](wrappers, GymEnv(SmallCore())).observation_space
        assert type(space) is Text
        assert space.min_length == 0
        assert "z" not in space

    def test_hidden_state_is_that_of_the_last_token(self) -> None:
        assert np.array_equal(shown(WRAPS["hidden"], [4]), MODEL.features[4])
        assert np.array_equal(shown(WRAPS["hidden"], []), MODEL.features[3])


@settings(max_examples=60, deadline=None)
@given(prompt=st.integers(0, 5), actions=st.lists(st.integers(0, V - 1), max_size=5), k=st.integers(1, L))
def test_every_view_follows_from_the_tokens(prompt: int, actions: list[int], k: int) -> None:
    actions = actions[: actions.index(0) + 1] if 0 in actions else actions
    raw = shown(lambda form, env: env, actions, prompt)
    tokens = [token for token in raw.tolist() if token != V]
    assert shown(lambda form, env: form.LastTokens(env, k), actions, prompt).tolist() == ([V] * k + tokens)[-k:]
    assert shown(lambda form, env: form.FloatObservation(env), actions, prompt).astype(np.int64).tolist() == raw.tolist()
    flags = shown(WRAPS["one-hot"], actions, prompt)
    assert np.where(flags.any(axis=1), flags.argmax(axis=1), V).tolist() == raw.tolist()
    parts = shown(WRAPS["dict"], actions, prompt)
    assert parts["tokens"][parts["mask"] == 1].tolist() == tokens
    assert parts["length"] == len(tokens)
    assert shown(WRAPS["text"], actions, prompt) == " ".join(WORDS[token] for token in tokens if token)


def test_texts_of_bytes_and_characters_stay_inside_their_space() -> None:
    for tokenizer in (ByteTokenizer(), CharTokenizer("abcde €")):
        core = SmallCore(tokenizer=tokenizer, max_new_tokens=12, max_prompt_tokens=5)
        env, envs = wrappers.TextObservation(GymEnv(core)), vector.TextObservation(GymVectorEnv(core, 3))
        random = np.random.default_rng(0)
        for form, n in ((env, None), (envs, 3)):
            assert form.reset(seed=0)[0] in form.observation_space
            for _ in range(12):
                assert form.step(random.integers(tokenizer.vocab_size - 1, size=n))[0] in form.observation_space
                if n is None and not form.unwrapped._live:
                    form.reset()
        assert 7 not in env.observation_space
        assert "a" * 1000 not in env.observation_space
        assert env.observation_space.sample() in env.observation_space


def test_text_of_several_bytes_is_shown_whole() -> None:
    env = wrappers.TextObservation(GymEnv(SmallCore(tokenizer=ByteTokenizer(), max_prompt_tokens=5)))
    seen, _ = env.reset(options={"prompt": 0})
    for byte in "€".encode():
        seen = env.step(byte)[0]
    assert seen == "a€"
    assert seen in env.observation_space


class TestCompany:
    def test_a_recording_below_is_replayed(self, tmp_path: Path) -> None:
        env = wrappers.LastTokens(RecordEpisode(gym.make("textgym/Copy-v0"), tmp_path / "one.jsonl"), 2)
        envs = vector.LastTokens(RecordVectorEpisode(gym.make_vec("textgym/Copy-v0", num_envs=2), tmp_path / "many.jsonl"), 2)
        env.reset(seed=0)
        while not env.step(1)[2]:
            pass
        envs.reset(seed=0)
        for _ in range(20):
            envs.step(np.array([1, 2]))
        env.close()
        envs.close()
        for name in ("one", "many"):
            assert replayed(tmp_path / f"{name}.jsonl") > 0

    def test_a_recording_above_is_replayed_with_the_wrappers(self, tmp_path: Path) -> None:
        env = RecordEpisode(wrappers.FloatObservation(wrappers.LastTokens(gym.make("textgym/Copy-v0"), 2)), tmp_path / "one.jsonl")
        env.reset(seed=0)
        while not env.step(1)[2]:
            pass
        env.close()
        assert replayed(tmp_path / "one.jsonl") == 1

    def test_what_a_stranger_between_does_not_pass_on_is_named(self) -> None:
        env = vector.LastTokens(RecordEpisodeStatistics(GymVectorEnv(SmallCore(), 2)), 2)
        env.reset(seed=0)
        assert env.step(np.array([1, 1]))[0].shape == (2, 2)
        for call in (env.texts, env.get_state, lambda: env.fork([0], 1)):
            with pytest.raises(TypeError, match="RecordEpisodeStatistics, below LastTokens, does not pass"):
                call()

    def test_masks_and_options_pass_through(self) -> None:
        env = vector.LastTokens(GymVectorEnv(SmallCore(), 3), 2)
        options = {"prompt": np.array([0, 1, 2])}
        assert env.reset(options=options)[0].tolist() == [[6, 1], [2, 3], [2, 3]]
        again, _ = env.reset(options={"reset_mask": np.array([True, False, False]), "prompt": 3})
        assert again.tolist() == [[5, 4], [2, 3], [2, 3]]

    def test_lent_memory_is_not_written_into(self) -> None:
        plain, lent = (GymVectorEnv(SmallCore(), 3, copy=copy) for copy in (True, False))
        for name in ("one-hot", "last", "float", "hidden"):
            first, second = (WRAPS[name](vector, env) for env in (plain, lent))
            assert_same(first.reset(seed=2), second.reset(seed=2), name)
            for t in range(20):
                assert_same(first.step(np.array([1, 2, t % 3])), second.step(np.array([1, 2, t % 3])), f"{name} {t}")


def replayed(path: Path) -> int:
    """Return how many episodes a recording holds, each of which must replay exactly."""
    found = list(verify(path))
    assert all(isinstance(verdict, Verdict) and verdict.difference is None for verdict in found)
    return len(found)


class TestErrors:
    @pytest.mark.parametrize("name", ["dict", "one-hot", "last", "text", "hidden", "top"])
    def test_there_must_be_tokens_to_read(self, name: str) -> None:
        for form, env in ((wrappers, gym.make("textgym/TwoState-v0")), (vector, gym.make_vec("textgym/TwoState-v0", num_envs=2))):
            with pytest.raises(TypeError, match=r"\w+ reads token ids, but .* is no text task"):
                WRAPS[name](form, env)
        for form, face in ((wrappers, GymEnv(SmallCore())), (vector, GymVectorEnv(SmallCore(), 2))):
            with pytest.raises(TypeError, match=r"reads token ids, but what stands below it shows .*put \w+ below"):
                WRAPS[name](form, form.OneHotObservation(face))

    @pytest.mark.parametrize("k", [0, -1, 9, 2.5, True])
    def test_last_tokens_fit_into_the_observation(self, k: Any) -> None:
        with pytest.raises(ValueError, match=r"LastTokens: k=.* must be an integer in \[1, 8\]; 8 is the width"):
            wrappers.LastTokens(GymEnv(SmallCore()), k)

    def test_absurd_one_hots_are_refused_by_their_size(self) -> None:
        core = SmallCore(tokenizer=CharTokenizer([chr(i) for i in range(0x4E00, 0x4E00 + 20_000)] + list("abcde ")), max_prompt_tokens=5, max_new_tokens=1000)
        with pytest.raises(ValueError, match=r"1005 columns x 20007 ids = 20,107,035 flags \(19 MiB\).*LastTokens"):
            wrappers.OneHotObservation(GymEnv(core))

    def test_floats_need_a_box_and_scales_need_bounds(self) -> None:
        with pytest.raises(TypeError, match="makes floats of a Box, not of Dict"):
            wrappers.FloatObservation(wrappers.DictObservation(GymEnv(SmallCore())))
        with pytest.raises(ValueError, match="needs bounds to scale by"):
            wrappers.FloatObservation(wrappers.HiddenState(GymEnv(SmallCore()), MODEL), scaled=True)

    def test_models_of_another_vocabulary_are_refused(self) -> None:
        other = Bigrams()
        other.vocab_size = 7
        for name in ("HiddenState", "TopKActions"):
            with pytest.raises(ValueError, match=rf"{name}: .* knows 7 token ids, the environment 6; give it vocab_size=6"):
                getattr(wrappers, name)(GymEnv(SmallCore()), other, *([2] if name == "TopKActions" else []))

    @pytest.mark.parametrize("name", WRAPS)
    def test_the_vector_form_stands_on_the_native_environment(self, name: str) -> None:
        with pytest.raises(TypeError, match="wrap its single environments instead"):
            WRAPS[name](vector, SyncVectorEnv([lambda: GymEnv(SmallCore())] * 2))


def test_importing_the_wrappers_loads_no_torch() -> None:
    code = "import sys, textgym.wrappers; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
