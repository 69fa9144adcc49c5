"""Encoder-decoders: law 3 against the library's own forward, what is encoded when, files, and a tiny T5 that learns.

Axis legend: T steps, N rows, L observation columns, P prompt columns, V vocabulary.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import PROMPTS, WORDS, Echo, SmallCore
from test_policies import disturb, evaluated, gpt2, ratio_error, text_env
from torch import nn
from transformers import AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from agents import ppo
from agents.advantages import GAE
from agents.play import begin, collect, evaluate, log_probs_under
from agents.policies import Seq2SeqPolicy, seeded, small_t5
from agents.policies.common import WeightsWatch
from textgym import GymVectorEnv

V = PAD = len(WORDS)
P, WIDTH = 3, 8  # of small_task
SPARE = 3  # embedding rows that the tokenizer has no ids for


def t5(**changes: Any) -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 6}
    ends = {"pad_token_id": V + 1, "decoder_start_token_id": V + 1, "eos_token_id": 0}
    return T5ForConditionalGeneration(T5Config(**({"vocab_size": V + SPARE} | sizes | ends | changes)))


def gated_t5() -> nn.Module:
    """T5 1.1 and its heirs: gated layers, an output layer of its own, fewer decoder layers."""
    return t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1)


def bart(**changes: Any) -> nn.Module:
    layers = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 24))}
    ends = {"pad_token_id": V + 1, "decoder_start_token_id": 0, "eos_token_id": 0, "bos_token_id": V + 2, "forced_eos_token_id": None}
    model = BartForConditionalGeneration(
        BartConfig(**({"vocab_size": V + SPARE, "d_model": 16, "max_position_embeddings": 6, "init_std": 0.4} | layers | ends | changes))
    )
    nn.init.normal_(model.final_logits_bias)
    return model


MODELS = {"t5": t5, "gated t5": gated_t5, "bart": bart}


def make(kind: str = "t5", dtype: torch.dtype = torch.float64, prompt_tokens: int = P, seed: int = 0) -> Seq2SeqPolicy:
    with seeded(seed):
        policy = Seq2SeqPolicy(MODELS[kind](), V, prompt_tokens)
        nn.init.normal_(policy.value_head.weight)
    return policy.to(dtype)


def plain_log_probs(policy: Seq2SeqPolicy, observations: np.ndarray, prompt_tokens: int = P) -> np.ndarray:
    """Return log-probabilities [N, V] by the library's own forward: one row at a time, no padding, nothing remembered."""
    found = []
    for row in observations:
        prompt, rest = (part[part != PAD] for part in (row[:prompt_tokens], row[prompt_tokens:]))
        decoder = torch.tensor([[policy.model.config.decoder_start_token_id, *rest.tolist()]])
        with torch.no_grad():
            logits = policy.model(input_ids=torch.from_numpy(prompt)[None], decoder_input_ids=decoder, use_cache=False).logits
        found.append(logits[0, -1, :V].log_softmax(-1).numpy())
    return np.stack(found)


@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", MODELS)
def test_law_3_in_every_iteration(kind: str, mode: AutoresetMode, masked: bool) -> None:
    """With staggered ends, episodes over the border of rollouts, and weights that change there."""
    env, policy = text_env(mode, masked), make(kind)
    generator, position, running = np.random.default_rng(0), begin(env, policy, seed=3), 0
    for iteration in range(4):
        played = collect(env, policy, position, generator, num_steps=7, temperature=0.7)
        position, rollout = played.position, played.rollout
        assert ratio_error(policy, rollout, 0.7) < 1e-9
        assert ratio_error(policy, rollout, 0.8) > 1e-8, "the test would not notice a wrong temperature"
        np.testing.assert_allclose(evaluated(policy, rollout).values.detach().numpy(), rollout.values, atol=1e-9)
        np.testing.assert_allclose(log_probs_under(policy, rollout, 0.7, columns=2), rollout.log_probs, atol=1e-9)
        running += int((~rollout.starts[0]).sum())
        disturb(policy, iteration)
    assert running > 2, "no episode ran over a border"


@pytest.mark.parametrize("kind", MODELS)
def test_single_precision(kind: str) -> None:
    env, policy = text_env(AutoresetMode.SAME_STEP), make(kind, torch.float32)
    rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=20).rollout
    assert ratio_error(policy, rollout) < 1e-4


@pytest.mark.parametrize("prompt_tokens", [P, P + 2], ids=["P", "P too large"])
@pytest.mark.parametrize("kind", MODELS)
def test_what_acts_is_the_plain_forward(kind: str, prompt_tokens: int) -> None:
    """Also where P is not the task's: the encoder reads other columns then, but acting and evaluating go on agreeing."""
    env, policy = text_env(AutoresetMode.SAME_STEP), make(kind, prompt_tokens=prompt_tokens)
    rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=25).rollout
    assert ratio_error(policy, rollout) < 1e-9
    for t in range(25):
        plain = plain_log_probs(policy, rollout.observations[t], prompt_tokens)
        np.testing.assert_allclose(rollout.log_probs[t], plain[np.arange(5), rollout.actions[t]], atol=1e-9)


@pytest.mark.parametrize("kind", MODELS)
def test_evaluating_whole_columns_is_evaluating_step_by_step(kind: str) -> None:
    env, policy = text_env(AutoresetMode.NEXT_STEP), make(kind)
    rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=20).rollout
    whole = evaluated(policy, rollout, 0.7)
    steps = [evaluated(policy, rollout._replace(observations=rollout.observations[[t]], actions=rollout.actions[[t]]), 0.7) for t in range(20)]
    for name in ("log_probs", "values", "entropy"):
        np.testing.assert_allclose(getattr(whole, name).detach(), torch.cat([getattr(step, name) for step in steps]).detach(), atol=1e-9, err_msg=name)
    weights = torch.linspace(-1, 1, 100, dtype=torch.float64).reshape(20, 5)
    losses = [
        (weights * (found + values)).sum()
        for found, values in ((whole.log_probs, whole.values), (torch.cat([s.log_probs for s in steps]), torch.cat([s.values for s in steps])))
    ]
    ours, theirs = ([torch.zeros(()) if g is None else g for g in torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)] for loss in losses)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)  # T5's norms are float32 inside, whatever is asked for


def test_dialogues() -> None:
    """Answers are columns behind the prompt: the decoder reads them, they are never actions."""
    core = SmallCore(responder=Echo(), max_response_tokens=16, max_new_tokens=8)
    env, policy = GymVectorEnv(core, 5, autoreset_mode=AutoresetMode.SAME_STEP), make()
    rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=60).rollout
    assert ratio_error(policy, rollout) < 1e-9
    assert ((rollout.observations[1:] != PAD).sum(-1) - (rollout.observations[:-1] != PAD).sum(-1)).max() > 1, "nobody answered"


def rows_encoded(policy: Seq2SeqPolicy) -> list[int]:
    """Return a list that will say how many rows each call of the encoder had."""
    calls: list[int] = []
    policy.model.get_encoder().register_forward_pre_hook(lambda module, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True)
    return calls


def test_a_prompt_is_encoded_once() -> None:
    policy, state, rows = make(), None, np.array([[PAD, 1, 2], [3, 4, 5], [PAD, PAD, 1], [PAD, 1, 2]])
    calls, prefixes = rows_encoded(policy), np.concatenate([rows, np.full((4, 5), PAD)], 1)
    seen = []
    for t in range(4):
        acted = policy.act(prefixes, state, np.zeros(4, np.bool_), np.random.default_rng(0))
        seen.append(prefixes.copy())
        state, prefixes[:, P + t] = acted.state, acted.actions
    assert calls == [4], "encoded again for the same prompt"
    prefixes[2, :P], prefixes[2, P:] = [PAD, 2, 2], PAD
    policy.act(prefixes, state, np.zeros(4, np.bool_), np.random.default_rng(0))
    assert calls == [4, 1], "one row began anew"
    calls.clear()
    policy.evaluate(torch.from_numpy(np.stack(seen)), torch.zeros(4, 4, dtype=torch.int64))
    assert calls == [4], "one segment an episode"


def test_what_was_encoded_goes_stale_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def error_after_a_change() -> float:
        env, policy = text_env(AutoresetMode.SAME_STEP), make()
        generator = np.random.default_rng(0)
        position = collect(env, policy, begin(env, policy, seed=3), generator, num_steps=2).position
        disturb(policy, 0)
        return ratio_error(policy, collect(env, policy, position, generator, num_steps=2).rollout)

    assert error_after_a_change() < 1e-9
    monkeypatch.setattr(WeightsWatch, "__call__", lambda watch: ())
    assert error_after_a_change() > 0.01, "this test does not test what it says"


def test_playing_again_from_an_older_position() -> None:
    env, policy = text_env(AutoresetMode.SAME_STEP), make()
    assert isinstance(env, GymVectorEnv)
    position = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=3).position
    state = env.get_state()
    first = collect(env, policy, position, np.random.default_rng(1), num_steps=12).rollout
    env.set_state(state)
    again = collect(env, policy, position, np.random.default_rng(1), num_steps=12).rollout
    np.testing.assert_array_equal(again.actions, first.actions)
    np.testing.assert_allclose(again.log_probs, first.log_probs, atol=1e-9)


def test_values_read_what_the_output_layer_reads() -> None:
    policy, observations = make("gated t5"), np.array([[PAD, 1, 2, 3, 4, PAD], [PAD, PAD, 5, PAD, PAD, PAD]])
    expected = []
    for row in observations:
        prompt, rest = row[:P][row[:P] != PAD], row[P:][row[P:] != PAD]
        encoded = policy.model.get_encoder()(input_ids=torch.from_numpy(prompt)[None]).last_hidden_state
        hidden = policy.model.decoder(input_ids=torch.tensor([[V + 1, *rest.tolist()]]), encoder_hidden_states=encoded).last_hidden_state
        expected.append(float(policy.value_head(hidden[0, -1]).detach()))
    np.testing.assert_allclose(policy.value(observations), expected, atol=1e-9)


def test_spare_rows_dropout_copies_and_predict() -> None:
    with seeded(0):
        policy = Seq2SeqPolicy(t5(dropout_rate=0.5), V, P)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[V:] = 50.0
    observations = np.tile(np.array([[PAD, 1, 2, 3, PAD]]), (300, 1))
    nn.ModuleList([policy]).train()
    acted = policy.act(observations, None, np.ones(300, np.bool_), np.random.default_rng(0))
    assert acted.actions.max() < V
    assert len({tuple(np.round(acted.values, 12))}) == 1
    np.testing.assert_array_equal(policy.predict(observations[0], deterministic=True)[0], policy.predict(observations, deterministic=True)[0][0])
    twin = copy.deepcopy(policy)
    nn.init.normal_(policy.value_head.weight, generator=torch.Generator().manual_seed(0))
    assert (twin.value(observations[:1]) == 0).all() != (policy.value(observations[:1]) == 0).all()


class TestFiles:
    @pytest.mark.parametrize("kind", MODELS)
    def test_save_and_load(self, kind: str, tmp_path: Path) -> None:
        policy, observations = make(kind, torch.float32), np.array([[PAD, 1, 2, 3, PAD], [PAD, PAD, 3, PAD, PAD]])
        policy.save(tmp_path / "model")
        before = torch.get_rng_state()
        loaded = Seq2SeqPolicy.load(tmp_path / "model")
        assert torch.equal(before, torch.get_rng_state()), "loading drew from the global generator"
        assert (loaded.vocab_size, loaded.prompt_tokens) == (V, P)
        np.testing.assert_array_equal(loaded.value(observations), policy.value(observations))
        plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", local_files_only=True)
        ids = torch.tensor([[1, 2]])
        assert torch.equal(plain(input_ids=ids, decoder_input_ids=ids).logits, policy.model(input_ids=ids, decoder_input_ids=ids).logits)

    def test_a_folder_without_a_value_head(self, tmp_path: Path) -> None:
        with seeded(0):
            t5().save_pretrained(tmp_path / "plain")
        with pytest.raises(ValueError, match="pass prompt_tokens"):
            Seq2SeqPolicy.load(tmp_path / "plain", V)
        assert Seq2SeqPolicy.load(tmp_path / "plain", V, P).value(np.array([[PAD, 1, 2, PAD]])).tolist() == [0.0]
        with pytest.raises(FileNotFoundError, match=r"config\.json"):
            Seq2SeqPolicy.load(tmp_path, V, P)


class TestWhatDoesNotFit:
    def test_models(self) -> None:
        with seeded(0):
            model = t5()
            with pytest.raises(ValueError, match=rf"resize_token_embeddings\({V + SPARE + 1}\)"):
                Seq2SeqPolicy(model, V + SPARE + 1, P)
            with pytest.raises(TypeError, match="CausalLMPolicy is for decoders"):
                Seq2SeqPolicy(gpt2(8), V, P)
            with pytest.raises(ValueError, match="at least one column"):
                Seq2SeqPolicy(model, V, 0)
            model.config.decoder_start_token_id = None
            with pytest.raises(ValueError, match="decoder_start_token_id"):
                Seq2SeqPolicy(model, V, P)

    def test_widths(self) -> None:
        with pytest.raises(ValueError, match="prompt_tokens=3 of them"):
            make().value(np.array([[1, 2, 3]]))
        long = np.full((1, P + 6), 1)
        with pytest.raises(ValueError, match="must hold 7 tokens, the model knows 6 positions"):
            make("bart").act(long, None, np.ones(1, np.bool_), np.random.default_rng(0))
        make("bart").value(long[:, :-1])
        with pytest.raises(ValueError, match="A prompt is empty: all its 3 columns"):
            make().value(np.array([[PAD, PAD, PAD, 1]]))


def test_a_tiny_t5_learns_to_say_a() -> None:
    env = GymVectorEnv(SmallCore(), 16, autoreset_mode=AutoresetMode.SAME_STEP)
    policy = small_t5(V, P, width=16, layers=1, heads=2)

    def score() -> float:
        prompts = list(range(len(PROMPTS))) * 3
        options = {"prompt": prompts[:16]}
        return float(evaluate(env, policy, np.random.default_rng(0), seed=1, options=options).returns.mean())

    before = score()
    config = ppo.Config(total_timesteps=16 * 8 * 25, num_steps=8, learning_rate=1e-2, advantage=GAE(1.0, 0.95), num_minibatches=2)
    run = ppo.train(env, policy, config, quiet=True)
    assert before < 0.4
    assert score() > 0.8
    assert max(row["ratio_error"] for row in run.history) < 1e-4


def test_the_output_layer_looks_only_where_it_is_asked() -> None:
    policy, observations = make(), np.array([[PAD, 1, 2, 3, 4, 5, PAD], [3, 4, 5, PAD, PAD, PAD, PAD]])
    shapes: list[tuple[int, ...]] = []
    head = policy.model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    policy.act(observations, None, np.ones(2, np.bool_), np.random.default_rng(0))
    assert shapes == [(2, V + SPARE)]
    assert len(head._forward_pre_hooks) == 0
    ids = torch.tensor([[1, 2]])
    assert policy.model(input_ids=ids, decoder_input_ids=ids).logits.shape == (1, 2, V + SPARE), "the model is not its old self afterwards"
