"""The chance of every action: against a softmax of one's own, step by step and one row at a time, and against what `evaluate` picks from it.

Axis legend: T steps, N rows, L observation columns, A actions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from helpers import WORDS
from test_policies import disturb, language_model, text_env
from test_seq2seq import make as encoder_decoder
from test_seq2seq import plain_log_probs
from test_small_policies import build as small
from test_small_policies import envs
from torch import nn

from agents.play import begin, collect
from agents.policies import BareBase, CausalLMPolicy, Enumerable, GaussianPolicy, GRUPolicy, Memory, MLPPolicy, SeparateCritic, seeded, with_lora
from agents.rollout import Rollout

V = PAD = len(WORDS)
STEPS = 9


def plain_decoder(policy: Any, observations: np.ndarray) -> np.ndarray:
    """Return logits [T, N, V] of the library's own forward: one prefix at a time, no padding, no segments."""
    rows = observations.reshape(-1, observations.shape[-1])
    with torch.no_grad():
        logits = [policy.model(input_ids=torch.from_numpy(row[row != PAD])[None]).logits[0, -1, :V].numpy() for row in rows]
    return np.stack(logits).reshape(*observations.shape[:2], V)


def plain_encoder_decoder(policy: Any, observations: np.ndarray) -> np.ndarray:
    return plain_log_probs(policy, observations.reshape(-1, observations.shape[-1])).reshape(*observations.shape[:2], V)


def plain_table(policy: Any, observations: np.ndarray) -> np.ndarray:
    return policy.logits.detach().numpy()[observations]


def plain_mlp(policy: Any, observations: np.ndarray) -> np.ndarray:
    x = observations.astype(np.float64)
    for layer in policy.actor:
        x = np.tanh(x) if isinstance(layer, nn.Tanh) else x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    return x


def plain_cnn(policy: Any, observations: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.stack([np.stack([policy.actor(policy.trunk(torch.from_numpy(one).double()[None]))[0].numpy() for one in row]) for row in observations])


def plain_gru(policy: Any, observations: np.ndarray, rollout: Rollout) -> np.ndarray:
    """Go through each row alone, with a memory that is emptied by hand."""
    found = np.zeros((*rollout.valid.shape, 2))
    for row in range(found.shape[1]):
        state = torch.from_numpy(rollout.memory[0, row : row + 1, : policy.hidden])
        for t in range(len(found)):
            state = torch.zeros_like(state) if rollout.starts[t, row] else state
            with torch.no_grad():
                state = policy.cell(policy.encoder(torch.from_numpy(observations[t, row]).double()[None]), state)
                found[t, row] = policy.actor(state)[0].numpy()
    return found


def bare(policy: Any, observations: np.ndarray) -> np.ndarray:
    with policy.policy.model.disable_adapter():
        return plain_decoder(policy.policy, observations)


def adapted() -> Any:
    pytest.importorskip("peft")
    policy = with_lora(language_model("gpt2"), rank=4)
    disturb(policy, 3)
    return policy


def seeded_gru(hidden: int) -> GRUPolicy:
    with seeded(hidden):
        return GRUPolicy(3, 2, hidden=hidden).double()


def mlp(env: Any) -> MLPPolicy:
    with seeded(0):
        policy = MLPPolicy.for_env(env, (8,)).double()
    disturb(policy, 1)
    return policy


Kind = tuple[Callable[[AutoresetMode], Any], Callable[[Any], Any], Callable[[Any, Rollout], np.ndarray]]
KINDS: dict[str, Kind] = {
    "tabular": (lambda mode: envs("discrete", mode), lambda env: small("tabular", env), lambda policy, rollout: plain_table(policy, rollout.observations)),
    "mlp": (lambda mode: envs("box", mode), mlp, lambda policy, rollout: plain_mlp(policy, rollout.observations)),
    "cnn": (lambda mode: envs("map", mode), lambda env: small("cnn", env), lambda policy, rollout: plain_cnn(policy, rollout.observations)),
    "gru": (lambda mode: envs("box", mode), lambda env: small("gru", env), lambda policy, rollout: plain_gru(policy, rollout.observations, rollout)),
    "gpt2": (text_env, lambda env: language_model("gpt2"), lambda policy, rollout: plain_decoder(policy, rollout.observations)),
    "llama": (text_env, lambda env: language_model("llama"), lambda policy, rollout: plain_decoder(policy, rollout.observations)),
    "t5": (text_env, lambda env: encoder_decoder("t5"), lambda policy, rollout: plain_encoder_decoder(policy, rollout.observations)),
    "bart": (text_env, lambda env: encoder_decoder("bart"), lambda policy, rollout: plain_encoder_decoder(policy, rollout.observations)),
    "adapters": (text_env, lambda env: adapted(), lambda policy, rollout: plain_decoder(policy, rollout.observations)),
    "bare base": (text_env, lambda env: BareBase(adapted()), lambda policy, rollout: bare(policy, rollout.observations)),
    "separate": (
        text_env,
        lambda env: SeparateCritic(language_model("gpt2"), language_model("llama", seed=2)),
        lambda policy, rollout: plain_decoder(policy.actor, rollout.observations),
    ),
    "separate, recurrent": (
        lambda mode: envs("box", mode),
        lambda env: SeparateCritic(seeded_gru(8), seeded_gru(6)),
        lambda policy, rollout: plain_gru(policy.actor, rollout.observations, rollout),
    ),
}


def softmax64(logits: np.ndarray, masks: np.ndarray | None, temperature: float) -> np.ndarray:
    """Return log-probabilities [..., A] of logits [..., A], by the formula."""
    z = logits.astype(np.float64) / temperature
    z = np.where(np.ones_like(z, dtype=bool) if masks is None else masks, z, -np.inf)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def play(name: str, mode: AutoresetMode) -> tuple[Any, Rollout, Memory | None]:
    """Return a policy, and the second of two windows that it played: episodes run over the border."""
    env = KINDS[name][0](mode)
    policy, generator = KINDS[name][1](env), np.random.default_rng(0)
    position = begin(env, policy, seed=1)
    for _ in range(2):
        played = collect(env, policy, position, generator, num_steps=STEPS)
        position = played.position
    rollout = played.rollout
    assert not rollout.starts[0].all()
    return policy, rollout, None if rollout.memory is None else Memory(torch.from_numpy(rollout.memory[0]), torch.from_numpy(rollout.starts))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP], ids=["same step", "next step"])
@pytest.mark.parametrize("name", KINDS)
def test_every_action(name: str, mode: AutoresetMode, masked: bool, temperature: float) -> None:
    policy, rollout, memory = play(name, mode)
    plain = KINDS[name][2](policy, rollout)
    masks = np.random.default_rng(3).random(plain.shape) < 0.6
    np.put_along_axis(masks, rollout.actions[..., None], True, -1)
    told = torch.from_numpy(masks) if masked else None
    observations, actions = torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions)
    table = policy.distributions(observations, told, temperature, memory).detach()
    np.testing.assert_allclose(table.numpy(), softmax64(plain, masks if masked else None, temperature), atol=1e-10)
    picked = table.gather(-1, actions[..., None])[..., 0]
    torch.testing.assert_close(picked, policy.evaluate(observations, actions, told, temperature, memory).log_probs.detach(), rtol=0, atol=1e-12)
    assert masked == bool((table == -torch.inf).any())


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_those_of_evaluate(name: str) -> None:
    policy, rollout, memory = play(name, AutoresetMode.SAME_STEP)
    observations, actions = torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions)
    picked = policy.distributions(observations, None, 0.7, memory).gather(-1, actions[..., None]).sum()
    weights = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if name == "bare base":
        assert not weights
        assert not picked.requires_grad
        return
    ours = torch.autograd.grad(picked, weights, allow_unused=True)
    theirs = torch.autograd.grad(policy.evaluate(observations, actions, None, 0.7, memory).log_probs.sum(), weights, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 1e-6 for gradient in ours)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_temperature_0_leaves_the_best() -> None:
    policy, rollout, _ = play("gpt2", AutoresetMode.SAME_STEP)
    observations = torch.from_numpy(rollout.observations)
    greedy = policy.distributions(observations, temperature=0.0)
    torch.testing.assert_close(greedy.exp(), nn.functional.one_hot(policy.distributions(observations).argmax(-1), V).double())


def test_who_can() -> None:
    """Real numbers have no table, that of all chunks would be too large, and a memory is needed as it is to evaluate."""
    numbers = GaussianPolicy(3, (2,))
    assert not isinstance(numbers, Enumerable)
    for name in KINDS:
        assert isinstance(KINDS[name][1](KINDS[name][0](AutoresetMode.SAME_STEP)), Enumerable)
    chunked = CausalLMPolicy(language_model().model, V, chunk=2)
    with pytest.raises(ValueError, match=r"There are 6 \*\* 2 chunks, too many .* chunk=1"):
        chunked.distributions(torch.zeros(1, 1, 8, dtype=torch.int64))
    policy, rollout, _ = play("gru", AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match="pass memory="):
        policy.distributions(torch.from_numpy(rollout.observations))
    with pytest.raises(ValueError, match="10 tokens, the model knows 8 positions"):
        language_model().distributions(torch.zeros(1, 1, 10, dtype=torch.int64))
