"""Adapters: what is trained and what is not, the bare base as reference, states of play that must not mix, and files.

Axis legend: T steps, N rows, L observation columns, V vocabulary.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import WORDS, SmallCore
from test_policies import evaluated, language_model, ratio_error, text_env
from torch import nn
from transformers import AutoModelForCausalLM

from agents import ppo
from agents.kl import FixedKL
from agents.play import begin, collect, evaluate, log_probs_under
from agents.policies import Acted, BareBase, CausalLMPolicy, load_adapter, merged, save_adapter, small_gpt2, small_t5, with_lora
from agents.policies.steady import steady_weights
from textgym import GymVectorEnv

peft = pytest.importorskip("peft")
V = PAD = len(WORDS)
MODELS = ("gpt2", "llama", "qwen2")


def adapted(kind: str = "gpt2", trained: bool = True, **choices: Any) -> Any:
    """Return a policy with adapters; `trained` ones say something."""
    policy = with_lora(small_t5(V, 3, width=16, layers=1).double() if kind == "t5" else language_model(kind), rank=4, **choices)
    return shaken(policy) if trained else policy


def shaken(policy: Any, seed: int = 0, scale: float = 0.3) -> Any:
    """Change the adapters in place, as an optimiser does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)
    return policy


def base_weights(policy: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters() if "lora_" not in name}


def played(policy: Any, num_steps: int = 12, seed: int = 0) -> Any:
    env = text_env(AutoresetMode.SAME_STEP)
    return collect(env, policy, begin(env, policy, seed=seed), np.random.default_rng(seed), num_steps=num_steps).rollout


@pytest.mark.parametrize("kind", [*MODELS, "t5"])
class TestEveryArchitecture:
    def test_it_begins_as_what_it_was(self, kind: str) -> None:
        plain = small_t5(V, 3, width=16, layers=1).double() if kind == "t5" else language_model(kind)
        policy, before = with_lora(copy.deepcopy(plain)), torch.get_rng_state()
        rollout = played(plain)
        ours, theirs = evaluated(policy, rollout), evaluated(plain, rollout)
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
        assert torch.equal(before, torch.get_rng_state())
        np.testing.assert_array_equal(played(policy).actions, rollout.actions)

    def test_law_3_while_adapters_change(self, kind: str) -> None:
        env, policy = text_env(AutoresetMode.SAME_STEP), adapted(kind)
        generator, position = np.random.default_rng(0), begin(env, policy, seed=3)
        for iteration in range(3):
            part = collect(env, policy, position, generator, num_steps=7)
            position = part.position
            assert ratio_error(policy, part.rollout) < 1e-9
            shaken(policy, iteration)

    def test_ppo_moves_adapters_and_value_head_and_nothing_else(self, kind: str) -> None:
        policy = adapted(kind, trained=False)
        reference, env = BareBase(policy), text_env(AutoresetMode.SAME_STEP)
        base, rollout = base_weights(policy), played(policy)
        before, parameters = log_probs_under(reference, rollout), sum(p.numel() for p in policy.parameters())
        assert np.array_equal(before, log_probs_under(policy, rollout)), "the KL at the start is exactly 0"
        config = ppo.Config(total_timesteps=5 * 8 * 4, num_steps=8, num_minibatches=2, kl=FixedKL(0.1))
        run = ppo.train(env, policy, config, reference=reference, quiet=True)
        assert abs(run.history[0]["kl"]) < 1e-12
        assert run.history[-1]["kl"] != 0
        for name, weight in base_weights(policy).items():
            assert torch.equal(weight, base[name]), name
        changed = [name for name, p in policy.model.named_parameters() if "lora_B" in name and p.detach().any()]
        assert changed
        assert policy.value_head.weight.grad is not None
        assert not np.allclose(log_probs_under(policy, rollout), before)
        assert np.array_equal(log_probs_under(reference, rollout), before), "the reference has moved"
        assert sum(p.numel() for p in policy.parameters()) == parameters


def test_the_base_is_there_once() -> None:
    plain = language_model()
    base = sum(p.numel() for p in plain.model.parameters())
    policy = with_lora(plain, rank=2, target_modules=["c_attn"])
    assert policy is plain
    assert sum(p.numel() for p in policy.model.parameters()) == base + 2 * 2 * (16 + 48)  # two layers, rank 2, 16 in and 48 out
    reference = BareBase(policy)
    assert list(reference.parameters()) == []
    assert reference.policy.model is policy.model
    optimizer = torch.optim.Adam(policy.parameters())
    evaluated(policy, played(policy)).log_probs.sum().backward()
    optimizer.step()
    assert sum(state["exp_avg"].numel() for state in optimizer.state.values()) <= 2 * 2 * (16 + 48) + 17, "the optimiser keeps moments of frozen weights"


class TestTheBareBase:
    def test_it_is_what_the_policy_was(self) -> None:
        plain = language_model()
        policy = with_lora(copy.deepcopy(plain))
        reference = BareBase(policy)
        with torch.no_grad():
            for parameter in (p for p in policy.parameters() if p.requires_grad):
                parameter += 0.3
        rollout, other = played(policy), played(plain)
        ours, theirs = evaluated(reference, rollout), evaluated(plain, rollout)
        for name in ("log_probs", "values", "entropy"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-12, rtol=0)
            assert not getattr(ours, name).requires_grad
        np.testing.assert_allclose(reference.value(rollout.observations[0]), plain.value(rollout.observations[0]), atol=1e-12)
        np.testing.assert_array_equal(played(reference).actions, other.actions)
        np.testing.assert_allclose(played(reference).values, other.values, atol=1e-12)
        seen = rollout.observations[5]
        np.testing.assert_array_equal(reference.predict(seen, deterministic=True)[0], plain.predict(seen, deterministic=True)[0])
        env = text_env(AutoresetMode.SAME_STEP)
        returns = [evaluate(env, who, np.random.default_rng(0), episodes_per_row=3, seed=1).returns for who in (reference, plain)]
        np.testing.assert_array_equal(*returns)

    def test_all_is_put_back_also_after_an_exception(self) -> None:
        policy = adapted()
        reference, head = BareBase(policy), policy.value_head
        observations = played(policy).observations[0]
        before, flags = policy.value(observations), [p.requires_grad for p in policy.parameters()]
        nothing = np.zeros((5, V), np.bool_)
        for fail in (
            lambda: reference.act(observations, None, np.ones(5, np.bool_), np.random.default_rng(0), nothing),
            lambda: reference.evaluate(torch.from_numpy(observations)[None], torch.zeros(1, 5, dtype=torch.int64), torch.from_numpy(nothing)[None]),
            lambda: reference.value(np.full((1, 8), PAD)),
        ):
            with pytest.raises(ValueError, match=r"allows nothing at all|no token at all"):
                fail()
            assert policy.value_head is head
            assert [p.requires_grad for p in policy.parameters()] == flags
            np.testing.assert_array_equal(policy.value(observations), before)

    def test_adapters_that_were_frozen_stay_frozen(self) -> None:
        policy = adapted()
        policy.requires_grad_(False)
        BareBase(policy).value(played(policy).observations[0])
        assert not any(p.requires_grad for p in policy.parameters())

    def test_a_reference_in_the_middle_of_a_loss_leaves_its_gradients_alone(self) -> None:
        policy = adapted()
        reference, rollout = BareBase(policy), played(policy)

        def gradients(look: bool) -> list[torch.Tensor]:
            policy.zero_grad()
            loss = evaluated(policy, rollout).log_probs.sum()
            if look:
                loss = loss + (evaluated(reference, rollout).log_probs * 0).sum()
            loss.backward()
            return [p.grad for p in policy.parameters() if p.grad is not None]

        quiet, looked = gradients(False), gradients(True)
        assert len(quiet) > 4
        for one, other in zip(quiet, looked, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("kind", ["gpt2", "t5"])
    def test_states_of_play_do_not_mix(self, kind: str) -> None:
        """Who goes on from the other's position must not trust keys and values that other weights made."""
        env, policy = text_env(AutoresetMode.SAME_STEP), adapted(kind)
        reference, generator = BareBase(policy), np.random.default_rng(0)
        position = begin(env, policy, seed=3)
        for who in (policy, reference, reference, policy, reference, policy, policy):
            part = collect(env, who, position, generator, num_steps=2)
            position = part.position
            assert ratio_error(who, part.rollout) < 1e-9
            other = reference if who is policy else policy
            assert ratio_error(other, part.rollout) > 1e-3, "the two are the same: this tests nothing"

    def test_nor_where_weights_are_promised_to_be_steady(self) -> None:
        """Whoever asks the base in the middle of a rollout gets the base's answer, and the policy keeps its own."""
        env, policy = text_env(AutoresetMode.SAME_STEP), adapted()
        reference = BareBase(policy)
        with torch.no_grad():
            policy.value_head.bias.add_(3.0)
        position = begin(env, policy, seed=3)
        seen, starts = position.observations, position.starts

        def asked(who: Any, state: Any) -> Acted:
            return who.act(seen, state, starts, np.random.default_rng(1))

        expected = asked(policy, None), asked(reference, None)
        with steady_weights():
            state = None
            for turn, who in enumerate((policy, reference, policy, reference, reference)):
                found, wanted = asked(who, state), expected[who is reference]
                np.testing.assert_allclose(found.log_probs, wanted.log_probs, atol=1e-9, err_msg=str(turn))
                np.testing.assert_allclose(found.values, wanted.values, atol=1e-9, err_msg=str(turn))
                state = found.state
        assert np.abs(expected[0].values - expected[1].values).min() > 0.1

    @pytest.mark.parametrize("kind", ["gpt2", "t5"])
    def test_nor_after_an_exception_in_between(self, kind: str) -> None:
        env, policy = text_env(AutoresetMode.SAME_STEP), adapted(kind)
        reference, generator = BareBase(policy), np.random.default_rng(0)
        for first in (policy, reference):
            position = collect(env, first, begin(env, first, seed=3), generator, num_steps=2).position
            with pytest.raises(ValueError, match="allows nothing"):
                reference.act(position.observations, position.policy_state, position.starts, generator, np.zeros((5, V), np.bool_))
            assert ratio_error(policy, collect(env, policy, position, generator, num_steps=2).rollout) < 1e-9

    def test_its_own_states_are_used(self) -> None:
        env, policy = text_env(AutoresetMode.SAME_STEP), adapted()
        reference, widths = BareBase(policy), []
        policy.model.register_forward_pre_hook(lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
        position = begin(env, reference, seed=0)
        for _ in range(3):
            acted = reference.act(position.observations, position.policy_state, position.starts, np.random.default_rng(0))
            position = position._replace(policy_state=acted.state, starts=np.zeros(5, np.bool_))
        assert widths[-1] == 1, "the cache of the base was thrown away"


class TestFiles:
    @pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
    def test_adapters_alone(self, kind: str, tmp_path: Path) -> None:
        policy = adapted(kind)
        nn.init.normal_(policy.value_head.weight, generator=torch.Generator().manual_seed(0))
        rollout = played(policy)
        save_adapter(policy, tmp_path / "adapter")
        lora = sum(p.numel() for name, p in policy.named_parameters() if "lora_" in name)
        assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 8 * lora + 10_000
        assert not (tmp_path / "adapter" / "model.safetensors").exists()
        base = small_t5(V, 3, width=16, layers=1).double() if kind == "t5" else language_model(kind)
        before = torch.get_rng_state()
        loaded = load_adapter(base, tmp_path / "adapter")
        assert torch.equal(before, torch.get_rng_state())
        ours, theirs = evaluated(loaded, rollout), evaluated(policy, rollout)
        assert torch.equal(ours.log_probs, theirs.log_probs)
        assert torch.equal(ours.values, theirs.values)
        assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {n for n, p in policy.named_parameters() if p.requires_grad}

    def test_merged_weights_are_for_everybody(self, tmp_path: Path) -> None:
        policy = adapted().float()
        base = base_weights(policy)
        merged(policy).save(tmp_path / "merged")
        tokens = torch.tensor([[1, 2, 3, 4]])
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", local_files_only=True)
        expected = policy.next_token_logits(tokens).detach()
        torch.testing.assert_close(plain(tokens).logits[..., :V], expected, atol=1e-4, rtol=1e-4)
        bare = language_model().float().next_token_logits(tokens)
        assert (expected - bare).abs().max() > 0.1, "the adapters say nothing: this tests nothing"
        loaded = CausalLMPolicy.load(tmp_path / "merged")
        assert all(p.requires_grad for p in loaded.parameters())
        np.testing.assert_allclose(loaded.value(np.array([[1, 2, 3]])), policy.value(np.array([[1, 2, 3]])), atol=1e-5)
        for name, weight in base_weights(policy).items():
            assert torch.equal(weight, base[name]), "merging changed the policy itself"
        again = with_lora(merged(policy))
        assert torch.equal(again.next_token_logits(tokens), merged(policy).next_token_logits(tokens))

    def test_law_6_a_run_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        def run(folder: Path, stop: bool, resume: bool = False) -> Any:
            env, policy = GymVectorEnv(SmallCore(), 4, autoreset_mode=AutoresetMode.SAME_STEP), with_lora(small_gpt2(V, 8, width=16, layers=1, heads=2))

            def maybe_stop(generator: np.random.Generator) -> dict[str, float]:
                if stop:
                    raise KeyboardInterrupt
                return {}

            config = ppo.Config(total_timesteps=4 * 6 * 5, num_steps=6, num_minibatches=2, kl=FixedKL(0.1))
            try:
                history = ppo.train(
                    env,
                    policy,
                    config,
                    reference=BareBase(policy),
                    evaluate=maybe_stop,
                    evaluate_every=2,
                    folder=folder,
                    save_every=1,
                    resume=resume,
                    quiet=True,
                ).history
            except KeyboardInterrupt:
                history = []
            return history, policy

        whole, trained = run(tmp_path / "whole", stop=False)
        run(tmp_path / "parts", stop=True)
        parts, same = run(tmp_path / "parts", stop=False, resume=True)
        assert len(parts) == len(whole) == 5
        assert [row["kl"] for row in parts] == [row["kl"] for row in whole]
        for ours, theirs in zip(same.parameters(), trained.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_what_does_not_fit(tmp_path: Path) -> None:
    policy = adapted()
    with pytest.raises(ValueError, match="adapters already"):
        with_lora(policy)
    with pytest.raises(ValueError, match="Target modules"):
        with_lora(language_model(), target_modules=["nothing_like_it"])
    for call in (BareBase, merged, lambda policy: save_adapter(policy, tmp_path)):
        with pytest.raises(TypeError, match=r"call with_lora\(policy\) first"):
            call(language_model())
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        load_adapter(language_model(), tmp_path)
    save_adapter(policy, tmp_path)
    with pytest.raises(ValueError, match="adapters already"):
        load_adapter(policy, tmp_path)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_adapters_on_the_output_layer(kind: str) -> None:
    plain = small_t5(V, 3, width=16, layers=1).double() if kind == "t5" else language_model(kind)
    head, plain.model.config.tie_word_embeddings = plain.model.get_output_embeddings(), False
    head.weight = nn.Parameter(head.weight.detach().clone())  # no longer tied to the embeddings
    policy = shaken(with_lora(plain, target_modules=["lm_head"]))
    assert policy.model.get_output_embeddings() is not head
    rollout = played(policy)
    assert ratio_error(policy, rollout) < 1e-9
    assert not np.allclose(log_probs_under(BareBase(policy), rollout), rollout.log_probs)
    assert ratio_error(merged(policy), rollout) < 1e-9


def test_seeds() -> None:
    one, same, other = (torch.nn.utils.parameters_to_vector(with_lora(language_model(), seed=seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
