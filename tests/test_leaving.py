"""The KL divergence over all actions, of the states that were visited: against the oracle, and beside the estimates from the actions played.

Axis legend: T steps, N environments, S states, A actions.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from helpers import WORDS
from test_gaussian import reach
from test_policies import disturb, language_model, text_env
from test_small_policies import build, envs

from agents import a2c, leaving, policy_gradient, ppo
from agents.kl import FixedKL, exact_kl
from agents.leaving import kl_of_states, priced, tells_all
from agents.play import begin, collect, log_probs_under
from agents.policies import CausalLMPolicy, GaussianPolicy, MLPPolicy, SeparateCritic, TabularPolicy
from agents.rollout import Rollout
from textgym import oracle

V = len(WORDS)


def wavy(num_states: int, num_actions: int, seed: int) -> TabularPolicy:
    policy = TabularPolicy(num_states, num_actions)
    with torch.no_grad():
        policy.logits += torch.from_numpy(np.random.default_rng(seed).normal(size=(num_states, num_actions)))
    return policy


def probabilities(policy: TabularPolicy) -> np.ndarray:
    return policy.logits.detach().softmax(-1).numpy()


def lakes(num_envs: int = 64) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: gym.make("FrozenLake-v1", is_slippery=True, max_episode_steps=10_000)] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


def play(env: Any, policy: Any, num_steps: int | None = 40, **choices: Any) -> Rollout:
    return collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=num_steps, **choices).rollout


def measured(rollout: Rollout, policy: Any, reference: Any, iteration: int = 0, **choices: Any) -> dict[str, float]:
    told = priced(rollout, policy, reference, ppo.Config(**choices), {}, iteration, 10.0)[1]
    return {name.removeprefix("kl_step/"): value for name, value in told.items() if name.startswith("kl_step/")}


def test_the_oracle_knows_the_divergence() -> None:
    """State by state it is the oracle's; and over whole episodes, its mean and those of k1 and k3 are what the oracle expects of a step."""
    env = lakes()
    problem = oracle.from_table(gym.make("FrozenLake-v1", is_slippery=True))
    policy, reference = wavy(16, 4, 0), wavy(16, 4, 1)
    known = oracle.kl(problem, probabilities(policy), probabilities(reference))
    rollout = play(env, policy, None, episodes_per_row=60)
    found, ref_log_probs = kl_of_states(policy, reference, rollout)
    np.testing.assert_allclose(found, known.per_state[rollout.observations], rtol=1e-12)
    np.testing.assert_array_equal(ref_log_probs, log_probs_under(reference, rollout))
    panel = measured(rollout, policy, reference)
    assert panel["exact"] == pytest.approx(known.per_state[rollout.observations[rollout.valid]].mean(), rel=1e-12)
    for name, margin in (("exact", 0.02), ("k1", 0.05), ("k3", 0.05)):  # about 30000 steps
        assert panel[name] == pytest.approx(known.per_step, rel=margin)
    assert abs(panel["k2"] / known.per_step - 1) > 0.05, "k2 is biased, and the samples are enough to show it"


def test_k1_and_k3_agree_in_expectation_where_a_mask_forbids() -> None:
    """Everything that may be played in one state, weighed by its chance, needs no samples."""
    policy, reference = wavy(1, 5, 2), wavy(1, 5, 3)
    mask = np.array([True, True, False, True, False])
    allowed = np.flatnonzero(mask)
    zeros = np.zeros((1, len(allowed)))
    nowhere = zeros.astype(bool)
    fields = Rollout(zeros, zeros, zeros, zeros, zeros, zeros, nowhere, nowhere, nowhere, ~nowhere, zeros.astype(np.int64))
    rollout = fields._replace(observations=zeros.astype(np.int64), actions=allowed[None], action_masks=np.tile(mask, (1, len(allowed), 1)))
    for temperature in (1.0, 0.6):
        rollout = rollout._replace(log_probs=log_probs_under(policy, rollout, temperature))
        exact, ref_log_probs = kl_of_states(policy, reference, rollout, temperature)
        chances, ratios = np.exp(rollout.log_probs), rollout.log_probs - ref_log_probs
        assert chances.sum() == pytest.approx(1)
        np.testing.assert_allclose(exact, (chances * ratios).sum(), rtol=1e-12)
        np.testing.assert_allclose((chances * (np.expm1(-ratios) + ratios)).sum(), exact[0, 0], rtol=1e-12)
    with torch.no_grad():
        reference.logits[0, 0] = -np.inf  # what the policy may do and the reference never does
    assert np.isinf(kl_of_states(policy, reference, rollout)[0]).all()
    with torch.no_grad():
        policy.logits[0, 0] = -np.inf  # 0 log 0
    finite = kl_of_states(policy, reference, rollout)[0]
    assert (finite > 0).all()
    assert np.isfinite(finite).all()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=["same step", "next step"])
def test_masked_text(mode: AutoresetMode) -> None:
    """What a mask forbids has no chance under either; steps that only reset do not count."""
    env, policy, reference = text_env(mode, masked=True), language_model(seed=1), language_model(seed=2)
    rollout = play(env, policy, temperature=0.7)
    masks = torch.from_numpy(rollout.action_masks)
    tables = [who.distributions(torch.from_numpy(rollout.observations), masks, 0.7).detach().numpy() for who in (policy, reference)]
    expected = exact_kl(*tables)[rollout.valid].mean()
    assert measured(rollout, policy, reference, temperature=0.7)["exact"] == pytest.approx(expected, rel=1e-12)
    assert rollout.valid.all() == (mode is AutoresetMode.SAME_STEP)


@pytest.mark.parametrize("name", ["gpt2", "gru"])
def test_a_few_columns_at_a_time_are_all_of_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = text_env(AutoresetMode.SAME_STEP) if name == "gpt2" else envs("box")
    policy = language_model() if name == "gpt2" else build(name, env)
    reference = copy.deepcopy(policy)
    disturb(reference, 1)
    first = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=7)
    rollout = collect(env, policy, first.position, np.random.default_rng(1), num_steps=12).rollout  # a recurrent policy remembers something
    whole = kl_of_states(policy, reference, rollout)
    sizes: list[int] = []
    told = type(policy).distributions

    def counting(self: Any, *arguments: Any) -> torch.Tensor:
        table = told(self, *arguments)
        sizes.append(table.numel())
        return table

    monkeypatch.setattr(type(policy), "distributions", counting)
    num_actions = V if name == "gpt2" else 2
    monkeypatch.setattr(leaving, "HELD", 2 * 2 * 12 * num_actions + 1)
    np.testing.assert_allclose(kl_of_states(policy, reference, rollout), whole, atol=1e-12)
    assert max(sizes) == 2 * 12 * num_actions  # of 5 columns, 2 at a time
    monkeypatch.setattr(leaving, "HELD", 1)
    np.testing.assert_allclose(kl_of_states(policy, reference, rollout), whole, atol=1e-12)


def test_when_it_is_due() -> None:
    env = lakes(4)
    policy, reference = wavy(16, 4, 0), wavy(16, 4, 1)
    rollout = play(env, policy)
    due = {every: [i for i in range(7) if "exact" in measured(rollout, policy, reference, i, kl_exact_every=every)] for every in (0, 1, 3)}
    assert due == {0: [], 1: list(range(7)), 3: [0, 3, 6]}
    one, other = (priced(rollout, policy, reference, ppo.Config(kl=FixedKL(0.1), kl_exact_every=every), {}, 0, 1.0)[0] for every in (0, 1))
    np.testing.assert_array_equal(one.rewards, other.rewards)  # to look changes nothing
    np.testing.assert_array_equal(one.ref_log_probs, other.ref_log_probs)


@pytest.mark.parametrize("algorithm", [a2c, policy_gradient, ppo])
def test_every_algorithm_logs_it(algorithm: Any) -> None:
    """Every fourth iteration has it; before the first update it is 0, as all estimates are."""
    env = envs("box")
    policy = MLPPolicy.for_env(env, (8,))
    config = algorithm.Config(total_timesteps=5 * 40, num_steps=8, learning_rate=0.01)
    history = algorithm.train(env, policy, config, reference=copy.deepcopy(policy), quiet=True).history
    assert [i for i, row in enumerate(history) if "kl_step/exact" in row] == [0, 4]
    assert history[0]["kl_step/exact"] == 0
    assert history[4]["kl_step/exact"] > 0
    with pytest.raises(ValueError, match="kl_exact_every must be at least 0"):
        algorithm.train(env, policy, algorithm.Config(kl_exact_every=-1), quiet=True)


def test_who_cannot_is_only_sampled() -> None:
    chunked = CausalLMPolicy(language_model().model, V, chunk=2)
    assert [tells_all(policy) for policy in (chunked, GaussianPolicy(3, (2,)), SeparateCritic(chunked, language_model("llama")))] == [False] * 3
    assert [tells_all(policy) for policy in (language_model(), SeparateCritic(language_model(), language_model("llama")))] == [True] * 2
    env = gym.wrappers.vector.ClipAction(reach(AutoresetMode.SAME_STEP))
    policy = GaussianPolicy.for_env(env)
    rollout = play(env, policy, 8)
    assert list(measured(rollout, policy, copy.deepcopy(policy))) == ["k1", "k2", "k3"]
    assert not tells_all(SeparateCritic(policy, copy.deepcopy(policy)))
