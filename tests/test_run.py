"""A run: law 6 in miniature (save, stop, load, continue == uninterrupted, bit for bit), Ctrl-C, what is shown, and every error."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import files, progress
from agents.run import Run, checkpoints, load_checkpoint
from agents.seeds import Generators, generator_state, generators, restore_generator

ROOT = Path(__file__).parent.parent
TOTAL = 7


class Toy:
    """A little training: noise from numpy, a torch layer, Adam, and a number that changes after `log`."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(3, 2)
        self.optimiser = torch.optim.Adam(self.layer.parameters(), lr=0.05)
        self.generator = generators(5).policy
        self.rate = 1.0

    def state(self) -> dict[str, Any]:
        return {"layer": self.layer.state_dict(), "optimiser": self.optimiser.state_dict(), "generator": generator_state(self.generator), "rate": self.rate}

    def restore(self, state: dict[str, Any]) -> None:
        self.layer.load_state_dict(state["layer"])
        self.optimiser.load_state_dict(state["optimiser"])
        restore_generator(self.generator, state["generator"])
        self.rate = state["rate"]

    def run(self, folder: Path | None, total: int = TOTAL, tensorboard: bool = False, **choices: Any) -> Run:
        return Run(total, folder, self.state, self.restore, tensorboard=tensorboard, **({"quiet": True, "save_every": 2} | choices))

    def step(self, run: Run) -> None:
        inputs = torch.from_numpy(self.generator.standard_normal((4, 3))).float()
        loss = self.rate * (self.layer(inputs) - inputs.sum()).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        run.log({"loss": loss.detach(), "count": np.int64(3), "noise": self.generator.random()}, steps=int(self.generator.integers(1, 9)))
        self.rate *= 0.9


def train(run: Run, toy: Toy, hook: Callable[[int], None] = lambda iteration: None) -> Run:
    with run:
        for iteration in run:
            hook(iteration)
            toy.step(run)
    return run


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def written(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def bits(state: Any, folder: Path) -> tuple[bytes, bytes]:
    with files.new_folder(folder, replace=True) as temporary:
        files.save_state(temporary, state)
    return (folder / "state.json").read_bytes(), (folder / "arrays.safetensors").read_bytes()


@pytest.fixture
def whole(tmp_path: Path) -> tuple[list[dict[str, Any]], tuple[bytes, bytes]]:
    """The history and the final state of the run that nothing interrupted and nobody saved."""
    toy = Toy()
    run = train(toy.run(None), toy)
    return timeless(run.history), bits(toy.state(), tmp_path / "whole")


def check_equal(whole: Any, run: Run, toy: Toy, folder: Path, scratch: Path) -> None:
    assert timeless(run.history) == whole[0]
    assert written(folder) == run.history
    assert bits(toy.state(), scratch / "bits") == whole[1]
    assert bits(load_checkpoint(folder).state, scratch / "bits") == whole[1]
    seconds = [row["time/seconds"] for row in run.history]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("k", range(TOTAL + 1))
def test_stopped_after_every_iteration_and_resumed_equals_uninterrupted(tmp_path: Path, whole: Any, k: int) -> None:
    folder = tmp_path / "run"
    toy = Toy()
    assert train(toy.run(folder, total=k), toy).done == k
    toy = Toy()
    run = train(toy.run(folder, resume=True), toy)
    check_equal(whole, run, toy, folder, tmp_path)
    assert [path.name for path in checkpoints(folder)][-1] == f"{TOTAL:06d}"


@pytest.mark.parametrize("k", range(2, TOTAL))
def test_failed_in_every_iteration_and_resumed_equals_uninterrupted(tmp_path: Path, whole: Any, k: int) -> None:
    folder = tmp_path / "run"

    def fail(iteration: int) -> None:
        if iteration == k:
            raise OSError("the power went")

    toy = Toy()
    with pytest.raises(OSError, match="power"):
        train(toy.run(folder), toy, fail)
    assert len(written(folder)) == k  # rows beyond the checkpoint, which the resumed run cuts off
    assert load_checkpoint(folder).iteration == k // 2 * 2
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 99, "half a li')
    toy = Toy()
    check_equal(whole, train(toy.run(folder, resume=True), toy), toy, folder, tmp_path)


@pytest.mark.parametrize("before_log", [True, False])
def test_a_break_keeps_whole_iterations_only(tmp_path: Path, whole: Any, before_log: bool) -> None:
    toy = Toy()
    folder = tmp_path / "run"
    with toy.run(folder) as run:
        for iteration in run:
            if before_log and iteration == 3:
                toy.generator.random()
                break
            toy.step(run)
            if iteration == 4:
                break
    assert load_checkpoint(folder).iteration == (2 if before_log else 5)
    toy = Toy()
    check_equal(whole, train(toy.run(folder, resume=True), toy), toy, folder, tmp_path)


def test_a_stopped_run_goes_on_and_a_finished_one_does_not(tmp_path: Path, whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
    toy = Toy()
    run = toy.run(tmp_path / "run", quiet=False)
    train(run, toy, lambda iteration: run.stop("good enough") if iteration == 2 else None)
    assert (run.done, run.stopped, run.interrupted) == (3, "good enough", False)
    assert re.search(r"Stopped after 3 of 7 iterations, saved in .*run: good enough", capsys.readouterr().out)
    toy = Toy()
    check_equal(whole, train(toy.run(tmp_path / "run", resume=True), toy), toy, tmp_path / "run", tmp_path)
    toy = Toy()
    check_equal(whole, train(toy.run(tmp_path / "run", resume=True), toy, lambda _: pytest.fail("nothing is left")), toy, tmp_path / "run", tmp_path)


def test_two_checkpoints_are_kept_and_the_rows_say_what_happened(tmp_path: Path) -> None:
    toy = Toy()
    run = train(toy.run(tmp_path), toy)
    assert [path.name for path in checkpoints(tmp_path)] == ["000006", "000007"]
    assert list(run.history[0]) == ["iteration", "steps", "loss", "count", "noise", "time/seconds", "time/steps_per_second"]
    assert [row["iteration"] for row in run.history] == list(range(TOTAL))
    assert isinstance(run.history[0]["count"], int)
    assert run.steps == run.history[-1]["steps"]
    toy = Toy()
    assert train(toy.run(tmp_path / "end", save_every=None), toy).done == TOTAL
    assert [path.name for path in checkpoints(tmp_path / "end")] == ["000007"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, whole: Any) -> None:
    toy = Toy()
    folder = tmp_path / "run"
    train(toy.run(folder, total=4), toy)
    (folder / "checkpoints/000004/arrays.safetensors").write_bytes(b"damaged")
    (folder / "checkpoints/000003").mkdir()  # not in the way of a later one, but no checkpoint either
    toy = Toy()
    run = toy.run(folder, resume=True)
    with pytest.warns(UserWarning, match="Passing over") as caught:
        train(run, toy)
    assert [re.findall(r"(0{5}\d/\S+) is (missing|damaged)", str(warning.message)) for warning in caught] == [
        [("000004/arrays.safetensors", "damaged")],
        [("000003/state.json", "missing")],
    ]
    assert [path.name for path in checkpoints(folder)] == ["000006", "000007"]
    check_equal(whole, run, toy, folder, tmp_path)
    for path in checkpoints(folder):
        (path / "state.json").unlink()
    with pytest.raises(ValueError, match=r"No good checkpoint is left in .*state\.json is missing"), pytest.warns(UserWarning, match="Passing"):
        load_checkpoint(folder)


def test_a_failing_save_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy()
    real = files.save_state

    def fails_at_four(folder: Path, state: Any) -> None:
        real(folder, state)
        if state["iteration"] == 4:
            raise OSError("disk full")

    monkeypatch.setattr(files, "save_state", fails_at_four)
    with pytest.raises(OSError, match="disk full"):
        train(toy.run(tmp_path), toy)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000002"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_metric_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(tmp_path: Path, bad: Any) -> None:
    toy = Toy()
    run = toy.run(tmp_path)
    with pytest.raises(FloatingPointError, match=r"'kl' is (nan|inf) in iteration 3: training has diverged. The last good checkpoint is that of 2 iterations"):
        train(run, toy, lambda iteration: run.log({"kl": bad}, steps=1) if iteration == 3 else None)
    assert load_checkpoint(tmp_path).iteration == 2
    assert len(written(tmp_path)) == 3


def test_event_files_hold_the_metrics_and_a_resumed_run_purges_what_was_cut_off(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def fail(iteration: int) -> None:
        if iteration == 5:
            raise OSError("the power went")

    toy = Toy()
    with pytest.raises(OSError, match="power"):
        train(toy.run(tmp_path, tensorboard=True), toy, fail)
    toy = Toy()
    run = train(toy.run(tmp_path, tensorboard=True, resume=True), toy)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("noise")
    assert [event.step for event in scalars] == [row["steps"] for row in run.history]
    assert [event.value for event in scalars] == [float(np.float32(row["noise"])) for row in run.history]


# ---- Ctrl-C and kill, with real processes and real signals

CHILD = """
import signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell of the tests does
from tests.test_run import Toy, train

for name, wait in (("once", 0), ("twice", 60), ("killed", 60)):  # one process, for most of its time is imports
    toy = Toy()
    run = toy.run(Path({folder!r}) / name, quiet=False, show=("noise",), title=name)

    def hook(iteration):
        if iteration == 3:
            print("waiting", name, flush=True)
            while not run.interrupted:
                time.sleep(0.01)
            print("noticed", name, flush=True)
            time.sleep(wait)

    try:
        train(run, toy, hook)
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
    print("end", name, run.done, run.interrupted, signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)
"""


def test_one_interrupt_ends_after_the_iteration_and_two_or_a_kill_at_once(tmp_path: Path, whole: Any) -> None:
    code = CHILD.format(root=str(ROOT), folder=str(tmp_path))
    steps = [("waiting once", signal.SIGINT), ("waiting twice", signal.SIGINT), ("noticed twice", signal.SIGINT), ("waiting killed", signal.SIGKILL)]
    lines: list[str] = []
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as child:
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line.strip())
            if steps and lines[-1] == steps[0][0]:
                child.send_signal(steps.pop(0)[1])
    assert child.returncode == -signal.SIGKILL
    end = lines.index("end once 4 True True")
    assert lines[end - 1] == f"Interrupted after 4 of 7 iterations, saved in {tmp_path / 'once'}; resume=True goes on from there."
    end = lines.index("end twice 3 True True")
    assert lines[end - 1] == "KeyboardInterrupt"
    assert [load_checkpoint(tmp_path / name).iteration for name in ("once", "twice", "killed")] == [4, 2, 2]
    for name in ("once", "twice", "killed"):
        toy = Toy()
        check_equal(whole, train(toy.run(tmp_path / name, resume=True), toy), toy, tmp_path / name, tmp_path)


def test_killed_while_saving_leaves_the_checkpoint_before(tmp_path: Path, whole: Any) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from agents import files
from tests.test_run import Toy, train
real = files.save_state
def save_state(folder, state):
    real(folder, state)
    if state["iteration"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
files.save_state = save_state
toy = Toy()
train(toy.run(Path({str(tmp_path / "run")!r})), toy)
"""
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 2  # a good one and a leftover
    toy = Toy()
    check_equal(whole, train(toy.run(tmp_path / "run", resume=True), toy), toy, tmp_path / "run", tmp_path)
    assert all(re.fullmatch(r"\d{6}", path.name) for path in (tmp_path / "run/checkpoints").iterdir())


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    before, toy = signal.getsignal(signal.SIGINT), Toy()
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: train(toy.run(tmp_path), toy, lambda _: seen.append(signal.getsignal(signal.SIGINT))))
    thread.start()
    thread.join()
    assert seen == [before] * TOTAL
    assert load_checkpoint(tmp_path).iteration == TOTAL


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        toy = Toy()
        run = train(toy.run(None), toy, lambda _: os.kill(os.getpid(), signal.SIGINT))
        assert (run.done, run.interrupted) == (TOTAL, False)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# ---- what is shown


def test_a_pipe_gets_few_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(200, title="toy", show=("return", "a_rather_long_name"))
    with run:
        for iteration in run:
            run.log({"return": iteration / 7}, steps=1024)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy: 200 iterations"
    assert lines[1].split() == ["iteration", "steps", "return", "a_rather_long_name", "steps/s", "left"]
    assert len({len(line) for line in lines[1:]}) == 1
    assert [line.split()[0] for line in lines[2:]] == [f"{done}/200" for done in [1, *range(21, 200, 20), 200]]
    assert lines[-1].split()[1:4] == ["204,800", "28.43", "-"]


def test_slow_iterations_get_a_line_every_five_seconds_and_then_fewer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines = progress.Lines("", 36_000, ("return",))
    lines.start([])
    for iteration in range(36_000):  # ten hours of a second each
        now[0] += 1
        lines.update({"iteration": iteration, "steps": iteration})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [int(cells[0].split("/")[0]) for cells in printed[:4]] == [1, 6, 11, 16]
    assert 100 < len(printed) < 200
    assert printed[0][-1] == "9:59:59"


def test_quiet_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    toy = Toy()
    run = toy.run(None)
    train(run, toy, lambda iteration: run.stop("enough"))
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_live_table() -> None:
    from rich.console import Console

    text = io.StringIO()
    live = progress.Live("ppo on TextGen-v0", 4, ("return", "kl"), Console(file=text, force_terminal=True, width=100))
    live.start([{"iteration": 0, "steps": 10, "return": 0.0}])
    live.update({"iteration": 1, "steps": 2000, "return": 0.25, "kl": 0.0123456, "time/steps_per_second": 1234.5})
    live.note("Finishing this iteration")
    live._live.refresh()
    live.say("a line that [stays]")
    live.close()
    for part in ("ppo on TextGen-v0", "2/4", "return", "▁█", "0.01235", "1,234 per second", "Finishing this iteration", "a line that [stays]"):
        assert part in text.getvalue()


def test_in_a_real_terminal_an_interrupt_is_noted_and_the_screen_given_back() -> None:
    code = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from agents.run import Run
with Run(5, title="toy", show=("return",)) as run:
    for iteration in run:
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.6)
        run.log(dict([("return", 1.5)]), steps=1)
"""
    parent, child_end = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stdout=child_end, env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"})
    os.close(child_end)
    output = b""
    try:
        while received := os.read(parent, 4096):
            output += received
    except OSError:  # how a pseudo-terminal ends on Linux
        pass
    os.close(parent)
    assert child.wait(10) == 0
    shown = output.decode()
    for part in ("Finishing this iteration; Ctrl-C again stops at once.", "2/5", "1.5", "Interrupted after 2 of 5 iterations, nothing saved.", "\x1b[?25h"):
        assert part in shown


def test_numbers_durations_and_sparklines() -> None:
    assert [progress.number(v) for v in (None, 3, 1234567, 0.000123456, 12345.6, 2.0, 3e12)] == ["-", "3", "1,234,567", "0.0001235", "12,346", "2", "3.000e+12"]
    assert [progress.duration(v) for v in (None, 0.4, 61, 3661.2)] == ["-", "0:00", "1:01", "1:01:01"]
    assert progress.sparkline([], 5) == ""
    assert progress.sparkline([1, 1], 5) == "▁▁"
    assert progress.sparkline(range(800), 8) == "▁▂▃▄▅▆▇█"


# ---- errors


def log_all(run: Run, metrics: dict[str, Any], steps: int = 1, times: int = 1) -> None:
    with run:
        for _ in run:
            for _ in range(times):
                run.log(metrics, steps=steps)


def test_choices_that_cannot_work_say_so(tmp_path: Path) -> None:
    toy = Toy()
    with pytest.raises(ValueError, match="total is -1"):
        Run(-1)
    with pytest.raises(ValueError, match="save_every 0"):
        Run(1, save_every=0)
    with pytest.raises(ValueError, match="pass state="):
        Run(1, tmp_path)
    with pytest.raises(ValueError, match="resume=True needs the folder"):
        Run(1, resume=True)
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint in .*checkpoints; check the folder"), toy.run(tmp_path, resume=True):
        pass
    train(toy.run(tmp_path), toy)
    with pytest.raises(FileExistsError, match="already holds a run; pass resume=True"), toy.run(tmp_path):
        pass
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "steps": 1}\n')
    with pytest.raises(ValueError, match="does not hold the 7 iterations"), toy.run(tmp_path, resume=True):
        pass
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl cannot be read \('iteration'\)"), toy.run(tmp_path, resume=True):
        pass
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics.jsonl cannot be read"), toy.run(tmp_path, resume=True):
        pass


def test_a_loop_that_is_wrong_is_told_so() -> None:
    run = Run(3, quiet=True)
    with pytest.raises(RuntimeError, match="inside `with run:`"):
        next(iter(run))
    with pytest.raises(RuntimeError, match="must be called once in each iteration"):
        run.log({}, steps=1)
    with pytest.raises(RuntimeError, match="outside or twice"):
        log_all(run, {}, times=2)
    with pytest.raises(RuntimeError, match="entered once"), run:
        pass
    with pytest.raises(RuntimeError, match=r"Iteration 0 ended without run\.log"):
        log_all(Run(3, quiet=True), {}, times=0)


@pytest.mark.parametrize(
    ("metrics", "steps", "error", "message"),
    [
        ({"steps": 1}, 1, ValueError, "'steps' is the run's own"),
        ({"time/seconds": 1}, 1, ValueError, "'time/seconds' is the run's own"),
        ({"loss": "0.5"}, 1, TypeError, "'loss' is '0.5'; a metric is one number"),
        ({"loss": None}, 1, TypeError, "'loss' is None"),
        ({"loss": torch.zeros(2)}, 1, TypeError, "a metric is one number"),
        ({"loss": 1.0}, -1, ValueError, "steps is -1"),
    ],
)
def test_a_metric_that_is_wrong_is_named(metrics: dict[str, Any], steps: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        log_all(Run(1, quiet=True), metrics, steps)


# ---- seeds


def test_streams_are_disjoint_and_reproducible() -> None:
    def draws(g: Generators) -> list[int]:
        return [g.environments, *(int(stream.integers(2**62)) for stream in g[1:])]

    seen = [value for seed in range(20) for rank in range(3) for value in draws(generators(seed, rank))]
    assert len(set(seen)) == len(seen)
    assert draws(generators(3, 1)) == draws(generators(3, 1))
    expected = np.random.default_rng(np.random.SeedSequence([3, 2, 1])).random()
    assert generators(3, 1).minibatches.random() == expected
    assert all(0 <= generators(seed).environments < 2**31 - 2**20 for seed in range(50))
    for seed, rank in [(-1, 0), (2**32, 0), (0, -1)]:
        with pytest.raises(ValueError, match="must be at least 0 and below"):
            generators(seed, rank)


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_a_generator_goes_on_where_it_was(kind: Any) -> None:
    generator = np.random.Generator(kind(1))
    generator.integers(10, size=3, dtype=np.int32)  # leaves half a word in the buffer
    state = json.loads(json.dumps(generator_state(generator)))
    expected = generator.random(5), generator.integers(10, size=3, dtype=np.int32)
    other = np.random.Generator(kind(2))
    restore_generator(other, state)
    np.testing.assert_array_equal(other.random(5), expected[0])
    np.testing.assert_array_equal(other.integers(10, size=3, dtype=np.int32), expected[1])
    with pytest.raises(ValueError, match="is of a 'x' generator"):
        restore_generator(other, {"bit_generator": "x"})


def test_a_run_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    toy = Toy()
    before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    train(toy.run(tmp_path, tensorboard=True), toy)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]  # noqa: NPY002
