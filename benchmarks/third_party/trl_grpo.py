"""TRL's GRPO on textgym's text tasks: `python -m benchmarks.third_party.trl_grpo --task even`.

TRL writes whole responses and asks for their rewards; the environment's own core gives these (`EnvironmentReward`), so the task is the one that others
are trained on, and the trained model is judged token by token in it. The model is a small GPT-2 with random weights: nothing is fetched.
It enters "even" and "textgen". "path" has nothing to write (its observations are positions), and GRPO's generation knows no action masks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents.adapters.trl import EnvironmentReward
from agents.policies import CausalLMPolicy, small_gpt2
from textgym.tokenizers import WordTokenizer, to_transformers

from .contract import Entrant, Task, Trained
from .script import Args, run

ROWS, GROUP = 64, 8  # responses of an update, and how many of them answer one prompt
LEARNING_RATE = 3e-3


class _Counted:
    """The environment's rewards, and how many tokens were written for them."""

    __name__ = "environment"  # TRL's log asks for one

    def __init__(self, reward: EnvironmentReward) -> None:
        self._reward, self.tokens = reward, 0

    def __call__(self, completion_ids: Sequence[Sequence[int]], prompt_index: Sequence[int], **columns: Any) -> list[float]:
        self.tokens += sum(map(len, completion_ids))
        return self._reward(completion_ids, prompt_index)


def _trainer(model: Any, tokenizer: Any, reward: _Counted, rows: list[dict[str, Any]], new_tokens: int, steps: int, seed: int, folder: str) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Enough(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = reward.tokens >= steps

    config = GRPOConfig(
        output_dir=folder,
        per_device_train_batch_size=ROWS,
        num_generations=GROUP,
        max_completion_length=new_tokens,  # the environment's budget: a shorter one would leave texts unfinished
        max_steps=10**6,
        learning_rate=LEARNING_RATE,  # TRL's 1e-6 is meant for large models that can speak already
        lr_scheduler_type="constant",  # the default sinks to 0 over max_steps
        seed=seed,
        use_cpu=True,
        bf16=False,  # on by default
        activation_checkpointing=False,  # on by default
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    data = Dataset.from_list(rows)
    trainer = GRPOTrainer(model, reward, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Enough()])
    trainer.remove_callback(PrinterCallback)  # what stands in for the progress bar prints every logged number at the end
    return trainer


class _Actor:
    """Samples token by token from the trained model, at temperature 1, as GRPO generates."""

    def __init__(self, policy: CausalLMPolicy) -> None:
        self._policy, self._state, self._generator = policy, None, np.random.default_rng(0)

    def __call__(self, observations: NDArray[Any], starts: NDArray[Any], masks: NDArray[Any] | None) -> NDArray[Any]:
        acted = self._policy.act(observations, self._state, starts, self._generator)
        self._state = acted.state
        return acted.actions


def train(task: Task, steps: int, seed: int) -> Trained:
    """Train a small GPT-2 by GRPO until `steps` tokens were written."""
    env = gym.make(task.id, **task.options)
    reward = EnvironmentReward(env)
    text = reward.responses.task
    assert isinstance(text.tokenizer, WordTokenizer)  # TRL wants a tokenizer of transformers, with the same ids
    tokenizer = to_transformers(text.tokenizer)
    policy = small_gpt2(text.tokenizer.vocab_size, text.max_prompt_tokens + text.max_new_tokens, eos_id=text.tokenizer.eos_id, width=64, layers=1, seed=seed)
    counted = _Counted(reward)
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(policy.model, tokenizer, counted, reward.responses.rows(), text.max_new_tokens, steps, seed, folder)
        trainer.train()
    return Trained(_Actor(CausalLMPolicy(policy.model, text.tokenizer.vocab_size)), counted.tokens)


ENTRANTS = {"grpo": Entrant("trl", "GRPO", train, ("even", "textgen"))}


def main(args: Args) -> dict[str, Any]:
    """Train, judge, print and return the figures."""
    return run(ENTRANTS, args)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Args))
