"""How every job on text begins: its folder, its language model, and what is said where it cannot begin or does not come to its end."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError

from ..files import new_folder, write_json
from ..policies import CausalLMPolicy
from ..policies.causal_lm import small_gpt2
from ..policies.local_models import load_model
from ..policies.seeding import seeded
from ..run import checkpoints
from .choices import AnyJob, Model, command_of
from .material import Material
from .saved import CONFIG, in_folder, to_json

HOW_TO_GO_ON = "go on with: python -m agents resume {folder}"


class JobError(ValueError):
    """A job that cannot be begun: what is wrong with what it was told, and what to do."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what is wrong with a job's choices into a `JobError`; what goes wrong later is no fault of theirs."""
    try:
        yield
    except SafetensorError as error:
        raise JobError(f"A file of weights is damaged ({error}). Restore it from a copy, or train anew.") from error
    except OSError as error:
        told = str(error) if error.filename is None else f"{error.filename}: {error.strerror}. Choose a path that can be read and written."
        raise JobError(told) from error
    except (ValueError, TypeError, ImportError) as error:
        raise JobError(str(error)) from error


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Say how to go on where Ctrl-C stops a job at once: between its runs, or the second one within them."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(HOW_TO_GO_ON.format(folder=folder))
        raise


def say_how_to_go_on(folder: Path) -> None:
    """Print it where errors go: a job that was stopped has not done what it was told, quiet or not."""
    print(HOW_TO_GO_ON.format(folder=folder), file=sys.stderr)


def folder_of(choice: AnyJob, material: Material) -> Path:
    """Return a job's run folder: that which it names, or a new one in runs/."""
    if choice.job.folder is not None:
        return choice.job.folder
    name = f"{command_of(choice)}-{material.name}-seed{choice.job.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    return next(path for path in (Path("runs") / f"{name}{end}" for end in ("", *(f"-{i}" for i in range(2, 1000)))) if not path.exists())


def open_folder(folder: Path, choice: AnyJob) -> None:
    """Make a job's run folder and write its choices there; raises `FileExistsError` if there is something in it."""
    if (folder / CONFIG).is_file():
        raise FileExistsError(f"{folder} already holds a run; go on with it by `python -m agents resume {folder}`, or choose another --folder.")
    with new_folder(folder) as temporary:
        write_json(temporary / CONFIG, to_json(in_folder(choice, folder)))


def taken_up(folder: Path) -> bool:
    """Return whether a run in `folder` has a checkpoint to go on from; if not, what it wrote before its first one is removed."""
    if checkpoints(folder):
        return True
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    return False


def language_model(size: Model, seed: int, material: Material) -> CausalLMPolicy:
    """Return the language model that a job starts from: that in a folder, or a small one with weights drawn from `seed`.

    Weights that were saved in half precision become float32: most of an optimiser's steps are too small for half precision, and would be lost.
    """
    vocab_size, eos_id = material.tokenizer.vocab_size, material.tokenizer.eos_id
    if size.model is not None:
        with seeded(seed):
            model = load_model(size.model)
            policy = CausalLMPolicy(model.float() if next(model.parameters()).dtype.itemsize < 4 else model, vocab_size)
    else:
        policy = small_gpt2(vocab_size, material.num_positions, eos_id=eos_id, width=size.width, layers=size.layers, heads=size.heads, seed=seed)
    return prepared(policy, size, material)


def prepared(policy: CausalLMPolicy, size: Model, material: Material) -> CausalLMPolicy:
    """Return the policy, acting as it was told to; raises `ValueError` if it knows too few positions for the texts."""
    policy.acting_dtype = None if size.acting_dtype == "float32" else torch.bfloat16
    policy.check_width(material.num_positions)
    return policy


def introduce(console: Console, material: Material, policy: CausalLMPolicy, num_envs: int) -> None:
    """Print what a job has to work with."""
    for note in material.notes:
        console.print(note)
    console.print(f"model: {type(policy.model).__name__}, {sum(p.numel() for p in policy.model.parameters()):,} weights, on {torch.get_num_threads()} threads")
    console.print(f"acting: {policy.acts_by(num_envs, material.num_positions)}")
