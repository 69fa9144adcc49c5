"""How well the policy gradient is estimated at each level of credit: bias and variance against the exact gradient of Recall.

A chunk's probability is the product of its tokens', so the exact gradient in the weights is the same at every level; only the
estimates differ. All levels judge the same texts, so that what differs between them is no chance.

Axis legend: T steps, N episodes of a batch, C tokens of a chunk, K batches, D weights, S prefixes (states), V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

import textgym  # noqa: F401 (registers the suite)
from agents import ppo
from agents.advantages import GAE, TD, Advantage, MonteCarlo, estimate
from agents.play import begin, collect
from agents.policies import CausalLMPolicy, small_gpt2
from agents.policies.prefixes import compact
from agents.rollout import Rollout
from textgym import oracle

BUDGET = 8
RECALL: dict[str, Any] = {"vocab_size": 4, "prompt_tokens": 1, "max_new_tokens": BUDGET}  # 9,840 prefixes: all of them can be looked at
LEVELS = {"token": 1, "4 tokens": 4, "whole response": BUDGET}
ESTIMATORS: dict[str, tuple[str, Advantage]] = {  # who knows the values, and what is made of them
    "return, no critic": ("none", MonteCarlo(gamma=1.0)),
    "return - V, exact V": ("exact", MonteCarlo(gamma=1.0)),
    "GAE(0.95), exact V": ("exact", GAE(gamma=1.0, gae_lambda=0.95)),
    "TD, exact V": ("exact", TD(gamma=1.0)),
    "return - V, learned V": ("learned", MonteCarlo(gamma=1.0)),
    "GAE(0.95), learned V": ("learned", GAE(gamma=1.0, gae_lambda=0.95)),
    "TD, learned V": ("learned", TD(gamma=1.0)),
}
Array = NDArray[np.float64]


class Exact(NamedTuple):
    """What is known of a policy without sampling."""

    gradient: Array  # [D] of the expected score
    score: float  # expected
    values: Array  # [S]
    problem: oracle.Tabular


class Interval(NamedTuple):
    """A mean, and how far its 95 % interval reaches to each side."""

    mean: float
    half: float


class Quality(NamedTuple):
    """How estimates of a gradient compare with it, over K batches."""

    found: Interval  # the share of the exact gradient that is in them: 1 without bias
    bias: Interval  # |E - exact|^2 / |exact|^2, estimated without bias itself, so it may be negative
    variance: Interval  # trace of the covariance / |exact|^2, of an estimate from 1,000 generated tokens
    cosine: Interval  # of one batch's estimate with the exact gradient


def half_trained(iterations: int = 8) -> CausalLMPolicy:
    """Return a small language model that has learned the task in part, in float64; its value head, too, knows something."""
    env = gym.make_vec("textgym/Recall-v0", num_envs=64, autoreset_mode="SameStep", **RECALL)
    policy = small_gpt2(RECALL["vocab_size"], BUDGET + 1, eos_id=RECALL["vocab_size"] - 1, width=16, layers=1, heads=2).double()
    config = ppo.Config(total_timesteps=64 * BUDGET * iterations, num_steps=BUDGET, learning_rate=3e-3, anneal_lr=False)
    ppo.train(env, policy, config, quiet=True)
    return policy


def weights_of(policy: CausalLMPolicy) -> list[torch.nn.Parameter]:
    """Return the weights that decide on actions."""
    return list(policy.model.parameters())


def exact(policy: CausalLMPolicy) -> Exact:
    """Return the expected score of a policy, its gradient [D] and the value of every prefix, from all texts there are.

    The oracle gives the gradient in the logits of every prefix; from there it goes back through the model.
    """
    problem = oracle.from_core(gym.make("textgym/Recall-v0", **RECALL).unwrapped.core)  # type: ignore[attr-defined]
    tokens, lengths = compact(problem.observations, RECALL["vocab_size"])
    logits = policy.next_token_logits(torch.from_numpy(tokens))[torch.arange(len(tokens)), torch.from_numpy(lengths - 1)]
    probabilities = logits.detach().softmax(-1).numpy()
    in_logits = torch.from_numpy(oracle.policy_gradient(problem, probabilities, 1.0))
    gradient = flat(torch.autograd.grad(logits, weights_of(policy), in_logits))
    values = oracle.evaluate(problem, probabilities, 1.0).v
    return Exact(gradient, float(problem.start @ values), values, problem)


def flat(gradients: tuple[torch.Tensor, ...]) -> Array:
    """Return gradients as one vector [D]."""
    found: Array = torch.cat([gradient.reshape(-1) for gradient in gradients]).numpy()
    return found


def cut(rollout: Rollout, chunk: int) -> Rollout:
    """Return whole episodes of single tokens, one a row, as the environment of `chunk` tokens an action would have told them."""
    num, rows = BUDGET // chunk, rollout.valid.shape[1]

    def grouped(values: NDArray[Any]) -> NDArray[Any]:
        missing = BUDGET - len(values)  # every row may have ended before its budget
        filled = np.concatenate([values, np.repeat(values[-1:] * 0, missing, axis=0)]) if missing else values
        return filled.reshape(num, chunk, *values.shape[1:])

    valid = grouped(rollout.valid)
    first = {name: grouped(getattr(rollout, name))[:, 0] for name in ("observations", "log_probs", "values", "starts", "episode_ids")}
    first["observations"] = np.where(valid[:, 0, :, None], first["observations"], rollout.observations[0])  # any prefix will do where nothing counts
    return rollout._replace(
        **first,
        actions=np.moveaxis(grouped(rollout.actions), 1, 2) if chunk > 1 else grouped(rollout.actions)[:, 0],
        rewards=(grouped(rollout.rewards) * valid).sum(1),
        terminated=(grouped(rollout.terminated) & valid).any(1),
        truncated=np.zeros((num, rows), np.bool_),
        valid=valid[:, 0],
        next_values=np.concatenate([first["values"][1:], np.zeros((1, rows))]),
    )


def with_critic(rollout: Rollout, critic: str, values: Array) -> Rollout:
    """Return a rollout in which nobody ("none"), the truth ("exact", `values` [T, N]) or the policy itself ("learned") is the critic."""
    if critic == "learned":
        return rollout
    known = values if critic == "exact" else np.zeros_like(values)
    return rollout._replace(values=known, next_values=np.concatenate([known[1:], np.zeros_like(known[:1])]))


def estimates(policy: CausalLMPolicy, truth: Exact, num_batches: int, num_episodes: int, seed: int) -> tuple[dict[tuple[str, str], Array], float]:
    """Return gradients [K, D] by estimator and level, all from the same texts, and how many tokens a batch has on average."""
    env = gym.make_vec("textgym/Recall-v0", num_envs=num_episodes, autoreset_mode="SameStep", **RECALL)
    generator, find = np.random.default_rng([seed, 0]), oracle.finder(truth.problem)
    begin(env, policy, seed=seed)
    found: dict[tuple[str, str], list[Array]] = {(name, level): [] for name in ESTIMATORS for level in LEVELS}
    written = 0
    for _ in range(num_batches):
        texts = collect(env, policy, begin(env, policy), generator, episodes_per_row=1).rollout
        written += int(texts.valid.sum())
        for level, chunk in LEVELS.items():
            rollout = cut(texts, chunk)
            for name, gradient in _gradients(policy, rollout, truth.values[find(rollout.observations)], chunk).items():
                found[name, level].append(gradient)
    return {key: np.stack(gradients) for key, gradients in found.items()}, written / num_batches


def _gradients(policy: CausalLMPolicy, rollout: Rollout, values: Array, chunk: int) -> dict[str, Array]:
    """Return sum A grad log pi / N [D] of each estimator."""
    policy.chunk = chunk
    log_probs = policy.evaluate(torch.from_numpy(rollout.observations), torch.from_numpy(rollout.actions)).log_probs
    policy.chunk = 1
    found = {}
    for name, (critic, advantage) in ESTIMATORS.items():
        judged = estimate(advantage, with_critic(rollout, critic, values)).advantages  # 0 where not valid
        weights = torch.from_numpy(judged / rollout.valid.shape[1])
        found[name] = flat(torch.autograd.grad(log_probs, weights_of(policy), weights, retain_graph=True))
    return found


def quality(gradients: Array, exact_gradient: Array, tokens: float) -> Quality:
    """Return how K estimates [K, D], each of a batch of `tokens` tokens, compare with the exact gradient [D]."""
    num, size = len(gradients), float(exact_gradient @ exact_gradient)
    off = gradients - exact_gradient
    spread = ((gradients - gradients.mean(0)) ** 2).sum(1) * num / (num - 1)
    cosines = gradients @ exact_gradient / np.linalg.norm(gradients, axis=1) / size**0.5
    return Quality(
        found=_interval(gradients @ exact_gradient / size),
        bias=_squared_mean(off / size**0.5),
        variance=_interval(spread / size * tokens / 1000),
        cosine=_interval(cosines),
    )


def _interval(samples: Array) -> Interval:
    return Interval(float(samples.mean()), float(1.96 * samples.std(ddof=1) / len(samples) ** 0.5))


def _squared_mean(off: Array) -> Interval:
    """Return |E[x]|^2 from samples [K, D]: the mean product of different ones, with the jackknife's error (Efron & Stein 1981)."""
    num, total, squares = len(off), off.sum(0), (off**2).sum(1)
    products = total @ total - squares.sum()  # of all ordered pairs
    without = (products - 2 * (off @ total - squares)) / ((num - 1) * (num - 2))
    error = ((num - 1) / num * ((without - without.mean()) ** 2).sum()) ** 0.5
    return Interval(float(products / (num * (num - 1))), float(1.96 * error))
