"""The command line of the learners on one tiny run: repeated, measured, played with, and asked for what cannot be."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.__main__ import main

ROOT = Path(__file__).parents[1]
MODEL = ["--width", "16", "--layers", "1", "--heads", "2", "--max-new-tokens", "6", "--num-eval", "16", "--quiet"]
RL = ["--num-envs", "8", "--num-steps", "6", "--total-timesteps", "144", "--evaluate-every", "2", "--save-every", "1"]
RL += ["--warmup.num-updates", "4", "--warmup.batch-size", "8"]
SHORT = {
    "ppo": [*MODEL, *RL],
    "a2c": [*MODEL, *RL],
    "policy_gradient": [*MODEL, *RL, "--supervised-coef", "0.5"],
    "sft": [*MODEL, "--num-updates", "4", "--batch-size", "8", "--evaluate-every", "2"],
}
COMMANDS = (*SHORT, "resume", "eval", "play")


class Shell:
    """Runs the command line in this process: a new one takes seconds to begin."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys
        self.out = self.err = ""

    def __call__(self, *arguments: str | Path) -> int | str | None:
        self.monkeypatch.setattr(sys, "argv", ["agents", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        self.out, self.err = self.capsys.readouterr()
        return ended.value.code


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv("COLUMNS", "100")
    return Shell(monkeypatch, capsys)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["agents", "ppo", *SHORT["ppo"], "--seed", "3", "--folder", str(folder)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    return folder


def rows_of(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def test_a_config_repeats_its_run_bit_for_bit_and_options_change_it(run: Path, shell: Shell, tmp_path: Path) -> None:
    assert shell("ppo", "--config", run / "config.json", "--folder", tmp_path / "again") == 0
    assert (shell.out, shell.err) == ("", ""), "it was told to be quiet, and so is the repetition"
    assert rows_of(tmp_path / "again") == rows_of(run)
    assert (tmp_path / "again" / "evaluation.json").read_text() == (run / "evaluation.json").read_text()
    assert (tmp_path / "again" / "policy" / "model.safetensors").read_bytes() == (run / "policy" / "model.safetensors").read_bytes()
    shell.monkeypatch.chdir(tmp_path)
    assert shell("ppo", f"--config={run / 'config.json'}", "--total-timesteps", "48", "--num-eval", "4") == 0
    other = next((tmp_path / "runs").iterdir())
    assert other.name.startswith("ppo-film_reviews-seed3-"), "a folder of its own"
    assert len(rows_of(other)) == 1
    changed, first = (json.loads((folder / "config.json").read_text()) for folder in (other, run))
    assert changed | {"folder": first["folder"], "num_eval": 16} | {"ppo": changed["ppo"] | {"total_timesteps": 144}} == first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a2c", "policy_gradient", "sft"])
def test_a_config_repeats_the_runs_of_the_other_commands(name: str, shell: Shell, tmp_path: Path) -> None:
    assert shell(name, *SHORT[name], "--seed", "2", "--folder", tmp_path / "first") == 0
    assert shell(name, "--config", tmp_path / "first" / "config.json", "--folder", tmp_path / "again") == 0
    assert rows_of(tmp_path / "again") == rows_of(tmp_path / "first")
    assert (tmp_path / "again" / "evaluation.json").read_text() == (tmp_path / "first" / "evaluation.json").read_text()


def test_eval_gives_the_numbers_of_the_training(run: Path, shell: Shell) -> None:
    assert shell("eval", run, "--json") == 0
    told, written = json.loads(shell.out), json.loads((run / "evaluation.json").read_text())
    for when in ("before", "after"):
        assert {name: told[when][name] for name in written[when]} == written[when]
    assert told["before"]["nats"] == written["warmup_nats"]
    low, high = told["intervals"]["after"]["score"]
    assert low < told["after"]["score"] < high
    assert "distinct" not in told["intervals"]["after"], "no mean over samples"
    assert shell("eval", run, "--num-eval", "8", "--seed", "1") == 0
    assert "8 held-out samples" in shell.out
    assert "+-" in shell.out


def test_eval_of_a_stopped_run_takes_its_newest_checkpoint(run: Path, shell: Shell, tmp_path: Path) -> None:
    stopped = Path(shutil.copytree(run, tmp_path / "stopped"))
    shutil.rmtree(stopped / "policy")
    assert shell("eval", stopped, "--json") == 0
    told = json.loads(shell.out)
    assert told["stage"] == "the policy after 3 iterations"
    assert told["after"]["score"] == json.loads((run / "evaluation.json").read_text())["after"]["score"]


def test_play_in_a_pipe_writes_one_text(run: Path, shell: Shell) -> None:
    assert shell("play", run, "--prompt", "the plot is", "--top", "3", "--seed", "5") == 0
    first, *steps, text, ending = shell.out.splitlines()
    assert first == f"{run}: the finished policy."
    assert steps[0] == "the plot is |"
    shown = steps[1].split("|")[0].split()
    assert len(shown) == 6, "three tokens and their chances"
    chances = [float(chance) for chance in shown[1::2]]
    assert chances == sorted(chances, reverse=True)
    assert " value " in steps[1]
    assert text.startswith("the plot is | ")
    assert "reward" in ending
    assert "score" in ending
    again = shell.out
    shell("play", run, "--prompt", "the plot is", "--top", "3", "--seed", "5")
    assert shell.out == again


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, shell: Shell) -> None:
    assert shell(name, "--help") == 0
    assert f"Example: python -m agents {name}" in " ".join(shell.out.split())
    if name in SHORT:
        groups = ["options", f"{name.replace('_', ' ')} options", "text options", "model options", *(["warmup options"] if name != "sft" else [])]
        assert [line for line in groups if f" {line} " in shell.out] == groups
        assert "--config" in shell.out


def test_the_list_of_commands(shell: Shell) -> None:
    assert shell("--help") == 0
    assert all(f"\n  {name}" in shell.out for name in COMMANDS)


WRONG: list[tuple[Sequence[str], str, str]] = [  # arguments; what is wrong; what to do
    (("ppo", "--scorer", "sentimen"), "There is no scorer 'sentimen'", "Did you mean 'sentiment'"),
    (("a2c", "--constraint", "no_repet(n=3)"), "There is no constraint 'no_repet'", "Did you mean 'no_repeat'"),
    ((), "No command was given", "Give one of ppo, a2c, policy_gradient, sft, resume, eval, play"),
    (("pppo",), "'pppo' is no command", "Did you mean 'ppo'"),
    (("ppo", "--seed", "x"), "--seed: 'x' is no whole number", "--help` explains"),
    (("ppo", "--seed", "-1"), "seed must be at least 0", "--help` explains"),
    (("ppo", "--numenvs", "3"), "There is no option --numenvs", "Did you mean --num-envs"),
    (("ppo", "--num-envs"), "--num-envs has no value", "Give it one"),
    (("ppo", "--num-envs", "0"), "num_envs must be at least 1, got 0", "--help` explains"),
    (("ppo", "--width", "65"), "width=65", "a width that heads divides"),
    (("ppo", "--normalise", "all"), "--normalise: 'all'", "Expected one of ('batch', 'minibatch', 'group', 'none')"),
    (("policy_gradient", "--advantage", "gea"), "Unknown advantage 'gea'", "Did you mean 'gae'"),
    (("ppo", "--prompting", "gruops"), "Unknown prompting 'gruops'", "Did you mean 'groups'"),
    (("ppo", "--config", "none.json"), "There is no file none.json", "Name the config.json"),
    (("ppo", "--config", "BAD"), "is no JSON, or damaged", "Restore the file"),
    (("a2c", "--config", "CONFIG"), "is of the command ppo, not of a2c", "Give it to `python -m agents ppo --config"),
    (("resume",), "RUN is missing", "Give it, as in runs/NAME"),
    (("resume", "nowhere"), "nowhere is no run folder", "Name one"),
    (("eval", "RUN", "--num-eval", "0"), "--num-eval must be at least 1, got 0", "--help` explains"),
    (("play", "nowhere"), "nowhere is no run folder", "Name one"),
]


@pytest.mark.parametrize(("arguments", "wrong", "todo"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_wrong_usage_exits_2_and_says_what_is_wrong_and_what_to_do(
    arguments: Sequence[str], wrong: str, todo: str, run: Path, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_text("{")
    places = {"RUN": run, "CONFIG": run / "config.json", "BAD": tmp_path / "bad.json"}
    assert shell(*(places.get(argument, argument) for argument in arguments)) == 2
    first, second = shell.err.splitlines()
    assert first.startswith("error: ")
    assert wrong in first
    assert todo in second
    assert not shell.out


@pytest.mark.filterwarnings("default:Passing over")
def test_what_fails_exits_1_and_says_it_in_the_same_way(run: Path, shell: Shell, tmp_path: Path) -> None:
    damaged, empty = (Path(shutil.copytree(run, tmp_path / name)) for name in ("damaged", "empty"))
    for path in (damaged / "checkpoints").glob("*/state.json"):
        path.write_text("x")
    shutil.rmtree(empty / "policy")
    shutil.rmtree(empty / "checkpoints")
    cases: list[tuple[list[str | Path], str, str]] = [
        (["ppo", *SHORT["ppo"], "--folder", run], f"{run} already holds a run", f"Go on with it by `python -m agents resume {run}`"),
        (["ppo", "--data", tmp_path / "none.txt", "--scorer", "length"], "none.txt is not a file", "Check the path"),
        (["resume", damaged], "No good checkpoint is left", "--config and its config.json repeat it"),
        (["eval", empty], "neither a policy nor a checkpoint", f"python -m agents resume {empty}"),
        (["play", run, "--prompt", "unheard of"], "'unheard' is not among the 137 words", ""),
        (["play", run, "--prompt", "the plot is " * 5], "has 15 tokens, and this policy has learned on 1 to 8", "Give it as many"),
    ]
    for arguments, wrong, todo in cases:
        assert shell(*arguments) == 1
        first, second = [line for line in shell.err.splitlines() if not line.startswith("warning: ")]
        assert first.startswith("error: ")
        assert wrong in first
        assert todo in second
