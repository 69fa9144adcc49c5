"""All that surrounds a training loop, once: progress, metrics, checkpoint and resume, Ctrl-C.

A loop steps through a `Run` and stays as short as its algorithm:

    run = Run(total=40, folder="runs/ppo", state=state, restore=restore, show=("return", "kl"), title="ppo on TextGen-v0")
    with run:
        for iteration in run:
            ...
            run.log({"return": 0.5, "kl": 0.1}, steps=2048)

`log` closes an iteration: what the loop changes after it still belongs to the checkpoint, which is taken when the loop comes back for the next one.
The folder then holds `metrics.jsonl` (a row an iteration), `tensorboard/` and `checkpoints/000010/` (the state after 10 iterations).
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TextIO

from . import files
from .progress import make_display

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

KEPT_CHECKPOINTS = 2
_OWN_METRICS = ("iteration", "steps", "time/seconds", "time/steps_per_second")


class DamagedRunError(ValueError):
    """A run's folder that cannot be gone on with: no checkpoint in it is good, or its metrics are not those of its checkpoint."""


class Checkpoint(NamedTuple):
    """A saved state of a run."""

    path: Path
    iteration: int  # iterations done
    steps: int  # environment steps done
    state: Any  # what the run's `state()` returned


class Run:
    """Iterates over what is left of a training run and looks after everything but the training.

    `state()` returns all that the loop changes (see `files.save_state` for what it may hold) and `restore(state)` puts it back; with these,
    stopping and resuming gives, bit for bit, what the uninterrupted run gives. Metrics whose names begin with "time/" are the exception.
    """

    def __init__(
        self,
        total: int,
        folder: Path | str | None = None,
        state: Callable[[], Any] | None = None,
        restore: Callable[[Any], object] | None = None,
        *,
        save_every: int | None = 10,
        resume: bool = False,
        quiet: bool = False,
        show: Sequence[str] = ("return",),
        title: str = "",
        tensorboard: bool = True,
    ) -> None:
        """Check the choices; nothing is read or written before `with run`.

        Args:
            total: iterations in all, those before a resume included.
            folder: where everything is saved; None saves nothing.
            state: returns the state to save; needed with a folder.
            restore: takes such a state; needed to resume.
            save_every: iterations between checkpoints; None saves at the end only.
            resume: go on from the newest good checkpoint in the folder.
            quiet: print nothing at all.
            show: names of the metrics to show while the run goes.
            title: what to call the run there.
            tensorboard: also write event files.
        """
        if total < 0 or (save_every is not None and save_every < 1):
            raise ValueError(f"total is {total} and save_every {save_every}; they must be at least 0 and 1 (save_every=None saves at the end only).")
        if folder is not None and state is None:
            raise ValueError(f"A run with a folder ({folder}) saves checkpoints: pass state=..., or folder=None to save nothing.")
        if resume and (folder is None or restore is None):
            raise ValueError("resume=True needs the folder of the run to go on with and restore=...; pass both.")
        self.total, self.folder = total, Path(folder) if folder is not None else None
        self.history: list[dict[str, Any]] = []
        self.interrupted = False
        self.stopped: str | None = None
        self._state, self._restore, self._save_every, self._resume = state, restore, save_every, resume
        self._display = make_display(title, total, show, quiet)
        self._tensorboard = tensorboard
        self._entered = self._active = self._inside = False  # inside: between an iteration's beginning and its `log`
        self._saved: int | None = None  # iterations done at the newest checkpoint
        self._began = self._iteration_began = 0.0
        self._metrics: TextIO | None = None
        self._writer: SummaryWriter | None = None
        self._stack = contextlib.ExitStack()  # what __exit__ undoes

    @property
    def done(self) -> int:
        """Return how many iterations are complete, those before a resume included."""
        return len(self.history)

    @property
    def steps(self) -> int:
        """Return how many environment steps the complete iterations took."""
        return int(self.history[-1]["steps"]) if self.history else 0

    def stop(self, reason: str) -> None:
        """End the run after this iteration, with a checkpoint; `stopped` keeps the reason."""
        self.stopped = reason

    def log(self, metrics: Mapping[str, Any], *, steps: int) -> None:
        """Close the iteration with its metrics (anything `float()` takes) and the environment steps it took.

        Raises `FloatingPointError` for a metric that is inf or nan: training has diverged, and the last checkpoint was taken before.
        """
        if not self._inside:
            raise RuntimeError("run.log must be called once in each iteration of `for iteration in run`; it was called outside or twice.")
        if steps < 0:
            raise ValueError(f"steps is {steps}; pass the environment steps of this iteration, at least 0.")
        now, iteration = time.perf_counter(), self.done
        row: dict[str, Any] = {"iteration": iteration, "steps": self.steps + int(steps)}
        row |= {name: self._checked(name, value) for name, value in metrics.items()}
        row |= {"time/seconds": now - self._began, "time/steps_per_second": int(steps) / max(now - self._iteration_began, 1e-9)}
        self._write(row)
        self.history.append(row)
        self._inside = False
        self._display.update(row)

    def __enter__(self) -> Self:
        """Open the folder, resume if asked to, and begin to show progress and to listen to Ctrl-C."""
        if self._entered:
            raise RuntimeError("A Run is entered once; make a new one (resume=True goes on with an old one).")
        self._entered = True
        with contextlib.ExitStack() as stack:
            if self.folder is not None:
                self._open_folder(self.folder)
                stack.callback(self._close_files)
            self._display.start(self.history)
            stack.callback(self._display.close)
            stack.enter_context(_interrupts(self._on_interrupt))
            self._stack = stack.pop_all()
        self._began = time.perf_counter() - (self.history[-1]["time/seconds"] if self.history else 0.0)
        self._active = True
        return self

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the iterations that are left, saving between them."""
        if not self._active:
            raise RuntimeError("Iterate over a Run inside `with run:`, which opens its folder and saves its end.")
        while self.done < self.total and not self.interrupted and self.stopped is None:
            self._inside, self._iteration_began = True, time.perf_counter()
            iteration = self.done
            yield iteration
            if self._inside:
                raise RuntimeError(f"Iteration {iteration} ended without run.log(metrics, steps=...); call it once in each.")
            if self._save_every is not None and self.done % self._save_every == 0:
                self._save()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Save the end, unless an error or a `break` before `log` left an iteration half done, and close everything."""
        self._active = False
        with self._stack:
            if kind is None and not self._inside:
                self._save()
        if kind is None:
            self._say_how_it_ended()

    def _checked(self, name: str, value: Any) -> int | float:
        """Return a metric as a plain number."""
        if name in _OWN_METRICS:
            raise ValueError(f"The metric {name!r} is the run's own; give yours another name.")
        try:
            result = _plain_number(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"The metric {name!r} is {value!r}; a metric is one number.") from error
        if not math.isfinite(result):
            kept = "Nothing was saved before." if self._saved is None else f"The last good checkpoint is that of {self._saved} iterations."
            raise FloatingPointError(f"The metric {name!r} is {result} in iteration {self.done}: training has diverged. {kept}")
        return result

    def _open_folder(self, folder: Path) -> None:
        metrics = folder / "metrics.jsonl"
        if self._resume:
            self._go_on(folder)
        elif checkpoints(folder) or (metrics.exists() and metrics.stat().st_size):
            raise FileExistsError(f"{folder} already holds a run; pass resume=True to go on with it, or choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in (folder / "checkpoints").glob(f".*{files.TEMPORARY}"):  # of a process that was killed while it saved
            shutil.rmtree(leftover, ignore_errors=True)
        self._metrics = open(metrics, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)

    def _go_on(self, folder: Path) -> None:
        """Take the run up at its newest good checkpoint, cutting off the metrics that came after it."""
        checkpoint = load_checkpoint(folder)
        lines, history = _read_metrics(folder / "metrics.jsonl", checkpoint)
        assert self._restore is not None  # checked by __init__
        self._restore(checkpoint.state)
        files.write_text(folder / "metrics.jsonl", "".join(lines))
        self.history, self._saved = history, checkpoint.iteration
        for path in checkpoints(folder):
            if int(path.name) > checkpoint.iteration:  # damaged, or it would have been loaded
                shutil.rmtree(path, ignore_errors=True)

    def _write(self, row: dict[str, Any]) -> None:
        if self.folder is None or self._metrics is None:
            return
        self._metrics.write(json.dumps(row, allow_nan=False) + "\n")
        self._metrics.flush()
        if self._tensorboard:
            if self._writer is None:
                self._writer = _tensorboard_writer(self.folder / "tensorboard", self.steps + 1)
            for name, value in row.items():
                self._writer.add_scalar(name, value, row["steps"])

    def _save(self) -> None:
        """Save a checkpoint of the iterations done, unless there is one, and delete those that are too old."""
        if self.folder is None or self._state is None or self._saved == self.done:
            return
        if self._metrics is not None:
            os.fsync(self._metrics.fileno())  # a checkpoint without its rows could not be resumed
        if self._writer is not None:
            self._writer.flush()
        with files.new_folder(self.folder / "checkpoints" / f"{self.done:06d}") as folder:
            files.save_state(folder, {"iteration": self.done, "steps": self.steps, "state": self._state()})
        self._saved = self.done
        for path in checkpoints(self.folder)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(path, ignore_errors=True)

    def _on_interrupt(self) -> None:
        self.interrupted = True
        self._display.note("Finishing this iteration; Ctrl-C again stops at once.")

    def _close_files(self) -> None:
        for file in (self._metrics, self._writer):
            if file is not None:
                file.close()

    def _say_how_it_ended(self) -> None:
        saved = f"saved in {self.folder}" if self._saved == self.done else "nothing saved"
        if self.interrupted and self.done < self.total:
            how = "; resume=True goes on from there" if self._saved == self.done else ""
            self._display.say(f"Interrupted after {self.done} of {self.total} iterations, {saved}{how}.")
        elif self.stopped is not None:
            self._display.say(f"Stopped after {self.done} of {self.total} iterations, {saved}: {self.stopped}")


def checkpoints(folder: Path | str) -> list[Path]:
    """Return the checkpoints in a run's folder, oldest first."""
    parent = Path(folder) / "checkpoints"
    found = [path for path in parent.iterdir() if re.fullmatch(r"\d{6,}", path.name)] if parent.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def load_checkpoint(folder: Path | str) -> Checkpoint:
    """Load the newest good checkpoint of a run's folder, with a warning for each damaged one that is newer.

    Raises `FileNotFoundError` if there is none at all and `DamagedRunError` if all are damaged.
    """
    problems: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            record = files.load_state(path)
            return Checkpoint(path, record["iteration"], record["steps"], record["state"])
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
            warnings.warn(f"Passing over a checkpoint: {error}", stacklevel=2)
    if problems:
        raise DamagedRunError(f"No good checkpoint is left in {Path(folder) / 'checkpoints'}: {' '.join(problems)}")
    raise FileNotFoundError(f"There is no checkpoint in {Path(folder) / 'checkpoints'}; check the folder, or start the run without resume.")


def _read_metrics(path: Path, checkpoint: Checkpoint) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the lines and rows of the iterations that a checkpoint has seen."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[: checkpoint.iteration]
        history = [json.loads(line) for line in lines]
        iterations, steps = [row["iteration"] for row in history], history[-1]["steps"] if history else 0
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedRunError(f"{path} cannot be read ({error}), so the run cannot go on with its history; restore that file.") from error
    if iterations != list(range(checkpoint.iteration)) or steps != checkpoint.steps:
        raise DamagedRunError(
            f"{path} does not hold the {checkpoint.iteration} iterations ({checkpoint.steps} steps) of {checkpoint.path}; restore the right file."
        )
    return lines, history


def _plain_number(value: Any) -> int | float:
    """Return what `value` counts or measures; counts stay integers, whether of Python, numpy or torch."""
    if isinstance(value, str):
        raise TypeError("a text is no number, even where float() would take it")
    try:
        return int(operator.index(value))
    except TypeError:
        return float(value)


def _tensorboard_writer(folder: Path, purge_step: int) -> SummaryWriter:
    """Open event files; TensorBoard drops what older ones hold at `purge_step` and after."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("Event files need the package `tensorboard`: install it, or pass tensorboard=False.") from error
    return SummaryWriter(str(folder), purge_step=purge_step if purge_step > 1 else None)


@contextlib.contextmanager
def _interrupts(on_first: Callable[[], None]) -> Iterator[None]:
    """Call `on_first` at the first Ctrl-C and raise `KeyboardInterrupt` at the next; outside the main thread do nothing, for Python allows no more."""
    previous = signal.getsignal(signal.SIGINT)
    # A process that was told to ignore SIGINT (nohup, a shell's background job), or whose handler Python does not know, stays so.
    if threading.current_thread() is not threading.main_thread() or previous in (signal.SIG_IGN, None):
        yield
        return
    count = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        on_first()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
