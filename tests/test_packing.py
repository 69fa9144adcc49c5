"""Sequences in one call: the same numbers and gradients as those of single prefixes, from fewer tokens read.

Axis legend: T steps, B rows, L observation columns, S segments, W compacted tokens.
"""

from __future__ import annotations

from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from test_evaluating import COMMON, PAD, SIZES, WIDTH, Steps, V, by_hand, check_same, evaluated, ids_read, played, reader
from torch import nn
from transformers import (
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from agents.policies import CausalLMPolicy, packing, prefixes, seeded, with_lora
from agents.policies.attention import NAME, attend, attending
from agents.policies.decoders import decoder_for
from agents.policies.packing import Part, packs

EACH = 10  # texts of one prompt
PROMPTS, LENGTHS = [16, 13, 16], [4, 5, 5, 3, 5, 5, 4, 5, 5, 5]


def in_groups(prompts: list[int] = PROMPTS, lengths: list[int] = LENGTHS, chunk: int = 1) -> Steps:
    """Return texts in groups of one prompt, of so many prompt tokens; rows of different groups take turns."""
    steps = played(lengths * len(prompts), prompts * len(lengths), chunk)
    first, num = max(prompts), len(prompts)
    for b in range(num, steps.observations.shape[1]):
        steps.observations[:, b, :first] = steps.observations[:, b % num, :first]
    return steps


def neox() -> CausalLMPolicy:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": WIDTH}
    with seeded(3):
        policy = CausalLMPolicy(GPTNeoXForCausalLM(GPTNeoXConfig(**COMMON, **sizes)), V, stop_ids=(0,))
        nn.init.normal_(policy.value_head.weight)
    return policy.double()


def tokens_read(policy: CausalLMPolicy, steps: Steps, masked: bool = True) -> tuple[Any, int, int]:
    """Return what is said of steps, how many ids were read for it and in how many calls."""
    with ids_read(policy) as shapes:
        found = evaluated(policy, steps, masked)
    return found, sum(rows * width for rows, width in shapes), len(shapes)


@pytest.mark.parametrize(("kind", "chunk", "masked"), [("gpt2", 1, False), ("gpt2", 2, True), ("llama", 1, True), ("neox", 1, False), ("scaled", 1, True)])
def test_numbers_and_gradients_are_those_of_single_prefixes(kind: str, chunk: int, masked: bool) -> None:
    policy, steps = neox() if kind == "neox" else reader(kind, chunk), in_groups(lengths=[3, 4] * 4 if chunk > 1 else LENGTHS, chunk=chunk)
    found, read, _ = tokens_read(policy, steps, masked)
    assert read < 0.6 * steps.observations.shape[1] * 18
    rounding = 1e-10 if kind == "gpt2" else 1e-4  # the others normalise in single precision, whatever their weights are
    check_same(policy, found, by_hand(policy, steps, masked, 0.7), rounding)


def test_a_prompt_is_read_once() -> None:
    """The token behind which the first one was chosen is read with each text: what is said there is of each text's own choice."""
    policy, steps = reader(), in_groups([16, 16], [5] * EACH)
    _, read, calls = tokens_read(policy, steps)
    assert (read, calls) == (2 * 15 + 2 * EACH * 5 + 6, 1), "and some to make the length even"


def test_texts_that_nobody_shares_a_prompt_with_are_read_whole() -> None:
    policy, steps = reader(), in_groups([16, 16], [5] * EACH)
    steps.observations[:, 3, 7] = 1 + steps.observations[:, 3, 7] % (V - 1)
    with ids_read(policy) as shapes:
        found = evaluated(policy, steps)
    assert shapes == [(1, 3 * 15 + 20 + (2 * EACH - 1) * 5)]
    check_same(policy, found, by_hand(policy, steps, True, 0.7))


def test_values_of_a_critic_of_its_own() -> None:
    policy, steps = reader(), in_groups()
    expected = evaluated(policy, steps).values
    with ids_read(policy) as shapes:
        found = policy.evaluate_values(torch.from_numpy(steps.observations))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    (rows, read), *more = shapes
    assert (rows, more) == (1, [])
    assert read < 0.6 * steps.observations.shape[1] * 18


def test_adapters() -> None:
    policy, steps = with_lora(reader(), rank=2, seed=1), in_groups()
    for name, parameter in policy.named_parameters():
        if "lora" in name:
            parameter.data += 0.3 * torch.from_numpy(np.random.default_rng(3).standard_normal(parameter.shape))
    found, read, calls = tokens_read(policy, steps)
    assert (read < 0.6 * steps.observations.shape[1] * 20, calls) == (True, 1)
    check_same(policy, found, by_hand(policy, steps, True, 0.7), 1e-10)


@pytest.mark.parametrize("steps", [in_groups([16] * 2, [5]), in_groups([2] * 3, [5] * EACH), played([5] * 12, [16] * 12)], ids=["few", "short", "different"])
def test_what_is_not_worth_it_is_read_whole(steps: Steps) -> None:
    _, read, calls = tokens_read(reader(), steps)
    assert (read, calls) == (int((steps.observations[-1] != PAD).sum()), 1)


def strangers() -> dict[str, nn.Module]:
    """Return models that would say other things of sequences behind one another, each for a reason of its own."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0] * 4, "short_factor": [1.0] * 4, "original_max_position_embeddings": 8}
    long = LlamaConfig(**COMMON, **SIZES, max_position_embeddings=2 * WIDTH, rope_parameters=rope)
    neo = GPTNeoConfig(**COMMON, hidden_size=16, num_layers=1, num_heads=2, attention_types=[[["local"], 1]], window_size=4)
    roberta = RobertaConfig(**COMMON | {"pad_token_id": 1}, **sizes, max_position_embeddings=WIDTH, is_decoder=True)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with seeded(0):
        made = {"angles": LlamaForCausalLM(long), "window": GPTNeoForCausalLM(neo), "positions": RobertaForCausalLM(roberta)}
        return {name: model.eval() for name, model in made.items()} | {"prefix": get_peft_model(reader().model, prefix).eval(), "linear": nn.Linear(2, 2)}


class NoMasks(GPT2LMHeadModel):
    """A GPT-2 that makes its masks alone."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, **others: Any) -> Any:  # type: ignore[override]
        if attention_mask is not None:
            raise RuntimeError("no masks, please")
        return super().forward(input_ids, position_ids=position_ids, **others)


def test_a_model_that_fails_at_it_reads_rows() -> None:
    policy, steps = reader(), in_groups([16, 16], [5] * EACH)
    expected = evaluated(policy, steps)
    model = NoMasks(policy.model.config).double()
    model.load_state_dict(policy.model.state_dict())
    policy.model = model.eval()
    assert not packs(policy.model)
    found, read, calls = tokens_read(policy, steps)
    assert (read, calls) == (2 * EACH * 20, 1)
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reason", ["angles", "window", "positions", "prefix", "linear"])
def test_models_that_do_not_pack(reason: str) -> None:
    assert not packs(strangers()[reason])


def test_a_model_that_is_trained_by_hand_does_not_pack() -> None:
    model = reader().model
    assert packs(model)
    model.train()
    assert not packs(model)


def test_models_that_keep_something_else() -> None:
    """Gemma 2 keeps a window of some layers; and whoever says that a model is not to be played over a cache is not doubted here."""
    assert [packs(reader(kind).model) for kind in ("gpt2", "llama", "scaled", "capped")] == [True, True, True, False]
    steps = in_groups([16, 16], [5] * EACH)
    for kind in ("capped", "gpt2"):
        policy = reader(kind)
        policy.use_cache = False
        found, read, calls = tokens_read(policy, steps)
        assert (read, calls) == (2 * EACH * 20, 1)
    policy.use_cache = True
    check_same(policy, evaluated(policy, steps), found)


def test_pads_behind_the_last_position() -> None:
    """A long prompt with a short text beside a short prompt with a long one: pads would stand where the model knows no position."""
    policy = reader()
    steps = in_groups([18, 12], [6] * EACH)
    keep = np.arange(steps.observations.shape[1]) % 2 == 1  # the second prompt's texts go on
    for t in range(3, 6):
        steps.observations[t][~keep], steps.actions[t][~keep], steps.masks[t][~keep] = (field[2][~keep] for field in steps[:3])
    found, read, calls = tokens_read(policy, steps)
    assert (read < 0.7 * 2 * EACH * 20, calls) == (True, 1)
    check_same(policy, found, by_hand(policy, steps, True, 0.7), 1e-10)


RAGGED = [5, 1, 16, 9, 2, 12]


@pytest.mark.parametrize(("kind", "chunk", "masked"), [("gpt2", 1, True), ("gpt2", 2, False), ("llama", 1, True), ("neox", 1, False)])
def test_sequences_of_many_lengths_are_one_row(kind: str, chunk: int, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "CALL", 0)
    policy, steps = neox() if kind == "neox" else reader(kind, chunk), played(RAGGED if chunk == 1 else [3, 1, 7, 5, 2, 4], [3] * len(RAGGED), chunk)
    with ids_read(policy) as shapes:
        found = evaluated(policy, steps, masked)
    assert [rows for rows, _ in shapes] == [1]
    check_same(policy, found, by_hand(policy, steps, masked, 0.7), 1e-10 if kind == "gpt2" else 1e-4)


def test_streams_have_few_lengths() -> None:
    """Kernels that are made for one length are used again: 16 lengths between powers of two."""
    policy = reader()
    with torch.no_grad(), ids_read(policy) as shapes:
        for more in range(2, 40):
            policy.next_token_logits(torch.ones(40, 19, dtype=torch.int64), torch.arange(19) < torch.tensor([[19]] * more + [[3]] * (40 - more)))
    needed = [19 * more + 3 * (40 - more) for more in range(2, 40)]
    read = [rows * width for rows, width in shapes]
    assert all(least <= width <= 1.1 * least for least, width in zip(needed, read, strict=True) if least > 640)
    assert len({width for width in read if width > 512}) < 10 < len([width for width in needed if width > 512])


@pytest.mark.parametrize("shared", [False, True])
def test_many_tokens_are_several_calls(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them reads the beginnings; what would stand alone is a call as usual."""
    monkeypatch.setattr(packing, "MOST", 45)
    monkeypatch.setattr(prefixes, "CALL", 0)
    policy, steps = reader(), in_groups(lengths=[2, 4, 6] * 4) if shared else played(RAGGED, [3] * len(RAGGED))
    found, _, calls = tokens_read(policy, steps)
    assert calls > 1
    check_same(policy, found, by_hand(policy, steps, True, 0.7), 1e-10)


def test_what_pays_attention_in_a_way_of_its_own_reads_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "CALL", 0)
    policy, steps = reader(), played(RAGGED, [3] * len(RAGGED))
    expected = evaluated(policy, steps)
    policy.model.set_attn_implementation("eager")
    assert not packs(policy.model)
    torch.testing.assert_close(evaluated(policy, steps), expected, rtol=0, atol=1e-12)
    policy.model.set_attn_implementation("sdpa")
    assert packs(policy.model)
    ones = torch.ones(1, 1, 2, 4)
    with attending(policy.model, [Part(1, 2)]), pytest.raises(ValueError, match="adds to attention"):
        attend(policy.model, ones, ones, ones, None, position_bias=ones)


def test_half_precision_by_autocast() -> None:
    for kind in ("gpt2", "llama"):
        policy, steps = reader(kind).float(), in_groups()
        with torch.no_grad():
            expected = evaluated(policy, steps)
            with torch.autocast("cpu", torch.bfloat16):
                found = evaluated(policy, steps)
        torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=0.3)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_logits_of_chosen_places_alone(together: bool, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of which nothing is asked are not read, nor is what stands behind the last place that is asked for; gradients are those of all logits."""
    monkeypatch.setattr(prefixes, "CALL", 0)
    policy, rng = reader(), np.random.default_rng(0)
    policy.use_cache = together
    tokens = torch.from_numpy(rng.integers(1, V, size=(12, 15)))
    asked = torch.from_numpy((rng.random((12, 15)) < share) & (np.arange(15) < rng.integers(0, 15, (12, 1))))
    told = []
    for take in (lambda: policy.next_token_logits(tokens, asked), lambda: policy.next_token_logits(tokens)[asked]):
        policy.zero_grad()
        logits = take()
        logits.square().sum().backward()
        told.append((logits.detach(), policy.model.get_input_embeddings().weight.grad.clone()))
    torch.testing.assert_close(*told, rtol=0, atol=1e-11)
    with ids_read(policy) as shapes:
        policy.next_token_logits(tokens, asked)
    assert not share or sum(rows * width for rows, width in shapes) < 1.1 * sum(row.nonzero()[-1, 0] + 1 for row in asked if row.any())


def test_whoever_leaves_first_turns_it_off_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads may each have a model of one configuration: while one of them is read, the other may begin to decode, and end."""
    monkeypatch.setattr(prefixes, "CALL", 0)
    policy, steps = reader(), played(RAGGED, [3] * len(RAGGED))
    expected = evaluated(policy, steps)
    other = type(policy.model)(policy.model.config).eval()
    before: list[Any] = []

    def decode(module: nn.Module, inputs: Any) -> None:
        def work() -> None:
            before.append(other.config._attn_implementation)
            decoder_for(other, 64, WIDTH, fast=False).extend(torch.ones(64, 1, dtype=torch.int64), torch.zeros(64, dtype=torch.int64))

        thread = Thread(target=work)
        thread.start()
        thread.join()

    policy.model.register_forward_pre_hook(decode)
    torch.testing.assert_close(evaluated(policy, steps), expected, rtol=0, atol=0)
    assert (before, other.config._attn_implementation) == ([NAME], "sdpa")
