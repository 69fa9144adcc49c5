"""Law 3 in dialogues: answers enter the cache of keys and values as chunks, and are never actions.

Axis legend: T steps, N rows, L observation columns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import Echo, SmallCore
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from agents.play import begin, collect
from agents.policies import CausalLMPolicy, seeded, small_gpt2
from agents.policies.prefixes import segments
from textgym import GymVectorEnv
from textgym.suite.slot_filling import slot_filling

MODES = list(AutoresetMode)
WORDY = {"responder": Echo(), "max_response_tokens": 40, "max_new_tokens": 12}  # answers of 0, 1 and many tokens, by lot


def environment(name: str, mode: AutoresetMode, num_envs: int = 6) -> GymVectorEnv:
    core = SmallCore(**WORDY) if name == "echo" else slot_filling
    options = {} if name == "echo" else {"noise": 0.4, "patience": 9}
    return GymVectorEnv(core, num_envs, autoreset_mode=mode, **options)


def decoder(kind: str, env: GymVectorEnv, cached: bool, dtype: torch.dtype = torch.float64) -> CausalLMPolicy:
    ids, width = int(env.single_action_space.n), env.single_observation_space.shape[0]
    if kind == "gpt2":
        policy = small_gpt2(ids, width, width=16, heads=2, seed=1)
    else:
        sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        with seeded(1):
            policy = CausalLMPolicy(LlamaForCausalLM(LlamaConfig(vocab_size=ids, max_position_embeddings=width, initializer_range=0.4, **sizes)), ids)
    with seeded(2):
        nn.init.normal_(policy.value_head.weight)
    policy.use_cache = cached
    return policy.to(dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "name"), [("gpt2", "echo"), ("llama", "echo"), ("gpt2", "slots")])
def test_acting_with_and_without_a_cache_and_evaluating_are_one_distribution(kind: str, name: str, mode: AutoresetMode) -> None:
    envs = [environment(name, mode) for _ in range(2)]
    cached, plain = (decoder(kind, env, choice) for env, choice in zip(envs, (True, False), strict=True))
    positions = [begin(env, policy, seed=3) for env, policy in zip(envs, (cached, plain), strict=True)]
    generators = [np.random.default_rng(4), np.random.default_rng(4)]
    chunks, borders = 0, 0
    for _ in range(4):  # windows of 5 steps: their borders lie in mid-dialogue
        played = [
            collect(env, policy, position, generator, num_steps=5)
            for env, policy, position, generator in zip(envs, (cached, plain), positions, generators, strict=True)
        ]
        positions = [one.position for one in played]
        ours, theirs = (one.rollout for one in played)
        for field in ("observations", "actions", "rewards", "terminated", "starts"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), err_msg=field)
        for field in ("log_probs", "values", "next_values"):
            np.testing.assert_allclose(getattr(ours, field), getattr(theirs, field), rtol=0, atol=1e-9, err_msg=field)
        with torch.no_grad():
            judged = cached.evaluate(torch.from_numpy(ours.observations), torch.from_numpy(ours.actions))
        assert np.abs(np.exp(judged.log_probs.numpy() - ours.log_probs) - 1).max() < 1e-9
        np.testing.assert_allclose(judged.values.numpy(), ours.values, rtol=0, atol=1e-9)
        pad = int(envs[0].single_action_space.n)
        lengths = (ours.observations != pad).sum(-1)
        chunks += int((np.diff(lengths, axis=0)[~ours.starts[1:]] > 1).sum())
        borders += int((~ours.starts[0]).sum())
    assert chunks > 5  # answers did enter
    assert borders > 5


def test_a_dialogue_is_one_segment_however_long_the_answers() -> None:
    env = environment("echo", AutoresetMode.SAME_STEP, 2)
    observations, _ = env.reset(seed=0)
    seen = [observations]
    for action in (1, 5, 2, 5, 5):  # "e" hands over
        observations, _, over, _, _ = env.step(np.array([action, action]))
        assert not over.any()
        seen.append(observations)
    last, segment = segments(np.stack(seen), 6)
    assert last.tolist() == [10, 11]
    assert (segment == np.arange(2)).all()


def test_what_the_responder_says_is_never_an_action() -> None:
    """The agent's tokens in the last observation of an episode are its actions, in their order; the others are answers."""
    env = environment("echo", AutoresetMode.DISABLED, 4)
    policy = decoder("gpt2", env, True)
    played = collect(env, policy, begin(env, policy, seed=5), np.random.default_rng(5), episodes_per_row=1)
    rollout = played.rollout
    env = environment("echo", AutoresetMode.DISABLED, 4)
    env.reset(seed=5)
    answers = 0
    over = np.zeros(4, dtype=np.bool_)
    for t, actions in enumerate(rollout.actions):
        observations, _, terminated, _, infos = env.step(actions)
        for row in np.flatnonzero(terminated & ~over):
            mine = infos["agent_mask"][row].astype(bool)
            assert observations[row][mine].tolist() == rollout.actions[: t + 1, row].tolist()
            answers += int(((observations[row] != 6) & ~mine)[3:].sum())
        over |= terminated
        if over.all():
            break
        if terminated.any():
            env.reset(options={"reset_mask": terminated})
    assert over.all()
    assert answers > 0


def test_gradients_flow_through_actions_alone_and_do_not_change_with_the_cache() -> None:
    env = environment("slots", AutoresetMode.SAME_STEP)
    policy = decoder("gpt2", env, True)
    rollout = collect(env, policy, begin(env, policy, seed=6), np.random.default_rng(6), num_steps=12).rollout
    judged = policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions))
    judged.log_probs.sum().backward()
    together = [parameter.grad.clone() for parameter in policy.model.parameters()]
    policy.zero_grad()
    for t in range(12):  # each step by itself: one forward a prefix
        policy.evaluate(torch.from_numpy(rollout.observations[t : t + 1]), torch.from_numpy(rollout.actions[t : t + 1])).log_probs.sum().backward()
    for one, other in zip(together, policy.model.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-9, atol=1e-9)


def test_the_benchmark_in_small(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from benchmarks import guess_number

    threads = torch.get_num_threads()
    try:
        assert guess_number.main(guess_number.Choices(seeds=1, scale=0.001, json=tmp_path / "figures.json")) == 1  # nothing is learned yet
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "binary search    4.22    1.000  0.678" in printed
    assert "random ids       6.82    0.213  0.127" in printed
    assert [one["dense"] for one in json.loads((tmp_path / "figures.json").read_text())["outcomes"]] == [True, False]
    with pytest.raises(SystemExit, match="no rewards 'thick'"):
        guess_number.main(guess_number.Choices(rewards=("thick",)))


@pytest.mark.slow
def test_ppo_learns_binary_search_from_dense_rewards() -> None:
    """The benchmark's own run of one seed: 4.22 guesses are the best there is, 6 the bar."""
    from benchmarks import guess_number

    outcome = guess_number.learn(dense=True, seed=0)
    assert outcome.turns <= guess_number.MOST_TURNS
    assert outcome.success >= guess_number.LEAST_SUCCESS
    assert outcome.tokens is not None
