"""Replay: the gradient of old steps against the exact one, what is read anew and what is not, laws 3 and 6, and what is refused.

Axis legend: T steps, N environments, S states, A actions.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import WORDS, LetterShare, SmallCore, tiny_language_model

from agents import a2c, policy_gradient, ppo
from agents.advantages import GAE, RLOO, VTrace, estimate
from agents.kl import AdaptiveKL, FixedKL
from agents.play import begin, collect, log_probs_under
from agents.policies import GRUPolicy, MLPPolicy, TabularPolicy, seeded, small_gpt2
from agents.ppo.ppo import Weights
from agents.prompting import Groups
from agents.replay import Old, joined, read_again, replay_metrics
from agents.rollout import Rollout, minibatches
from agents.run import Run
from textgym import GymVectorEnv, oracle
from textgym.oracle import from_table

ALGORITHMS = [policy_gradient, a2c, ppo]
LOSSES: dict[ModuleType, Any] = {policy_gradient: policy_gradient.policy_gradient.loss, a2c: a2c.a2c.loss, ppo: ppo.ppo.loss}
MODES = list(AutoresetMode)
OFF_POLICY: dict[str, Any] = {"advantage": VTrace(1.0), "normalise": "none"}
GAMMA, QUARTERS = 0.9, np.array([[3, 1], [1, 3]])  # mu(a | s), in quarters: enumerated columns then stand for it exactly


def text_env(mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 8, **changes: Any) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(**changes), num_envs, autoreset_mode=mode)


def language_model(seed: int = 0) -> Any:
    return tiny_language_model(seed).to(torch.float64)


def mlp() -> MLPPolicy:
    with seeded(0):
        return MLPPolicy(8, len(WORDS), (16,)).to(torch.float64)


def train(algorithm: ModuleType, policy: Any, env: Any = None, **choices: Any) -> Run:
    fields = algorithm.Config.__dataclass_fields__
    config = {"total_timesteps": 6 * 5 * 8, "num_steps": 5, "learning_rate": 0.01} | {name: choices.pop(name) for name in list(choices) if name in fields}
    return algorithm.train(env or text_env(), policy, algorithm.Config(**config), quiet=True, **choices)


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run.history]


def weights(policy: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()


class Watching:
    """V-trace that keeps the rollouts it was asked about."""

    bootstraps, needs_target_log_probs, rho_bar = True, True, 1.0

    def __init__(self) -> None:
        self.seen: list[Rollout] = []

    def __call__(self, rollout: Rollout) -> Any:
        self.seen.append(rollout)
        return VTrace(1.0)(rollout)


# --- the gradient -----------------------------------------------------------------------------------------------------------------------------


def problem(start: float = 0.5) -> Any:
    return from_table(gym.make("textgym/TwoState-v0", rewards=[0.5, 2.0], start=[1 - start, start]))


def present(values: Any = (0.3, -1.0)) -> TabularPolicy:
    """Return the policy pi that learns; its critic is wrong, unless it is told."""
    policy = TabularPolicy(2, 2)
    policy.logits.data = torch.tensor([[0.2, 0.9], [-0.4, 0.7]], dtype=torch.float64)
    policy.values.data = torch.as_tensor(np.array(values), dtype=torch.float64)
    return policy


def probabilities(policy: TabularPolicy) -> np.ndarray:
    return policy.logits.detach().softmax(-1).numpy()


def enumerated(num_steps: int, *, terminated: bool) -> Old:
    """Return every way of num_steps steps on TwoState from both starts, as often as mu goes it: a mean over columns is an expectation under mu."""
    ways = [(s, way) for s in (0, 1) for way in itertools.product((0, 1), repeat=num_steps)]
    columns = []
    for start, way in ways:
        states = [start, *way[:-1]]  # the action names the state that is reached
        columns += [(states, way)] * int(np.prod([QUARTERS[s, a] for s, a in zip(states, way, strict=True)]))
    states, actions = (np.array(part).T for part in zip(*columns, strict=True))
    ends = np.zeros(states.shape, np.bool_)
    ends[-1] = terminated
    starts = np.zeros(states.shape, np.bool_)
    starts[0] = True
    nothing = np.full(states.shape, np.nan)  # what older weights said: nothing of it may be read
    rewards = np.array([0.5, 2.0])[actions]
    log_probs = np.log(QUARTERS / 4)[states, actions]
    rollout = Rollout(states, actions, log_probs, nothing, nothing, rewards, ends, ends & False, starts, ~(ends & False), np.zeros(states.shape, np.int64))
    return Old(rollout, actions[-1])


def replayed_gradient(policy: TabularPolicy, old: Old, estimator: VTrace, algorithm: ModuleType, spoil: bool = False) -> np.ndarray:
    """Return the ascent direction [S, A] that the algorithm's own loss gives for an old rollout read again."""
    rollout = read_again(policy, old, 1.0)
    judged = estimate(estimator, rollout)
    if spoil:
        rollout = rollout._replace(target_log_probs=None)
    (batch,) = minibatches(rollout, judged.advantages, judged.value_targets, 1, np.random.default_rng(0), by_column=False)
    config = algorithm.Config(vf_coef=0.0, **OFF_POLICY)
    more: Any = (Weights(1.0, 0.0, 0.0, 0.2),) if algorithm is ppo else (0.0, 0.0)
    objective, _ = LOSSES[algorithm](policy, batch, config, *more)
    policy.zero_grad()
    objective.backward()
    assert policy.logits.grad is not None
    return -policy.logits.grad.numpy()


class TestGradient:
    """E_mu[A_t grad log pi] = sum_s P_mu(s_t = s) sum_a pi(a | s) Q^pi(s, a) grad log pi(a | s): the exact policy gradient, in the states that mu visits."""

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("num_steps", [1, 2, 3])
    def test_without_truncation_it_is_exact_in_the_states_of_the_old_policy_whatever_the_critic_says(self, num_steps: int, algorithm: ModuleType) -> None:
        task, policy = problem(), present()
        pi = probabilities(policy)
        visits = oracle.occupancy(task, QUARTERS / 4, 1.0, num_steps)  # [T, S]
        advantages = oracle.evaluate(task, pi, GAMMA, num_steps).a  # [T, S, A]
        exact = np.einsum("ts,sa,tsa->sa", visits, pi, advantages) / num_steps
        old = enumerated(num_steps, terminated=True)
        found = replayed_gradient(policy, old, VTrace(GAMMA, 1.0, 1e9, 1e9), algorithm)
        np.testing.assert_allclose(found, exact, atol=1e-12)
        if num_steps == 1:  # where both policies begin in the same states it is the gradient of the return itself
            np.testing.assert_allclose(found, oracle.policy_gradient(task, pi, GAMMA, num_steps), atol=1e-12)

    def test_ppo_against_the_old_policy_would_count_the_ratio_twice(self) -> None:
        old, estimator = enumerated(2, terminated=True), VTrace(GAMMA, 1.0, 1e9, 1e9)
        right, wrong = (replayed_gradient(present(), old, estimator, ppo, spoil) for spoil in (False, True))
        assert np.abs(right - wrong).max() > 0.05

    def test_truncation_judges_a_policy_between_the_two(self) -> None:
        """Espeholt et al. 2018, section 4.1: the fixed point is V of min(rho_bar mu, pi), normalised, and the gradient is weighed by it."""
        task = problem()
        pi = probabilities(present())
        weight = np.minimum(QUARTERS / 4, pi)
        between = weight / weight.sum(1, keepdims=True)
        judged = oracle.evaluate(task, between, GAMMA)
        assert np.abs(judged.v - oracle.evaluate(task, pi, GAMMA).v).max() > 0.05
        policy = present(judged.v)
        old = enumerated(3, terminated=False)
        rollout = read_again(policy, old, 1.0)
        targets = estimate(VTrace(GAMMA), rollout).value_targets
        for state in (0, 1):
            assert targets[0][rollout.observations[0] == state].mean() == pytest.approx(judged.v[state], abs=1e-12)
        visits = oracle.occupancy(task, QUARTERS / 4, 1.0, 3).mean(axis=0)
        pulls = visits[:, None] * weight * judged.a  # of each log pi(a | s)
        np.testing.assert_allclose(replayed_gradient(policy, old, VTrace(GAMMA), a2c), pulls - pi * pulls.sum(1, keepdims=True), atol=1e-12)


# --- reading again ----------------------------------------------------------------------------------------------------------------------------


def changed(policy: Any) -> Any:
    with torch.no_grad(), seeded(5):
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [mlp, language_model])
def test_all_is_read_anew_but_what_lies_behind_a_truncation(make: Any, mode: AutoresetMode) -> None:
    env = GymVectorEnv(SmallCore(), 6, autoreset_mode=mode, max_episode_steps=3)
    policy = changed(make())
    played = collect(env, policy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=7, temperature=0.7)
    rollout = played.rollout
    same = read_again(policy, Old(rollout, played.position.observations), 0.7)
    for name in ("values", "next_values"):
        np.testing.assert_allclose(getattr(same, name)[rollout.valid], getattr(rollout, name)[rollout.valid], atol=1e-9)
    np.testing.assert_allclose(same.require("target_log_probs")[rollout.valid], rollout.log_probs[rollout.valid], atol=1e-9)
    changed(policy)
    now = read_again(policy, Old(rollout, played.position.observations), 0.7, columns=4)
    np.testing.assert_allclose(now.require("target_log_probs"), log_probs_under(policy, rollout, 0.7), atol=1e-12)
    goes_on = rollout.valid & ~rollout.ends
    assert goes_on[-1].any()
    assert rollout.truncated.any()
    np.testing.assert_array_equal(now.next_values[:-1][goes_on[:-1]], now.values[1:][goes_on[:-1]])
    after = policy.value(played.position.observations)
    np.testing.assert_allclose(now.next_values[-1][goes_on[-1]], after[goes_on[-1]], atol=1e-12)
    assert np.abs(now.values - rollout.values)[rollout.valid].min() > 1e-6
    np.testing.assert_array_equal(now.next_values[rollout.truncated], rollout.next_values[rollout.truncated])
    for name in ("observations", "actions", "log_probs", "rewards", "terminated", "truncated", "starts", "valid", "episode_ids"):
        assert getattr(now, name) is getattr(rollout, name)


@pytest.mark.parametrize("make", [mlp, language_model, lambda: GRUPolicy(8, len(WORDS), 8).to(torch.float64)])
def test_what_is_joined_is_judged_as_alone(make: Any) -> None:
    """Whole episodes of different lengths, padded: each column's estimate is its own, and padding counts nowhere."""
    with seeded(0):
        policy = make()
    rollouts = []
    for seed, num_envs, limit in ((0, 3, None), (1, 4, 2)):
        env = GymVectorEnv(SmallCore(), num_envs, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=limit)
        rollout = collect(env, policy, begin(env, policy, seed=seed), np.random.default_rng(seed), episodes_per_row=1).rollout
        rollouts.append(rollout._replace(target_log_probs=rollout.log_probs - 0.1, groups=rollout.episode_ids))
    assert len(rollouts[0].valid) > len(rollouts[1].valid)
    both = joined(rollouts[::-1])
    assert both.valid.shape == (len(rollouts[0].valid), 7)
    assert both.valid.sum() == sum(rollout.valid.sum() for rollout in rollouts)
    assert len(np.unique(both.episode_ids[both.valid])) == 7
    assert both.groups is None
    whole = estimate(VTrace(0.9), both)
    for rollout, columns in ((rollouts[1], slice(0, 4)), (rollouts[0], slice(4, 7))):
        alone, steps = estimate(VTrace(0.9), rollout), len(rollout.valid)
        for ours, theirs in zip(alone, whole, strict=True):
            np.testing.assert_array_equal(ours, theirs[:steps, columns])
            assert not theirs[steps:, columns].any()
    assert log_probs_under(policy, both).shape == both.valid.shape


def test_masks_are_joined_with_what_has_none() -> None:
    shape = (2, 3)
    zeros, ones = np.zeros(shape), np.ones(shape, np.bool_)
    free = Rollout(zeros, zeros, zeros, zeros, zeros, zeros, ~ones, ~ones, ones, ones, np.zeros(shape, np.int64))
    bound = free._replace(action_masks=np.zeros((2, 3, 4), np.bool_))
    both = joined([free, bound, free])
    np.testing.assert_array_equal(both.require("action_masks").all(axis=(0, 2)), [True] * 3 + [False] * 3 + [True] * 3)
    assert joined([free, free]).action_masks is None
    assert joined([free]) is free


def test_how_far_old_steps_are_by_hand() -> None:
    """Ratios 2, 1/2 and 4 of valid steps, at rho_bar = 1: means and the effective share by hand; two rollouts, 1 and 3 iterations old."""
    old = enumerated(1, terminated=True).rollout
    two = old._replace(valid=np.zeros_like(old.valid), target_log_probs=old.log_probs)
    two.valid[0, :2] = True
    assert two.target_log_probs is not None
    target = two.log_probs.copy()
    target[0, :2] += np.log([2, 0.5])
    other = target.copy()
    other[0, :2] = two.log_probs[0, :2] + np.log(4)
    told = replay_metrics([two._replace(target_log_probs=target), two._replace(target_log_probs=other)], [1, 3], 1.0)
    assert told == pytest.approx(
        {"replay/rho": (1 + 0.5 + 1 + 1) / 4, "replay/truncated": 0.75, "replay/ess": 10.5**2 / (4 * (4 + 0.25 + 32)), "replay/age": 2.0}
    )
    assert replay_metrics([], [], 1.0) == {}


# --- in training ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("mode", "make"), [(AutoresetMode.NEXT_STEP, language_model), (AutoresetMode.SAME_STEP, mlp), (AutoresetMode.DISABLED, mlp)])
def test_before_every_step_the_policy_is_what_is_evaluated(algorithm: ModuleType, mode: AutoresetMode, make: Any) -> None:
    """Law 3, with old steps in the batch."""
    policy = make()
    run = train(algorithm, policy, text_env(mode), replay=2, replayed=2, temperature=0.8, episodes_per_row=None, anneal_lr=False, **OFF_POLICY)
    assert max(row["ratio_error"] for row in run.history) < 1e-9
    assert "replay/rho" not in run.history[0]
    assert run.history[1]["replay/age"] == 1
    assert [row["replay/age"] for row in run.history[2:]] == [1.5] * 4, "both of the last two, and none that is older"
    assert all(0 < row["replay/rho"] < 1 and 0 < row["replay/ess"] < 1 for row in run.history[1:])
    assert {row["steps"] for row in run.history} == {40 * k for k in range(1, 7)}, "old steps are no steps of the environment"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_old_rewards_are_shaped_by_todays_price(algorithm: ModuleType) -> None:
    watching, reference = Watching(), language_model(1)
    choices: dict[str, Any] = {"replay": 2, "advantage": watching, "normalise": "none", "episodes_per_row": 1}
    run = train(algorithm, language_model(), reference=reference, kl=AdaptiveKL(0.1, target=0.1, horizon=20), **choices)
    assert len({row["kl_price"] for row in run.history}) > 3
    assert [row["steps"] for row in run.history] == np.cumsum([rollout.valid[:, :8].sum() for rollout in watching.seen]).tolist()
    for row, rollout in zip(run.history[1:], watching.seen[1:], strict=True):
        price = row["kl_price"] * (rollout.require("target_log_probs") - rollout.require("ref_log_probs"))
        raw = np.where(rollout.valid, rollout.rewards + price, 0.0)
        assert rollout.valid.shape[1] == 16
        np.testing.assert_allclose(raw[rollout.valid & ~rollout.ends], 0, atol=1e-12)
        assert raw[rollout.ends].min() > -1e-12
        assert row["return"] == pytest.approx(raw[:, :8].sum(axis=0).mean())
        assert np.abs(rollout.log_probs - rollout.require("target_log_probs"))[:, :8].max() == 0
        assert np.abs(rollout.log_probs - rollout.require("target_log_probs"))[rollout.valid].max() > 1e-4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_old_rewards_get_todays_bonus(algorithm: ModuleType) -> None:
    watching, env = Watching(), gym.make_vec("textgym/TwoState-v0", num_envs=4, horizon=None)
    train(algorithm, present(), env, replay=2, replayed=2, bonus_coef=1.0, advantage=watching, normalise="none", episodes_per_row=None)
    counts = np.zeros((2, 2))
    for rollout in watching.seen:
        new = np.s_[:, :4]
        np.add.at(counts, (rollout.observations[new], rollout.actions[new]), 1)
        np.testing.assert_allclose(rollout.rewards - rollout.actions, 1 / np.sqrt(counts[rollout.observations, rollout.actions]), atol=1e-12)


KEPT: dict[str, tuple[ModuleType, Any, dict[str, Any]]] = {
    "windows": (ppo, language_model, {"episodes_per_row": None, "replay": 2}),
    "episodes": (policy_gradient, mlp, {"episodes_per_row": 1, "replay": 3, "replayed": 2}),
    "prompts": (ppo, mlp, {"episodes_per_row": 1, "replay": 3, "prompting": Groups(2), "num_prompts": 6}),
    "noise": (a2c, language_model, {"episodes_per_row": None, "replay": 2, "epsilon": 0.2}),
}


@pytest.mark.parametrize("name", KEPT)
def test_stopped_and_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    """Law 6: the old rollouts are part of what comes back."""

    def run(folder: str, **more: Any) -> tuple[Run, Any]:
        algorithm, make, choices = KEPT[name]
        policy = make()
        return train(algorithm, policy, reference=language_model(1), kl=FixedKL(0.1), folder=tmp_path / folder, **OFF_POLICY, **choices, **more), policy

    def stop(generator: np.random.Generator) -> dict[str, float]:
        raise OSError("power cut")

    whole, ours = run("whole")
    with pytest.raises(OSError, match="power cut"):
        run("cut", evaluate=stop, evaluate_every=4, save_every=1)
    resumed, theirs = run("cut", resume=True, save_every=1)
    assert timeless(resumed) == timeless(whole)
    assert torch.equal(weights(ours), weights(theirs))


def test_all_three_take_the_same_step_and_learn() -> None:
    """With one epoch and one minibatch PPO's ratio is 1, and its step that of the other two, old steps and all."""
    runs, ends = [], []
    for algorithm in ALGORITHMS:
        policy = small_gpt2(len(WORDS), 8, eos_id=0, width=32, layers=1, heads=2, seed=0).to(torch.float64)
        more: dict[str, Any] = {"optimizer": "adam"} if algorithm is a2c else {"num_epochs": 1, "num_minibatches": 1} if algorithm is ppo else {}
        more |= {"total_timesteps": 30 * 4 * 5, "learning_rate": 0.01, "anneal_lr": False, "episodes_per_row": 1, "replay": 8, "replayed": 8} | OFF_POLICY
        runs.append(train(algorithm, policy, text_env(num_envs=4, scorer=LetterShare("c")), seed=1, **more))
        ends.append(weights(policy))
    for run, end in zip(runs, ends, strict=True):
        assert [row["return"] for row in run.history] == [row["return"] for row in runs[0].history]
        np.testing.assert_allclose(end, ends[0], atol=1e-7)
    assert np.mean([row["return"] for row in runs[0].history[-8:]]) > 0.9


class TestRefused:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize(
        ("choices", "said"),
        [
            ({"replay": -1}, "replayed <= replay"),
            ({"replay": 2, "replayed": 3}, "replayed <= replay"),
            ({"replay": 2, "replayed": 0}, "replayed <= replay"),
            ({"replay": 2, "advantage": GAE(), "normalise": "none"}, "did not choose all.*VTrace"),
            ({"replay": 2, "advantage": RLOO(), "episodes_per_row": 1, "prompting": Groups(2), "num_prompts": 6}, "did not choose all.*VTrace"),
            ({"replay": 2, "advantage": VTrace(), "normalise": "batch"}, "normalise='none'"),
            ({"replay": 2, **OFF_POLICY, "vf_coef": 0.0}, "trusts a critic"),
            ({"replay": 2, **OFF_POLICY, "kl": FixedKL(0.1), "kl_in": "loss"}, "kl_in='reward'"),
        ],
    )
    def test_with_the_reason(self, algorithm: ModuleType, choices: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            train(algorithm, mlp(), reference=mlp(), **choices)

    def test_what_compares_episodes_of_one_policy(self) -> None:
        class Comparing(Watching):
            needs_baselines = True

        with pytest.raises(ValueError, match="measured of one policy"):
            train(a2c, mlp(), replay=1, advantage=Comparing(), normalise="none")

    def test_a_memory_of_older_weights(self) -> None:
        def gru() -> GRUPolicy:
            with seeded(0):
                return GRUPolicy(8, len(WORDS), 8)

        with pytest.raises(ValueError, match=r"what older weights remembered.*episodes_per_row=1"):
            train(a2c, gru(), replay=1, **OFF_POLICY)
        run = train(a2c, gru(), replay=1, episodes_per_row=1, **OFF_POLICY)
        assert max(row["ratio_error"] for row in run.history) < 1e-4
