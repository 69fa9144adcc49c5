"""PPO: laws 3, 5, 6 and 7 over whole runs, the price of leaving a reference, and that it learns what it is paid for."""

from __future__ import annotations

import copy
import os
import random
import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import WORDS, LetterShare, SmallCore, tiny_language_model

from agents import ppo, sft, surrogates
from agents.advantages import GAE, MonteCarlo
from agents.kl import AdaptiveKL, FixedKL, adapt_kl_coef
from agents.play import begin, collect
from agents.policies import CausalLMPolicy, MLPPolicy, seeded, small_gpt2
from agents.ppo.ppo import Weights, loss
from agents.rollout import Batch, Rollout
from agents.run import Run
from agents.surrogates import Clip, KLPenalty, Surrogate
from textgym import GymVectorEnv
from textgym.task import Completions

MODES = list(AutoresetMode)
SMALL: dict[str, Any] = {"total_timesteps": 5 * 7 * 8, "num_steps": 7, "learning_rate": 0.01, "num_minibatches": 2}  # five iterations on eight rows


def text_env(mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 8, **changes: Any) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(**changes), num_envs, autoreset_mode=mode)


def language_model(dtype: torch.dtype = torch.float32, cached: bool = True, seed: int = 0) -> CausalLMPolicy:
    policy = tiny_language_model(seed).to(dtype)
    policy.use_cache = cached
    return policy


def mlp() -> MLPPolicy:
    with seeded(0):
        return MLPPolicy(8, len(WORDS), (16,))


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run.history]


def weights(policy: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()


def train(policy: Any, env: GymVectorEnv | None = None, **choices: Any) -> Run:
    config = ppo.Config(**(SMALL | {name: choices.pop(name) for name in list(choices) if name in ppo.Config.__dataclass_fields__}))
    return ppo.train(env or text_env(), policy, config, quiet=True, **choices)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [mlp, language_model, lambda: language_model(cached=False)], ids=["mlp", "cache", "no cache"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_minibatch_of_every_iteration_meets_the_policy_that_acted(mode: AutoresetMode, make: Any, temperature: float) -> None:
    policy = make()
    before = weights(policy)
    run = train(policy, text_env(mode), temperature=temperature, anneal_lr=False)
    assert run.done == 5
    assert max(row["ratio_error"] for row in run.history) < 1e-4
    assert min(row["approx_kl"] for row in run.history) > 1e-6, "the policy did not move, so the test proves nothing"
    assert not torch.equal(weights(policy), before)


@pytest.mark.parametrize("mode", MODES)
def test_cache_on_and_off_give_one_run(mode: AutoresetMode) -> None:
    """Law 5."""
    policies = [language_model(torch.float64, cached) for cached in (True, False)]
    histories = [
        timeless(train(policy, text_env(mode), reference=language_model(torch.float64, cached, seed=1), kl=FixedKL(0.1)))
        for policy, cached in zip(policies, (True, False), strict=True)
    ]
    for ours, theirs in zip(*histories, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-7, abs=1e-9), name
    np.testing.assert_allclose(weights(policies[0]), weights(policies[1]), atol=1e-7)


class TestResume:
    """Law 6, with the coefficient of the KL penalty and the episodes under way among what must come back."""

    CHOICES: dict[str, Any] = {"kl": AdaptiveKL(0.2, target=0.5, horizon=50), "evaluate_every": 1}  # noqa: RUF012

    def run(self, folder: Path, mode: AutoresetMode, evaluate: Any, **choices: Any) -> tuple[Run, CausalLMPolicy]:
        policy = language_model()
        env = text_env(mode)
        return train(policy, env, seed=4, reference=language_model(seed=1), folder=folder, evaluate=evaluate, **(self.CHOICES | choices)), policy

    def same(self, whole: tuple[Run, CausalLMPolicy], other: tuple[Run, CausalLMPolicy], folders: tuple[Path, Path]) -> None:
        assert timeless(other[0]) == timeless(whole[0])
        assert torch.equal(weights(other[1]), weights(whole[1]))
        for file in ("state.json", "arrays.safetensors"):  # optimiser, random streams, environment and position too, bit for bit
            assert (folders[0] / "checkpoints/000005" / file).read_bytes() == (folders[1] / "checkpoints/000005" / file).read_bytes()

    @pytest.mark.parametrize("k", [1, 2, 3, 4])
    @pytest.mark.parametrize("mode", MODES)
    def test_stopped_or_killed_and_resumed_equals_uninterrupted(self, tmp_path: Path, mode: AutoresetMode, k: int) -> None:
        def draw(generator: np.random.Generator) -> dict[str, float]:
            return {"draw": generator.random()}

        calls = 0

        def stop(generator: np.random.Generator) -> dict[str, float]:
            nonlocal calls
            calls += 1
            if calls == k:
                os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C: this iteration is finished and saved
            return draw(generator)

        def die(generator: np.random.Generator) -> dict[str, float]:
            nonlocal calls
            calls += 1
            if calls == k + 1:
                raise OSError("power cut")
            return draw(generator)

        whole = self.run(tmp_path / "whole", mode, draw)
        coefficients = [row["kl_price"] for row in whole[0].history]
        assert len(set(coefficients)) == 5
        stopped, _ = self.run(tmp_path / "stopped", mode, stop, save_every=None)
        assert stopped.done == k
        self.same(whole, self.run(tmp_path / "stopped", mode, draw, resume=True), (tmp_path / "whole", tmp_path / "stopped"))
        calls = 0
        with pytest.raises(OSError, match="power cut"):
            self.run(tmp_path / "died", mode, die, save_every=1)
        self.same(whole, self.run(tmp_path / "died", mode, draw, resume=True), (tmp_path / "whole", tmp_path / "died"))


def global_states() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (it is what must not be touched)
    return random.getstate(), kind, keys.tolist(), rest, torch.get_rng_state().tolist()


def test_no_run_reads_or_changes_a_global_generator() -> None:
    """Law 7: the states are as before, and the results are the same from other states."""
    sequences = sft.pad_sequences([[1, 2, 3], [2, 3, 1, 0]], 4)
    found = []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)  # noqa: NPY002
        torch.manual_seed(state)
        before = global_states()
        policy = language_model()
        warm = sft.train(policy, sequences, sequences, sft.Config(num_updates=3, batch_size=2), quiet=True)
        run = train(policy, reference=language_model(seed=1), kl=FixedKL(0.1))
        assert global_states() == before
        found.append((timeless(warm), timeless(run), weights(policy).tolist()))
    assert found[0] == found[1]


def test_other_seeds_are_other_runs_and_the_same_seed_is_the_same() -> None:
    histories = [timeless(train(language_model(), seed=seed)) for seed in (0, 0, 1)]
    assert histories[0] == histories[1] != histories[2]


class Watching:
    """GAE that keeps the rollouts it was asked about."""

    def __init__(self) -> None:
        self.seen: list[Rollout] = []

    def __call__(self, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
        self.seen.append(rollout)
        return GAE(gamma=1.0, gae_lambda=0.9)(rollout)


class TestReference:
    @pytest.mark.parametrize("mode", MODES)
    def test_the_price_is_in_the_reward_and_the_logged_return_is_not(self, mode: AutoresetMode) -> None:
        watching = Watching()
        reference = language_model(torch.float64, seed=1)
        run = train(language_model(torch.float64), text_env(mode), advantage=watching, reference=reference, kl=FixedKL(0.3), temperature=0.8)
        assert len(watching.seen) == 5
        returns: list[float] = []
        for row, rollout in zip(run.history, watching.seen, strict=True):
            reference_says = rollout.require("ref_log_probs")
            by_hand = reference.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions), None, 0.8).log_probs
            np.testing.assert_allclose(reference_says, by_hand.detach(), atol=1e-9)
            paid = rollout.rewards + 0.3 * (rollout.log_probs - reference_says)  # what the environment itself paid
            assert (rollout.rewards[~rollout.valid] == 0).all()
            np.testing.assert_allclose(paid[rollout.valid & ~rollout.ends], 0, atol=1e-12)
            at_ends = paid[rollout.ends]
            returns += at_ends.tolist()
            assert row["return"] == pytest.approx(at_ends.mean())
            assert row["episodes"] == len(at_ends)
            assert row["kl"] == pytest.approx((rollout.log_probs - reference_says)[rollout.valid].sum() / len(at_ends))
            assert row["kl_price"] == 0.3
        assert 0 < max(returns) <= 1 + 1e-12

    def test_a_copy_of_the_policy_is_no_distance_away_at_first(self) -> None:
        policy = language_model(torch.float64)
        run = train(policy, reference=copy.deepcopy(policy), kl=FixedKL(0.1), anneal_lr=False)
        assert abs(run.history[0]["kl"]) < 1e-9
        assert run.history[-1]["kl"] > 1e-4

    def test_the_coefficient_adapts(self) -> None:
        run = train(language_model(), reference=language_model(seed=1), kl=AdaptiveKL(0.2, target=0.1, horizon=100))
        for now, after in zip(run.history[:-1], run.history[1:], strict=True):
            assert after["kl_price"] == adapt_kl_coef(now["kl_price"], now["kl"], 0.1, int(now["episodes"]), 100)
        assert run.history[-1]["kl_price"] > 0.21

    def test_a_high_price_keeps_the_policy_near(self) -> None:
        distances = []
        for coef in (1e-9, 20.0):
            policy = language_model()
            run = train(policy, reference=copy.deepcopy(policy), kl=FixedKL(coef), total_timesteps=20 * 56, num_epochs=4)
            distances.append(np.mean([row["kl"] for row in run.history[-5:]]))
        assert distances[1] < 0.5 * distances[0]


class MinusShare(LetterShare):
    """The same task, paid the other way round."""

    def __call__(self, completions: Completions) -> np.ndarray:
        return -super().__call__(completions)


@pytest.mark.parametrize("make", [mlp, language_model], ids=["mlp", "language model"])
def test_it_learns_what_it_is_paid_for(make: Any) -> None:
    last = []
    for scorer in (LetterShare("a"), MinusShare("a")):
        config = ppo.Config(total_timesteps=40 * 12 * 32, num_steps=12, learning_rate=0.01)
        run = ppo.train(text_env(num_envs=32, scorer=scorer), make(), config, quiet=True)
        first = abs(run.history[0]["return"])
        assert 0.05 < first < 0.3, "an untrained policy says a word in six"
        last.append(abs(np.mean([row["return"] for row in run.history[-5:]])))
    assert last[0] > 0.75
    assert last[1] < 0.03


class TestChoices:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_steps": 0}, "num_steps must be at least 1"),
            ({"total_timesteps": 0}, "total_timesteps"),
            ({"num_epochs": 0}, "num_epochs"),
            ({"num_minibatches": 0}, "num_minibatches"),
            ({"learning_rate": 0.0}, "learning_rate must be positive"),
            ({"temperature": 0.0}, "temperature must be positive"),
            ({"temperature": float("inf")}, "temperature must be positive and finite"),
            ({"ent_coef": float("nan")}, "ent_coef must be a number"),
            ({"vf_coef": -0.5}, "vf_coef must be a number of at least 0"),
            ({"value_clip_coef": -0.2}, "value_clip_coef must be a positive number, or None"),
            ({"target_kl": float("nan")}, "target_kl must be a positive number, or None"),
            ({"value_warmup": -1}, "value_warmup"),
            ({"normalise": "rows"}, "normalise must be one of"),
        ],
    )
    def test_refused_configurations(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ppo.Config(**changes)

    @pytest.mark.parametrize("changes", [{"kl": FixedKL(0.1)}, {"kl": AdaptiveKL(0.1, target=1.0)}])
    def test_a_price_needs_a_reference(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="pass reference="):
            train(mlp(), **changes)

    def test_too_many_minibatches(self) -> None:
        with pytest.raises(ValueError, match="9 minibatches cannot be cut from 8 columns"):
            train(language_model(), num_minibatches=9)
        with pytest.raises(ValueError, match="57 minibatches cannot be cut from 56 valid steps"):
            train(mlp(), num_minibatches=57)

    @pytest.mark.parametrize("mode", MODES)
    def test_monte_carlo_refuses_windows(self, mode: AutoresetMode) -> None:
        with pytest.raises(ValueError, match="episodes_per_row"):
            train(mlp(), text_env(mode), advantage=MonteCarlo())

    def test_any_callable_is_an_advantage(self) -> None:
        def plain(rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
            return GAE(gamma=1.0, gae_lambda=0.95)(rollout)

        runs = [timeless(train(mlp(), **choice)) for choice in ({}, {"advantage": plain}, {"advantage": GAE(gamma=0.5, gae_lambda=0.0)})]
        assert runs[0] == runs[1] != runs[2]
        with pytest.raises(TypeError, match="two arrays"):
            train(mlp(), advantage=lambda rollout: rollout.rewards)

    def test_target_kl_ends_the_epochs_early(self) -> None:
        policies = [mlp() for _ in range(3)]
        for policy, choice in zip(policies, ({"num_epochs": 4, "target_kl": 1e-12}, {"num_epochs": 1}, {"num_epochs": 4}), strict=True):
            train(policy, **choice, total_timesteps=56)
        assert torch.equal(weights(policies[0]), weights(policies[1]))
        assert not torch.equal(weights(policies[0]), weights(policies[2]))

    def test_the_learning_rate_falls_in_a_straight_line(self) -> None:
        assert [row["learning_rate"] for row in train(mlp()).history] == pytest.approx([0.01, 0.008, 0.006, 0.004, 0.002])
        assert {row["learning_rate"] for row in train(mlp(), anneal_lr=False).history} == {0.01}

    def test_evaluating_more_often_changes_nothing_else(self) -> None:
        def draw(generator: np.random.Generator) -> dict[str, float]:
            return {"draw": generator.random()}

        rare, often = (timeless(train(mlp(), evaluate=draw, evaluate_every=every)) for every in (3, 1))
        assert [row["iteration"] for row in rare if "eval/draw" in row] == [2, 4]
        assert len({row["eval/draw"] for row in often}) == 5
        for one, other in zip(rare, often, strict=True):
            assert one | {"eval/draw": 0} == other | {"eval/draw": 0}


@pytest.mark.parametrize("make", [mlp, language_model], ids=["mlp", "language model"])
def test_what_is_not_valid_has_no_part_in_the_loss(make: Any) -> None:
    env, policy, config = text_env(AutoresetMode.NEXT_STEP), make(), ppo.Config(value_clip_coef=0.1, ent_coef=0.1)
    rollout = collect(env, policy, begin(env, policy, seed=1), np.random.default_rng(0), num_steps=12).rollout
    assert 5 < (~rollout.valid).sum() < 60
    advantages = np.random.default_rng(1).normal(size=rollout.valid.shape)
    results = []
    for poison in (0.0, np.nan, np.inf):
        spoilt = {name: np.where(rollout.valid, value, poison) for name, value in (("a", advantages), ("l", rollout.log_probs), ("v", rollout.values))}
        batch = Batch(
            rollout.observations,
            rollout.actions,
            spoilt["l"],
            spoilt["v"],
            spoilt["a"],
            spoilt["a"] + spoilt["v"],
            rollout.valid,
            rollout.starts,
            None,
            None,
            None,
        )
        objective, parts = loss(policy, batch, config, Weights(1.0, config.ent_coef, 0.0, 0.2))
        policy.zero_grad()
        objective.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in policy.parameters() if parameter.grad is not None])
        results.append((float(objective.detach()), {name: float(value.detach()) for name, value in parts.items()}, gradient.tolist()))
    assert results[0] == results[1] == results[2]
    by_hand = results[0][1]
    assert results[0][0] == pytest.approx(by_hand["policy_loss"] + 0.5 * by_hand["value_loss"] - 0.1 * by_hand["entropy"])
    assert np.isfinite(results[0][2]).all()


def test_a_policy_must_fit_its_environment() -> None:
    env = GymVectorEnv(SmallCore(), 2)
    for vocab_size in (4, 9):  # a larger one would take the pads for words
        with pytest.raises(ValueError, match=rf"6 token ids, the policy was built for {vocab_size}"):
            ppo.train(env, small_gpt2(vocab_size, 8, width=8, layers=1, heads=1), quiet=True)
    with pytest.raises(TypeError, match="make_vec"):
        ppo.train(gym.make("CartPole-v1"), MLPPolicy(4, 2), quiet=True)
    with pytest.raises(TypeError, match=r"GAE\(\)"):
        ppo.Config(advantage="gae")


class TestSurrogates:
    @pytest.mark.parametrize("surrogate", [Clip(), Clip(0.2, high=0.28), KLPenalty()])
    def test_each_one_learns(self, surrogate: Surrogate) -> None:
        env = text_env(num_envs=32, scorer=LetterShare("c"))
        policy = small_gpt2(len(WORDS), 8, eos_id=0, width=32, layers=1, heads=2, seed=0)
        run = train(policy, env, surrogate=surrogate, total_timesteps=20 * 32 * 7, num_epochs=2, learning_rate=0.005)
        assert run.history[0]["return"] < 0.3
        assert np.mean([row["return"] for row in run.history[-3:]]) > 0.9

    def test_the_penalty_doubles_and_halves(self) -> None:
        """Schulman et al. 2017, section 4; and the coefficient is part of what is saved."""
        penalty = KLPenalty(target=0.01, beta=1.0)
        assert [penalty.after(1.0, kl) for kl in (0.001, 0.0066, 0.01, 0.0151, 1.0)] == [0.5, 0.5, 1.0, 2.0, 2.0]
        run = train(language_model(), surrogate=KLPenalty(target=1e-7), anneal_lr=False)
        assert [row["surrogate_coef"] for row in run.history] == [1.0, 2.0, 4.0, 8.0, 16.0]

    def test_a_higher_clip_lets_unlikely_actions_gain_more(self) -> None:
        ratio, advantages, valid = torch.tensor([1.25, 1.25, 0.75, 0.75]).double(), torch.tensor([1.0, -1.0, 1.0, -1.0]).double(), torch.ones(4).bool()
        old = torch.zeros(4).double()
        losses = [Clip(0.2, high)(ratio.log(), old, advantages, valid, 0.2).loss for high in (None, 0.28)]
        assert float(losses[0]) == pytest.approx(-(1.2 - 1.25 + 0.75 - 0.8) / 4)
        assert float(losses[1]) == pytest.approx(-(1.25 - 1.25 + 0.75 - 0.8) / 4)

    def test_spellings(self) -> None:
        for surrogate in (Clip(), Clip(0.1, 0.3), KLPenalty(0.02)):
            assert surrogates.parse(surrogates.spell(surrogate)) == surrogate
            assert surrogates.from_json(surrogates.to_json(surrogate)) == surrogate
        with pytest.raises(ValueError, match="coef must be a number"):
            surrogates.parse("clip(coef=0)")
        with pytest.raises(ValueError, match="high must be a positive number"):
            surrogates.parse("clip(coef=0.2, high='0.3')")


def test_the_critic_warms_up_while_the_policy_stands_still() -> None:
    policy = mlp()
    actor = [parameter.clone() for parameter in policy.actor.parameters()]
    critic = [parameter.clone() for parameter in policy.critic.parameters()]
    train(policy, value_warmup=5, ent_coef=0.1)
    assert all(torch.equal(*pair) for pair in zip(actor, policy.actor.parameters(), strict=True))
    assert not any(torch.equal(*pair) for pair in zip(critic, policy.critic.parameters(), strict=True))
    train(policy, value_warmup=4)
    assert not all(torch.equal(*pair) for pair in zip(actor, policy.actor.parameters(), strict=True))


def test_the_price_of_leaving_can_be_paid_in_the_loss() -> None:
    def distance(place: str) -> float:
        policy = language_model()
        choices: dict[str, Any] = {"kl": FixedKL(3.0), "kl_in": place, "total_timesteps": 30 * 56, "num_epochs": 4}
        return train(policy, reference=copy.deepcopy(policy), **choices).history[-1]["kl_step/k3"]

    free = train(policy := language_model(), reference=copy.deepcopy(policy), total_timesteps=30 * 56, num_epochs=4).history[-1]["kl_step/k3"]
    assert distance("loss") < 0.3 * free
    assert distance("reward") < 0.3 * free
