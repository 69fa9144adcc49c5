"""Models of transformers from local folders, and copies of those in memory: frozen, and nothing is ever fetched.

torch and transformers are imported when a model is loaded, never before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn

DTYPES = ("float64", "float32", "bfloat16")


def load_pretrained(folder: str | Path, head: Literal["CausalLM", "SequenceClassification"]) -> nn.Module:
    """Return the model in a local folder with that head, in the checkpoint's precision.

    Raises `FileNotFoundError` if there is none, and `ValueError` if the checkpoint lacks weights: transformers would invent them.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: give a folder written by save_pretrained (nothing is fetched from a hub).")
    import torch
    import transformers

    auto = getattr(transformers, f"AutoModelFor{head}")
    with _quiet(), torch.random.fork_rng(devices=[]):  # weights that are missing would be drawn, before we can refuse them
        model, report = auto.from_pretrained(str(folder), local_files_only=True, dtype="auto", output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"{folder} holds no {', '.join(missing[:3])} ({len(missing)} missing): it was not saved from a {type(model).__name__}, and those weights "
            f"would be random. Give a checkpoint with that head, or train one and save it with save_pretrained."
        )
    return model


def copied(model: nn.Module) -> nn.Module:
    """Return a copy without hooks: those of a policy would bring the policy along."""
    if not hasattr(model, "modules"):
        raise TypeError(f"A model is a folder written by save_pretrained, or a module of torch, not {type(model).__name__}.")
    hooks = (hook for module in model.modules() for hook in (module._forward_hooks, module._forward_pre_hooks))
    return deepcopy(model, {id(hook): type(hook)() for hook in hooks})


def placed(model: nn.Module, dtype: str | None, device: str) -> nn.Module:
    """Return `model` itself, frozen, without dropout, in that precision and on that device."""
    import torch

    chosen: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
    return model.to(device=device, dtype=chosen).eval().requires_grad_(False)


def checked_dtype(dtype: str | None) -> str | None:
    """Return `dtype`; raises `ValueError` unless it is one of DTYPES, or None."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} must be one of {DTYPES}, or None for the checkpoint's own.")
    return dtype


def check_positions(model: nn.Module, width: int) -> None:
    """Raise `ValueError` if `model` knows fewer positions than `width`."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[operator, union-attr]
    if isinstance(limit, int) and width > limit:
        raise ValueError(f"A text of {width} tokens came in, the model knows {limit} positions: use a shorter budget or a longer model.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and load reports off the screen."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
