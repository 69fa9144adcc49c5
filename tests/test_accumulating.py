"""Law 5: an optimiser step on micro-batches is the step on the whole batch, in every algorithm.

Axis legend: T steps, B columns of a batch, N rows, L observation columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import PROMPTS, SmallCore
from test_chunk_policies import chunk_policy
from test_evaluating import ids_read
from test_policies import Picky, language_model
from test_small_policies import build, envs
from torch import Tensor

from agents import a2c, policy_gradient, ppo
from agents.accumulating import accumulate, parts
from agents.advantages import GAE, MonteCarlo
from agents.kl import FixedKL
from agents.play import begin, collect
from agents.policies import MLPPolicy, seeded, small_t5
from agents.policies.prefixes import CALL
from agents.prompting import Groups
from agents.rollout import Batch, Rollout, minibatches
from textgym import GymEnv, GymVectorEnv

BIG = {"max_new_tokens": 12}
Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]


def text_env(mode: AutoresetMode = AutoresetMode.SAME_STEP, num_envs: int = 6) -> GymVectorEnv:
    return GymVectorEnv(SmallCore(**BIG), num_envs, autoreset_mode=mode)


def filled(rollout: Rollout, seed: int = 0) -> Rollout:
    """Return a rollout with what a loss may read, such as a reference's opinion, and log-probabilities that are some way off."""
    rng = np.random.default_rng(seed)
    noise = 0.3 * rng.standard_normal((2, *rollout.valid.shape))
    return rollout._replace(log_probs=rollout.log_probs + noise[0], ref_log_probs=rollout.log_probs + noise[1])


def whole_batch(rollout: Rollout, by_column: bool) -> Batch:
    rng = np.random.default_rng(1)
    advantages, targets = rng.standard_normal((2, *rollout.valid.shape))
    (batch,) = minibatches(rollout, advantages, targets, 1, rng, by_column=by_column)
    return batch


PPO = ppo.Config(ent_coef=0.03, value_clip_coef=0.1, kl_in="loss", kl=FixedKL(0.2), temperature=0.8)
A2C = a2c.Config(ent_coef=0.03, kl_in="loss", kl=FixedKL(0.2), temperature=0.8)
REINFORCE = policy_gradient.Config(ent_coef=0.03, vf_coef=0.5, kl_in="loss", kl=FixedKL(0.2), temperature=0.8)
LOSSES: dict[str, Callable[[Any], Loss]] = {
    "ppo": lambda policy: lambda batch: ppo.ppo.loss(policy, batch, PPO, ppo.ppo.Weights(1.0, 0.03, 0.2, 0.2)),
    "a2c": lambda policy: lambda batch: a2c.a2c.loss(policy, batch, A2C, 0.03, 0.2),
    "policy_gradient": lambda policy: lambda batch: policy_gradient.policy_gradient.loss(policy, batch, REINFORCE, 0.03, 0.2),
}


def text_rollout(mode: AutoresetMode) -> tuple[Any, Rollout]:
    env, policy = text_env(mode), language_model(positions=16)
    return policy, collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), episodes_per_row=1).rollout


def masked_rollout(mode: AutoresetMode) -> tuple[Any, Rollout]:
    env, policy = gym.vector.SyncVectorEnv([lambda: Picky(GymEnv(SmallCore()))] * 6, autoreset_mode=mode), language_model()
    return policy, collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), episodes_per_row=2).rollout


def window_rollout(mode: AutoresetMode) -> tuple[Any, Rollout]:
    """Windows that begin and end in the middle of episodes, and on steps that only reset."""
    env, policy = text_env(mode), language_model(positions=16)
    generator = np.random.default_rng(0)
    position = collect(env, policy, begin(env, policy, seed=3), generator, num_steps=7).position
    return policy, collect(env, policy, position, generator, num_steps=9).rollout


def recurrent_rollout(mode: AutoresetMode) -> tuple[Any, Rollout]:
    env = envs("box", mode)
    policy = build("gru", env)
    generator = np.random.default_rng(0)
    position = collect(env, policy, begin(env, policy, seed=3), generator, num_steps=4).position
    return policy, collect(env, policy, position, generator, num_steps=9).rollout


def plain_rollout(mode: AutoresetMode) -> tuple[Any, Rollout]:
    env = text_env(mode)
    with seeded(0):
        policy = MLPPolicy(15, 6, (16,)).double()
    return policy, collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), episodes_per_row=1).rollout


ROLLOUTS = {"text": text_rollout, "masked": masked_rollout, "window": window_rollout, "recurrent": recurrent_rollout, "plain": plain_rollout}


def gradients(policy: Any) -> dict[str, Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in policy.named_parameters() if parameter.grad is not None}
    policy.zero_grad()
    return found


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=["same step", "next step"])
@pytest.mark.parametrize("kind", ROLLOUTS)
def test_gradients_and_numbers_are_those_of_the_whole(kind: str, mode: AutoresetMode) -> None:
    policy, rollout = ROLLOUTS[kind](mode)
    batch = whole_batch(filled(rollout), policy.sequential)
    assert not policy.sequential or mode is AutoresetMode.SAME_STEP or not batch.valid.all()
    for make in LOSSES.values():
        loss = make(policy)
        objective, expected = loss(batch)
        (0.25 * objective).backward()
        wanted = gradients(policy)
        for micro_batch in (None, 4, 1) if policy.sequential else (17,):
            told = accumulate(batch, micro_batch, loss, 0.25)
            found = gradients(policy)
            assert told.keys() == expected.keys()
            for name, value in expected.items():
                assert not told[name].requires_grad
                torch.testing.assert_close(told[name], value.detach(), rtol=1e-12, atol=1e-12)
            assert found.keys() == wanted.keys()
            for name, gradient in wanted.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-12)


class TestParts:
    """How a batch is cut."""

    @staticmethod
    def ragged(num_steps: int = 7, num_columns: int = 6, seed: int = 0) -> Batch:
        """Return a batch with gaps, late beginnings, and a column in which nothing counts."""
        rng = np.random.default_rng(seed)
        valid = rng.random((num_steps, num_columns)) < 0.6
        valid[:, 2], valid[:, 4] = False, np.arange(num_steps) < 2
        number = np.arange(valid.size, dtype=np.float64).reshape(valid.shape)
        seen = np.repeat(number.astype(np.int64)[..., None], 3, axis=2)
        return Batch(seen, number.astype(np.int64), *[number] * 4, valid, valid, seen > 0, number[None, 0, :, None], None)

    @pytest.mark.parametrize("micro_batch", [None, 1, 2, 5, 6])
    def test_every_valid_step_once_and_nothing_else(self, micro_batch: int | None) -> None:
        batch = self.ragged()
        cut = list(parts(batch, micro_batch))
        counted = np.concatenate([part.advantages[part.valid] for part in cut])
        np.testing.assert_array_equal(np.sort(counted), np.sort(batch.advantages[batch.valid]))
        for part in cut:
            assert micro_batch is None or part.valid.shape[1] <= micro_batch
            assert part.valid.any(0).all(), "no column in which nothing counts"
            assert part.valid[-1].any(), "no steps behind the last that counts"
            seen = part.observations[..., 0]
            assert set(seen.ravel()) == set(part.advantages[part.valid].astype(np.int64)), "nothing is seen that does not count"
            np.testing.assert_array_equal(part.actions, seen)
            np.testing.assert_array_equal(part.action_masks[..., 0], seen > 0)
            np.testing.assert_array_equal(part.memory[0, :, 0], part.values[0] % 6)
            assert part.ref_log_probs is None

    def test_the_longest_first(self) -> None:
        lengths = np.concatenate([part.valid.sum(0) for part in parts(self.ragged(), 2)])
        assert (np.diff(lengths) <= 0).all()

    def test_a_batch_that_counts_in_full_is_handed_on_as_it_is(self) -> None:
        batch = self.ragged()
        batch = batch._replace(valid=np.ones_like(batch.valid))
        (part,) = parts(batch, None)
        assert part is batch

    def test_what_is_read_at_once_by_default(self) -> None:
        """4,096 steps: of 300 columns of 40 steps 102 at a time, and one at a time where a column alone has more."""
        flat = self.ragged()
        for num_steps, num_columns, sizes in ((40, 300, [102, 102, 96]), (4096, 2, [1, 1]), (1, 4096, [4096]), (5000, 2, [1, 1])):
            fields = {
                name: np.broadcast_to(field[:1, :1], (num_steps, num_columns, *field.shape[2:])) for name, field in flat._asdict().items() if field is not None
            }
            batch = flat._replace(**fields | {"valid": np.ones((num_steps, num_columns), np.bool_)})
            assert [part.valid.shape[1] for part in parts(batch, None)] == sizes

    def test_nothing_counts(self) -> None:
        policy, rollout = text_rollout(AutoresetMode.SAME_STEP)
        batch = whole_batch(filled(rollout), True)
        batch = batch._replace(valid=np.zeros_like(batch.valid))
        told = accumulate(batch, None, LOSSES["a2c"](policy))
        assert told["policy_loss"] == 0
        assert not any(gradient.any() for gradient in gradients(policy).values())

    @pytest.mark.parametrize("config", [ppo.Config, a2c.Config, policy_gradient.Config])
    def test_a_size_that_is_none(self, config: Any) -> None:
        with pytest.raises(ValueError, match="micro_batch must be at least 1, or None"):
            config(micro_batch=0)


@pytest.mark.parametrize("chunk", [1, 3])
def test_steps_that_do_not_count_are_not_read(chunk: int) -> None:
    """Rows that have had their quota play on; what they do then goes into no model, and little goes in twice."""
    env, policy = GymVectorEnv(SmallCore(**BIG, chunk=chunk), 6, autoreset_mode=AutoresetMode.SAME_STEP), chunk_policy(chunk)
    rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), episodes_per_row=1).rollout
    batch = whole_batch(filled(rollout), True)
    tokens = (batch.observations != policy.vocab_size).sum(-1)
    needed = int(np.where(batch.valid, tokens, 0).max(0).sum())  # each row's one episode, without its last action
    assert batch.valid.mean() < 0.7
    for micro_batch in (None, 2):
        with ids_read(policy) as shapes:
            accumulate(batch, micro_batch, LOSSES["ppo"](policy))
        assert needed <= sum(rows * width for rows, width in shapes) <= needed + 6 * (chunk - 1) + CALL
        assert sum(rows for rows, _ in shapes) == 6


def trained(train: Any, config: Any, imitate: Any, **others: Any) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    policy = language_model(positions=16)
    if imitate is not None:
        others["supervised_loss"] = lambda generator: imitate(policy, generator)
    run = train(text_env(), policy, config, seed=4, quiet=True, **others)
    return run.history, policy.state_dict()


def check_same_training(train: Any, config: type[Any], choices: dict[str, Any], sizes: tuple[int, ...], imitate: Any = None, **others: Any) -> None:
    """Train with one batch and with parts of it; all that is logged and all weights must be the same to rounding."""
    whole, expected = trained(train, config(**choices), imitate, **others)
    for size in sizes:
        history, weights = trained(train, config(**choices, micro_batch=size), imitate, **others)
        for one, other in zip(history, whole, strict=True):
            assert one.keys() == other.keys()
            for name in (name for name in one if not name.startswith("time/")):
                assert one[name] == pytest.approx(other[name], rel=1e-8, abs=1e-8), name
        for name, weight in expected.items():
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-9)


def test_an_encoder_decoder_does_not_read_them_either() -> None:
    env = text_env()
    policy = small_t5(6, 3, width=8, layers=1, heads=1)
    rollout = collect(env, policy, begin(env, policy, seed=3), np.random.default_rng(0), episodes_per_row=1).rollout
    rows: list[int] = []
    policy.model.get_encoder().register_forward_pre_hook(lambda module, args, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True)
    accumulate(whole_batch(filled(rollout), True), None, LOSSES["a2c"](policy))
    assert rows == [6]


def test_ppo_with_a_reference() -> None:
    choices: dict[str, Any] = {"total_timesteps": 2 * 6 * 8, "num_steps": 8, "num_minibatches": 2, "normalise": "minibatch", "ent_coef": 0.01}
    choices |= {"value_clip_coef": 0.2, "kl_in": "loss", "kl": FixedKL(0.1), "advantage": GAE(gamma=1.0, gae_lambda=0.9)}
    check_same_training(ppo.train, ppo.Config, choices, (1, 2), reference=language_model(positions=16, seed=7))


def test_a2c() -> None:
    choices: dict[str, Any] = {"total_timesteps": 3 * 6 * 5, "num_steps": 5, "normalise": "batch", "ent_coef": 0.01, "optimizer": "adam"}
    check_same_training(a2c.train, a2c.Config, choices, (4,))


def test_policy_gradient_with_groups_and_imitation() -> None:
    def imitate(policy: Any, generator: np.random.Generator) -> Tensor:
        """Draw from the generator, as a batch of demonstrations does."""
        tokens = torch.from_numpy(generator.integers(6, size=(2, 9)))
        return torch.nn.functional.cross_entropy(policy.next_token_logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    choices: dict[str, Any] = {"total_timesteps": 2 * 6 * 12, "num_steps": 12, "episodes_per_row": 1, "normalise": "group", "advantage": MonteCarlo()}
    choices |= {"supervised_coef": 0.4, "supervised_coef_final": 0.1}
    prompts: dict[str, Any] = {"prompting": Groups(2), "num_prompts": len(PROMPTS)}
    check_same_training(policy_gradient.train, policy_gradient.Config, choices, (1, 4), imitate, **prompts)
