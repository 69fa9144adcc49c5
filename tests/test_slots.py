"""What a cache is trusted for, what it is asked to read, and that forks copy it; that its numbers are right is for the tests of policies and decoders."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import SmallCore, tiny_language_model
from torch import nn
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from agents import ppo
from agents.advantages import VTrace
from agents.forks import continued
from agents.learner import Learner
from agents.masking import NLPO
from agents.play import begin, collect
from agents.policies import CausalLMPolicy, SeparateCritic, seeded, small_gpt2
from agents.policies.steady import steady_weights
from textgym.vector import GymVectorEnv

V = 6  # ids of the small task; its pad


def env(num_envs: int = 4) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(), num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def watched(policy: CausalLMPolicy, reads: list[tuple[int, int]]) -> CausalLMPolicy:
    """Note down how many rows and tokens the decoders of a policy are given from now on."""
    made = policy._cache

    def cache(*args: Any) -> Any:
        found = made(*args)
        if not hasattr(found.decoder, "noted"):
            extend = found.decoder.extend

            def noted(ids: torch.Tensor, starts: torch.Tensor, new: torch.Tensor | None = None, rows: torch.Tensor | None = None) -> Any:
                reads.append((len(ids), int(len(ids) if new is None else new.sum())))
                return extend(ids, starts, new, rows)

            found.decoder.extend, found.decoder.noted = noted, True
        return found

    policy._cache = cache  # type: ignore[method-assign]
    return policy


def observation(*rows: list[int]) -> np.ndarray:
    """Prefixes whose prompts end in column 3, as the small task lays them out."""
    found = np.full((len(rows), 8), V)
    for i, row in enumerate(rows):
        found[i, 3 - min(3, len(row)) : 3 - min(3, len(row)) + len(row)] = row
    return found


def act(policy: CausalLMPolicy, prefixes: np.ndarray, state: Any, seed: int = 0) -> Any:
    return policy.act(prefixes, state, np.zeros(len(prefixes), np.bool_), np.random.default_rng(seed))


class TestReading:
    @pytest.mark.parametrize("fast", [True, False])
    def test_rows_that_begin_with_the_same_prompt_are_read_once(self, fast: bool) -> None:
        """What is known of the copies is what a policy without a cache says, then and after they have gone different ways."""
        reads: list[tuple[int, int]] = []
        policy = watched(tiny_language_model(), reads)
        policy.fast = fast
        plain = CausalLMPolicy(policy.model, V, use_cache=False)
        plain.value_head = policy.value_head
        prefixes = observation([1, 2], [3], [1, 2], [3], [3], [1, 2], [4, 1, 2])
        step, known = act(policy, prefixes, None), act(plain, prefixes, None)
        assert reads == [(3, 6)], "three prompts for seven rows"
        for _ in range(3):
            np.testing.assert_allclose(step.values, known.values, rtol=0, atol=1e-6)
            np.testing.assert_array_equal(step.actions, known.actions)
            np.testing.assert_allclose(step.log_probs, known.log_probs, rtol=0, atol=1e-5)
            prefixes = step.state.seen.copy()
            step, known = act(policy, prefixes, step.state), act(plain, prefixes, None)
        assert reads[1:] == [(7, 7)] * 3

    def test_rows_begun_anew_beside_others_with_one_prompt_are_read_once(self) -> None:
        reads: list[tuple[int, int]] = []
        policy = watched(tiny_language_model(), reads)
        step = act(policy, observation([1, 2], [3], [1, 3], [3, 4, 4], [2, 2]), None)
        prefixes = step.state.seen.copy()
        prefixes[[1, 2, 4]] = observation([5, 4, 1])[0]
        step, known = act(policy, prefixes, step.state), act(CausalLMPolicy(policy.model, V, use_cache=False), prefixes, None)
        assert reads[1:] == [(1, 2), (5, 5)], "all but the last token once, the last tokens of all rows together"
        np.testing.assert_allclose(step.log_probs, known.log_probs, rtol=0, atol=1e-5)

    def test_a_token_at_a_time_and_those_that_begin_anew_beside(self) -> None:
        reads: list[tuple[int, int]] = []
        policy = watched(tiny_language_model(), reads)
        step = act(policy, observation([1, 2], [3], [1, 2, 3]), None)
        assert reads == [(3, 6)], "the prompts, at once"
        grown = step.state.seen.copy()
        step = act(policy, grown, step.state)
        assert reads[1:] == [(3, 3)], "the tokens that were drawn"
        anew = step.state.seen.copy()
        anew[1] = observation([4, 4, 1])[0]
        step = act(policy, anew, step.state)
        assert reads[2:] == [(1, 2), (3, 3)], "the new prompt up to its last token, which is read together with the others' tokens"

    def test_what_was_played_before_is_not_read_again(self) -> None:
        reads: list[tuple[int, int]] = []
        policy = watched(tiny_language_model(), reads)
        step = act(policy, observation([1, 2, 3], [3, 1, 1]), None)
        step = act(policy, step.state.seen.copy(), step.state)
        act(policy, observation([1, 2, 3], [3, 1, 2]), step.state)
        assert reads[2:] == [(2, 2)], "the same prompt again, and one that differs in its last token"

    def test_the_critic_reads_what_play_has_not(self) -> None:
        reads: list[tuple[int, int]] = []
        policy = watched(tiny_language_model(), reads)
        rows = env()
        played = collect(rows, policy, begin(rows, policy, seed=0), np.random.default_rng(0), num_steps=2)
        assert reads[-1][1] <= 4, "a token a row, where a window ends"
        plain = policy.value(played.position.observations)
        np.testing.assert_allclose(played.rollout.next_values[-1][~played.rollout.ends[-1]], plain[~played.rollout.ends[-1]], atol=1e-6)


class TestTrust:
    def test_two_states_of_one_shape_share_a_cache_and_do_not_mix(self) -> None:
        policy, plain = tiny_language_model(), tiny_language_model()
        plain.use_cache = False
        prefixes = observation([1, 2], [3, 3]), observation([4], [2, 1, 1])
        states: list[Any] = [None, None]
        for turn in range(4):
            for i in (0, 1):
                expected = act(plain, prefixes[i], None, seed=turn)
                found = act(policy, prefixes[i], states[i], seed=turn)
                assert np.array_equal(found.actions, expected.actions)
                np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
                states[i] = found.state
            prefixes = states[0].seen.copy(), states[1].seen.copy()
        assert states[0].cache is states[1].cache

    def test_a_layer_with_a_hook_or_an_adapter_is_noticed_at_the_next_rollout(self) -> None:
        policy = tiny_language_model()
        before = act(policy, observation([1, 2]), None)
        policy.model.transformer.h[0].mlp.register_forward_hook(lambda module, inputs, output: output * 0)
        after = act(policy, observation([1, 2]), None)
        with torch.no_grad():
            expected = torch.log_softmax(policy.model(torch.tensor([[1, 2]])).logits[0, -1, :V], -1)
        assert after.log_probs[0] == pytest.approx(float(expected[after.actions[0]]), abs=1e-5)
        assert before.state.cache is after.state.cache, "renewed in its place"

    def test_no_cache_travels_with_copies_and_pickles(self) -> None:
        policy = tiny_language_model()
        act(policy, observation([1, 2]), None)
        assert policy._caches
        for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
            assert not other._caches
            assert np.array_equal(act(other, observation([1, 2]), None).actions, act(policy, observation([1, 2]), None).actions)

    def test_a_promise_of_steady_weights_is_believed_and_ends(self) -> None:
        """Inside it only tokens that were drawn are read; behind it, and inside the next one, a weight that has changed makes all be read again."""
        reads: list[tuple[int, int]] = []
        policy = watched(tiny_language_model(), reads)
        with steady_weights():
            step = act(policy, observation([1, 2], [3, 4]), None)
            step = act(policy, step.state.seen.copy(), step.state)
        assert reads == [(2, 4), (2, 2)]
        with torch.no_grad():
            policy.model.transformer.wte.weight.mul_(1.5)
            policy.value_head.bias.add_(1.0)
        prefixes, plain = step.state.seen.copy(), CausalLMPolicy(policy.model, V, use_cache=False)
        plain.value_head = policy.value_head
        with steady_weights():
            found, expected = act(policy, prefixes, step.state), act(plain, prefixes, None)
        assert reads[2:] == [(2, 8)]
        np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)

    def test_a_decoder_that_could_not_look_its_weights_up_is_not_trusted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        policy = tiny_language_model()
        step = act(policy, observation([1, 2], [3, 4]), None)
        with torch.no_grad():
            policy.model.transformer.wte.weight.mul_(1.5)
        decoder: Any = step.state.cache.decoder
        prefixes = step.state.seen.copy()
        with steady_weights():
            with monkeypatch.context() as broken:
                broken.setattr(decoder, "rebind", lambda: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    act(policy, prefixes, step.state)
            found = act(policy, prefixes, step.state)
        expected = act(policy, prefixes, None)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-6)

    def test_a_token_id_below_0_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"holds the token id -1; ids begin at 0, and 6 pads"):
            act(tiny_language_model(), observation([1, -1], [3, 4]), None)

    def test_a_value_head_in_another_precision(self) -> None:
        policy = tiny_language_model()
        expected = act(policy, observation([1, 2], [3, 4]), None).values
        policy.value_head.to(torch.bfloat16)
        np.testing.assert_allclose(act(policy, observation([1, 2], [3, 4]), None).values, expected, atol=0.02)


class TestForks:
    @pytest.mark.parametrize("fast", [True, False], ids=["fast", "library"])
    def test_copies_read_one_token_and_play_as_if_they_had_read_all(self, fast: bool) -> None:
        reads: list[tuple[int, int]] = []
        policy = tiny_language_model().double()
        policy.fast = fast
        nn.init.normal_(policy.value_head.weight)
        watched(policy, reads)
        rows = env(3)
        position = collect(rows, policy, begin(rows, policy, seed=2), np.random.default_rng(0), num_steps=2).position
        index = np.array([2, 0, 0, 2, 2])
        state = policy.fork_state(position.policy_state, index)
        reads.clear()
        found = act(policy, position.observations[index], state, seed=5)
        assert reads == [(5, 5)]
        expected = act(policy, position.observations[index], None, seed=5)
        assert np.array_equal(found.actions, expected.actions)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-12)

    def test_nothing_is_copied_from_stale_slots(self) -> None:
        policy = tiny_language_model().double()
        step = act(policy, observation([1, 2], [3]), None)
        with torch.no_grad():
            policy.model.transformer.wte.weight.mul_(-1.0)
        state = policy.fork_state(step.state, np.array([0, 1]))
        found, expected = act(policy, observation([1, 2], [3]), state), act(policy, observation([1, 2], [3]), None)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, rtol=0, atol=1e-12)

    def test_continuations_go_on_from_copies(self) -> None:
        """Greedy continuations have one answer; the player's own slots are as they were."""
        rows, reads = env(3), list[tuple[int, int]]()
        policy = watched(tiny_language_model(), reads)
        position = collect(rows, policy, begin(rows, policy, seed=2), np.random.default_rng(0), num_steps=1).position
        everyone = ~position.starts
        arguments = {"num": 2, "gamma": 1.0, "temperature": 0.0, "fresh": False}
        found = continued(rows, policy, position, everyone, np.random.default_rng(0), **arguments)
        plain = tiny_language_model()
        plain.use_cache = False
        expected = continued(rows, plain, position._replace(policy_state=None), everyone, np.random.default_rng(0), **arguments)
        np.testing.assert_allclose(found, expected)
        reads.clear()
        act(policy, position.observations, position.policy_state)
        prompts = (position.observations[position.starts] != V).sum()
        assert sum(tokens for _, tokens in reads) == everyone.sum() + prompts, "a token of each that went on, and the prompts of those that begin"


class TestWords:
    def test_which_decoder_and_why(self) -> None:
        policy = tiny_language_model()
        assert policy.acts_by(4, 8) == "the fast decoder of GPT2LMHeadModel, 4 slots of 8 tokens, 0.0 MiB"
        policy.model.transformer.h[0].register_forward_hook(lambda module, inputs, output: None)
        assert "the library's forward (transformer.h.0 has a hook)" in policy.acts_by(4, 8)
        policy.fast = False
        assert "the library's forward (fast=False)" in policy.acts_by(4, 8)
        policy.use_cache = False
        assert "without a cache" in policy.acts_by(4, 8)

    def test_the_size_is_that_of_the_keys_and_values(self) -> None:
        policy = tiny_language_model(positions=1024)
        words = policy.acts_by(256, 1023)
        assert f"{2 * 256 * 1024 * 16 * 4 / 2**20:.1f} MiB" in words, "keys and values, 1,024 positions with the spare one, 16 numbers of 4 bytes"


def test_half_precise_acting_shows_in_the_ratio() -> None:
    def largest(dtype: torch.dtype | None) -> float:
        rows, policy = env(64), small_gpt2(V, 8, width=128)  # smaller products stay in single precision
        policy.acting_dtype = dtype
        run = ppo.train(rows, policy, ppo.Config(total_timesteps=320, num_steps=5, num_epochs=1, num_minibatches=1), quiet=True)
        return float(run.history[0]["ratio_error"])

    assert largest(None) < 1e-4
    assert 1e-4 < largest(torch.bfloat16) < 0.5


class TestWhatWentWrongOnce:
    def test_an_optimiser_that_does_not_count_its_writes(self) -> None:
        rows, policy = env(), tiny_language_model().double()
        learner = Learner.start(rows, policy, torch.optim.Adam(policy.parameters(), lr=0.05, fused=True), 0)
        for _ in range(3):
            rollout = learner.play(num_steps=3).rollout
            with torch.no_grad():
                now = policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions)).log_probs.numpy()
            np.testing.assert_allclose(rollout.log_probs, now, rtol=0, atol=1e-9)
            for parameter in policy.parameters():
                parameter.grad = torch.ones_like(parameter)
            learner.step(1.0)

    @pytest.mark.parametrize("fast", [True, False], ids=["fast", "library"])
    def test_nan_does_not_outlive_the_weights_that_made_it(self, fast: bool) -> None:
        policy = tiny_language_model()
        policy.fast = fast
        good = copy.deepcopy(policy.state_dict())
        step = act(policy, observation([1, 2, 3], [1, 2, 3]), None)
        with torch.no_grad():
            policy.model.transformer.wte.weight.fill_(torch.nan)
        with pytest.raises(FloatingPointError, match="not finite"):
            act(policy, observation([1, 2, 3], [1, 2, 3]), step.state)
        policy.load_state_dict(good)
        short_and_long = observation([1], [1, 2, 3])
        found, expected = act(policy, short_and_long, step.state), act(policy, short_and_long, None)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)

    @pytest.mark.parametrize("window", [6, 64])
    def test_local_attention_under_another_name(self, window: int) -> None:
        config = GPTNeoConfig(
            vocab_size=V, hidden_size=16, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=window, max_position_embeddings=32
        )
        with seeded(0):
            policy = CausalLMPolicy(GPTNeoForCausalLM(config), V)
        if window < 8:
            with pytest.raises(ValueError, match="attends to 6 tokens at a time"):
                act(policy, observation([1, 2]), None)
        else:
            act(policy, observation([1, 2]), None)

    def test_how_it_decodes_may_be_changed_in_mid_play(self) -> None:
        policy = tiny_language_model()
        step = act(policy, observation([1, 2]), None)
        assert "fast" in step.state.cache.decoder.name
        policy.fast = False
        assert "fast" not in act(policy, step.state.seen.copy(), step.state).state.cache.decoder.name

    def test_an_interrupted_read_is_not_taken_for_read(self) -> None:
        policy = tiny_language_model()
        step = act(policy, observation([1, 2, 3]), None)
        decoder, extend = step.state.cache.decoder, step.state.cache.decoder.extend

        def interrupted(*args: Any) -> Any:
            raise KeyboardInterrupt

        decoder.extend = interrupted
        with pytest.raises(KeyboardInterrupt):
            act(policy, observation([4, 4, 1]), step.state)
        decoder.extend = extend
        found, expected = act(policy, observation([4, 4, 1]), step.state), act(policy, observation([4, 4, 1]), None)
        np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-6)

    @pytest.mark.parametrize("choice", [{"epsilon": 0.3, "advantage": VTrace(), "normalise": "none"}, {"nlpo": NLPO()}], ids=["noise", "mask"])
    def test_noise_and_masks_beside_a_critic_of_its_own(self, choice: dict[str, Any]) -> None:
        rows, policy = env(), SeparateCritic(tiny_language_model(), tiny_language_model(seed=1))
        run = ppo.train(rows, policy, ppo.Config(total_timesteps=60, num_steps=5, num_minibatches=2, **choice), quiet=True)
        assert all(np.isfinite(row["value_loss"]) for row in run.history)
