"""What a policy's held-out continuations are like: five numbers that together show whether a score was earned.

Axis legend: T steps, E samples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..play import AnyVectorEnv, evaluate, log_probs_under
from ..policies import Policy
from ..rollout import Rollout


class Measured(NamedTuple):
    """Held-out samples: their means by name, and each one's tokens and score."""

    metrics: dict[str, float]
    tokens: list[list[int]]  # [E] what was generated, EOS included
    scores: list[float]  # [E]
    errors: dict[str, float]  # standard errors of those metrics that are means over samples

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a metric by its normal approximation; None of one that is no mean over samples."""
        half = 1.96 * self.errors[name] if name in self.errors else None
        return None if half is None else (self.metrics[name] - half, self.metrics[name] + half)


def measure(env: AnyVectorEnv, policy: Policy, reference: Policy | None, eos_id: int, num_prompts: int, generator: np.random.Generator) -> Measured:
    """Play one episode on every row of `env`, row i on prompt i (mod the number of prompts), and measure it.

    Returns "score", "gold" (where the environment measures one), "kl" (nats a sample from the reference, by the mean of
    sampled log ratios; without a reference there is none), "eos" (share that end themselves), "distinct" (share of different
    continuations), "distinct_2" (different bigrams over all bigrams; Li et al. 2016, section 5.2) and "length" (tokens).
    """
    options = {"prompt": np.arange(env.num_envs) % num_prompts}
    played = evaluate(env, policy, generator, options=options, seed=0)  # what rows play beyond their quota is read beside the rest, so it must repeat too
    rollout, num = played.rollout, env.num_envs
    tokens = continuations(rollout)
    each: dict[str, NDArray[Any]] = dict(played.ends)
    if reference is not None:
        each["kl"] = np.where(rollout.valid, rollout.log_probs - log_probs_under(reference, rollout), 0.0).sum(0)
    each["eos"] = np.array([row[-1] == eos_id for row in tokens])
    each["length"] = played.lengths
    metrics = {name: float(values.mean()) for name, values in each.items()}
    metrics |= {"distinct": len({tuple(row) for row in tokens}) / num, "distinct_2": distinct_n(tokens, 2)}
    errors = {name: float(values.std(ddof=1) / np.sqrt(num)) for name, values in each.items()} if num > 1 else {}
    return Measured(metrics, tokens, played.ends["score"].tolist(), errors)


def continuations(rollout: Rollout) -> list[list[int]]:
    """Return the tokens of each row's valid steps, of a rollout with one episode a row."""
    return [rollout.actions[rollout.valid[:, row], row].tolist() for row in range(rollout.valid.shape[1])]


def distinct_n(sequences: list[list[int]], n: int) -> float:
    """Return the number of different n-grams over the number of all n-grams; 0 if there is none."""
    grams = [tuple(row[i : i + n]) for row in sequences for i in range(len(row) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
