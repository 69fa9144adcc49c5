"""Masks that are told on request: `info_mask=False`, and those of a chunk's later tokens, which hang on its first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import WORDS, SmallCore, small_task

from agents.play import begin, collect
from agents.policies import CausalLMPolicy, SeparateCritic, small_gpt2
from textgym import GymVectorEnv
from textgym.constraints import AllowList, Automaton, MinLength, NoRepeat, make
from textgym.episodes import TextCore
from textgym.recording import RecordVectorEpisode

MODES = list(AutoresetMode)
CONSTRAINTS: dict[str, Any] = {
    "allow-list": AllowList(["a", "b", "d"]),
    "no repeats": NoRepeat(2),
    "both": make([MinLength(2), NoRepeat(2)]),
    "automaton": Automaton({"s": {"a": "t", "b": "s"}, "t": {"c": "s", "d": "t"}}, ["t"]),
}


def policy_of(chunk: int, seed: int = 0) -> CausalLMPolicy:
    return small_gpt2(len(WORDS), 8, eos_id=0, width=16, layers=1, heads=2, seed=seed, chunk=chunk).to(torch.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_agents_never_take_what_is_forbidden_and_evaluate_what_they_took(name: str, told: bool, chunk: int, mode: AutoresetMode) -> None:
    env = GymVectorEnv(SmallCore(constraint=CONSTRAINTS[name], chunk=chunk, info_mask=told), 6, autoreset_mode=mode)
    policy = policy_of(chunk)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(3)  # far from uniform, so that a mask that is not heeded shows
    played = collect(env, policy, begin(env, policy, seed=1), np.random.default_rng(0), num_steps=30)
    rollout = played.rollout
    forbidden = played.ends["forbidden"]
    assert np.nansum(forbidden) == 0
    assert np.isfinite(forbidden).sum() > 10
    masks = rollout.require("action_masks")
    assert masks.shape[-1] == chunk * len(WORDS)
    assert not masks[rollout.valid].all()
    now = policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions), torch.from_numpy(masks))
    error = (now.log_probs.detach().numpy() - rollout.log_probs)[rollout.valid]
    assert np.abs(np.expm1(error)).max() < 1e-9


def test_without_the_masks_it_would_take_them() -> None:
    env = GymVectorEnv(SmallCore(constraint=NoRepeat(2), chunk=5), 6, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(1, len(WORDS), size=(30, 6, 5))
    ends = [env.step(action)[4]["final_info"]["forbidden"].sum() for action in actions]
    assert sum(ends) > 10


def test_what_is_told_ahead_is_what_is_told_when_the_token_is_written() -> None:
    core = TextCore(small_task(constraint=make([MinLength(2), NoRepeat(2)])), 4)
    env, random = GymVectorEnv(lambda num_rows: core, 4, autoreset_mode=AutoresetMode.DISABLED), np.random.default_rng(3)
    env.reset(seed=5)
    tokens = np.zeros((4, 0), dtype=np.int64)
    before = {key: value.copy() for key, value in env.get_state()["core"].items()}
    ahead = []
    for _ in range(4):
        masks = env.action_masks(tokens)
        ahead.append(masks)
        tokens = np.concatenate([tokens, np.array([[random.choice(np.flatnonzero(mask[1:])) + 1] for mask in masks])], axis=1)
    after = env.get_state()["core"]
    assert all(np.array_equal(before[key], after[key]) for key in before), "asking changes nothing"
    for t in range(4):
        np.testing.assert_array_equal(env.action_masks(), ahead[t])
        env.step(tokens[:, t])
    assert env.action_masks(np.zeros((4, 1), dtype=np.int64)).all(), "after EOS nothing is asked"


def test_under_a_recording_and_beside_a_critic_of_its_own(tmp_path: Any) -> None:
    env = GymVectorEnv(SmallCore(constraint=NoRepeat(2), chunk=2, info_mask=False), 4, autoreset_mode=AutoresetMode.SAME_STEP)
    policy = SeparateCritic(policy_of(2), policy_of(1, seed=1))
    played = collect(RecordVectorEpisode(env, tmp_path / "episodes.jsonl"), policy, begin(env, policy, seed=1), np.random.default_rng(0), num_steps=20)
    assert np.nansum(played.ends["forbidden"]) == 0
    assert played.rollout.action_masks is not None


def test_a_state_of_another_task_is_refused() -> None:
    plain, ruled = (GymVectorEnv(SmallCore(**changes), 2) for changes in ({}, {"constraint": NoRepeat(2)}))
    automaton = GymVectorEnv(SmallCore(constraint=CONSTRAINTS["automaton"]), 2)
    for env in (plain, ruled, automaton):
        env.reset(seed=0)
    fresh = GymVectorEnv(SmallCore(constraint=CONSTRAINTS["automaton"]), 2)
    fresh.set_state(automaton.get_state())  # before any reset
    np.testing.assert_array_equal(fresh.action_masks(), automaton.action_masks())
    for one, other in ((plain, ruled), (ruled, plain), (automaton, ruled)):
        with pytest.raises(ValueError, match="another task"):
            one.set_state(other.get_state())
