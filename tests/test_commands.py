"""The command line of the environments: playing by hand and at random, the table of tasks in a terminal, two lines for every mistake."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import textgym
from textgym.__main__ import main
from textgym.commands.tokens import MistypedError, allowed_ids, draw, read
from textgym.suite.returns import known_returns

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
IDS = [id for id, spec in gym.registry.items() if spec.entry_point == "textgym.env:GymEnv"]
Keyboard = Callable[[str], None]


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a terminal in the place of stdin, with a text typed into it."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield lambda text: os.write(master, text.encode())
    os.close(master)


class TestByHand:
    def test_words_ids_and_several_at_once(self, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
        keyboard("wonderful\n#0\nwonderful <eos>\n")
        assert main(["play", "TextGen-v0", "--seed", "1", "--prompt", "3"]) == 0
        out = capsys.readouterr().out
        tokenizer = gym.make("TextGen-v0").unwrapped.core.task.tokenizer  # type: ignore[attr-defined]
        assert f"| wonderful {tokenizer.words[0]} wonderful  [4/24 tokens, ended]" in out
        assert "20 tokens left" not in out, "no step is left after the end"
        assert "22 tokens left; 137 of 137 ids allowed" in out
        assert "terminated after 4 steps: return 1 (expected: best 1, random 0.5)\nscore 1\n" in out

    def test_wrong_input_is_answered_and_costs_nothing(self, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
        keyboard("wonderfull\n999\nwonderful\nq\n")
        assert main(["play", "TextGen-v0", "--options", '{"constraint": "film_grammar"}', "--prompt", "0"]) == 0
        out = capsys.readouterr().out
        assert "'wonderfull' is none of the words here: type ? to see what is allowed." in out
        assert "'999' is outside the ids, 0 to 136" in out
        allowed = re.search(r"24 tokens left; (\d+) of 137 ids allowed", out)
        assert allowed
        assert f"wonderful is forbidden here, where {allowed[1]} ids are allowed" in out
        assert "stopped after 0 steps: return 0" in out
        assert "expected" not in out, "nothing is known of a constrained task"

    def test_a_question_mark_lists_what_is_allowed(self, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
        keyboard("?\n? won\n? xyz\nq\n")
        assert main(["play", "TextGen-v0", "--seed", "0"]) == 0
        out = capsys.readouterr().out
        tokenizer = gym.make("TextGen-v0").unwrapped.core.task.tokenizer  # type: ignore[attr-defined]
        assert all(f"{word} #{i}" in out for i, word in enumerate(tokenizer.words[:5]))
        assert re.search(r"\nand \d+ more: \? and a beginning", out)
        assert f"\n> wonderful #{tokenizer.words.index('wonderful')}\n" in out
        assert "Nothing that is allowed begins with 'xyz'." in out

    def test_an_empty_line_draws_one_and_the_end_of_input_ends(self, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
        keyboard("\n\n\x04")
        assert main(["play", "textgym/TwoState-v0", "--seed", "0"]) == 0
        assert "\nstopped after 2 steps: return " in capsys.readouterr().out

    def test_moves_by_name_and_number_on_a_drawn_map(self, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
        keyboard("right\n2\ndown down\n")
        assert main(["play", "textgym/PathPlanning-v0", "--options", json.dumps({"map": "S..\n.#.\n..G\n", "max_steps": 4})]) == 0
        out = capsys.readouterr().out
        assert "A..\n.#.\n..G\n" in out
        assert "down: reward 0, return 0\nS>A" not in out
        assert "down: reward 0, return 0\nSA.\n.#." in out, "a wall stops the move"
        assert "1 step left; 4 of 4 ids allowed" in out
        assert "truncated after 4 steps: return 0 (expected: best 10, random " in out

    def test_dialogues_show_what_is_answered(self, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
        keyboard("16\n24\n#27\n")
        assert main(["play", "textgym/GuessNumber-v0", "--prompt", "27"]) == 0
        out = capsys.readouterr().out
        assert "guess | 16 [higher] 24 [higher] 28 [correct]  [3/10 tokens, ended]" in out
        assert "return 0.8 (expected: best 0.6781, random 0.127)\nscore 0.8, turns 3" in out

    def test_a_chunk_is_typed_as_its_words(self, keyboard: Keyboard, capsys: pytest.CaptureFixture[str]) -> None:
        keyboard("1 2 3\n1 2\nq\n")
        assert main(["play", "textgym/Copy-v0", "--options", '{"chunk": 2}']) == 0
        out = capsys.readouterr().out
        assert "An action is a chunk of 2 tokens, and that is 3" in out
        assert "| 1 2  [2/" in out

    def test_a_tokenizer_without_words_takes_text(self) -> None:
        core = gym.make("TextGen-v0", prompts=["a"], tokenizer="byte").unwrapped.core  # type: ignore[attr-defined]
        assert read(core, "a7") == [[97], [55]]
        assert read(core, "#7 #256") == [[7], [256]]
        with pytest.raises(MistypedError, match="outside the ids"):
            read(core, "#257")


class TestAtRandom:
    @pytest.mark.parametrize("id", IDS)
    def test_every_task_can_be_played(self, id: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["play", id, "--random", "--seed", "0"]) == 0
        first = capsys.readouterr().out
        assert first.startswith(f"{id}, seed 0: ")
        assert re.search(r"\n(terminated|truncated) after \d+ steps?: return \S+ \(expected: best \S+, random \S+\)\n", first)

    def test_a_seed_says_all(self, capsys: pytest.CaptureFixture[str]) -> None:
        outs = [main(["play", "textgym/GuessNumber-v0", "--random", "--seed", seed]) or capsys.readouterr().out for seed in "1123"]
        assert outs[0] == outs[1]
        assert len({out.partition("\n")[2] for out in outs}) == 3

    def test_what_is_drawn_keeps_to_the_constraint(self) -> None:
        env = gym.make("TextGen-v0", constraint="film_grammar", chunk=3)
        generator = np.random.default_rng(0)
        core = env.unwrapped.core  # type: ignore[attr-defined]
        for episode in range(20):
            env.reset(seed=episode)
            over = False
            while not over:
                assert len(allowed_ids(core)) < 137
                *_, terminated, truncated, info = env.step(np.array(draw(core, generator)))
                over = terminated or truncated
            assert info["forbidden"] == 0

    def test_a_task_of_ones_own_without_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        textgym.register("Unnamed-v0", "textgym.toy.two_state:TwoState")
        try:
            assert main(["play", "Unnamed-v0", "--random", "--options", '{"horizon": null, "max_episode_steps": 3}']) == 0
        finally:
            del gym.registry["Unnamed-v0"]
        out = capsys.readouterr().out
        assert "truncated after 3 steps" in out
        assert "steps left" not in out
        assert "expected" not in out


def test_a_process_in_a_terminal_takes_typed_tokens_and_ctrl_c() -> None:
    master, slave = pty.openpty()
    child = subprocess.Popen([sys.executable, "-m", "textgym", "play", "textgym/Even-v0"], cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, close_fds=True)
    os.close(slave)
    out = until(master, "> ")
    os.write(master, b"7\n")
    out += until(master, "\n> ")
    child.send_signal(signal.SIGINT)
    if not select.select([master], [], [], 1.0)[0]:
        os.write(master, b"\n")  # a signal between the prompt and the read is heard by Python after the next key only
    out += until(master, None)
    assert child.wait(timeout=10) == 0
    os.close(master)
    assert "7: reward 0, return 0" in out
    assert "stopped after 1 step: return 0" in out
    assert "Traceback" not in out


def until(terminal: int, wanted: str | None, seconds: float = 20.0) -> str:
    """Return what a terminal shows until `wanted` stands there; with None until it is closed."""
    shown, deadline = "", time.monotonic() + seconds
    while wanted is None or wanted not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                shown += os.read(terminal, 4096).decode().replace("\r\n", "\n")
            except OSError:  # closed
                return shown
    return shown


WRONG = [
    (["play", "Nothing-v0"], "Nothing-v0 cannot be made", "python -m textgym list"),
    (["play", "no_such_module:Nothing-v0"], "cannot be made", "python -m textgym list"),
    (["play", "no spaces"], "cannot be made", "python -m textgym list"),
    (["play", "CartPole-v1"], "CartPole-v1 is no task of textgym", "python -m textgym list"),
    (["play", "TextGen-v0", "--options", "{"], "is no JSON", "Write an object"),
    (["play", "TextGen-v0", "--options", "[]"], "is no object", "Write one"),
    (["play", "TextGen-v0", "--options", '{"colour": 1}'], "unexpected keyword argument 'colour'", "pydoc textgym.suite.textgen.text_gen"),
    (["play", "TextGen-v0", "--options", '{"scorer": "nothing"}'], "ValueError: ", "pydoc"),
    (["play", "TextGen-v0", "--prompt", "100000"], "must lie in [0, ", "another --prompt"),
    (["play", "textgym/PathPlanning-v0", "--prompt", "1"], "must lie in [0, 1)", "another --prompt"),
    (["play", "textgym/TwoState-v0", "--prompt", "0"], "no prompts", "Leave --prompt away"),
    (["play", "TextGen-v0", "--seed", "-1"], "is no seed", "play --help"),
    (["play"], "required: ID", "play --help"),
    (["frobnicate"], "invalid choice: 'frobnicate'", "--help"),
    ([], "required", "--help"),
    (["list", "--import", "no_such_module"], "no_such_module cannot be imported", "Name a module"),
    (["check", "no_such_module:Env"], "cannot be imported", "Name a module"),
    (["check", "os:getcwd"], "os:getcwd makes str, which is no gymnasium.Env", "makes one environment"),
    (["replay", "nowhere.jsonl"], "cannot be read", "RecordEpisode"),
    (["diff", "nowhere.jsonl", "nowhere.jsonl"], "cannot be read", "RecordEpisode"),
]


@pytest.mark.parametrize(("arguments", "wrong", "remedy"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_mistake_has_two_lines_and_the_code_2(arguments: list[str], wrong: str, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    first, second = printed.err.splitlines()
    assert first.startswith("error: ")
    assert wrong in first
    assert remedy in second
    assert printed.out == ""


def test_damaged_lines_are_told_in_two_lines_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "damaged.jsonl").write_bytes(b"{\n\xff\xfe\n")
    assert main(["replay", str(tmp_path / "damaged.jsonl")]) == 2
    assert [line.startswith("error: ") for line in capsys.readouterr().err.splitlines()] == [True, False, True, False]


@pytest.mark.parametrize("command", ["list", "play", "check", "replay", "diff"])
def test_help_shows_an_example_and_the_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert f"example:\n  python -m textgym {command}" in out
    assert "exit codes: 0 " in out


class TestTable:
    @pytest.mark.parametrize("width", [80, 120, 200])
    def test_it_fits_a_terminal(self, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert main(["list"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        assert ("scorer" in lines[0]) == (width >= 120)
        assert ("…" in "".join(lines)) == (width < 200)
        assert [line.split()[0] for line in lines[1:]] == sorted(IDS)

    def test_elsewhere_nothing_is_cut(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["list"]) == 0
        out = capsys.readouterr().out
        assert "…" not in out
        assert re.search(r"TextGen-v0 +1 +0.5 +137  Sentiment +int64 \(32,\) +Does the agent continue a text so that its scorer likes it\?\n", out)


@pytest.mark.parametrize(
    ("id", "options"),
    [
        ("TextGen-v0", {"max_new_tokens": 3}),
        ("textgym/PathPlanning-v0", {"map": "S..\n.#.\n..G\n", "step_cost": 0.1, "slip": 0.2}),
        ("textgym/PathPlanning-v0", {"family": "walls", "size": 4, "num_maps": 5, "start": "random"}),
        ("textgym/PathPlanningText-v0", {"map": "SG\n..\n"}),
        ("textgym/PathPlanningText-v0", {"map": ["S.\n.G\n", "SG\n##\n"], "measure": "success", "max_new_tokens": 3}),
    ],
)
def test_known_random_returns_are_those_that_random_actions_earn(id: str, options: dict[str, Any]) -> None:
    env = gym.make_vec(id, num_envs=1500, autoreset_mode="SameStep", **options)
    generator, total, over = np.random.default_rng(0), np.zeros(1500), np.zeros(1500, dtype=np.bool_)
    env.reset(seed=0)
    while not over.all():
        _, rewards, terminated, truncated, _ = env.step(generator.integers(env.single_action_space.n, size=1500))  # type: ignore[attr-defined]
        total += np.where(over, 0, rewards)
        over |= terminated | truncated
    known = known_returns(env.core)  # type: ignore[attr-defined]
    assert known.random == pytest.approx(total.mean(), abs=5 * total.std() / 1500**0.5)


@pytest.mark.parametrize(
    ("id", "options", "best"),
    [
        ("textgym/PathPlanning-v0", {"map": "S..\n.#.\n..G\n", "step_cost": 0.5}, 8.0),
        ("textgym/PathPlanning-v0", {"map": "S..\n.#.\n..G\n", "max_steps": 3, "step_cost": 0.5}, -1.5),
        ("textgym/PathPlanning-v0", {"goal": "random"}, None),
        ("textgym/PathPlanning-v0", {"continuous": True}, None),
        ("textgym/PathPlanningText-v0", {"map": ["S.\n.G\n", "SG\n##\n"], "max_new_tokens": 1}, 0.5),
        ("TextGen-v0", {"dense": True}, None),
        ("TextGen-v0", {"constraint": "film_grammar"}, None),
        ("TextGen-v0", {"scorer": {"name": "keyword", "words": ["warm"]}}, None),
    ],
)
def test_known_best_returns(id: str, options: dict[str, Any], best: float | None) -> None:
    assert known_returns(gym.make(id, **options).unwrapped.core).best == (None if best is None else pytest.approx(best))  # type: ignore[attr-defined]


def test_best_and_random_on_a_slippery_grid_are_those_of_its_table() -> None:
    env = gym.make("textgym/PathPlanning-v0", map="trap", start="random", slip=0.3, step_cost=0.2, max_steps=25)
    core = env.unwrapped.core  # type: ignore[attr-defined]
    table = core.P
    best = random = dict.fromkeys(table, 0.0)
    for _ in range(25):
        worth = [
            {s: [sum(p * (r + (0 if over else after[n])) for p, n, r, over in moves[a]) for a in range(4)] for s, moves in table.items()}
            for after in (best, random)
        ]
        best, random = {s: max(q) for s, q in worth[0].items()}, {s: sum(q) / 4 for s, q in worth[1].items()}
    starts = core.initial_state_distrib
    assert known_returns(core) == pytest.approx([starts @ list(best.values()), starts @ list(random.values())])
