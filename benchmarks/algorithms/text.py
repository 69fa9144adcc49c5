"""The default text task: a language model is warmed up once a seed, kept, and every run of that seed begins with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from agents import a2c, policy_gradient, ppo, sft
from agents.files import new_folder
from agents.kl import FixedKL
from agents.policies import CausalLMPolicy, Policy, small_gpt2
from agents.recipes import Text
from agents.recipes.job import frozen_copy
from agents.recipes.material import Material, gather
from agents.recipes.measure import measure

from .entrants import Entry

HELD_OUT = 1024  # samples
BUDGET = 100_000
ENTRIES = {
    "ppo": Entry(ppo.Config(total_timesteps=BUDGET, kl=FixedKL(0.06)), 128, episodes=2),
    "a2c": Entry(
        a2c.Config(total_timesteps=BUDGET, num_steps=24, optimizer="adam", learning_rate=1e-3, anneal_lr=True, normalise="batch", kl=FixedKL(0.06)),
        32,
        episodes=2,
    ),
    "policy_gradient": Entry(policy_gradient.Config(total_timesteps=BUDGET, num_steps=10, episodes_per_row=2, kl=FixedKL(0.08)), 32, episodes=2),
}
"""Nearly those of `python -m agents ppo`, a2c and policy_gradient: about as many tokens for all, and rollouts of one size for windows and whole texts."""


@lru_cache(maxsize=1)
def material_of(seed: int) -> Material:
    """Return prompts, texts and scorers of a seed."""
    return gather(Text(), seed)


def warm_up(seed: int, folder: Path, quick: bool) -> Path:
    """Return the folder of the seed's language model; it is made if it is not there."""
    kept = folder / "warmup" / f"seed{seed}"
    if not kept.is_dir():
        material = material_of(seed)
        policy = small_gpt2(material.tokenizer.vocab_size, material.num_positions, eos_id=material.tokenizer.eos_id, seed=seed)
        config = sft.Config()
        run = sft.train(policy, material.train_texts, material.heldout_texts, replace(config, num_updates=3) if quick else config, seed=seed, quiet=True)
        if run.interrupted:
            raise KeyboardInterrupt
        with new_folder(kept) as temporary:
            policy.save(temporary)
    return kept


def begun(seed: int, folder: Path, quick: bool) -> tuple[CausalLMPolicy, CausalLMPolicy]:
    """Return the seed's language model, to be trained, and a frozen copy."""
    policy = CausalLMPolicy.load(warm_up(seed, folder, quick), material_of(seed).tokenizer.vocab_size)
    return policy, frozen_copy(policy)


def judge_of(material: Material, reference: Policy, seed: int, num: int) -> Callable[[Policy], dict[str, float]]:
    """Return what measures a policy on held-out prompts: "score", "grammar" and "kl" (nats a sample)."""
    env = material.environment(num, heldout=True)

    def judged(policy: Policy) -> dict[str, float]:
        generator = np.random.default_rng([seed, 2])
        found = measure(env, policy, reference, material.tokenizer.eos_id, len(material.heldout_prompts), generator).metrics
        return {"score": found["score"], "grammar": found["gold"], "kl": found["kl"], "distinct": found["distinct"]}

    return judged
