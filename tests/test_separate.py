"""An actor and a critic without a weight in common, whatever the two are.

Axis legend: T steps, N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import ClipAction
from helpers import WORDS, SmallCore
from test_gaussian import reach
from test_policies import disturb, language_model
from test_small_policies import envs
from torch import nn

from agents import ppo
from agents.play import AnyVectorEnv, begin, check_fit, collect
from agents.policies import CausalLMPolicy, GaussianPolicy, GRUPolicy, Memory, MLPPolicy, SeparateCritic, seeded, small_t5
from textgym import GymVectorEnv

V = len(WORDS)


def text_env(mode: AutoresetMode, chunk: int | None = None) -> AnyVectorEnv:
    return GymVectorEnv(SmallCore() if chunk is None else SmallCore(chunk=chunk), 5, autoreset_mode=mode)


def boxed(mode: AutoresetMode) -> AnyVectorEnv:
    return envs("box", mode)


def chunked() -> CausalLMPolicy:
    return CausalLMPolicy(language_model(seed=3).model, V, chunk=2, stop_ids=(0,)).double()


MAKERS: dict[str, tuple[Callable[[AutoresetMode], AnyVectorEnv], Callable[[], Any], Callable[[], Any]]] = {
    "language models": (text_env, lambda: language_model(seed=1), lambda: language_model(seed=2)),
    "two kinds of them": (text_env, lambda: small_t5(V, 3, width=16).double(), lambda: language_model("llama")),
    "a small critic": (text_env, lambda: language_model(seed=1), lambda: MLPPolicy(8, V, (8,)).double()),
    "chunks": (lambda mode: text_env(mode, 2), chunked, lambda: language_model(seed=2)),
    "recurrent": (boxed, lambda: GRUPolicy(3, 2, hidden=8).double(), lambda: GRUPolicy(3, 2, hidden=6).double()),
    "a recurrent actor": (boxed, lambda: GRUPolicy(3, 2, hidden=8).double(), lambda: MLPPolicy(3, 2, (8,)).double()),
    "a recurrent critic": (boxed, lambda: MLPPolicy(3, 2, (8,)).double(), lambda: GRUPolicy(3, 2, hidden=6).double()),
    "numbers": (lambda mode: ClipAction(reach(mode)), lambda: GaussianPolicy(3, (2,)).double(), lambda: GaussianPolicy(3, (2,)).double()),
}


def build(kind: str) -> SeparateCritic:
    with seeded(0):
        policy = SeparateCritic(MAKERS[kind][1](), MAKERS[kind][2]())
    disturb(policy, 7)
    return policy


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", MAKERS)
def test_law_3_with_the_values_of_the_other(kind: str, mode: AutoresetMode) -> None:
    env, policy, generator = MAKERS[kind][0](mode), build(kind), np.random.default_rng(0)
    position = begin(env, policy, seed=0)
    for iteration in range(4):
        played = collect(env, policy, position, generator, num_steps=7, temperature=0.8)
        position, rollout = played.position, played.rollout
        memory = None if rollout.memory is None else Memory(torch.from_numpy(rollout.memory[0]), torch.from_numpy(rollout.starts))
        assert (memory is not None) == ("recurrent" in kind)
        again = policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions), None, 0.8, memory)
        np.testing.assert_allclose((again.log_probs.detach().numpy() - rollout.log_probs)[rollout.valid], 0, atol=1e-9)
        np.testing.assert_allclose((again.values.detach().numpy() - rollout.values)[rollout.valid], 0, atol=1e-9)
        if memory is None:
            np.testing.assert_allclose(policy.critic.value(rollout.observations[3]), rollout.values[3], atol=1e-9)
        disturb(policy, iteration)


@pytest.mark.parametrize("kind", MAKERS)
def test_it_acts_as_the_actor_alone_would(kind: str) -> None:
    env, policy = MAKERS[kind][0](AutoresetMode.SAME_STEP), build(kind)
    both = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=10).rollout
    alone = collect(env, policy.actor, begin(env, policy.actor, seed=0), np.random.default_rng(0), num_steps=10).rollout
    np.testing.assert_array_equal(both.actions, alone.actions)
    np.testing.assert_array_equal(both.log_probs, alone.log_probs)
    assert np.abs(both.values - alone.values).max() > 1e-3
    seen = env.reset(seed=3)[0]
    np.testing.assert_array_equal(policy.predict(seen, deterministic=True)[0], policy.actor.predict(seen, deterministic=True)[0])


def test_each_loss_moves_its_own_half() -> None:
    env, policy = text_env(AutoresetMode.SAME_STEP), build("language models")
    rollout = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=10).rollout
    found = policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions))
    for loss, moved, still in ((found.log_probs, policy.actor, policy.critic), (found.values, policy.critic, policy.actor)):
        policy.zero_grad()
        loss.sum().backward(retain_graph=True)
        assert all(p.grad is None or not p.grad.any() for p in still.parameters())
        assert any(p.grad is not None and p.grad.any() for p in moved.parameters())


@pytest.mark.parametrize("kind", ["language models", "recurrent", "chunks"])
def test_ppo_trains_both(kind: str) -> None:
    env, policy = MAKERS[kind][0](AutoresetMode.SAME_STEP), build(kind)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    run = ppo.train(env, policy, ppo.Config(total_timesteps=5 * 8 * 3, num_steps=8, num_minibatches=2), quiet=True)
    assert max(row["ratio_error"] for row in run.history) < 1e-9
    changed = {name.split(".")[0] for name, p in policy.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"actor", "critic"}


def test_a_critic_that_is_a_language_model_reads_each_text_once() -> None:
    """Not a token at every step: what it says of a rollout is what it says of each prefix by itself."""
    env, policy = text_env(AutoresetMode.SAME_STEP), build("language models")
    read: list[int] = []
    hook = policy.critic.model.register_forward_pre_hook(lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[0]), with_kwargs=True)
    rollout = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=12).rollout
    assert sum(read) <= rollout.starts[1:].sum() + 5 + 5, "one row an episode, and one where a window ends"
    hook.remove()
    one_by_one = np.stack([policy.value(step) for step in rollout.observations])
    np.testing.assert_allclose(rollout.values, one_by_one, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rollout.next_values[:-1][~rollout.ends[:-1]], one_by_one[1:][~rollout.ends[:-1]], rtol=0, atol=1e-12)


def test_what_does_not_fit() -> None:
    class NoModule:
        sequential = False

    with pytest.raises(TypeError, match="NoModule is no torch module"):
        SeparateCritic(MLPPolicy(2, 2), NoModule())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="build it with chunk=1, not 2"):
        SeparateCritic(chunked(), chunked())
    with pytest.raises(ValueError, match="chunk=2"):
        check_fit(text_env(AutoresetMode.SAME_STEP, 2), build("language models"))
    assert isinstance(build("chunks"), nn.Module)
