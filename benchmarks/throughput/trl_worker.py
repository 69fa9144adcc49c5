"""A trainer of TRL in an environment of its own: takes as many training steps as a line on stdin asks for, then says so.

`PYTHON -m benchmarks.throughput.trl_worker grpo|rloo|ppo FOLDER`, FOLDER holding model, tokenizer and task.json; it is started by
`peers.worker`. It loads nothing of this project but the rewards. Logging, saving, reporting, evaluation and gradient checkpointing are
off, weights are float32, and there are no processes for data: what remains is what every user of the trainer pays.
Axis legend: B texts, L tokens.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from .evenness import evenness

ANSWERS = os.dup(1)  # trainers print: what they print goes to stderr


class Turns(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Holds the trainer after each lot of steps until the next line asks for more; a closed pipe ends the process."""

    def __init__(self) -> None:
        self.left = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the first order."""
        self.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Count a step, and report a finished order."""
        self.left -= 1
        if self.left == 0:
            self.wait()

    def wait(self) -> None:
        """Say that all is done, and wait for the next order."""
        os.write(ANSWERS, b"done\n")
        order = sys.stdin.readline()
        if not order:
            os._exit(0)
        self.left = int(order)


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Return the share of even ids of each text."""
    return evenness(np.array(completion_ids), np.array([len(ids) for ids in completion_ids])).tolist()


class Judge(nn.Module):
    """The same reward in the shape of a reward model: the share of even ids in a prefix, at every position."""

    base_model_prefix = "ids"

    def ids(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """Return the shares [B, L, 1] in place of hidden states."""
        even = (input_ids % 2 == 0).float().cumsum(1) / torch.arange(1, input_ids.shape[1] + 1)
        return SimpleNamespace(hidden_states=[even[..., None]])

    def score(self, hidden: Tensor) -> Tensor:
        """Return them as they are."""
        return hidden


def common(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what all trainers are told."""
    quiet = {"report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "dataloader_num_workers": 0}
    exact = {"bf16": False, "use_cpu": True, "gradient_checkpointing": False, "temperature": 1.0, "dataloader_pin_memory": False}
    return {"output_dir": str(folder / "out"), "per_device_train_batch_size": task["rows"], "gradient_accumulation_steps": 1, **quiet, **exact}


def grouped(kind: str, folder: Path, task: dict[str, Any]) -> Any:
    """Return the trainer of GRPO or RLOO: groups of 8, one step on the whole batch, no reference model."""
    import trl  # type: ignore[import-not-found, unused-ignore]

    config, trainer = {"grpo": (trl.GRPOConfig, trl.GRPOTrainer), "rloo": (trl.RLOOConfig, trl.RLOOTrainer)}[kind]
    told = {"num_generations": task["group"], "max_completion_length": task["new"], "beta": 0.0, "num_iterations": 1, "max_steps": 10**6}
    return trainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=reward,
        args=config(**common(task, folder), **told),
        train_dataset=Dataset.from_dict({"prompt": task["prompts"]}),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left"),
        callbacks=[Turns()],
    )


def ppo(folder: Path, task: dict[str, Any]) -> Any:
    """Return the trainer of PPO: policy, value model and reference of one shape, one epoch, one minibatch."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # type: ignore[import-not-found, unused-ignore]

    told = {"response_length": task["new"], "num_ppo_epochs": 1, "num_mini_batches": 1, "local_rollout_forward_batch_size": task["rows"]}
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    data = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in task["prompts"]]})
    return PPOTrainer(
        args=PPOConfig(**common(task, folder), **told, total_episodes=10**7, num_sample_generations=0),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=Judge(),
        value_model=AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1),
        train_dataset=data,
        eval_dataset=data.select(range(task["rows"])),
        callbacks=[Turns()],
    )


def main(kind: str, folder: Path) -> None:
    """Train until nobody asks for more."""
    os.dup2(2, 1)
    torch.set_num_threads(1)
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    (ppo(folder, task) if kind == "ppo" else grouped(kind, folder, task)).train()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
