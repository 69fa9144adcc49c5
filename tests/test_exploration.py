"""Noise and bonuses: what is sampled and what is said of it, laws 3 and 6 with both, what is refused, and that a bonus finds what chance does not."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from helpers import WORDS, LetterShare, SmallCore, tiny_language_model

from agents import a2c, policy_gradient, ppo
from agents.advantages import GAE, MonteCarlo, VTrace
from agents.exploration import Noisy, Visits, told_apart
from agents.kl import FixedKL
from agents.play import begin, collect, evaluate, log_probs_under
from agents.policies import GaussianPolicy, GRUPolicy, Memory, MLPPolicy, TabularPolicy, seeded, small_gpt2
from agents.rollout import Rollout
from agents.run import Run
from textgym import GymVectorEnv
from textgym.constraints import NoRepeat

ALGORITHMS = [policy_gradient, a2c, ppo]
OFF_POLICY: dict[str, Any] = {"advantage": VTrace(1.0), "normalise": "none"}


def text_env(mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 8, **changes: Any) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(**changes), num_envs, autoreset_mode=mode)


def language_model() -> Any:
    return tiny_language_model().to(torch.float64)


def mlp() -> MLPPolicy:
    with seeded(0):
        return MLPPolicy(8, len(WORDS), (16,)).to(torch.float64)


def gru() -> GRUPolicy:
    with seeded(0):
        return GRUPolicy(8, len(WORDS), 8).to(torch.float64)


def two_state(num_envs: int = 8, **choices: Any) -> VectorEnv[Any, Any, Any]:
    return gym.make_vec("textgym/TwoState-v0", num_envs=num_envs, **choices)


def table(seed: int = 0) -> TabularPolicy:
    policy = TabularPolicy(2, 2)
    policy.logits.data = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 2)))
    return policy


def train(algorithm: ModuleType, policy: Any, env: Any = None, **choices: Any) -> Run:
    fields = algorithm.Config.__dataclass_fields__
    config = {"total_timesteps": 5 * 5 * 8, "num_steps": 5, "learning_rate": 0.01} | {name: choices.pop(name) for name in list(choices) if name in fields}
    return algorithm.train(env or text_env(), policy, algorithm.Config(**config), quiet=True, **choices)


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run.history]


def weights(policy: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()


class TestNoise:
    @pytest.mark.parametrize("make", [mlp, gru, language_model])
    def test_actions_come_from_the_mixture_over_what_is_allowed(self, make: Any) -> None:
        policy, masks = make(), np.tile([True, True, False, True, False, True], (4000, 1))
        observations = np.tile([6, 1, 2, 6, 6, 6, 6, 6], (4000, 1))
        state, starts = policy.initial_state(4000), np.ones(4000, np.bool_)
        step = Noisy(policy, 0.3, 6).act(observations, state, starts, np.random.default_rng(0), masks, 0.8)
        memory = Memory(torch.from_numpy(state[:1]), torch.ones(1, 1, dtype=torch.bool)) if isinstance(state, np.ndarray) else None
        told = policy.distributions(torch.from_numpy(observations[None, :1]), torch.from_numpy(masks[None, :1]), 0.8, memory).exp().detach().numpy()[0, 0]
        expected = 0.7 * told + 0.3 * masks[0] / 4
        found = np.bincount(step.actions, minlength=6) / 4000
        assert not found[~masks[0]].any()
        assert np.abs(found - expected).max() < 4 * 0.5 / 4000**0.5
        assert abs(np.isnan(step.log_probs).mean() - 0.3) < 4 * 0.5 / 4000**0.5
        np.testing.assert_allclose(step.values, step.values[0], atol=1e-12)

    @pytest.mark.parametrize("epsilon", [0.25, 1.0])
    @pytest.mark.parametrize("make", [mlp, gru, language_model])
    @pytest.mark.parametrize("masked", [False, True])
    def test_log_probs_are_those_of_the_mixture_and_targets_the_policys(self, make: Any, masked: bool, epsilon: float) -> None:
        env, policy = text_env(**({"constraint": NoRepeat(1)} if masked else {})), make()
        noisy = Noisy.for_env(env, policy, epsilon)
        played = collect(env, noisy, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=9, temperature=0.7).rollout  # type: ignore[arg-type]
        rollout = told_apart(played, noisy, 0.7)
        target = log_probs_under(policy, rollout, 0.7)
        np.testing.assert_allclose(rollout.require("target_log_probs"), target, atol=1e-9)
        allowed = np.full(target.shape, 6) if rollout.action_masks is None else rollout.action_masks.sum(-1)
        assert (allowed.min() < 6) == masked
        np.testing.assert_allclose(np.exp(rollout.log_probs), (1 - epsilon) * np.exp(target) + epsilon / allowed, rtol=1e-9)
        assert 0 < np.isnan(played.log_probs).mean() <= epsilon + 0.2

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("make", [mlp, gru, language_model])
    def test_before_every_step_what_the_policy_said_is_what_is_evaluated(self, algorithm: ModuleType, make: Any) -> None:
        """Law 3: of the policy itself, and not of the mixture, from which the first ratios would be far."""
        policy = make()
        before = weights(policy)
        run = train(algorithm, policy, text_env(AutoresetMode.NEXT_STEP), epsilon=0.3, temperature=0.8, episodes_per_row=None, **OFF_POLICY)
        assert max(row["ratio_error"] for row in run.history) < 1e-9
        assert not torch.equal(weights(policy), before)

    @pytest.mark.parametrize("algorithm", [a2c, ppo])
    def test_the_present_policy_is_what_learns(self, algorithm: ModuleType) -> None:
        """All noise, and still the letter that pays is learned: the ratios say what the policy would have got."""
        policy = small_gpt2(len(WORDS), 8, eos_id=0, width=32, layers=1, heads=2, seed=0)
        choices: dict[str, Any] = {"total_timesteps": 25 * 32 * 5, "learning_rate": 0.01, "episodes_per_row": 1} | OFF_POLICY
        choices |= {"optimizer": "adam"} if algorithm is a2c else {}
        run = train(algorithm, policy, text_env(num_envs=32, scorer=LetterShare("c")), epsilon=0.5, **choices)
        env = text_env(num_envs=64, scorer=LetterShare("c"))
        assert run.history[0]["return"] < 0.3
        assert evaluate(env, policy, np.random.default_rng(0), seed=1).returns.mean() > 0.8


class TestBonus:
    def test_what_is_paid_by_hand(self) -> None:
        env = two_state(2)
        visits = Visits.for_env(env)
        rollout = collect(env, table(), begin(env, table(), seed=0), np.random.default_rng(0), num_steps=3).rollout
        states, actions = np.array([[0, 1], [0, 1], [1, 1]]), np.array([[1, 1], [1, 0], [0, 1]])
        rollout = rollout._replace(observations=states, actions=actions, valid=np.array([[True, True], [True, True], [True, False]]))
        visits.add(rollout)
        assert visits.counts.tolist() == [[0, 2], [2, 1]]
        np.testing.assert_allclose(visits.bonus(rollout, 0.6), 0.6 / np.sqrt([[2, 1], [2, 2], [2, np.inf]]))
        assert visits.share() == 0.75

    def test_boxes_of_integers_are_tables_too(self) -> None:
        class Grid(gym.Env[Any, Any]):
            observation_space = gym.spaces.Box(np.array([-1, 2]), np.array([1, 5]), dtype=np.int64)
            action_space = gym.spaces.Discrete(3)

        env = gym.vector.SyncVectorEnv([Grid])
        visits = Visits.for_env(env)
        assert visits.counts.shape == (12, 3)
        shape = (12, 1)
        every = np.array([[x, y] for x in (-1, 0, 1) for y in (2, 3, 4, 5)])[:, None]
        ones = np.ones(shape, np.bool_)
        zeros = np.zeros(shape)
        rollout = Rollout(every, np.full(shape, 2), zeros, zeros, zeros, zeros, ~ones, ~ones, ones, ones, np.zeros(shape, np.int64))
        visits.add(rollout)
        assert visits.counts.tolist() == [[0, 0, 1]] * 12

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_it_is_in_the_reward_and_the_logged_return_is_not(self, algorithm: ModuleType) -> None:
        seen: list[Rollout] = []

        def watching(rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
            seen.append(rollout)
            return GAE(0.9)(rollout)

        run = train(algorithm, table(), two_state(horizon=5), advantage=watching, bonus_coef=2.0, episodes_per_row=1)
        counts = np.zeros((2, 2))
        for row, rollout in zip(run.history, seen, strict=True):
            np.add.at(counts, (rollout.observations, rollout.actions), 1)
            bonus = 2.0 / np.sqrt(counts[rollout.observations, rollout.actions])
            np.testing.assert_allclose(rollout.rewards - bonus, rollout.actions, atol=1e-12)  # TwoState pays the state reached, the action
            assert row["return"] == pytest.approx(rollout.actions.sum(axis=0).mean())
            assert row["bonus"] == pytest.approx(bonus.mean())
            assert row["tried"] == (counts > 0).mean()

    @staticmethod
    def found(seed: int, bonus_coef: float, num_iterations: int) -> int:
        """Return in how many iterations somebody reached the end of a corridor of 22 cells within 44 moves. The settings were chosen on seeds 0 to 2."""
        env = gym.make_vec("textgym/PathPlanning-v0", num_envs=16, map="S" + "." * 20 + "G", view="cell", max_steps=44)
        steps = num_iterations * 16 * 22
        config = ppo.Config(steps, num_steps=22, learning_rate=0.02, anneal_lr=False, advantage=GAE(0.99, 0.95), ent_coef=0.01, bonus_coef=bonus_coef)
        return sum(row.get("return", 0) > 0 for row in ppo.train(env, TabularPolicy.for_env(env), config, seed=seed, quiet=True).history)

    def test_it_finds_what_chance_does_not(self) -> None:
        assert self.found(10, 0.0, 90) == 0
        assert self.found(10, 0.1, 90) > 5

    @pytest.mark.slow
    def test_it_finds_what_chance_does_not_with_other_seeds(self) -> None:
        assert [self.found(seed, 0.0, 100) for seed in range(11, 20)] == [0] * 9
        assert min(self.found(seed, 0.1, 100) for seed in range(11, 20)) > 5


KEPT: dict[str, dict[str, Any]] = {
    "noise": {"epsilon": 0.3, **OFF_POLICY},
    "bonus": {"bonus_coef": 0.5, "advantage": GAE(0.9)},
    "both": {"epsilon": 0.3, "bonus_coef": 0.5, **OFF_POLICY},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", KEPT)
def test_stopped_and_resumed_equals_uninterrupted(algorithm: ModuleType, name: str, tmp_path: Path) -> None:
    """Law 6."""

    def stop(generator: np.random.Generator) -> dict[str, float]:
        raise OSError("power cut")

    def run(folder: str, **more: Any) -> tuple[Run, Any]:
        policy = table()
        return train(algorithm, policy, two_state(horizon=4), folder=tmp_path / folder, **KEPT[name], **more), policy

    whole, ours = run("whole")
    with pytest.raises(OSError, match="power cut"):
        run("cut", evaluate=stop, evaluate_every=3, save_every=1)
    resumed, theirs = run("cut", resume=True, save_every=1)
    assert timeless(resumed) == timeless(whole)
    assert torch.equal(weights(ours), weights(theirs))


class TestRefused:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize(
        ("choices", "said"),
        [
            ({"epsilon": 1.5}, "epsilon is a share"),
            ({"epsilon": float("nan")}, "epsilon is a share"),
            ({"bonus_coef": -1.0}, "bonus_coef must be"),
            ({"bonus_coef": float("inf")}, "bonus_coef must be"),
            ({"epsilon": 0.1, "advantage": GAE(), "normalise": "none"}, "did not choose all.*VTrace"),
            ({"epsilon": 0.1, "advantage": MonteCarlo(baseline="none"), "normalise": "none", "episodes_per_row": 1}, "did not choose all.*VTrace"),
            ({"epsilon": 0.1, "advantage": VTrace(), "normalise": "batch"}, "normalise='none'"),
            ({"epsilon": 0.1, **OFF_POLICY, "kl": FixedKL(0.1), "kl_in": "loss", "reference": True}, "kl_in='reward'"),
        ],
    )
    def test_with_the_reason(self, algorithm: ModuleType, choices: dict[str, Any], said: str) -> None:
        choices = {name: mlp() if name == "reference" else value for name, value in choices.items()}
        with pytest.raises(ValueError, match=said):
            train(algorithm, mlp(), **choices)

    def test_real_numbers_and_chunks_have_no_noise(self) -> None:
        env = gym.wrappers.vector.ClipAction(gym.make_vec("Pendulum-v1", num_envs=2))
        with pytest.raises(TypeError, match="set epsilon=0"):
            train(ppo, GaussianPolicy.for_env(env), env, epsilon=0.1, **OFF_POLICY)
        env, policy = GymVectorEnv(SmallCore(chunk=2), 2), small_gpt2(len(WORDS), 8, eos_id=0, width=16, layers=1, heads=1, chunk=2)
        with pytest.raises(TypeError, match="set epsilon=0"):
            train(ppo, policy, env, epsilon=0.1, **OFF_POLICY)

    def test_what_is_no_table_has_no_bonus(self) -> None:
        for env, policy in ((text_env(), mlp()), (gym.make_vec("CartPole-v1", num_envs=2), MLPPolicy(4, 2))):
            with pytest.raises(TypeError, match="bonus_coef=0"):
                train(a2c, policy, env, bonus_coef=0.1)

    def test_a_price_in_the_reward_is_that_of_the_policy_and_not_of_the_noise(self) -> None:
        seen: list[Rollout] = []

        class Watching:
            bootstraps, needs_target_log_probs = True, True

            def __call__(self, rollout: Rollout) -> Any:
                seen.append(rollout)
                return VTrace(1.0)(rollout)

        reference = tiny_language_model(seed=1).to(torch.float64)
        env = text_env(max_new_tokens=5)
        train(a2c, language_model(), env, epsilon=0.4, advantage=Watching(), reference=reference, kl=FixedKL(0.5))
        for rollout in seen:
            price = 0.5 * (rollout.require("target_log_probs") - rollout.require("ref_log_probs"))
            inside = rollout.valid & ~rollout.ends
            np.testing.assert_allclose(rollout.rewards[inside], -price[inside], atol=1e-9)
