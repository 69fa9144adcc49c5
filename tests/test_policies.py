"""Law 3: what acts and what is evaluated are one distribution, on every path; and the parts that policies are made of.

Axis legend: T steps, N rows, B rows, L observation columns, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import WORDS, SmallCore
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from agents.play import begin, collect, evaluate
from agents.policies import CausalLMPolicy, MLPPolicy, seeded
from agents.policies.common import BLOCK, WeightsWatch, acted, entropy_of, log_distribution, picked, sample
from agents.policies.prefixes import compact, segments
from agents.rollout import Rollout
from textgym import GymEnv, GymVectorEnv

V, PAD = len(WORDS), len(WORDS)
SPARE = 3  # embedding rows that the tokenizer has no ids for
WIDTH = 8  # of small_task: three prompt columns, five to generate
LOOSE = {"initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0}  # weights large enough that a wrong position or mask shows
GROUPED = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def gpt2(positions: int, **changes: Any) -> nn.Module:
    config = GPT2Config(**({"vocab_size": V + SPARE, "n_positions": positions, "n_embd": 16, "n_layer": 2, "n_head": 2} | LOOSE | changes))
    return GPT2LMHeadModel(config)


def llama(positions: int) -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(vocab_size=V + SPARE, max_position_embeddings=positions, **GROUPED, **LOOSE))


def qwen2(positions: int) -> nn.Module:
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=V + SPARE, max_position_embeddings=positions, **GROUPED, **LOOSE))


MODELS = {"gpt2": gpt2, "llama": llama, "qwen2": qwen2}
KINDS = ("mlp", *MODELS)


def language_model(kind: str = "gpt2", *, positions: int = WIDTH, cached: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0) -> CausalLMPolicy:
    with seeded(seed):
        policy = CausalLMPolicy(MODELS[kind](positions), V, use_cache=cached)
        nn.init.normal_(policy.value_head.weight)
    return policy.to(dtype)


def make_policy(kind: str, **choices: Any) -> MLPPolicy | CausalLMPolicy:
    if kind != "mlp":
        return language_model(kind, **choices)
    with seeded(choices.get("seed", 0)):
        return MLPPolicy(WIDTH, V, (16,)).to(choices.get("dtype", torch.float64))


class Picky(gym.Wrapper[Any, Any, Any, Any]):
    """About a third of the tokens is forbidden, by a rule of the prefix."""

    def reset(self, **choices: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**choices)
        return observation, info | {"action_mask": self.mask(observation)}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, info if terminated or truncated else info | {"action_mask": self.mask(observation)}

    def mask(self, observation: np.ndarray) -> np.ndarray:
        return ((observation.sum() + np.arange(V)) % 3 != 0).astype(np.int8)


def text_env(mode: AutoresetMode, masked: bool = False, num_envs: int = 5) -> gym.vector.VectorEnv[Any, Any, Any]:
    if masked:
        return SyncVectorEnv([lambda: Picky(GymEnv(SmallCore()))] * num_envs, autoreset_mode=mode)
    return GymVectorEnv(SmallCore(), num_envs, autoreset_mode=mode)


def disturb(policy: nn.Module, seed: int) -> None:
    """Change every weight in place, as an optimiser does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter)


def evaluated(policy: Any, rollout: Rollout, temperature: float = 1.0) -> Any:
    masks = None if rollout.action_masks is None else torch.from_numpy(rollout.action_masks)
    return policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions), masks, temperature)


def ratio_error(policy: Any, rollout: Rollout, temperature: float = 1.0) -> float:
    """Return max |exp(evaluate - act) - 1|, over the steps that only reset as well: every action was drawn from what was said."""
    with torch.no_grad():
        log_probs = evaluated(policy, rollout, temperature).log_probs.numpy()
    return float(np.abs(np.exp(log_probs - rollout.log_probs) - 1).max())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=["same step", "next step"])
@pytest.mark.parametrize(("kind", "cached"), [("mlp", False), *((kind, cached) for kind in MODELS for cached in (True, False))])
def test_acting_and_evaluating_are_one_distribution(kind: str, cached: bool, mode: AutoresetMode, temperature: float, masked: bool, dtype: torch.dtype) -> None:
    """Law 3, in every iteration, with episodes that run over the border and weights that change there."""
    env, policy = text_env(mode, masked), make_policy(kind, cached=cached, dtype=dtype)
    generator, position = np.random.default_rng(0), begin(env, policy, seed=3)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    running = 0
    for iteration in range(4):
        played = collect(env, policy, position, generator, num_steps=7, temperature=temperature)
        position, rollout = played.position, played.rollout
        assert (rollout.action_masks is not None) == masked
        assert np.isfinite(rollout.log_probs).all()
        assert ratio_error(policy, rollout, temperature) < tolerance
        assert ratio_error(policy, rollout, temperature + 0.1) > 10 * tolerance, "the test would not notice a wrong temperature"
        values = evaluated(policy, rollout, temperature).values.detach().numpy()
        np.testing.assert_allclose(values, rollout.values, atol=tolerance)
        running += int((~rollout.starts[0]).sum())
        disturb(policy, iteration)
    assert running > 2, "no episode ran over a border"


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_version_number_is_what_keeps_stale_caches_out(mode: AutoresetMode, monkeypatch: pytest.MonkeyPatch) -> None:
    def error_after_a_change() -> float:
        env, policy = text_env(mode), language_model()
        generator = np.random.default_rng(0)
        position = collect(env, policy, begin(env, policy, seed=3), generator, num_steps=2).position
        disturb(policy, 0)
        return ratio_error(policy, collect(env, policy, position, generator, num_steps=2).rollout)

    assert error_after_a_change() < 1e-9
    monkeypatch.setattr(WeightsWatch, "__call__", lambda watch: ())
    assert error_after_a_change() > 0.01, "this test does not test what it says"


def test_all_ways_to_change_weights_make_a_cache_stale() -> None:
    def by_optimiser(policy: CausalLMPolicy) -> None:
        evaluated(policy, rollout).log_probs.sum().backward()
        torch.optim.Adam(policy.parameters(), lr=0.1).step()

    def by_loading(policy: CausalLMPolicy) -> None:
        policy.load_state_dict(language_model(seed=7).state_dict())

    def by_assigning(policy: CausalLMPolicy) -> None:
        policy.load_state_dict(language_model(seed=7).state_dict(), assign=True)

    def by_replacing(policy: CausalLMPolicy) -> None:
        policy.model = language_model(seed=7).model

    for change in (by_optimiser, by_loading, by_assigning, by_replacing):
        env, policy = text_env(AutoresetMode.SAME_STEP), language_model()
        generator = np.random.default_rng(0)
        played = collect(env, policy, begin(env, policy, seed=3), generator, num_steps=2)
        rollout = played.rollout
        if change is by_replacing:
            policy = language_model(seed=8)  # another policy altogether goes on from the same position
        else:
            change(policy)
        assert ratio_error(policy, collect(env, policy, played.position, generator, num_steps=2).rollout) < 1e-9, change.__name__


def test_playing_again_from_an_older_position() -> None:
    """The cache has moved on by then: it must know what it holds."""
    env, policy = text_env(AutoresetMode.SAME_STEP), language_model()
    assert isinstance(env, GymVectorEnv)
    position = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=3).position
    state = env.get_state()
    first = collect(env, policy, position, np.random.default_rng(1), num_steps=12).rollout
    env.set_state(state)
    again = collect(env, policy, position, np.random.default_rng(1), num_steps=12).rollout
    np.testing.assert_array_equal(again.actions, first.actions)
    np.testing.assert_allclose(again.log_probs, first.log_probs, atol=1e-9)
    assert ratio_error(policy, again) < 1e-9


class Prefixes:
    """Rows that grow by one token or several, and begin anew at any column with any length, the whole width included."""

    def __init__(self, num_rows: int, width: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.tokens = np.full((num_rows, width), PAD)
        self.ends = np.zeros(num_rows, np.int64)  # [N] the column after the last token
        self.lengths_seen: set[int] = set()

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the next observations [N, L] and which rows began anew [N]."""
        num_rows, width = self.tokens.shape
        starts = np.zeros(num_rows, np.bool_)
        for row in range(num_rows):
            room = width - self.ends[row]
            starts[row] = self.ends[row] == 0 or room == 0 or self.random.random() < 0.15
            if starts[row]:
                self.tokens[row] = PAD
                length = width if self.random.random() < 0.2 else int(self.random.integers(1, width + 1))
                self.ends[row] = int(self.random.integers(0, width - length + 1))
            else:
                length = 1 if self.random.random() < 0.7 else int(self.random.integers(1, room + 1))
            self.tokens[row, self.ends[row] : self.ends[row] + length] = self.random.integers(V, size=length)
            self.ends[row] += length
        self.lengths_seen |= set((self.tokens != PAD).sum(1).tolist())
        return self.tokens.copy(), starts


def plain_logits(model: nn.Module, observations: np.ndarray) -> np.ndarray:
    """Return the logits [N, V] of the library's own forward: one row at a time, no cache, no padding, no positions given."""
    rows = [torch.from_numpy(row[row != PAD])[None] for row in observations]
    with torch.no_grad():
        return np.stack([model(input_ids=row, use_cache=False).logits[0, -1, :V].numpy() for row in rows])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("lent", [False, True], ids=["fresh", "lent memory"])
@pytest.mark.parametrize("kind", MODELS)
def test_logits_by_slots_are_those_of_the_plain_forward(kind: str, lent: bool, dtype: torch.dtype) -> None:
    width = 9
    policy, prefixes, state = language_model(kind, positions=width, dtype=dtype), Prefixes(6, width, seed=1), None
    for step in range(80):
        observations, _ = prefixes.step()
        with torch.no_grad():
            logits, _, state = policy._step(prefixes.tokens if lent else observations, state)
        plain = plain_logits(policy.model, observations)
        limit = 1e-9 if dtype == torch.float64 else 2e-6 * max(1.0, np.abs(plain).max())
        assert np.abs(logits.numpy() - plain).max() < limit, f"step {step}"
    assert prefixes.lengths_seen == set(range(1, width + 1))


def test_pads_beyond_the_end_of_a_full_slot_fall_into_the_spare_column() -> None:
    """Row 0 takes its last two places while row 1 takes eight: row 0's six pads have nowhere to go."""
    policy = language_model(positions=9)
    first = np.array([[1, 2, 3, 4, 5, 1, 2, PAD, PAD], [3, PAD, PAD, PAD, PAD, PAD, PAD, PAD, PAD]])
    second = np.array([[1, 2, 3, 4, 5, 1, 2, 5, 4], [3, 1, 1, 4, 2, 5, 5, 2, 3]])
    state = None
    for observations in (first, second):
        with torch.no_grad():
            logits, _, state = policy._step(observations, state)
        np.testing.assert_allclose(logits.numpy(), plain_logits(policy.model, observations), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("masked", [False, True])
def test_evaluating_whole_columns_is_evaluating_step_by_step(kind: str, mode: AutoresetMode, masked: bool) -> None:
    env, policy = text_env(mode, masked), make_policy(kind)
    rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=20).rollout
    whole = evaluated(policy, rollout, 0.7)
    steps = []
    for t in range(20):
        part = rollout._replace(**{name: value[t : t + 1] for name, value in rollout._asdict().items() if value is not None})
        steps.append(evaluated(policy, part, 0.7))
    for name in ("log_probs", "values", "entropy"):
        single = torch.cat([getattr(step, name) for step in steps])
        np.testing.assert_allclose(getattr(whole, name).detach(), single.detach(), atol=1e-9, err_msg=name)
    weights = torch.linspace(-1, 1, 100, dtype=torch.float64).reshape(20, 5)
    losses = [(weights * log_probs).sum() for log_probs in (whole.log_probs, torch.cat([step.log_probs for step in steps]))]
    parameters = [parameter for name, parameter in policy.named_parameters() if not name.startswith(("value_head", "critic"))]
    tolerance = 1e-9 if kind in ("mlp", "gpt2") else 1e-4  # Llama's and Qwen2's norms are float32 inside, whatever is asked for
    for ours, theirs in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


class TestSegments:
    @staticmethod
    def by_hand(observations: np.ndarray) -> tuple[list[int], list[list[int]]]:
        """Return what `segments` should, by looking at one pair of prefixes at a time."""
        num_steps, num_rows = observations.shape[:2]
        last, number = [], [[0] * num_rows for _ in range(num_steps)]
        for row in range(num_rows):
            for t in range(num_steps):
                number[t][row] = len(last)
                now = [(i, int(token)) for i, token in enumerate(observations[t, row]) if token != PAD]
                after = [(i, int(token)) for i, token in enumerate(observations[t + 1, row]) if token != PAD] if t + 1 < num_steps else []
                if not (len(after) > len(now) and after[: len(now)] == now):
                    last.append(t * num_rows + row)
        return last, number

    @pytest.mark.parametrize("seed", range(20))
    def test_random_prefixes(self, seed: int) -> None:
        prefixes = Prefixes(4, 5, seed)
        prefixes.random = np.random.default_rng(seed)
        observations = np.stack([prefixes.step()[0] % 3 + np.where(prefixes.tokens == PAD, PAD, 0) for _ in range(30)])  # few words: much is alike
        last, number = segments(observations, PAD)
        assert (last.tolist(), number.tolist()) == self.by_hand(observations)

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_played_prefixes(self, mode: AutoresetMode) -> None:
        env, policy = text_env(mode), make_policy("mlp")
        rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=60).rollout
        last, number = segments(rollout.observations, PAD)
        assert (last.tolist(), number.tolist()) == self.by_hand(rollout.observations)
        same_episode = rollout.valid[1:] & rollout.valid[:-1] & (rollout.episode_ids[1:] == rollout.episode_ids[:-1])
        assert (number[1:][same_episode] == number[:-1][same_episode]).all(), "an episode is one forward"
        began = rollout.starts[1:] & rollout.valid[1:]
        assert (number[1:][began] != number[:-1][began]).all()

    @pytest.mark.parametrize(
        ("prefixes", "expected"),
        [
            pytest.param(["__1 _", "__12_", "__123"], [0, 0, 0], id="an episode"),
            pytest.param(["__1__", "__1__", "__12_"], [0, 1, 1], id="the same prompt again, after EOS as the first action"),
            pytest.param(["__1__", "_21__", "_213_"], [0, 1, 1], id="a prompt that is the end of the next one"),
            pytest.param(["_21__", "__1__", "__12_"], [0, 1, 1], id="a prompt that is the end of the one before"),
            pytest.param(["__1__", "__10_", "__1__"], [0, 0, 1], id="NEXT_STEP: the final observation belongs to its episode"),
            pytest.param(["__1__", "__2__", "__3__"], [0, 1, 2], id="nothing but first actions that end"),
            pytest.param(["__12_", "__13_", "__133"], [0, 1, 1], id="another token in the same place"),
            pytest.param(["_12__", "__12_", "__123"], [0, 1, 1], id="the same tokens in other columns"),
        ],
    )
    def test_cases(self, prefixes: list[str], expected: list[int]) -> None:
        rows = [[PAD if letter in "_ " else int(letter) for letter in prefix] for prefix in prefixes]
        observations = np.array(rows)[:, None]
        assert observations.shape == (3, 1, 5)
        assert segments(observations, PAD)[1][:, 0].tolist() == expected


def test_compact_drops_pads_on_both_sides() -> None:
    observations = np.array([[PAD, PAD, 3, 1, PAD], [0, 1, 2, 3, 4], [PAD, PAD, PAD, PAD, 5]])
    tokens, lengths = compact(observations, PAD)
    assert tokens.tolist() == [[3, 1, 0, 0, 0], [0, 1, 2, 3, 4], [5, 0, 0, 0, 0]]
    assert lengths.tolist() == [2, 5, 1]
    assert compact(observations[[0, 2]], PAD)[0].shape == (2, 2)
    with pytest.raises(ValueError, match="no token at all"):
        compact(np.full((1, 3), PAD), PAD)


class TestModels:
    def test_spare_embedding_rows_are_never_sampled(self) -> None:
        policy = language_model(dtype=torch.float32)
        with torch.no_grad():
            policy.model.transformer.ln_f.weight.zero_()
            policy.model.transformer.ln_f.bias.fill_(1.0)
            policy.model.lm_head.weight[:] = torch.arange(V + SPARE)[:, None] * 5.0  # the spare rows would win every time
        assert plain_logits(policy.model, np.array([[1]])).shape == (1, V)
        observations = np.full((500, WIDTH), PAD)
        observations[:, 0] = 1
        acted = policy.act(observations, None, np.ones(500, np.bool_), np.random.default_rng(0))
        assert acted.actions.max() == V - 1
        assert np.exp(acted.log_probs).max() > 0.99, "the probability that the spare rows would have had was not given to the others"
        assert policy.next_token_logits(torch.tensor([[1, 2]])).shape == (1, 2, V)

    def test_a_tokenizer_with_more_ids_than_rows(self) -> None:
        model = gpt2(WIDTH)
        with pytest.raises(ValueError, match=rf"has {V + SPARE + 1} ids, the model embeds {V + SPARE}.*resize_token_embeddings\({V + SPARE + 1}\)"):
            CausalLMPolicy(model, V + SPARE + 1)
        assert CausalLMPolicy(model, V + SPARE).vocab_size == V + SPARE

    @pytest.mark.parametrize("kind", MODELS)
    def test_more_columns_than_positions(self, kind: str) -> None:
        policy, observations = language_model(kind, positions=WIDTH - 1), np.ones((2, WIDTH), np.int64)
        with pytest.raises(ValueError, match=f"up to {WIDTH} tokens, the model knows {WIDTH - 1} positions"):
            policy.act(observations, None, np.ones(2, np.bool_), np.random.default_rng(0))
        with pytest.raises(ValueError, match="positions"):
            policy.evaluate(torch.from_numpy(observations)[None], torch.zeros(1, 2, dtype=torch.int64))

    def test_more_columns_than_one_set_of_angles_is_for(self) -> None:
        rope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [3.0] * 2, "short_factor": [1.0] * 2, "original_max_position_embeddings": WIDTH - 1}
        policy = CausalLMPolicy(LlamaForCausalLM(LlamaConfig(vocab_size=V + SPARE, rope_parameters=rope, **GROUPED, **LOOSE)), V)
        observations = np.ones((2, WIDTH), np.int64)
        with pytest.raises(ValueError, match=f"up to {WIDTH} tokens, and beyond {WIDTH - 1} this model turns all positions by other angles"):
            policy.act(observations, None, np.ones(2, np.bool_), np.random.default_rng(0))
        policy.evaluate(torch.from_numpy(observations[:, 1:])[None], torch.zeros(1, 2, dtype=torch.int64))

    def test_dropout_is_off_whatever_is_asked_for(self) -> None:
        with seeded(0):
            policy = CausalLMPolicy(gpt2(WIDTH, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5), V)
        tokens = torch.tensor([[1, 2, 3, 4]])
        for ask in (lambda: None, policy.train, lambda: nn.ModuleList([policy]).train()):
            ask()
            assert torch.equal(policy.next_token_logits(tokens), policy.next_token_logits(tokens))
            assert not policy.training

    @pytest.mark.parametrize("kind", MODELS)
    def test_values_read_the_state_that_the_output_layer_reads(self, kind: str) -> None:
        policy = language_model(kind)
        observations = np.array([[PAD, 1, 2, PAD], [4, 3, 2, 1]])
        expected = []
        for row in observations:
            base = policy.model.get_decoder() if hasattr(policy.model, "get_decoder") else policy.model.base_model
            hidden = base(input_ids=torch.from_numpy(row[row != PAD])[None]).last_hidden_state
            expected.append(float(policy.value_head(hidden[0, -1]).detach()))
        np.testing.assert_allclose(policy.value(observations), expected, atol=1e-9)

    def test_a_copy_stands_alone(self) -> None:
        """The usual way to a reference policy: its hook must not write into the original."""
        policy = language_model()
        observations = np.array([[1, 2, 3]])
        reference = copy.deepcopy(policy)
        before = reference.value(observations)
        disturb(policy, 0)
        assert reference.value(observations) == before != policy.value(observations)

    @pytest.mark.parametrize("kind", MODELS)
    def test_save_and_load(self, kind: str, tmp_path: Path) -> None:
        policy = language_model(kind, dtype=torch.float32)
        observations = np.array([[PAD, 1, 2, PAD], [4, 3, 2, 1]])
        policy.save(tmp_path / "model")
        state = torch.get_rng_state()
        loaded = CausalLMPolicy.load(tmp_path / "model", V)
        assert torch.equal(torch.get_rng_state(), state), "loading drew from the global generator"
        assert loaded.value(observations).tolist() == policy.value(observations).tolist()
        tokens = torch.tensor([[1, 2, 3, 4]])
        assert torch.equal(loaded.next_token_logits(tokens), policy.next_token_logits(tokens))
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True)
        assert torch.equal(plain(tokens).logits[..., :V], policy.next_token_logits(tokens))

    def test_a_folder_without_a_value_head_and_one_without_a_model(self, tmp_path: Path) -> None:
        with seeded(0):
            gpt2(WIDTH).save_pretrained(tmp_path / "plain")
        assert CausalLMPolicy.load(tmp_path / "plain", V).value(np.array([[1, 2]])).tolist() == [0.0]
        with pytest.raises(FileNotFoundError, match=r"config\.json"):
            CausalLMPolicy.load(tmp_path, V)


class Constant(np.random.Generator):
    """Every uniform number is the same."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        return self.number if size is None else np.full(size, self.number)


class TestSampling:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_frequencies_are_the_probabilities(self, dtype: torch.dtype) -> None:
        logits = torch.tensor([0.0, -1.0, -torch.inf, 2.0, 1.0, -torch.inf, 0.5, -3.0], dtype=dtype)
        drawn = acted(logits.expand(40_000, -1), torch.zeros(40_000), None, np.random.default_rng(0), None, 0.8)
        counts = np.bincount(drawn.actions, minlength=8)
        expected = torch.softmax(logits.double() / 0.8, -1).numpy() * 40_000
        possible = expected > 0
        assert counts[~possible].sum() == 0
        chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
        assert chi_square < 20.5, "0.1 % point of 5 degrees of freedom"
        np.testing.assert_allclose(drawn.log_probs, log_distribution(logits, None, 0.8).double().numpy()[drawn.actions], rtol=0, atol=1e-6)

    def test_half_precision_over_a_large_vocabulary(self) -> None:
        """A cumulative sum in bfloat16 stands still from 1/2 on; ids near the end would never be drawn."""
        actions = acted(torch.zeros(2_000, 5_000, dtype=torch.bfloat16), torch.zeros(2_000), None, np.random.default_rng(0), None, 1.0).actions
        assert abs(actions.mean() - 2499.5) < 5 * 1443 / 2_000**0.5
        assert actions.max() > 4_950

    @pytest.mark.parametrize("num", [8 * BLOCK + 1, 9 * BLOCK, 3_000])
    def test_many_actions_are_searched_by_blocks(self, num: int) -> None:
        """The action is the one that a plain search of the whole cumulative sum finds."""
        generator = torch.Generator().manual_seed(0)
        probabilities = torch.softmax(4 * torch.randn(2_000, num, generator=generator, dtype=torch.float64), -1)
        probabilities[:, : BLOCK + 3] = 0.0
        cumulative = probabilities.cumsum(-1)
        number = torch.from_numpy(np.random.default_rng(5).random((2_000, 1)))
        plain = torch.searchsorted(cumulative, number * cumulative[:, -1:], right=True)
        assert torch.equal(sample(probabilities, np.random.default_rng(5)), plain)
        assert int(plain.max()) > num - BLOCK, "the rest behind the last whole block was never drawn"

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("rows", [1, 6])
    def test_few_rows_are_sampled_as_many_are(self, rows: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = 4 * torch.randn(1000, 40, generator=generator, dtype=torch.float64).to(dtype)
        many = acted(logits, torch.zeros(1000), None, np.random.default_rng(3), None, 1.0)
        one_by_one = np.random.default_rng(3)
        few = [acted(part, torch.zeros(len(part)), None, one_by_one, None, 1.0) for part in logits.split(rows)]
        np.testing.assert_array_equal(np.concatenate([part.actions for part in few]), many.actions)
        np.testing.assert_allclose(np.concatenate([part.log_probs for part in few]), many.log_probs, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("number", [0.0, 5e-324, 0.5, 1 - 2**-25, np.nextafter(1.0, 0.0)])
    @pytest.mark.parametrize(("rows", "num"), [(500, 30), (500, 9 * BLOCK + 7), (6, 30), (1, 30)])
    def test_a_masked_action_is_never_drawn(self, rows: int, num: int, dtype: torch.dtype, number: float) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = 8 * torch.randn(500, num, generator=generator, dtype=torch.float64).to(dtype)
        masks = torch.rand(500, num, generator=generator) < 0.2
        masks[torch.arange(500), torch.randint(num, (500,), generator=generator)] = True
        masks[:250, :5], masks[250:, -5:] = False, False
        masks[:, 15] |= ~masks.any(-1)
        for first in range(0, 500, rows):  # few rows are sampled by NumPy, one by itself
            some = slice(first, first + rows)
            drawn = acted(logits[some], torch.zeros(len(logits[some])), None, Constant(number), masks.numpy()[some], 1.0)
            assert masks[some].gather(1, torch.from_numpy(drawn.actions)[:, None]).all()
            assert np.isfinite(drawn.log_probs).all()
        if number == 0.0 and rows == 500:
            possible = log_distribution(logits, masks, 1.0).exp() > 0
            assert torch.equal(torch.from_numpy(drawn.actions), possible.int().argmax(-1)), "0 means the first action of positive probability"

    def test_masked_entropies_and_gradients_are_finite(self) -> None:
        logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
        masks = torch.tensor([[True, False, True], [False, True, False]])
        log_probs = log_distribution(logits, masks, 0.5)
        entropy = entropy_of(log_probs)
        p = 1 / (1 + np.exp(-4.0))  # of the third action, at temperature 1/2
        np.testing.assert_allclose(entropy.detach(), [-p * np.log(p) - (1 - p) * np.log(1 - p), 0.0], atol=1e-12)
        (entropy.sum() + picked(log_probs, torch.tensor([0, 1])).sum()).backward()
        assert torch.isfinite(logits.grad).all()
        assert (logits.grad[~masks] == 0).all()
        slope = 2 * (-p * (1 - p) * np.log(p / (1 - p)) - p)  # d(entropy + log prob of the first) / d(third logit)
        np.testing.assert_allclose(logits.grad[0], [-slope, 0, slope], atol=1e-12)

    def test_a_mask_that_allows_nothing(self) -> None:
        with pytest.raises(ValueError, match="allows nothing at all"):
            log_distribution(torch.zeros(2, 3), torch.tensor([[True, True, True], [False, False, False]]), 1.0)

    @pytest.mark.parametrize("kind", ["mlp", "gpt2"])
    def test_temperature_zero_is_greedy(self, kind: str) -> None:
        policy, prefixes = make_policy(kind), Prefixes(50, WIDTH, seed=2)
        observations, starts = prefixes.step()
        acted = policy.act(observations, None, starts, np.random.default_rng(0), temperature=0.0)
        if isinstance(policy, CausalLMPolicy):
            logits = torch.from_numpy(plain_logits(policy.model, observations))
        else:
            logits = policy.actor(torch.from_numpy(observations).double())
        assert acted.actions.tolist() == logits.argmax(-1).tolist()
        assert (acted.log_probs == 0).all()
        masks = np.ones((50, V), np.bool_)
        masks[np.arange(50), acted.actions] = False
        second = policy.act(observations, None, starts, np.random.default_rng(0), masks, temperature=0.0).actions
        assert second.tolist() == logits.topk(2).indices[:, 1].tolist()


def test_seeded_weights_and_an_untouched_global_generator() -> None:
    before = torch.get_rng_state()
    for build in (lambda seed: language_model(seed=seed), lambda seed: make_policy("mlp", seed=seed)):
        one, same, other = (torch.nn.utils.parameters_to_vector(build(seed).parameters()) for seed in (4, 4, 5))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError, match="inside"), seeded(1):
        raise RuntimeError("inside")
    assert torch.equal(torch.get_rng_state(), before)


class TestPredict:
    @pytest.mark.parametrize("kind", KINDS)
    def test_one_row_and_many(self, kind: str) -> None:
        policy, (observations, _) = make_policy(kind), Prefixes(6, WIDTH, seed=2).step()
        many, _ = policy.predict(observations, deterministic=True)
        assert many.shape == (6,)
        for row, action in zip(observations, many, strict=True):
            single, _ = policy.predict(row, deterministic=True)
            assert np.ndim(single) == 0
            assert single == action
        with pytest.raises(ValueError, match="deterministic=True"):
            policy.predict(observations)

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_librarys_evaluator_finds_the_greedy_returns(self, kind: str) -> None:
        evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
        policy, prompts = make_policy(kind), [0, 1, 2, 3, 4, 5]
        ours = evaluate(text_env(AutoresetMode.SAME_STEP, num_envs=6), policy, np.random.default_rng(0), temperature=0.0, options={"prompt": prompts})

        class InTurn(gym.Wrapper[Any, Any, Any, Any]):
            turn = 0

            def reset(self, **choices: Any) -> tuple[Any, dict[str, Any]]:
                self.turn += 1
                return self.env.reset(options={"prompt": prompts[(self.turn - 1) % 6]})

        monitor = pytest.importorskip("stable_baselines3.common.monitor").Monitor
        returns, lengths = evaluation.evaluate_policy(policy, monitor(InTurn(GymEnv(SmallCore()))), 6, deterministic=True, return_episode_rewards=True)
        assert lengths == ours.lengths.tolist()
        np.testing.assert_allclose(returns, ours.returns, atol=1e-6)  # SB3 keeps rewards in float32


@pytest.mark.parametrize("make", [lambda: gym.spaces.Discrete(3, start=1), lambda: gym.spaces.MultiDiscrete([2, 2])])
def test_an_mlp_for_spaces_that_it_does_not_fit(make: Callable[[], gym.Space[Any]]) -> None:
    class Odd(gym.Env[Any, Any]):
        observation_space, action_space = gym.spaces.Box(0, 1, (2,)), make()

    with pytest.raises(TypeError, match="Discrete actions"):
        MLPPolicy.for_env(SyncVectorEnv([Odd]))


def test_a_sliding_window_is_refused_with_a_cache_and_right_without() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    with seeded(0):
        model = MistralForCausalLM(MistralConfig(vocab_size=len(WORDS), sliding_window=4, bos_token_id=None, eos_token_id=None, **sizes)).double()
    env = GymVectorEnv(SmallCore(), 4, autoreset_mode=AutoresetMode.SAME_STEP)
    generator = np.random.default_rng(0)
    cached, plain = CausalLMPolicy(model, len(WORDS)), CausalLMPolicy(model, len(WORDS), use_cache=False)
    with pytest.raises(ValueError, match=r"attends to 4 tokens.*use_cache=False"):
        collect(env, cached, begin(env, cached, seed=0), generator, num_steps=1)
    rollout = collect(env, plain, begin(env, plain, seed=0), generator, num_steps=20).rollout
    again = plain.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions)).log_probs.detach().numpy()
    np.testing.assert_allclose(again, rollout.log_probs, rtol=0, atol=1e-9)


def test_a_folder_whose_weights_are_missing_is_refused(tmp_path: Path) -> None:
    """Transformers would draw them at random."""
    from safetensors.torch import load_file, save_file

    from agents.policies.causal_lm import small_gpt2
    from agents.policies.local_models import load_model

    policy = small_gpt2(6, 8, width=8, layers=1, heads=1)
    policy.model.save_pretrained(tmp_path)
    load_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "mlp" not in name}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing"):
        load_model(tmp_path)
