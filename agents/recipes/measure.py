"""What a policy's held-out continuations are like: five numbers that together show whether a score was earned.

Axis legend: T steps, E samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..play import AnyVectorEnv, evaluate, log_probs_under
from ..policies import Policy
from ..rollout import Rollout


class Measured(NamedTuple):
    """Held-out samples: their means by name, and each one's tokens and score."""

    metrics: dict[str, float]
    tokens: list[list[int]]  # [E] what was generated, EOS included
    scores: list[float]  # [E]


def measure(env: AnyVectorEnv, policy: Policy, reference: Policy, eos_id: int, num_prompts: int, generator: np.random.Generator) -> Measured:
    """Play one episode on every row of `env`, row i on prompt i (mod the number of prompts), and measure it.

    Returns "score", "gold" (where the environment measures one), "kl" (nats a sample from the reference, by the mean of
    sampled log ratios), "eos" (share that end themselves), "distinct" (share of different continuations), "distinct_2"
    (different bigrams over all bigrams; Li et al. 2016, section 5.2) and "length" (tokens).
    """
    options = {"prompt": np.arange(env.num_envs) % num_prompts}
    played = evaluate(env, policy, generator, options=options, seed=0)  # what rows play beyond their quota is read beside the rest, so it must repeat too
    rollout, num = played.rollout, env.num_envs
    log_ratio = np.where(rollout.valid, rollout.log_probs - log_probs_under(reference, rollout), 0.0)
    tokens = continuations(rollout)
    metrics = {name: float(values.mean()) for name, values in played.ends.items()}
    metrics |= {
        "kl": float(log_ratio.sum() / num),
        "eos": float(np.mean([row[-1] == eos_id for row in tokens])),
        "distinct": len({tuple(row) for row in tokens}) / num,
        "distinct_2": distinct_n(tokens, 2),
        "length": float(played.lengths.mean()),
    }
    return Measured(metrics, tokens, played.ends["score"].tolist())


def continuations(rollout: Rollout) -> list[list[int]]:
    """Return the tokens of each row's valid steps, of a rollout with one episode a row."""
    return [rollout.actions[rollout.valid[:, row], row].tolist() for row in range(rollout.valid.shape[1])]


def distinct_n(sequences: list[list[int]], n: int) -> float:
    """Return the number of different n-grams over the number of all n-grams; 0 if there is none."""
    grams = [tuple(row[i : i + n]) for row in sequences for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
