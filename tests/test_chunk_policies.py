"""Law 3 for chunks: what acts and what is evaluated are one distribution, the product of that of single tokens.

Axis legend: T steps, N rows, B rows, C tokens of a chunk, L observation columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import PROMPTS, WORDS, Echo, SmallCore
from test_chunks import NoEcho
from test_policies import disturb, evaluated, language_model, plain_logits, ratio_error
from torch import nn

from agents import ppo
from agents.advantages import GAE
from agents.play import begin, check_fit, collect, evaluate, log_probs_under
from agents.policies import CausalLMPolicy, MLPPolicy, small_gpt2
from agents.policies.decoders.generic import check_decodes
from agents.policies.prefixes import agreement, compact, counted_tokens, grown, room_left, segments
from agents.rollout import Rollout
from textgym import GymVectorEnv

V = PAD = len(WORDS)
EOS = 0
HAND_OVER = tuple(WORDS.index(word) for word in Echo.end_of_turn)
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "longer": {"max_new_tokens": 11},
    "masked": {"constraint": NoEcho(), "max_new_tokens": 7},
    "dialogue": {"responder": Echo(), "max_response_tokens": 16, "max_new_tokens": 8},
}
STOPS = {"dialogue": (EOS, *HAND_OVER)}


def chunk_policy(chunk: int, *, positions: int = 32, stops: Sequence[int] = (EOS,), cached: bool = True, kind: str = "gpt2", seed: int = 0) -> CausalLMPolicy:
    """A policy in float64, with weights large enough that a wrong position shows."""
    whole = language_model(kind, positions=positions, cached=cached, seed=seed)
    policy = CausalLMPolicy(whole.model, V, use_cache=cached, chunk=chunk, stop_ids=stops).double()
    policy.value_head.load_state_dict(whole.value_head.state_dict())
    return policy


def chunk_env(chunk: int, kind: str = "plain", mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 5) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(**KINDS[kind], chunk=chunk), num_envs, autoreset_mode=mode)


def by_hand(policy: CausalLMPolicy, rollout: Rollout, temperature: float) -> np.ndarray:
    """Return the log-probabilities [T, N] from the library's own forward: one row and one token at a time, no cache, no padding."""
    found = np.zeros(rollout.valid.shape)
    for t, row in np.ndindex(*found.shape):
        prefix, room = rollout.observations[t, row].copy(), int(room_left(rollout.observations[t, row], PAD))
        for j, token in enumerate(np.atleast_1d(rollout.actions[t, row])):
            if j and (j >= room or policy.stops[rollout.actions[t, row, j - 1]]):
                break
            logits = torch.from_numpy(plain_logits(policy.model, prefix[None])[0]) / temperature
            if rollout.action_masks is not None:
                logits[~torch.from_numpy(rollout.action_masks[t, row].reshape(-1, V)[j])] = -torch.inf
            found[t, row] += float(logits.log_softmax(-1)[token])
            if room:
                prefix[len(prefix) - room + j] = token
    return found


@pytest.mark.parametrize(
    ("mode", "cached"),
    [(AutoresetMode.SAME_STEP, True), (AutoresetMode.NEXT_STEP, True), (AutoresetMode.SAME_STEP, False)],
    ids=["same step, cached", "next step, cached", "same step, uncached"],
)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("chunk", "stops"), [(2, True), (3, False), (7, True)])
def test_acting_and_evaluating_are_one_distribution(chunk: int, stops: bool, kind: str, mode: AutoresetMode, cached: bool) -> None:
    """Law 3 with chunks that stop early (EOS, a budget that they do not divide, a hand-over), told to the policy or not, over weights that change."""
    env = chunk_env(chunk, kind, mode)
    policy = chunk_policy(chunk, stops=STOPS.get(kind, (EOS,)) if stops else (), cached=cached)
    generator, position = np.random.default_rng(0), begin(env, policy, seed=3)
    for iteration in range(3):
        played = collect(env, policy, position, generator, num_steps=3, temperature=0.8)
        position, rollout = played.position, played.rollout
        assert rollout.actions.shape == (3, 5, chunk)
        assert (rollout.action_masks is not None) == (kind == "masked")
        assert ratio_error(policy, rollout, 0.8) < 1e-9
        assert ratio_error(policy, rollout, 0.9) > 1e-8, "the test would not notice a wrong temperature"
        np.testing.assert_allclose(evaluated(policy, rollout).values.detach().numpy(), rollout.values, atol=1e-9)
        if iteration < 2:
            disturb(policy, iteration)
    np.testing.assert_allclose(by_hand(policy, rollout, 0.8), rollout.log_probs, atol=1e-9)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_other_architectures(kind: str) -> None:
    env, policy = chunk_env(3, "dialogue"), chunk_policy(3, stops=STOPS["dialogue"], kind=kind)
    assert ratio_error(policy, collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=12).rollout) < 1e-9


def test_tokens_that_count_are_those_that_are_written() -> None:
    """Where nobody answers, the policy knows from prefix and chunk alone what the environment will drop."""
    env, policy = chunk_env(4, "longer", AutoresetMode.DISABLED, num_envs=40), chunk_policy(4)
    (observations, _), state, ended = env.reset(seed=0), None, np.zeros(40, np.bool_)
    seen = set[int]()
    for t in range(12):
        step = policy.act(observations, state, ended, np.random.default_rng(t))
        counted, state = policy.counted(observations, step.actions).sum(-1), step.state
        observations, _, ended, _, infos = env.step(step.actions)
        assert (4 - counted).tolist() == infos["dropped_tokens"].tolist()
        seen |= set(counted.tolist())
        if ended.any():
            observations, _ = env.reset(options={"reset_mask": ended})
    assert seen == {1, 2, 3, 4}


def test_a_chunk_is_as_likely_as_its_tokens() -> None:
    """Texts played by chunks, given to the policy of single tokens: episode by episode the sums are the same."""
    chunked, single = chunk_policy(3), chunk_policy(1)
    env = chunk_env(3, "longer", num_envs=20)
    rollout = collect(env, chunked, begin(env, chunked, seed=1), np.random.default_rng(0), episodes_per_row=1).rollout
    for row in range(20):
        counted = chunked.counted(rollout.observations[:, row], rollout.actions[:, row]) & rollout.valid[:, row, None]
        total, observation = 0.0, rollout.observations[0, row : row + 1].copy()
        for token in rollout.actions[:, row][counted]:
            found = single.evaluate(torch.from_numpy(observation)[None], torch.tensor([[token]])).log_probs
            total += float(found.detach())
            observation[0, np.flatnonzero(observation[0] != PAD)[-1] + 1 :][:1] = token
        assert total == pytest.approx(rollout.log_probs[rollout.valid[:, row], row].sum(), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_evaluating_whole_columns_is_evaluating_step_by_step(kind: str, mode: AutoresetMode) -> None:
    env, policy = chunk_env(3, kind, mode), chunk_policy(3, stops=STOPS.get(kind, (EOS,)))
    rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=12).rollout
    whole = evaluated(policy, rollout, 0.7)
    parts = [rollout._replace(**{name: value[t : t + 1] for name, value in rollout._asdict().items() if value is not None}) for t in range(12)]
    steps = [evaluated(policy, part, 0.7) for part in parts]
    for name in ("log_probs", "values", "entropy"):
        single = torch.cat([getattr(step, name) for step in steps])
        np.testing.assert_allclose(getattr(whole, name).detach(), single.detach(), atol=1e-9, err_msg=name)
    weights = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(12, 5)
    parameters = [parameter for name, parameter in policy.named_parameters() if not name.startswith("value_head")]
    losses = [(weights * sums).sum() for sums in (whole.log_probs + whole.entropy, torch.cat([step.log_probs + step.entropy for step in steps]))]
    for ours, theirs in zip(*(torch.autograd.grad(loss, parameters) for loss in losses), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
        assert torch.isfinite(ours).all()


def test_the_entropy_of_a_chunk_is_that_of_its_counted_tokens() -> None:
    policy = chunk_policy(3)
    observation, actions = np.array([[1, 2, PAD, PAD, PAD]]), np.array([[3, EOS, 4]])
    expected = 0.0
    for prefix in ([1, 2], [1, 2, 3]):
        log_probs = torch.from_numpy(plain_logits(policy.model, np.array([prefix]))[0]).log_softmax(-1)
        expected += float(-(log_probs.exp() * log_probs).sum())
    found = policy.evaluate(torch.from_numpy(observation)[None], torch.from_numpy(actions)[None])
    assert float(found.entropy.detach()) == pytest.approx(expected, abs=1e-9)


def encoded_tokens(policy: CausalLMPolicy) -> list[tuple[int, ...]]:
    """Return a list that fills with the shapes [B, W] of the ids that the model reads; that it is tried once, before, does not count."""
    check_decodes(policy.model)
    shapes: list[tuple[int, ...]] = []

    def keep(module: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        shapes.append(tuple(inputs["input_ids"].shape))

    policy.model.register_forward_pre_hook(keep, with_kwargs=True)
    return shapes


class TestWork:
    """Not only right, but without reading anything twice."""

    def test_evaluating_runs_one_row_an_episode(self) -> None:
        env, policy = chunk_env(2, "longer"), chunk_policy(2)
        rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), num_steps=12).rollout
        shapes = encoded_tokens(policy)
        policy.use_cache = False  # rows one below the other can be counted
        evaluated(policy, rollout)
        rows = sum(shape[0] for shape in shapes)
        again = (np.diff(rollout.observations, axis=0) == 0).all(-1) & (np.diff(rollout.actions, axis=0) == 0).all(-1)  # an episode of one step, twice
        assert rows == rollout.starts[1:].sum() + 5 - again.sum(), "one row for each episode, and for each that goes on from before"

    def test_acting_reads_a_token_once(self) -> None:
        policy = chunk_policy(3, stops=())
        shapes, state, generator = encoded_tokens(policy), None, np.random.default_rng(0)
        observation = np.full((2, 12), PAD)
        observation[:, :2] = [[1, 2], [3, 4]]
        for t in range(3):
            step = policy.act(observation, state, np.zeros(2, np.bool_), generator)
            state = step.state
            observation[:, 2 + 3 * t : 5 + 3 * t] = step.actions
        assert shapes == [(2, 2), (2, 1), (2, 1)] + 2 * [(2, 1)] * 3

    def test_rows_that_have_stopped_are_not_read_on(self) -> None:
        policy = chunk_policy(4, stops=(1, 2, 3, 4, 5))
        observation = np.array([[1, 2, PAD, PAD, PAD], [1, 2, 3, 4, PAD], [1, 2, 3, 4, PAD]])
        shapes = encoded_tokens(policy)
        step = policy.act(observation, None, np.ones(3, np.bool_), np.random.default_rng(0))
        rows = policy.counted(observation, step.actions).sum(0)
        assert [shape[0] for shape in shapes[2:]] == rows[1 : 1 + len(shapes) - 2].tolist()

    def test_what_the_environment_dropped_or_answered_is_read_anew_and_nothing_else(self) -> None:
        """The policy was not told what stops a turn: its slot holds tokens that were never written."""
        policy = chunk_policy(3, stops=())
        shapes, generator = encoded_tokens(policy), np.random.default_rng(0)
        observation = np.array([[1, 2, 3, *[PAD] * 9]])
        step = policy.act(observation, None, np.ones(1, np.bool_), generator)
        after = observation.copy()
        after[0, 3:6] = step.actions[0, 0], (step.actions[0, 1] + 1) % V, 5  # the first token was written, then an answer came
        shapes.clear()
        second = policy.act(after, step.state, np.zeros(1, np.bool_), generator)
        assert shapes == [(1, 2), (1, 1), (1, 1)], "three tokens of prompt and one of the chunk were known"
        alone = chunk_policy(3, stops=())
        again = alone.evaluate(torch.from_numpy(after)[None], torch.from_numpy(second.actions)[None])
        np.testing.assert_allclose(again.log_probs.detach().numpy()[0], second.log_probs, atol=1e-9)


class TestPrefixes:
    def test_which_tokens_count(self) -> None:
        stops = np.array([True, False, False, True, False, False])
        chunks = np.array([[1, 2, 1], [1, 0, 2], [0, 1, 1], [3, 3, 3], [1, 1, 1], [1, 1, 1]])
        counted = counted_tokens(chunks, np.array([9, 9, 9, 9, 2, 0]), stops)
        assert counted.sum(1).tolist() == [3, 2, 1, 1, 2, 1]
        assert (np.diff(counted.astype(int), axis=1) <= 0).all()

    def test_what_is_read_behind_a_prefix(self) -> None:
        observations = np.array([[PAD, 1, PAD, PAD, PAD], [1, 1, 1, 1, PAD], [1, 1, 1, 1, 1]])
        chunks, room = np.array([[2, 3, 4], [2, 3, 4], [2, 3, 4]]), room_left(observations, PAD)
        assert room.tolist() == [3, 1, 0]
        longer = grown(observations, chunks, counted_tokens(chunks, room, np.zeros(V, np.bool_)), room)
        assert longer.tolist() == [[PAD, 1, 2, 3, PAD], [1, 1, 1, 1, PAD], [1, 1, 1, 1, 1]]

    def test_a_step_continues_only_if_the_chunk_stands_there(self) -> None:
        first, chunk = [1, PAD, PAD, PAD, PAD], np.array([[[2, 3, 4]]])
        for second, continues in (
            ([1, 2, 3, 4, PAD], True),
            ([1, 2, 3, 5, PAD], True),  # the last token is chosen, not read
            ([1, 2, 5, 4, PAD], False),  # the environment dropped a token, and answered
            ([1, 2, PAD, PAD, PAD], False),
            ([PAD, 1, 2, 3, 4], False),
        ):
            observations = np.array([[first], [second]])
            longer = observations.copy()
            longer[:1] = grown(observations[:1], chunk, np.ones((1, 1, 3), np.bool_), room_left(observations[:1], PAD))
            last, number = segments(observations, PAD, longer)
            assert (len(last) == 1) == continues, second
            assert number.tolist() == ([[0], [0]] if continues else [[0], [1]])

    def test_how_far_two_prefixes_agree(self) -> None:
        before = np.array([[PAD, 1, 2, 3, PAD], [PAD, 1, 2, 3, PAD], [PAD, 1, 2, PAD, PAD], [1, 2, PAD, PAD, PAD], [PAD] * 5])
        after = np.array([[PAD, 1, 2, 3, 4], [PAD, 1, 5, 3, PAD], [PAD, 1, 2, 3, PAD], [PAD, 1, 2, PAD, PAD], [PAD, 1, 2, PAD, PAD]])
        assert agreement(before, after, PAD).tolist() == [3, 1, 2, 0, 0]
        assert compact(after, PAD)[1].tolist() == [4, 3, 3, 2, 2]


class TestGreedy:
    def test_chunks_of_the_most_likely_tokens(self) -> None:
        policy, single = chunk_policy(3), chunk_policy(1)
        observations = np.array([[1, 2, *[PAD] * 4], [3, 4, *[PAD] * 4], [PAD, 5, *[PAD] * 4], [1, 1, 1, 1, 1, PAD]])
        chunks, _ = policy.predict(observations, deterministic=True)
        assert chunks.shape == (4, 3)
        one, _ = policy.predict(observations[1], deterministic=True)
        assert one.tolist() == chunks[1].tolist()
        step = policy.act(observations, None, np.ones(4, np.bool_), np.random.default_rng(0), temperature=0.0)
        assert step.actions.tolist() == chunks.tolist()
        assert (step.log_probs == 0).all()
        for row, counted in enumerate(policy.counted(observations, chunks)):
            prefix = observations[row : row + 1].copy()
            for j in np.flatnonzero(counted):
                (token,), _ = single.predict(prefix, deterministic=True)
                assert token == chunks[row, j]
                prefix[0, np.flatnonzero(prefix[0] != PAD)[-1] + 1 :][:1] = token
            assert (chunks[row, ~counted] == 0).all()
        sharp = policy.evaluate(torch.from_numpy(observations)[None], torch.from_numpy(chunks)[None], temperature=0.0)
        assert (sharp.log_probs == 0).all()
        assert (sharp.entropy == 0).all()

    def test_greedy_texts_do_not_depend_on_the_chunk(self) -> None:
        found = []
        for chunk in (1, 2, 5):
            env, policy = chunk_env(chunk, num_envs=6), chunk_policy(chunk)
            options = {"prompt": np.arange(len(PROMPTS))}
            found.append(evaluate(env, policy, np.random.default_rng(0), temperature=0.0, options=options).ends["score"].tolist())
        assert found[0] == found[1] == found[2]


class TestFit:
    @pytest.mark.parametrize(
        ("ours", "theirs", "message"),
        [
            (1, 3, r"environment has 3 tokens, one of the policy 1 token: build the policy with chunk=3.*environment with chunk=1"),
            (3, 1, r"environment has 1 token, one of the policy 3 tokens: build the policy with chunk=1.*environment with chunk=3"),
            (2, 3, r"environment has 3 tokens, one of the policy 2 tokens"),
        ],
    )
    def test_chunks_of_another_size(self, ours: int, theirs: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            begin(chunk_env(theirs), chunk_policy(ours))

    def test_another_vocabulary_and_policies_without_one(self) -> None:
        with pytest.raises(ValueError, match=r"8 token ids, the policy was built for 6.*vocab_size=8"):
            check_fit(gym.make_vec("textgym/Recall-v0", num_envs=2, chunk=3), chunk_policy(3))
        check_fit(chunk_env(3), chunk_policy(3))
        with pytest.raises(TypeError, match=r"Discrete actions.*MultiDiscrete"):
            MLPPolicy.for_env(chunk_env(3))

    def test_choices_that_make_no_policy(self) -> None:
        model = language_model().model
        with pytest.raises(ValueError, match="at least one token, got chunk=0"):
            CausalLMPolicy(model, V, chunk=0)
        for wrong in (-1, V):
            with pytest.raises(ValueError, match=rf"stop_ids are token ids in \[0, {V}\), got {wrong}"):
                CausalLMPolicy(model, V, stop_ids=[EOS, wrong])

    def test_save_and_load(self, tmp_path: Path) -> None:
        policy = small_gpt2(V, 16, eos_id=EOS, width=8, layers=1, heads=1, chunk=3)
        policy.save(tmp_path / "model")
        loaded = CausalLMPolicy.load(tmp_path / "model", chunk=3, stop_ids=[EOS])
        assert CausalLMPolicy.load(tmp_path / "model").chunk == 1
        env = chunk_env(3)
        rollout = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=6).rollout
        np.testing.assert_array_equal(log_probs_under(loaded, rollout), log_probs_under(policy, rollout))


def test_ppo_learns_with_chunks() -> None:
    """Even ids, a chunk of four a decision; the windows cut episodes of two chunks and a half."""
    options: dict[str, Any] = {"vocab_size": 8, "prompt_tokens": 2, "max_new_tokens": 10, "num_prompts": 16, "chunk": 4}
    env = gym.make_vec("textgym/Even-v0", num_envs=64, autoreset_mode="SameStep", **options)
    policy = small_gpt2(8, 12, eos_id=7, width=16, layers=1, heads=2, chunk=4)
    config = ppo.Config(total_timesteps=64 * 4 * 25, num_steps=4, learning_rate=5e-3, advantage=GAE(gamma=1.0, gae_lambda=0.95))
    run = ppo.train(env, policy, config, quiet=True)
    assert len(run.history) == 25
    assert max(one["ratio_error"] for one in run.history) < 1e-4
    first, last = (np.mean([one["return"] for one in part]) for part in (run.history[:3], run.history[-3:]))
    assert first < 0.45
    assert last > first + 0.25
