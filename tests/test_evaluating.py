"""Evaluation by segments: what it says, against the library's own forward of one prefix at a time; and how little it reads, computes and keeps.

Axis legend: T steps, B rows, C tokens of a chunk, L observation columns, S segments, M chosen tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from agents.play import log_probs_under
from agents.policies import CausalLMPolicy, evaluating, seeded, with_lora
from agents.policies.common import entropy_of, log_distribution, picked
from agents.policies.evaluating import HELD
from agents.policies.output_layer import is_alone
from agents.policies.packing import packs
from agents.policies.prefixes import CALL, alike
from agents.policies.telling import BLOCK, Allowed, tell, tell_by_parts
from agents.rollout import Rollout

V = PAD = 11
SPARE = 2  # embedding rows that the tokenizer has no ids for
WIDTH = 24
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
COMMON = {"vocab_size": V + SPARE, "initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def model_of(kind: str) -> nn.Module:
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**COMMON, n_positions=WIDTH, n_embd=16, n_layer=2, n_head=2))
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**COMMON, **SIZES, max_position_embeddings=WIDTH))
    if kind == "capped":
        return Gemma2ForCausalLM(Gemma2Config(**COMMON, **SIZES, max_position_embeddings=WIDTH, final_logit_softcapping=2.0, sliding_window=WIDTH))
    sizes = {name: size for name, size in SIZES.items() if name != "head_dim"}
    return CohereForCausalLM(CohereConfig(**COMMON, **sizes, max_position_embeddings=WIDTH, logit_scale=0.25))


def reader(kind: str = "gpt2", chunk: int = 1) -> CausalLMPolicy:
    with seeded(3):
        policy = CausalLMPolicy(model_of(kind), V, chunk=chunk, stop_ids=(0,))
        nn.init.normal_(policy.value_head.weight)
    return policy.double()


class Steps(NamedTuple):
    """What was played."""

    observations: np.ndarray  # [T, B, L]
    actions: np.ndarray  # [T, B], or [T, B, C]
    masks: np.ndarray  # [T, B, C * V]
    lengths: list[int]  # of each row's one episode, in steps; later steps are its last one again


def played(lengths: list[int], prompts: list[int], chunk: int = 1, columns: int = WIDTH, vocab: int = V, seed: int = 0) -> Steps:
    """Return one episode a row, of so many steps after so many prompt tokens, that repeats its last step when it is over."""
    rng, num_rows, first = np.random.default_rng(seed), len(lengths), max(prompts)
    observations = np.full((max(lengths), num_rows, columns), vocab)
    chunks = rng.integers(1, vocab, (*observations.shape[:2], chunk))  # never a stop id
    masks = rng.random((*chunks.shape, vocab)) < 0.6
    for b, (length, prompt) in enumerate(zip(lengths, prompts, strict=True)):
        observations[:, b, first - prompt : first] = rng.integers(1, vocab, prompt)
        for t in range(1, max(lengths)):
            observations[t, b] = observations[t - 1, b]
            if t < length:
                observations[t, b, first + (t - 1) * chunk : first + t * chunk] = chunks[t - 1, b]
            else:
                chunks[t, b], masks[t, b] = chunks[t - 1, b], masks[t - 1, b]
    np.put_along_axis(masks, chunks[..., None], True, -1)
    return Steps(observations, chunks if chunk > 1 else chunks[..., 0], masks.reshape(*observations.shape[:2], -1), lengths)


def evaluated(policy: CausalLMPolicy, steps: Steps, masked: bool = True, temperature: float = 0.7) -> Any:
    masks = torch.from_numpy(steps.masks) if masked else None
    return policy.evaluate(torch.from_numpy(steps.observations), torch.from_numpy(steps.actions), masks, temperature)


def by_hand(policy: CausalLMPolicy, steps: Steps, masked: bool, temperature: float) -> list[Tensor]:
    """Return log-probabilities, values and entropies [T, B] from the library's forward of one prefix at a time, in ordinary autograd."""
    shape = steps.observations.shape[:2]
    chunks = steps.actions.reshape(*shape, -1)
    found: list[list[Tensor]] = [[], [], []]
    for t, b in np.ndindex(*shape):
        prefix = [int(token) for token in steps.observations[t, b] if token != PAD]
        told, entropy, value = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), torch.zeros(())
        for j, token in enumerate(chunks[t, b]):
            output = policy.model(input_ids=torch.tensor([prefix]), output_hidden_states=True)
            logits = output.logits[0, -1, :V]
            if masked:
                logits = logits.masked_fill(~torch.from_numpy(steps.masks[t, b].reshape(-1, V)[j]), -torch.inf)
            log_probs = torch.log_softmax(logits / temperature, -1)
            likely = log_probs[log_probs > -torch.inf]
            told, entropy = told + log_probs[int(token)], entropy - (likely.exp() * likely).sum()
            if j == 0:
                value = policy.value_head(output.hidden_states[-1][0, -1])[0]
            prefix.append(int(token))
        for numbers, number in zip(found, (told, value, entropy), strict=True):
            numbers.append(number)
    return [torch.stack(numbers).view(shape) for numbers in found]


def gradients(policy: nn.Module, numbers: Any, seed: int = 5) -> dict[str, Tensor]:
    """Return the gradients of a random sum of tensors [T, B]."""
    rng = np.random.default_rng(seed)
    policy.zero_grad()
    sum((one * torch.from_numpy(rng.standard_normal(one.shape))).sum() for one in numbers).backward()
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters() if parameter.grad is not None}


def check_same(policy: CausalLMPolicy, ours: Any, theirs: Any, rounding: float = 1e-10) -> None:
    """Compare numbers to 1e-12, and the gradients of a random sum of them to `rounding`."""
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    found, expected = gradients(policy, ours), gradients(policy, theirs)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=rounding, msg=lambda text, name=name: f"{name}: {text}")


LENGTHS, PROMPT_LENGTHS = [1, 4, 3, 4], [3, 1, 2, 5]


@pytest.mark.parametrize("large", [False, True], ids=["whole logits", "by parts"])
@pytest.mark.parametrize(
    ("kind", "chunk", "masked", "temperature"),
    [
        ("gpt2", 1, False, 1.0),
        ("gpt2", 1, True, 0.7),
        ("gpt2", 3, True, 0.7),
        ("llama", 1, True, 0.7),
        ("capped", 1, False, 1.0),
        ("scaled", 2, True, 0.7),
    ],
)
def test_numbers_and_gradients_are_those_of_single_prefixes(
    kind: str, chunk: int, masked: bool, temperature: float, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(evaluating, "HELD", 3 * V)  # three tokens at a time
    policy, steps = reader(kind, chunk), played(LENGTHS, PROMPT_LENGTHS, chunk)
    rounding = 1e-10 if kind == "gpt2" else 2e-5  # the others normalise in single precision, whatever their weights are
    check_same(policy, evaluated(policy, steps, masked, temperature), by_hand(policy, steps, masked, temperature), rounding)


def test_greedy_evaluation_leaves_one_token() -> None:
    policy, steps = reader(), played([4], [2])
    best = policy.next_token_logits(torch.from_numpy(steps.observations[-1, :, :5]))[0, 1:].argmax(-1)
    found = evaluated(policy, steps, masked=False, temperature=0.0)
    expected = torch.where(best == torch.from_numpy(steps.actions[:, 0]), 0.0, -torch.inf)
    assert found.log_probs[:, 0].tolist() == expected.tolist()
    assert not found.entropy.any()


class TestTell:
    """Log-probabilities and entropies of rows of logits."""

    @pytest.mark.parametrize("temperature", [1.0, 0.6])
    @pytest.mark.parametrize("masked", [False, True])
    def test_against_a_table(self, masked: bool, temperature: float) -> None:
        rng = np.random.default_rng(0)
        num, vocab = 7, BLOCK // 3  # three rows a block
        ours = (8 * torch.from_numpy(rng.standard_normal((num, vocab)))).requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        chosen = torch.from_numpy(rng.integers(vocab, size=num))
        masks = torch.from_numpy(rng.random((2 * num, vocab)) < 0.5)
        rows = torch.from_numpy(rng.permutation(2 * num)[:num])
        masks[rows, chosen] = True
        table = log_distribution(theirs, masks[rows] if masked else None, temperature)
        expected = picked(table, chosen), entropy_of(table)
        found = tell(ours, chosen, Allowed(masks, rows) if masked else None, temperature)
        weights = torch.from_numpy(rng.standard_normal((2, num)))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        for told in (found, expected):
            (weights[0] @ told[0] + weights[1] @ told[1]).backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-13)

    def test_finite_differences(self) -> None:
        logits = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 6))).requires_grad_()
        logits = torch.cat([logits[:3], torch.tensor([[700.0, 0, -700, 3, 1, 2]]).double()]).detach().requires_grad_()  # a chance of exactly 0
        chosen = torch.tensor([0, 5, 2, 0])
        assert torch.autograd.gradcheck(lambda x: tuple(tell(x, chosen, None, 1.3)), logits)
        for alone in range(2):
            assert torch.autograd.gradcheck(lambda x, alone=alone: tell(x, chosen, None, 1.3)[alone], logits)

    def test_one_possible_token_has_no_entropy_and_no_gradient(self) -> None:
        logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
        chosen = torch.tensor([1, 4, 0])
        found = tell(logits, chosen, Allowed(nn.functional.one_hot(chosen, 5).bool(), torch.arange(3)), 1.0)
        (found.log_probs.sum() + found.entropies.sum()).backward()
        assert not found.log_probs.any()
        assert not found.entropies.any()
        assert not logits.grad.any()

    def test_half_precision_is_summed_in_single(self) -> None:
        logits = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
        chosen = torch.tensor([1, 4, 0])
        found = tell(logits, chosen, None, 1.0)
        exact = torch.log_softmax(logits.detach().double(), -1)
        torch.testing.assert_close(found.log_probs.double(), picked(exact, chosen), rtol=0, atol=1e-5)
        torch.testing.assert_close(found.entropies.double(), entropy_of(exact), rtol=0, atol=1e-5)
        found.log_probs.sum().backward()
        assert logits.grad.dtype == torch.bfloat16

    def test_entropies_under_a_callers_autocast(self) -> None:
        logits, allowed = (
            torch.randn(2, 5, generator=torch.Generator().manual_seed(0)),
            Allowed(torch.tensor([[True, False, True, True, False]]), torch.zeros(2).long()),
        )
        expected = tell(logits, torch.tensor([0, 3]), allowed, 1.0).entropies
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(tell(logits, torch.tensor([0, 3]), allowed, 1.0).entropies, expected, rtol=0, atol=0.02)

    def test_a_mask_that_allows_nothing(self) -> None:
        with pytest.raises(ValueError, match="allows nothing at all"):
            tell(torch.zeros(1, 3), torch.tensor([0]), Allowed(torch.zeros(1, 3, dtype=torch.bool), torch.tensor([0])), 1.0)

    @pytest.mark.parametrize("rows", [1, 3, 100])
    def test_parts_are_the_whole(self, rows: int) -> None:
        rng = np.random.default_rng(2)
        hidden, chosen = torch.from_numpy(rng.standard_normal((8, 4))).requires_grad_(), torch.from_numpy(rng.integers(9, size=8))
        layer = nn.Linear(4, 9).double()
        found: list[list[Tensor]] = []
        for told in (tell(layer(hidden), chosen, None, 0.9), tell_by_parts(layer, hidden, chosen, None, 0.9, rows)):
            found.append([*told, *torch.autograd.grad((told.log_probs * told.entropies).sum(), [hidden, *layer.parameters()])])
        torch.testing.assert_close(*found, rtol=0, atol=1e-13)


class TestKept:
    """What waits for the backward pass, and what the output layer reads."""

    @staticmethod
    def saved(policy: CausalLMPolicy, steps: Steps, masked: bool = False) -> list[int]:
        """Return how many floating-point numbers each tensor over the vocabulary holds that is kept for the backward pass."""
        weights, kept = {parameter.data_ptr() for parameter in policy.parameters()}, dict[int, int]()

        def keep(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point() and tensor.shape[-1:] in ((V,), (V + SPARE,)) and tensor.untyped_storage().data_ptr() not in weights:
                kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            evaluated(policy, steps, masked)
        return list(kept.values())

    @pytest.mark.parametrize("masked", [False, True])
    def test_one_table_of_the_chosen_tokens(self, masked: bool) -> None:
        assert self.saved(reader(), played([6, 6], [3, 3]), masked) == [12 * V]

    def test_by_parts_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(evaluating, "HELD", 5 * V)
        policy, steps = reader(), played([6, 6], [3, 3])
        assert self.saved(policy, steps) == []
        read = rows_read(policy)
        loss = evaluated(policy, steps).log_probs.sum()
        assert read == [1, 1, 5, 5, 2]  # is the layer alone?; the hidden states alone; then the parts
        loss.backward()
        assert sorted(read[5:]) == [2, 5, 5]

    def test_the_output_layer_reads_chosen_places_only(self) -> None:
        policy = reader()
        packs(policy.model)  # it is tried
        read = rows_read(policy)
        evaluated(policy, played([6, 2, 6], [4, 4, 4]))
        assert sum(read) == 6 + 2 + 6

    def test_a_reference_keeps_nothing(self) -> None:
        policy, steps = reader(), played([6, 6], [3, 3])
        with torch.no_grad():
            assert self.saved(policy, steps) == []

    def test_adapters_on_the_output_layer(self) -> None:
        policy = with_lora(reader("llama"), rank=2, target_modules=["lm_head"], seed=1)
        for name, parameter in policy.named_parameters():
            if "lora" in name:
                parameter.data += 0.3 * torch.from_numpy(np.random.default_rng(3).standard_normal(parameter.shape))
        steps = played(LENGTHS, PROMPT_LENGTHS)
        check_same(policy, evaluated(policy, steps), by_hand(policy, steps, True, 0.7), 2e-5)
        assert is_alone(policy.model, torch.zeros(1, 1, dtype=torch.int64))


@pytest.mark.parametrize(("kind", "alone"), [("gpt2", True), ("llama", True), ("capped", False), ("scaled", False)])
def test_whether_the_output_layer_has_the_last_word(kind: str, alone: bool) -> None:
    policy = reader(kind).float()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter *= 1e-9  # so small that a cap would not show in the logits themselves
    assert is_alone(policy.model, torch.zeros(1, 1, dtype=torch.int64)) is alone
    assert not policy.model.get_output_embeddings()._forward_hooks


def rows_read(policy: CausalLMPolicy) -> list[int]:
    """Return the list in which the number of hidden states will be noted that the output layer reads, call by call."""
    read: list[int] = []
    policy.model.get_output_embeddings().register_forward_hook(lambda module, args, output: read.append(output.shape[:-1].numel()))
    return read


@contextmanager
def ids_read(policy: CausalLMPolicy) -> Iterator[list[tuple[int, int]]]:
    """Collect the shapes [S, W] of all ids that the model reads; that it is tried before it packs does not count."""
    packs(policy.model)
    shapes: list[tuple[int, int]] = []
    hook = policy.model.register_forward_pre_hook(lambda module, args, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True)
    yield shapes
    hook.remove()


class TestWork:
    """Ids that go into the model, against those that must."""

    @pytest.mark.parametrize("seed", range(4))
    def test_padding_of_ragged_episodes_is_a_tenth_at_most(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lengths, prompts = np.minimum(rng.geometric(1 / 16, 64), 64).tolist(), rng.integers(1, 17, 64).tolist()
        with seeded(0):
            model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=80, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0))
        policy = CausalLMPolicy(model, V)
        steps = played(lengths, prompts, columns=80, seed=seed)
        with ids_read(policy) as shapes, torch.no_grad():
            evaluated(policy, steps, masked=False)
        needed = sum(lengths) + sum(prompts) - 64  # the last token of an episode is never read
        assert needed <= sum(rows * width for rows, width in shapes) <= 1.1 * needed
        assert len(shapes) == 1, "one call"

    def test_episodes_of_one_length_are_read_at_once(self) -> None:
        policy = reader()
        with ids_read(policy) as shapes:
            evaluated(policy, played([7] * 5, [4] * 5))
        assert shapes == [(5, 10)]

    def test_a_few_odd_ones_are_no_call_of_their_own(self) -> None:
        policy = reader()
        with ids_read(policy) as shapes:
            evaluated(policy, played([7, 6, 7, 2], [4] * 4))
        assert shapes == [(4, 10)]

    def test_another_mask_makes_it_another_step(self) -> None:
        policy, steps = reader(), played([5, 2], [2, 2])
        steps.masks[3, 1] = True
        check_same(policy, evaluated(policy, steps), by_hand(policy, steps, True, 0.7))

    def test_steps_that_repeat_later_ones(self) -> None:
        """A row may also begin by repeating: what came before its first valid step is filled with that."""
        for chunk in (1, 2):
            policy, steps = reader(chunk=chunk), played([5, 4], [2, 3], chunk)
            late = Steps(*(np.concatenate([field[:1], field[:1], field]) for field in steps[:3]), steps.lengths)
            with ids_read(policy) as shapes:
                found = evaluated(policy, late)
            assert sum(rows for rows, _ in shapes) == 2
            check_same(policy, found, by_hand(policy, late, True, 0.7))

    def test_a_critic_reads_an_episode_that_is_over_once(self) -> None:
        policy, steps = reader(), played([7, 2, 3], [4, 4, 4])
        with ids_read(policy) as shapes:
            found = policy.evaluate_values(torch.from_numpy(steps.observations))
        assert sum(rows for rows, _ in shapes) == 3
        torch.testing.assert_close(found, evaluated(policy, steps).values, rtol=0, atol=1e-12)


class TestAlike:
    """Groups of segments."""

    @pytest.mark.parametrize("seed", range(20))
    def test_all_once_and_little_padding(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, rng.integers(2, 200), size=rng.integers(1, 90))
        groups = alike(sizes)
        np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(len(sizes)))
        padding = sum(len(group) * sizes[group].max() for group in groups) - sizes.sum()
        assert padding <= max(CALL, 0.1 * sizes.sum())
        ordered = [(sizes[group].max(), sizes[group].min()) for group in groups]
        assert all(shorter[0] < longer[1] for longer, shorter in pairwise(ordered)), "the longest first, none between others"

    @pytest.mark.parametrize("seed", range(10))
    def test_as_few_groups_as_can_be_found_by_trying_all(self, seed: int) -> None:
        """It joins the cheapest first, which is nearly always the best: at most one group more than the least."""
        rng = np.random.default_rng(seed)
        sizes = rng.integers(20, 400, size=9)
        ordered, allowed = np.sort(sizes), max(CALL, 0.1 * sizes.sum())

        def padding(cuts: int) -> int:
            ends = [i for i in range(9) if i == 8 or cuts >> i & 1]
            return sum(int((ordered[end] - ordered[first : end + 1]).sum()) for first, end in zip([0, *(end + 1 for end in ends[:-1])], ends, strict=True))

        least = min(cuts.bit_count() + 1 for cuts in range(256) if padding(cuts) <= allowed)
        assert least <= len(alike(sizes)) <= least + 1


def test_log_probs_under_a_reference_are_those_of_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, steps = reader(), played(LENGTHS, PROMPT_LENGTHS)
    nothing = np.zeros(steps.actions.shape)
    rollout = Rollout(steps.observations, steps.actions, *[nothing] * 4, *[nothing > 0] * 4, nothing.astype(np.int64))
    expected = evaluated(policy, steps, masked=False, temperature=1.0).log_probs.detach().numpy()
    monkeypatch.setattr(evaluating, "HELD", 2 * V)
    np.testing.assert_allclose(log_probs_under(policy, rollout, columns=2), expected, rtol=0, atol=1e-12)


def test_a_model_that_fails_leaves_no_hook_behind() -> None:
    policy, steps = reader(), played([3], [2])
    steps.observations[0, 0, 0] = V + SPARE + 5  # no such id
    with pytest.raises(IndexError):
        evaluated(policy, steps)
    head = policy.model.get_output_embeddings()
    assert not head._forward_pre_hooks
    assert HELD >= V  # one row at least


def test_another_thread_may_call_the_model_meanwhile() -> None:
    policy, steps, ids, said = reader(), played([5] * 4, [3] * 4), torch.tensor([[1, 2, 3]]), []
    expected, alone = evaluated(policy, steps), policy.model(input_ids=ids).logits

    def work(*_: Any) -> None:
        if not said:
            said.append(None)
            thread = Thread(target=lambda: said.append(policy.model(input_ids=ids).logits))
            thread.start()
            thread.join()

    policy.model.get_input_embeddings().register_forward_hook(work)
    found = evaluated(policy, steps)
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=0)
    torch.testing.assert_close(said[1], alone, rtol=0, atol=0)
