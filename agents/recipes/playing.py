"""The command `play`: the policy's best next tokens, their chances, its value and the reward so far, token by token.

Axis legend: L observation columns, V vocabulary.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from textgym.task import Prompt

from ..play import AnyVectorEnv
from .beginning import refusing
from .choices import AnyJob
from .trained import Trained, load

EOS = "<eos>"
HELP = "Enter draws a token, any text is written as it is (<eos> ends it), q ends."


@dataclass(frozen=True)
class Playing:
    """What `play` may be told."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run folder of ppo, a2c, policy_gradient or sft."""
    prompt: str | None = None
    """Beginning of the text; None: a held-out prompt, drawn by --seed."""
    top: int = 5
    """How many next tokens are shown."""
    seed: int = 0
    """Of the prompt and of what is drawn."""

    def __post_init__(self) -> None:
        if self.top < 1 or self.seed < 0:
            raise ValueError(f"--top must be at least 1 and --seed at least 0, got {self.top} and {self.seed}.")


def play(choice: AnyJob, wanted: Playing) -> int:
    """Write one text with a run's policy, asking for every token where a person sits at the terminal; return 0."""
    torch.set_num_threads(choice.job.threads)
    generator = np.random.default_rng(wanted.seed)
    with refusing():
        trained = load(choice)
        if wanted.prompt is None:
            given, index = trained.material.heldout_prompts, int(generator.integers(len(trained.material.heldout_prompts)))
        else:
            given, index = [checked(wanted.prompt, trained)], 0
        trained = trained._replace(material=trained.material._replace(heldout_prompts=given))
        table = Table(trained, wanted.seed, index)
    asking = sys.stdin.isatty() and sys.stdout.isatty()
    print(f"{wanted.run}: {trained.stage}. {HELP if asking else ''}".rstrip())
    while not table.over:
        print(table.shown(wanted.top))
        try:
            ids = table.asked(input("> ")) if asking else []
        except (EOFError, KeyboardInterrupt, _Leave):
            break
        except ValueError as error:
            print(f"That cannot be written: {error}")
            continue
        for token in ids or [table.drawn(generator)]:
            if not table.over:
                table.write(token)
    print(table.ending())
    return 0


def checked(text: str, trained: Trained) -> Prompt:
    """Return a person's prompt; raises `ValueError` if it is empty or longer than those of the training."""
    num, most = len(trained.material.tokenizer.encode(text)), trained.material.max_prompt_tokens
    if not 0 < num <= most:
        raise ValueError(f"The prompt {text!r} has {num} tokens, and this policy has learned on 1 to {most}. Give it as many.")
    return Prompt(text)


class _Leave(Exception):
    """A person has had enough."""


class Table:
    """One text that is being written, and the policy that looks on."""

    def __init__(self, trained: Trained, seed: int, index: int) -> None:
        self.policy, self.tokenizer = trained.policy, trained.material.tokenizer
        self.env: AnyVectorEnv = trained.material.environment(1, heldout=True)
        self.observation, info = self.env.reset(seed=seed, options={"prompt": [index]})
        self.mask: NDArray[np.bool_] | None = info.get("action_mask")
        self.written: list[int] = []
        self.prompt = trained.material.heldout_prompts[index].text
        self.reward, self.over, self.told = 0.0, False, dict[str, Any]()

    def shown(self, top: int) -> str:
        """Return the text so far, and beneath it the best next tokens with their probabilities, the value and the reward so far."""
        chances = self.chances()
        best = [int(i) for i in np.argsort(-chances, kind="stable")[:top] if chances[i] > 0]
        words = "  ".join(f"{self.spelled(i)} {chances[i]:.3f}" for i in best)
        return f"{self.text()}\n  {words}   | value {float(self.policy.value(self.observation)[0]):.3f}, reward {self.reward:g}"

    def chances(self) -> NDArray[np.float64]:
        """Return the probability [V] of each next token."""
        masks = None if self.mask is None else torch.from_numpy(self.mask[None])
        with torch.no_grad():
            log_probs = self.policy.distributions(torch.from_numpy(self.observation)[None], masks)
        return np.exp(log_probs[0, 0].double().cpu().numpy())

    def drawn(self, generator: np.random.Generator) -> int:
        """Return a token drawn from the policy."""
        chances = self.chances()
        return int(generator.choice(len(chances), p=chances / chances.sum()))

    def asked(self, line: str) -> list[int]:
        """Return the tokens that a person typed, none for Enter; raises `ValueError` where they cannot be written."""
        if line.strip() == "q":
            raise _Leave
        ids = [self.tokenizer.eos_id] if line.strip() == EOS else self.tokenizer.encode(line)
        if self.mask is not None and ids and not self.mask[0, ids[0]]:
            raise ValueError(f"{self.spelled(ids[0])} is forbidden here by the constraint; choose another token.")
        return ids

    def write(self, token: int) -> None:
        """Put a token behind the text and let the environment judge it."""
        self.written.append(token)
        self.observation, rewards, terminated, truncated, info = self.env.step(np.array([token]))
        self.reward, self.over, self.mask = self.reward + float(rewards[0]), bool((terminated | truncated)[0]), info.get("action_mask")
        if self.over:
            self.told = {name: float(value[0]) for name, value in info["final_info"].items() if not name.startswith("_") and _is_number(value)}

    def text(self) -> str:
        """Return prompt and continuation, with a bar between them."""
        return f"{self.prompt} | {self.tokenizer.decode(self.written)}".rstrip()

    def spelled(self, token: int) -> str:
        """Return one token as it can be seen: blanks are part of it."""
        return EOS if token == self.tokenizer.eos_id else repr(self.tokenizer.decode([token]))

    def ending(self) -> str:
        """Return the text and what it was worth."""
        if not self.over:
            return f"{self.text()}\nleft after {len(self.written)} tokens, reward {self.reward:g}"
        how = "ended by itself" if self.written[-1] == self.tokenizer.eos_id else "ended by its budget"
        parts = ", ".join(f"{name} {value:.3f}" for name, value in self.told.items())
        return f"{self.text()}\n{how} after {len(self.written)} tokens, reward {self.reward:g}{f' ({parts})' if parts else ''}"


def _is_number(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.shape == (1,)
