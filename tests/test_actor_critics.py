"""Policy gradient and A2C: laws 3 and 6 over whole runs, what play fills in for an estimator, what is refused, and that they learn."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import WORDS, LetterShare, SmallCore, tiny_language_model

from agents import a2c, policy_gradient
from agents.advantages import GAE, GRPO, RLOO, TD, DrGRPO, MonteCarlo, ReBN, Retrace, SelfCritical, TotalReturn, Vine, VTrace
from agents.forks import continued
from agents.kl import AdaptiveKL, FixedKL, ThresholdKL
from agents.learner import Learner
from agents.play import begin, collect, evaluate
from agents.policies import CausalLMPolicy, GRUPolicy, MLPPolicy, seeded, small_gpt2
from agents.prompting import Groups, Priority
from agents.providing import Provided, provided
from agents.run import Run
from textgym import GymVectorEnv

MODES = list(AutoresetMode)
BOTH = [policy_gradient, a2c]
PROMPTS = 6  # of helpers.small_task


def text_env(mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 8, **changes: Any) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(**changes), num_envs, autoreset_mode=mode)


def language_model(seed: int = 0) -> CausalLMPolicy:
    return tiny_language_model(seed).to(torch.float64)


def mlp() -> MLPPolicy:
    with seeded(0):
        return MLPPolicy(8, len(WORDS), (16,)).to(torch.float64)


def train(algorithm: ModuleType, policy: Any, env: GymVectorEnv | None = None, **choices: Any) -> Run:
    fields = algorithm.Config.__dataclass_fields__
    config = {"total_timesteps": 5 * 5 * 8, "num_steps": 5, "learning_rate": 0.01} | {name: choices.pop(name) for name in list(choices) if name in fields}
    return algorithm.train(env or text_env(), policy, algorithm.Config(**config), quiet=True, **choices)


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run.history]


def weights(policy: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()


@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [mlp, language_model])
def test_before_every_step_what_acted_is_what_is_evaluated(algorithm: ModuleType, mode: AutoresetMode, make: Any) -> None:
    policy = make()
    before = weights(policy)
    run = train(algorithm, policy, text_env(mode), temperature=0.8)
    assert run.done == 5
    assert max(row["ratio_error"] for row in run.history) < 1e-9
    assert not torch.equal(weights(policy), before)


JUDGED: dict[str, tuple[Any, dict[str, Any]]] = {
    "reward-to-go": (MonteCarlo(1.0, baseline="none"), {}),
    "total return": (TotalReturn(1.0), {}),
    "batch mean": (MonteCarlo(1.0, baseline="batch_mean"), {}),
    "running mean": (MonteCarlo(1.0, baseline="given"), {}),
    "learned value": (MonteCarlo(1.0, baseline="value"), {}),
    "greedy baseline": (MonteCarlo(1.0, baseline="given"), {"baselines": "greedy"}),
    "self-critical": (SelfCritical(), {}),
    "rebn": (ReBN(1.0), {}),
    "rloo": (RLOO(), {"prompting": Groups(4), "num_prompts": PROMPTS}),
    "grpo": (GRPO(), {"prompting": Groups(4, Priority()), "num_prompts": PROMPTS}),
    "dr grpo": (DrGRPO(), {"prompting": Groups(2), "num_prompts": PROMPTS, "normalise": "group"}),
    "vine": (Vine(), {"vine_samples": 2}),
    "gae": (GAE(1.0, 0.9), {"normalise": "batch"}),
    "v-trace": (VTrace(1.0), {}),
}


@pytest.mark.parametrize("algorithm", BOTH)
@pytest.mark.parametrize("name", JUDGED)
def test_stopped_and_resumed_equals_uninterrupted_with_every_estimator(algorithm: ModuleType, name: str, tmp_path: Path) -> None:
    """Law 6: running means, forks and chosen prompts among what must come back."""
    advantage, choices = JUDGED[name]
    choices = {"episodes_per_row": 1, "ent_coef": 0.01, "ent_coef_final": 0.0, **choices, "advantage": advantage}

    def run(folder: str, **more: Any) -> tuple[Run, Any]:
        policy = language_model()
        reference = language_model(seed=1)
        return train(algorithm, policy, reference=reference, kl=AdaptiveKL(0.1, target=0.2, horizon=40), folder=tmp_path / folder, **choices, **more), policy

    def stop(generator: np.random.Generator) -> dict[str, float]:
        raise OSError("power cut")

    whole, ours = run("whole")
    assert len({row["kl_price"] for row in whole.history}) == 5
    with pytest.raises(OSError, match="power cut"):
        run("cut", evaluate=stop, evaluate_every=3, save_every=1)
    resumed, theirs = run("cut", resume=True, save_every=1)
    assert timeless(resumed) == timeless(whole)
    assert torch.equal(weights(ours), weights(theirs))


class TestForks:
    def test_a_greedy_baseline_is_what_a_greedy_episode_from_the_same_prompt_earns(self) -> None:
        env, policy = text_env(num_envs=6), language_model()
        learner = Learner.start(env, policy, torch.optim.Adam(policy.parameters()), 0, Groups(2), PROMPTS)
        rollout = learner.play(5, 1, fill=Provided(baselines="greedy")).rollout
        prompts, _ = np.unique(rollout.observations[0, :, :3], axis=0, return_inverse=True)
        assert len(prompts) > 1
        for row in range(6):
            index = next(i for i in range(PROMPTS) if np.array_equal(env.reset(options={"prompt": i})[0][0, :3], rollout.observations[0, row, :3]))
            greedy = evaluate(text_env(num_envs=1), policy, np.random.default_rng(9), temperature=0.0, options={"prompt": index})
            assert rollout.require("baselines")[0, row] == greedy.returns[0]

    def test_continuations_measure_what_a_prefix_is_worth(self) -> None:
        """Against enumeration: every continuation of two tokens, weighted by its probability."""
        env, policy = text_env(num_envs=2, max_new_tokens=2), language_model()
        position = begin(env, policy, seed=0)
        exact = self.enumerated(env, policy, position.observations)
        found = continued(env, policy, position, np.array([True, True]), np.random.default_rng(0), num=4000, gamma=0.5)
        assert np.abs(found - exact).max() < 4 * 0.5 / 4000**0.5

    @staticmethod
    def enumerated(env: GymVectorEnv, policy: CausalLMPolicy, observations: np.ndarray) -> np.ndarray:
        values = []
        for row in range(len(observations)):
            total = 0.0
            for first in range(len(WORDS)):
                for second in range(1 if first == 0 else len(WORDS)):
                    fork = env.fork([row], 1)
                    play = [first] if first == 0 else [first, second]
                    log_prob, earned, seen = 0.0, 0.0, observations[row][None, None]
                    for t, token in enumerate(play):
                        log_prob += float(policy.evaluate(torch.from_numpy(seen), torch.tensor([[token]])).log_probs.detach())
                        after, reward, *_ = fork.step(np.array([token]))
                        earned += 0.5**t * float(reward[0])
                        seen = np.array(after)[None]
                    total += np.exp(log_prob) * earned
            values.append(total)
        return np.array(values)

    def test_vine_fills_values_that_the_next_step_agrees_with(self) -> None:
        env, policy = text_env(num_envs=4), language_model()
        learner = Learner.start(env, policy, torch.optim.Adam(policy.parameters()), 0)
        rollout = learner.play(5, None, fill=Provided(vine=3)).rollout
        alive = ~rollout.ends[:-1]
        np.testing.assert_array_equal(rollout.next_values[:-1][alive], rollout.values[1:][alive])
        assert set(np.unique(rollout.values * 3 * 60).round(6) % 1) <= {0.0}, "means of three shares of up to five words"
        own = collect(env, policy, begin(env, policy), np.random.default_rng(0), num_steps=5).rollout.values
        assert not own.any(), "the critic itself begins at 0"

    def test_vine_measures_before_the_step_and_not_after(self) -> None:
        """The exact value of prefixes one token before the end: what the policy expects to earn by its last token."""
        env, policy = text_env(num_envs=3, max_new_tokens=2), language_model()
        learner = Learner.start(env, policy, torch.optim.Adam(policy.parameters()), 0)
        rollout = learner.play(2, 1, fill=Provided(vine=3000)).rollout
        last = np.flatnonzero(rollout.valid[1])
        assert len(last), "no text has two tokens"
        for row in last:
            seen = torch.from_numpy(rollout.observations[1, row][None, None])
            chances = [float(policy.evaluate(seen, torch.tensor([[token]])).log_probs.detach().exp()) for token in range(len(WORDS))]
            words = [rollout.actions[0, row] == 1]
            scores = [(words[0] + (token == 1)) / (1 if token == 0 else 2) for token in range(len(WORDS))]
            assert abs(rollout.values[1, row] - np.dot(chances, scores)) < 4 * 0.5 / 3000**0.5

    def test_a_truncating_environment_cannot_be_measured(self) -> None:
        env = GymVectorEnv(SmallCore(), 4, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=2)
        policy = language_model()
        learner = Learner.start(env, policy, torch.optim.Adam(policy.parameters()), 0)
        with pytest.raises(ValueError, match="truncates"):
            learner.play(5, None, fill=Provided(vine=1))


class TestRefused:
    """A wrong combination is refused before anything is played, with the reason."""

    @pytest.mark.parametrize("algorithm", BOTH)
    @pytest.mark.parametrize(
        ("choices", "said"),
        [
            ({"advantage": MonteCarlo(), "episodes_per_row": None}, "whole episodes.*episodes_per_row=1"),
            ({"advantage": RLOO(), "episodes_per_row": 1}, "one prompt.*Groups"),
            ({"advantage": GRPO(), "episodes_per_row": 1, "prompting": Groups(1), "num_prompts": PROMPTS}, "one prompt.*Groups"),
            ({"advantage": GAE(), "vf_coef": 0.0}, "trusts a critic"),
            ({"advantage": TD(), "vf_coef": 0.0}, "trusts a critic"),
            ({"advantage": Vine()}, "vine_samples"),
            ({"advantage": Retrace()}, "action values"),
            ({"advantage": SelfCritical(), "episodes_per_row": 2}, "greedy one.*episodes_per_row=1"),
            ({"advantage": MonteCarlo(baseline="given"), "episodes_per_row": 1, "baselines": "best"}, "baselines must be"),
            ({"kl": FixedKL(0.1)}, "pass reference="),
            ({"kl": ThresholdKL(0.1, 1.0)}, "pass reference="),
            ({"kl_in": "rewards"}, "kl_in must be one of"),
            ({"normalise": "minibatch"}, "normalise must be"),
            ({"prompting": Groups(2), "episodes_per_row": 1}, "num_prompts= belong together"),
        ],
    )
    def test_with_the_reason(self, algorithm: ModuleType, choices: dict[str, Any], said: str) -> None:
        env = text_env()
        with pytest.raises(ValueError, match=said):
            train(algorithm, language_model(), env, **choices)

    @pytest.mark.parametrize("advantage", [Vine(), SelfCritical()])
    def test_what_cannot_be_forked(self, advantage: Any) -> None:
        env = gym.make_vec("CartPole-v1", num_envs=2)
        with seeded(0):
            policy = MLPPolicy.for_env(env)
        config = policy_gradient.Config(advantage=advantage, episodes_per_row=1, vine_samples=1)
        with pytest.raises(TypeError, match="cannot be forked"):
            provided(config, env, policy, None)
        with seeded(0):
            remembering = GRUPolicy(8, len(WORDS))
        with pytest.raises(TypeError, match="without memory"):
            provided(config, text_env(), remembering, None)


def test_the_penalty_in_the_loss_pulls_back_to_the_reference() -> None:
    """With nothing else to follow, the distance shrinks; and the rewards are untouched."""
    policy, reference = language_model(), language_model(seed=1)
    rewards: list[float] = []

    def nothing(rollout: Any) -> tuple[np.ndarray, np.ndarray]:
        rewards.append(float(np.abs(rollout.rewards).sum()))
        return np.zeros_like(rollout.rewards), np.zeros_like(rollout.rewards)

    choices: dict[str, Any] = {"kl": FixedKL(1.0), "kl_in": "loss", "learning_rate": 0.003, "vf_coef": 0.0}
    run = train(policy_gradient, policy, text_env(num_envs=64), reference=reference, advantage=nothing, total_timesteps=40 * 64 * 5, **choices)
    first, last = (np.mean([row["kl_step/k3"] for row in part]) for part in (run.history[:5], run.history[-5:]))
    assert last < 0.25 * first
    assert min(row["kl_loss"] for row in run.history) >= 0
    assert sum(rewards) > 0


def test_a_mixture_moves_from_imitation_to_reward() -> None:
    """All imitation is deaf to the scorer; a share that falls begins with imitation and ends with the reward."""
    wanted = torch.full((4, 3), 2)

    def mixed(first: float, last: float, letter: str) -> tuple[Run, torch.Tensor]:
        policy = language_model()

        def imitate(generator: np.random.Generator) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(policy.next_token_logits(wanted)[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())

        env = text_env(num_envs=16, scorer=LetterShare(letter))
        run = train(policy_gradient, policy, env, supervised_loss=imitate, supervised_coef=first, supervised_coef_final=last, total_timesteps=10 * 16 * 5)
        return run, weights(policy)

    assert torch.equal(mixed(1.0, 1.0, "a")[1], mixed(1.0, 1.0, "c")[1])
    moving, after = mixed(1.0, 0.0, "a")
    assert not torch.equal(after, mixed(1.0, 0.0, "c")[1])
    assert moving.history[5]["supervised_loss"] < 0.8 * moving.history[0]["supervised_loss"]
    with pytest.raises(ValueError, match="belong together"):
        train(policy_gradient, language_model(), supervised_coef=0.5)


@pytest.mark.parametrize("algorithm", BOTH)
def test_learns_what_it_is_paid_for(algorithm: ModuleType) -> None:
    policy = small_gpt2(len(WORDS), 8, eos_id=0, width=32, layers=1, heads=2, seed=0)
    env = text_env(num_envs=32, scorer=LetterShare("c"))
    choices: dict[str, Any] = {"total_timesteps": 40 * 32 * 5, "learning_rate": 0.01, "episodes_per_row": 1}
    choices |= {"advantage": MonteCarlo(1.0, baseline="value"), "optimizer": "adam"} if algorithm is a2c else {}
    run = train(algorithm, policy, env, **choices)
    assert run.history[0]["return"] < 0.3
    assert np.mean([row["return"] for row in run.history[-5:]]) > 0.9
