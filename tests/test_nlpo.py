"""NLPO's mask: which actions it allows, that sampling and evaluating agree on it, when it moves, laws 3 and 6 with it, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import WORDS, LetterShare, SmallCore, tiny_language_model
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import masking, ppo
from agents.advantages import GAE, MonteCarlo, VTrace
from agents.kl import FixedKL
from agents.masking import NLPO, Masked, likeliest, masking_policy
from agents.play import begin, collect, log_probs_under
from agents.policies import GaussianPolicy, GRUPolicy, MLPPolicy, SeparateCritic, seeded, small_gpt2
from agents.rollout import Rollout
from agents.run import Run
from textgym import GymVectorEnv
from textgym.constraints import NoRepeat

MODES = list(AutoresetMode)


def text_env(mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 8, **changes: Any) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(**changes), num_envs, autoreset_mode=mode)


def language_model(seed: int = 0) -> Any:
    return tiny_language_model(seed).to(torch.float64)


def mlp() -> MLPPolicy:
    with seeded(0):
        return MLPPolicy(8, len(WORDS), (16,)).to(torch.float64)


def separate() -> SeparateCritic:
    return SeparateCritic(language_model(), mlp())


def train(policy: Any, env: Any = None, **choices: Any) -> Run:
    fields = ppo.Config.__dataclass_fields__
    config: dict[str, Any] = {"total_timesteps": 6 * 5 * 8, "num_steps": 5, "learning_rate": 0.01, "num_minibatches": 2, "anneal_lr": False}
    config |= {name: choices.pop(name) for name in list(choices) if name in fields}
    return ppo.train(env or text_env(), policy, ppo.Config(**config), quiet=True, **choices)


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run.history]


def weights(policy: Any) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()


class Watching:
    """GAE that keeps the rollouts it was asked about, and the policy of the moment."""

    bootstraps = True

    def __init__(self, policy: Any) -> None:
        self.policy, self.seen, self.then = policy, list[Rollout](), list[Any]()

    def __call__(self, rollout: Rollout) -> Any:
        self.seen.append(rollout)
        self.then.append(copy.deepcopy(self.policy))
        return GAE(1.0, 0.9)(rollout)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), st.floats(0, 1))
def test_the_fewest_likeliest_that_have_the_share(counts: list[int], top_p: float) -> None:
    chances = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    mask = likeliest(chances.log(), top_p)
    assert mask[chances.argmax()]
    assert not mask[chances == 0].any()
    if not mask.all():
        assert chances[mask].min() >= chances[~mask].max()
    assert chances[mask].sum() >= top_p - 1e-12
    assert mask.sum() == 1 or chances[mask].sum() - chances[mask].min() < top_p + 1e-12


def test_by_hand() -> None:
    log_probs = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]], dtype=torch.float64).log()
    for top_p, allowed in ((0.0, [[1], [2], [0]]), (0.45, [[1], [2], [0]]), (0.7, [[1, 2], [0, 2], [0]]), (1.0, [[0, 1, 2], [0, 1, 2], [0]])):
        assert [np.flatnonzero(row).tolist() for row in likeliest(log_probs, top_p).numpy()] == allowed
    sevenths = torch.tensor([1 / 7] * 7 + [0.0], dtype=torch.float64).log()  # whose sum, rounded, is less than 1
    assert sevenths.exp().cumsum(0)[-1] < 1
    assert likeliest(sevenths, 1.0).tolist() == [True] * 7 + [False]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [mlp, language_model, separate])
@pytest.mark.parametrize("constrained", [False, True])
def test_what_is_sampled_and_stored_is_what_both_masks_allow(make: Any, mode: AutoresetMode, constrained: bool) -> None:
    env, policy, other = text_env(mode, **({"constraint": NoRepeat(1)} if constrained else {})), make(), make()
    with torch.no_grad(), seeded(7):
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    actor: Any = Masked(policy, other, 0.6)
    rollout = collect(env, actor, begin(env, policy, seed=0), np.random.default_rng(0), num_steps=9, temperature=0.7).rollout
    masks, seen = rollout.require("action_masks"), torch.from_numpy(rollout.observations)
    if not constrained:
        np.testing.assert_array_equal(masks, likeliest(other.distributions(seen, None, 0.7), 0.6))
    else:
        used = (rollout.observations[..., None] == np.arange(6)).any(axis=2)
        assert not (masks & used)[rollout.valid][:, 1:].any(), "no word comes twice"
    assert 1 < masks[rollout.valid].sum(-1).mean() < 5
    assert np.take_along_axis(masks, rollout.actions[..., None], -1).all()
    told = policy.evaluate(seen, torch.from_numpy(rollout.actions), torch.from_numpy(masks), 0.7)
    np.testing.assert_allclose(told.log_probs.detach()[rollout.valid], rollout.log_probs[rollout.valid], atol=1e-9)
    everything = policy.distributions(seen, torch.from_numpy(masks), 0.7).exp().detach().numpy()
    assert not everything[~masks].any()
    np.testing.assert_allclose(everything.sum(-1), 1, atol=1e-9)


@pytest.mark.parametrize(("mode", "make"), [(AutoresetMode.NEXT_STEP, language_model), (AutoresetMode.SAME_STEP, mlp), (AutoresetMode.DISABLED, separate)])
def test_before_every_step_what_acted_is_what_is_evaluated(make: Any, mode: AutoresetMode) -> None:
    """Law 3."""
    policy = make()
    before = weights(policy)
    run = train(policy, text_env(mode), nlpo=NLPO(0.7, 2), temperature=0.8, reference=make(), kl=FixedKL(0.05))
    assert max(row["ratio_error"] for row in run.history) < 1e-9
    assert not torch.equal(weights(policy), before)


def test_the_mask_follows_every_so_many_iterations() -> None:
    policy = language_model()
    watching = Watching(policy)
    train(policy, nlpo=NLPO(0.6, 3), advantage=watching, learning_rate=0.05)
    assert len(watching.seen) == 6
    for i, rollout in enumerate(watching.seen):
        masks, seen = rollout.require("own_masks"), torch.from_numpy(rollout.observations)
        assert rollout.action_masks is None
        found = [bool((likeliest(then.distributions(seen).detach(), 0.6).numpy() == masks).all()) for then in watching.then]
        assert found[i // 3 * 3], "the policy as it stood when the mask was made"
        assert not found[(i // 3 * 3 + 3) % 6]


@pytest.mark.parametrize("constrained", [False, True])
def test_the_reference_is_read_under_the_environments_mask_alone(constrained: bool) -> None:
    policy, reference = language_model(), language_model(1)
    watching, env = Watching(policy), text_env(AutoresetMode.NEXT_STEP, **({"constraint": NoRepeat(1)} if constrained else {}))
    train(policy, env, nlpo=NLPO(0.6, 2), advantage=watching, reference=reference, kl=FixedKL(0.3))
    for rollout in watching.seen:
        told = log_probs_under(reference, rollout._replace(action_masks=env_masks(rollout) if constrained else None))
        np.testing.assert_allclose(rollout.require("ref_log_probs")[rollout.valid], told[rollout.valid], atol=1e-9)
        inside = rollout.valid & ~rollout.ends
        np.testing.assert_allclose(rollout.rewards[inside], -0.3 * (rollout.log_probs - told)[inside], atol=1e-9)
        assert not (rollout.require("own_masks") & ~(env_masks(rollout) if constrained else np.True_))[rollout.valid].any()


def env_masks(rollout: Rollout) -> np.ndarray:
    """Return what NoRepeat(1) allows [T, N, A]: EOS, and what was not said."""
    used: np.ndarray = (rollout.observations[..., None] == np.arange(6)).any(axis=2)
    return ~used | (np.arange(6) == 0) | ~rollout.valid[..., None]


def test_without_a_share_to_forbid_nothing_changes() -> None:
    runs = [timeless(train(language_model(), **choice)) for choice in ({}, {"nlpo": NLPO(1.0, 1)}, {"nlpo": NLPO(0.5, 1)})]
    for ours, theirs in zip(runs[0], runs[1], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert runs[0] != runs[2]


def test_a_greedy_baseline_is_greedy_under_the_mask_too() -> None:
    run = train(language_model(), nlpo=NLPO(0.5, 2), episodes_per_row=1, advantage=MonteCarlo(1.0, baseline="given"), baselines="greedy")
    assert max(row["ratio_error"] for row in run.history) < 1e-9


def test_it_learns() -> None:
    policy = small_gpt2(len(WORDS), 8, eos_id=0, width=32, layers=1, heads=2, seed=0)
    run = train(policy, text_env(num_envs=32, scorer=LetterShare("c")), nlpo=NLPO(0.95, 5), total_timesteps=15 * 32 * 7, num_steps=7)
    assert run.history[0]["return"] < 0.3
    assert np.mean([row["return"] for row in run.history[-3:]]) > 0.9


@pytest.mark.parametrize("k", [1, 4])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, k: int) -> None:
    """Law 6: the masking policy is older than the policy, and comes back as it was."""

    def stop(generator: np.random.Generator) -> dict[str, float]:
        raise OSError("power cut")

    def run(folder: str, **more: Any) -> tuple[Run, Any]:
        policy = language_model()
        return train(policy, nlpo=NLPO(0.6, 3), learning_rate=0.05, folder=tmp_path / folder, **more), policy

    whole, ours = run("whole")
    with pytest.raises(OSError, match="power cut"):
        run("cut", evaluate=stop, evaluate_every=k + 1, save_every=1)
    resumed, theirs = run("cut", resume=True, save_every=1)
    assert timeless(resumed) == timeless(whole)
    assert torch.equal(weights(ours), weights(theirs))


class TestChoices:
    def test_spellings(self) -> None:
        for choice in (None, NLPO(), NLPO(0.5, 7)):
            assert masking.parse(masking.spell(choice)) == choice
            assert masking.from_json(masking.to_json(choice)) == choice
        assert masking.parse("nlpo") == NLPO(top_p=0.9, every=20)
        assert masking.spell(NLPO()) == "nlpo(top_p=0.9, every=20)"

    @pytest.mark.parametrize(
        ("text", "said"),
        [("nlpo(top_p=1.5)", "top_p must be"), ("nlpo(every=0)", "every must be"), ("nplo", "did you mean 'nlpo'"), ("nlpo(k=3)", "top_p")],
    )
    def test_wrong_spellings(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            masking.parse(text)

    @pytest.mark.parametrize("choices", [{"epsilon": 0.1}, {"replay": 2}])
    def test_what_would_undo_it(self, choices: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="nlpo=None"):
            ppo.Config(nlpo=NLPO(), advantage=VTrace(), normalise="none", **choices)

    def test_policies_that_cannot_say(self) -> None:
        with seeded(0):
            remembering = GRUPolicy(8, len(WORDS))
        with pytest.raises(TypeError, match="remembers"):
            train(remembering, nlpo=NLPO())
        env = gym.wrappers.vector.ClipAction(gym.make_vec("Pendulum-v1", num_envs=2))
        with pytest.raises(TypeError, match="cannot tell"):
            train(GaussianPolicy.for_env(env), env, nlpo=NLPO())
        chunks = small_gpt2(len(WORDS), 8, eos_id=0, width=16, layers=1, heads=1, chunk=2)
        with pytest.raises(TypeError, match="cannot tell"):
            train(chunks, text_env(chunk=2), nlpo=NLPO())

    def test_the_copy_is_frozen_and_apart(self) -> None:
        policy = language_model()
        frozen: Any = masking_policy(policy)
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
        assert all(parameter.requires_grad for parameter in policy.parameters())
        with torch.no_grad():
            next(policy.parameters()).add_(1.0)
        assert not torch.equal(weights(policy), weights(frozen))
