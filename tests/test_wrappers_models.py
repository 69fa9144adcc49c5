"""Wrappers that ask a language model, and agents that learn through wrappers: ours and Stable-Baselines3's."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from helpers import WORDS, SmallCore, tiny_language_model
from test_vector import assert_same
from test_wrappers import MODEL
from test_wrappers_top_k import FOUR

from agents import ppo
from agents.learner import Learner, Resumable
from agents.play import begin, collect
from agents.policies import MLPPolicy, seeded
from textgym import GymEnv, GymVectorEnv, wrappers
from textgym.language_models import LanguageModel
from textgym.wrappers import vector

MODES = list(AutoresetMode)


def language_model(dtype: str | None = None) -> LanguageModel:
    return LanguageModel(tiny_language_model().model, len(WORDS), dtype=dtype)


def played(env: Any, steps: int = 40, rows: int = 4) -> list[Any]:
    """Everything that an environment tells under the same random actions."""
    random, seen = np.random.default_rng(0), [env.reset(seed=3)]
    for _ in range(steps):
        seen.append(env.step(random.integers(env.single_action_space.n, size=rows)))
        ended = seen[-1][2] | seen[-1][3]
        if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            seen.append(env.reset(options={"reset_mask": ended.copy()}))
    return seen


def both(wrap: Callable[[Any, Any], Any], mode: AutoresetMode, rows: int = 4) -> tuple[list[Any], list[Any]]:
    ours = wrap(vector, GymVectorEnv(SmallCore(), rows, autoreset_mode=mode))
    theirs = SyncVectorEnv([lambda: wrap(wrappers, GymEnv(SmallCore()))] * rows, autoreset_mode=mode)
    return played(ours), played(theirs)


@pytest.mark.parametrize("mode", MODES)
def test_in_float64_the_two_forms_are_one(mode: AutoresetMode) -> None:
    model = language_model("float64")
    for wrap in (lambda form, env: form.HiddenState(env, model), lambda form, env: form.TopKActions(env, model, 3)):
        ours, theirs = both(wrap, mode)
        assert_same(ours, theirs, str(mode))


def test_in_float32_features_differ_by_rounding_alone() -> None:
    model = language_model("float32")
    ours, theirs = both(lambda form, env: form.HiddenState(env, model), AutoresetMode.NEXT_STEP)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one[0], other[0], rtol=0, atol=1e-5)
        assert_same(one[1:], other[1:], "all but the features")


def test_features_are_what_the_model_says_of_the_last_token() -> None:
    model = tiny_language_model().model
    env = wrappers.HiddenState(GymEnv(SmallCore()), model)
    env.reset(options={"prompt": 1})
    seen = env.step(4)[0]
    with torch.no_grad():
        hidden = model.transformer(torch.tensor([[2, 3, 4]])).last_hidden_state[0, -1].numpy()
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, hidden, atol=1e-5)
    assert seen in env.observation_space


def test_the_table_is_ranked_by_the_models_probabilities() -> None:
    model = tiny_language_model().model
    env = vector.TopKActions(GymVectorEnv(SmallCore(), 2), model, len(WORDS))
    _, infos = env.reset(options={"prompt": 1})
    with torch.no_grad():
        logits = model(torch.tensor([[2, 3]])).logits[0, -1].numpy()
    assert infos["top_ids"].tolist() == [np.argsort(-logits, kind="stable").tolist()] * 2


def test_a_folder_goes_through_json_and_an_object_does_not(tmp_path: Path) -> None:
    gym_id, size = "textgym/Copy-v0", 5
    from transformers import GPT2Config, GPT2LMHeadModel

    with seeded(0):
        GPT2LMHeadModel(GPT2Config(vocab_size=size, n_positions=32, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    for wrap in (lambda env, model: wrappers.HiddenState(env, model), lambda env, model: wrappers.TopKActions(env, model, 2, keep_eos=True)):
        env = wrap(gym.make(gym_id, vocab_size=size), tmp_path)
        again = gym.make(type(env.spec).from_json(env.spec.to_json()))
        assert data_equivalence(env.reset(seed=0), again.reset(seed=0), exact=True)
        assert data_equivalence(env.step(1), again.step(1), exact=True)
        with pytest.raises(TypeError, match="LanguageModel is not JSON serializable"):
            wrap(gym.make(gym_id, vocab_size=size), LanguageModel(tmp_path)).spec.to_json()


def test_a_model_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="knows 5 token ids, the environment 6; give it vocab_size=6"):
        wrappers.HiddenState(GymEnv(SmallCore()), LanguageModel(tiny_language_model().model, 5))


@pytest.mark.parametrize("form", [wrappers, vector])
def test_a_models_spare_rows_are_cut_away_only_when_asked(form: Any, tmp_path: Path) -> None:
    """A model of 9 tokens may have nothing in common with a tokenizer of 6."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with seeded(0):
        module = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    module.save_pretrained(tmp_path)
    env = GymEnv(SmallCore()) if form is wrappers else GymVectorEnv(SmallCore(), 2)
    for model in (module, tmp_path):
        with pytest.raises(ValueError, match=r"HiddenState: .* knows 9 token ids, the environment 6; give it vocab_size=6"):
            form.HiddenState(env, model)
        with pytest.raises(ValueError, match=r"TopKActions: .* knows 9 token ids, the environment 6; give it vocab_size=6"):
            form.TopKActions(env, model, 2)
        form.TopKActions(env, LanguageModel(model, 6), 2).reset(seed=0)
        form.HiddenState(env, LanguageModel(model, 6)).reset(seed=0)


class TestOurAgents:
    def wrapped(self, mode: AutoresetMode = AutoresetMode.SAME_STEP, **changes: Any) -> Any:
        """Features above, a choice of three tokens below."""
        return vector.HiddenState(vector.TopKActions(GymVectorEnv(SmallCore(**changes), 8, autoreset_mode=mode), MODEL, 4), MODEL)

    @pytest.mark.parametrize("mode", MODES)
    def test_play_plays_masked_actions_in_every_mode(self, mode: AutoresetMode) -> None:
        env = self.wrapped(mode, constraint=FOUR)
        with seeded(0):
            policy = MLPPolicy(3, 4, (8,))
        rollout = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), episodes_per_row=5).rollout
        assert rollout.action_masks is not None
        assert rollout.action_masks.shape == (*rollout.valid.shape, 4)
        assert np.take_along_axis(rollout.action_masks, rollout.actions[..., None], axis=2)[..., 0][rollout.valid].all()

    def test_ppo_trains_and_a_learner_is_put_back(self) -> None:
        env = self.wrapped()
        assert isinstance(env, Resumable)
        with seeded(0):
            policy = MLPPolicy.for_env(env, (8,))
        run = ppo.train(env, policy, ppo.Config(total_timesteps=8 * 7 * 2, num_steps=7), quiet=True)
        assert len(run.history) == 2
        learner = Learner.start(env, policy, torch.optim.Adam(policy.parameters()), seed=0)
        state = pickle.loads(pickle.dumps(learner.get_state()))
        before = collect(env, policy, learner.position, np.random.default_rng(0), num_steps=9).rollout
        other = Learner.start(self.wrapped(), copy.deepcopy(policy), torch.optim.Adam(policy.parameters()), seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            other.set_state(state)
        after = collect(other.env, policy, other.position, np.random.default_rng(0), num_steps=9).rollout
        assert np.array_equal(before.observations, after.observations)
        assert np.array_equal(before.rewards, after.rewards)


class TestStableBaselines3:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda env: wrappers.DictObservation(env),
            lambda env: FlattenObservation(wrappers.OneHotObservation(env)),  # it warns of boxes of two dimensions
            lambda env: wrappers.LastTokens(env, 3),
            lambda env: wrappers.FloatObservation(env, scaled=True),
            lambda env: wrappers.HiddenState(env, MODEL),
            lambda env: wrappers.TopKActions(env, MODEL, 3),
        ],
        ids=["dict", "one-hot", "last", "float", "hidden", "top"],
    )
    def test_its_checker_says_nothing(self, wrap: Callable[[gym.Env], gym.Env]) -> None:
        checker = pytest.importorskip("stable_baselines3.common.env_checker")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            checker.check_env(wrap(GymEnv(SmallCore())))

    @pytest.mark.parametrize("policy", ["MultiInputPolicy", "MlpPolicy"])
    def test_its_ppo_trains(self, policy: str) -> None:
        sb3 = pytest.importorskip("stable_baselines3")
        torch.set_num_threads(1)
        env = GymEnv(SmallCore())
        wrapped = wrappers.DictObservation(env) if policy == "MultiInputPolicy" else wrappers.HiddenState(wrappers.TopKActions(env, MODEL, 3), MODEL)
        agent = sb3.PPO(policy, wrapped, n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu")
        agent.learn(64)
        assert agent.num_timesteps == 64

    def test_its_maskable_ppo_finds_the_masks_of_the_table(self) -> None:
        contrib = pytest.importorskip("sb3_contrib")
        env = wrappers.LastTokens(wrappers.TopKActions(GymEnv(SmallCore(constraint=FOUR)), MODEL, 4), 3)
        agent = contrib.MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu")
        agent.learn(64)
        assert agent.rollout_buffer.action_masks.shape[-1] == 4
        assert not agent.rollout_buffer.action_masks.all()
