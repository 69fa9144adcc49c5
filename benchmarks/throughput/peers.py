"""Trainers of others as players: a call is some training iterations on the same shape, prompts, lengths and rewards.

Axis legend: B observations, L columns, H width.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from agents.policies.common import picked
from agents.policies.local_models import no_bars
from textgym.tokenizers import to_transformers

from ..environment import Player
from .evenness import evenness
from .players import inverse_cdf
from .shapes import PROMPT, Shape, prompt_ids
from .task import NUM_PROMPTS, options, prompts, tokenizer

ROOT = Path(__file__).parents[2]


def write_task(folder: Path, model: Any, shape: Shape, rows: int, new: int, group: int) -> None:
    """Write model, tokenizer and the terms of the task where a worker finds them."""
    fast = to_transformers(tokenizer(shape.vocab_size))
    fast.pad_token = fast.eos_token
    with no_bars():
        model.save_pretrained(folder)
    fast.save_pretrained(str(folder))
    task = {"rows": rows, "new": new, "group": group, "prompts": [prompt.text for prompt in prompts(shape)]}
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")


@contextmanager
def worker(python: Path, kind: str, folder: Path, iterations: int, tokens: int) -> Iterator[Player]:
    """Yield a player whose call is `iterations` steps of a TRL trainer of `kind`, taken by its own interpreter (see `trl_worker`).

    Raises `RuntimeError` with the end of what the process said if it does not come up.
    """
    command = [str(python), "-m", "benchmarks.throughput.trl_worker", kind, str(folder)]
    with (folder / f"{kind}.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout

        def done() -> None:
            if answers.readline() != "done\n":
                process.wait()
                said = Path(log.name).read_text(encoding="utf-8").strip().splitlines()[-3:]
                raise RuntimeError(f"the worker of {kind} stopped: {' / '.join(said)}")

        def play() -> int:
            orders.write(f"{iterations}\n")
            orders.flush()
            done()
            return iterations * tokens

        try:
            done()
            yield play
        finally:
            orders.close()
            process.wait()


def single_file(model: Any, shape: Shape, rows: int, new: int, group: int, iterations: int) -> Player:
    """Train as a single-file script would: a loop over a `DynamicCache`, RLOO's advantages, one forward over whole texts, Adam."""
    from transformers import DynamicCache

    generator, ids = np.random.default_rng(0), prompt_ids(shape, NUM_PROMPTS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, eps=1e-5)

    @torch.no_grad()
    def texts() -> Tensor:
        chosen = np.repeat(generator.integers(NUM_PROMPTS, size=rows // group), group)
        whole, cache = torch.from_numpy(ids[chosen]), DynamicCache(config=model.config)
        for step in range(new):
            logits = model(input_ids=whole if not step else whole[:, -1:], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            whole = torch.cat([whole, inverse_cdf(torch.log_softmax(logits, -1), generator)], 1)
        return whole

    def iteration() -> None:
        whole = texts()
        rewards = evenness(whole[:, PROMPT:].numpy(), np.full(rows, new)).reshape(-1, group)
        advantages = torch.from_numpy((rewards - rewards.mean(1, keepdims=True)) * group / (group - 1)).float().reshape(-1, 1)
        logits = model(input_ids=whole[:, :-1], use_cache=False, logits_to_keep=new).logits
        loss = -(picked(torch.log_softmax(logits, -1), whole[:, PROMPT:]) * advantages).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()

    def play() -> int:
        for _ in range(iterations):
            iteration()
        return iterations * rows * new

    return play


def sb3_ppo(model: nn.Module, shape: Shape, rows: int, new: int) -> Player:
    """Return Stable-Baselines3's PPO over the single environment, the transformer as its features extractor: a call is one iteration.

    It knows no sequences: it encodes the whole prefix at every step, and once more in training; one epoch, one minibatch, as ours.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Transformer(BaseFeaturesExtractor):
        """The hidden state at the end of a prefix [B, L] whose prompt fills its columns: [B, H]."""

        def __init__(self, space: gym.spaces.Box) -> None:
            super().__init__(space, shape.width)
            self.body = model.get_decoder()  # type: ignore[operator]

        def forward(self, observations: Tensor) -> Tensor:
            ids = observations.long()
            real = ids != shape.vocab_size
            hidden: Tensor = self.body(torch.where(real, ids, 0), use_cache=False).last_hidden_state
            return hidden[torch.arange(len(ids)), real.sum(1) - 1]

    env = DummyVecEnv([lambda: gym.make("TextGen-v0", **options(shape, new))] * rows)
    policy = {"features_extractor_class": Transformer, "net_arch": []}
    told = {"n_steps": new, "batch_size": rows * new, "n_epochs": 1, "gamma": 1.0, "vf_coef": 0.5, "device": "cpu", "seed": 0}
    ppo = PPO("MlpPolicy", env, policy_kwargs=policy, **told)

    def play() -> int:
        ppo.learn(rows * new)
        return rows * new

    return play
