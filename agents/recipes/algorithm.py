"""What a job's algorithm needs beyond its own choices: its loop, who chooses the prompts, and a first try before anything is spent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from .. import a2c, policy_gradient, ppo, sft
from ..advantages import estimate, normalise
from ..learner import Learner
from ..leaving import check_reference
from ..play import begin, collect
from ..policies import CausalLMPolicy
from ..prompting import Curriculum, Groups, Prompting
from ..providing import provided
from ..run import Run
from .choices import PolicyGradientText, PPOText, TextJob
from .material import Material


def loop_of(choice: TextJob, material: Material, policy: CausalLMPolicy) -> Callable[..., Run]:
    """Return the training loop of a job's algorithm, which knows of what it alone takes: the policy gradient's mixture, the texts."""
    if not isinstance(choice, PolicyGradientText):
        return ppo.train if isinstance(choice, PPOText) else a2c.train
    if max(choice.algorithm.supervised_coef, choice.algorithm.supervised_coef_final) == 0:
        return policy_gradient.train
    texts, size = material.train_texts, choice.job.warmup.batch_size

    def imitated(generator: np.random.Generator) -> torch.Tensor:
        return sft.batch_loss(policy, texts.take(generator.integers(len(texts.tokens), size=size)))

    return partial(policy_gradient.train, supervised_loss=imitated)


def prompting_of(choice: TextJob, material: Material) -> Prompting | None:
    """Return a job's choice of prompts; where a curriculum was not told what is difficult, a prompt's number of tokens is."""
    given = choice.job.prompting
    inner = given.of if isinstance(given, Groups) else given
    if not isinstance(inner, Curriculum) or inner.difficulty is not None:
        return given
    prompts = material.train_prompts
    inner = replace(inner, difficulty=[float(len(material.tokenizer.encode(prompts[i].text))) for i in range(len(prompts))])
    return replace(given, of=inner) if isinstance(given, Groups) else inner


def try_out(choice: TextJob, material: Material, policy: CausalLMPolicy, prompting: Prompting | None) -> None:
    """Let scorers and estimator do their work once: what is wrong with them should not come to light after the warm-up."""
    check_reference(choice.algorithm, policy)  # the warm-up model is one
    if (num := getattr(choice.algorithm, "num_minibatches", 1)) > choice.job.num_envs:
        raise ValueError(f"{num} minibatches cannot be cut from the columns of {choice.job.num_envs} environments; give a larger num_envs, or fewer.")
    config, generator, num_prompts = choice.algorithm, np.random.default_rng(0), len(material.train_prompts)
    heldout = material.environment(2, heldout=True)
    collect(heldout, policy, begin(heldout, policy, seed=0), generator, episodes_per_row=1)
    if prompting is not None:
        prompting.choose(prompting.start(num_prompts), choice.job.num_envs, generator)
    env = material.environment(prompting.size if isinstance(prompting, Groups) else 2)
    fill = provided(config, env, policy, prompting)
    idle = torch.optim.SGD(policy.parameters())
    learner = Learner.start(env, policy, idle, 0, prompting, None if prompting is None else num_prompts)
    if config.episodes_per_row is None:
        learner.play(1, temperature=config.temperature, fill=fill)  # windows begin anywhere
    rollout = learner.play(config.num_steps, config.episodes_per_row, config.temperature, fill).rollout
    normalise(estimate(config.advantage, rollout).advantages, rollout.valid, config.normalise, rollout.groups)
