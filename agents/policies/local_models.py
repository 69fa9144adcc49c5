"""Language models in local folders, and small new ones.

Nothing is ever fetched: a hub's name would be retried for a minute on a machine without a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from .seeding import seeded


def new_gpt2(vocab_size: int, num_positions: int, *, eos_id: int | None, width: int, layers: int, heads: int, seed: int) -> nn.Module:
    """Return an untrained GPT-2 of that size, its weights drawn from `seed`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=int(vocab_size),  # a space tells NumPy's integer, and the library takes none
        n_positions=num_positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own formula in one kernel: 1.4 times faster to train at this size
        initializer_range=0.08,  # GPT-2's 0.02 is meant for a width of 768
        bos_token_id=eos_id,
        eos_token_id=eos_id,
    )
    with seeded(seed):
        model: nn.Module = GPT2LMHeadModel(config)
    return model


def load_model(folder: Path | str) -> nn.Module:
    """Return the causal language model in a local folder; nothing is ever fetched."""
    from transformers import AutoModelForCausalLM

    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: give a folder written by save_pretrained (nothing is fetched from a hub).")
    with no_bars():
        found, report = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{folder} holds no {', '.join(missing[:3])} ({len(missing)} missing): it was not saved from a causal language model, and those weights would be "
            "random. Give the folder of one."
        )
    model: nn.Module = found
    return model


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep the library's progress bars for weights, which break into ours, off the screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
