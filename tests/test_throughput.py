"""The throughput benchmark: what it counts, what it holds against bars, and that every side does the work it is said to do."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.throughput import __main__ as throughput
from benchmarks.throughput import ceiling, evenness, lines, memory, peers, players, rollout, shapes, training
from benchmarks.throughput import task as tasks

ROOT = Path(__file__).parents[1]
GELU = "gelu_pytorch_tanh"
MICRO = replace(shapes.TINY, name="tiny", layers=1, width=16, heads=2, vocab_size=30)


@pytest.mark.parametrize(("ratio", "above", "below"), [(0.2, "NO", "goal"), (0.3, "NO", "goal"), (0.4, "bar", "bar"), (0.5, "goal", "NO"), (0.6, "goal", "NO")])
def test_a_ratio_meets_the_goal_the_bar_or_neither(ratio: float, above: str, below: str) -> None:
    assert lines.Bar(0.4, 0.5).verdict(ratio) == above
    assert lines.Bar(0.4, 0.3, below=True).verdict(ratio) == below


def test_a_line_is_ours_as_a_multiple_of_theirs() -> None:
    line = lines.Line("x", 3.0, 2.0, "tokens/s", lines.Bar(1.4, 1.6))
    assert (line.ratio, line.verdict) == (1.5, "bar")
    assert line.cells() == ["x", "3", "2", "tokens/s", "1.50", "1.4", "1.6", "bar"]
    assert lines.Line("alone", 3e6, None, "tokens/s", lines.Bar(2e6, 4e6)).verdict == "bar"
    assert lines.Line("no bar", 3.0, 2.0, "tokens/s").verdict == ""


@pytest.mark.parametrize("shape", [MICRO, replace(MICRO, neox=True)], ids=["GPT-2", "GPT-NeoX"])
def test_texts_end_as_often_as_they_are_told_to(shape: shapes.Shape) -> None:
    ids = torch.from_numpy(np.random.default_rng(1).integers(shape.vocab_size - 1, size=(64, 40)))
    chances = [torch.softmax(shapes.build(shape, GELU, hazard)(ids).logits, -1)[..., -1] for hazard in (0.0, 1 / 16)]
    assert float(chances[0].detach().max()) < 1e-20
    torch.testing.assert_close(chances[1], torch.full_like(chances[1], 1 / 16), rtol=0.1, atol=0)


def test_useful_tokens_are_those_up_to_the_first_end() -> None:
    written = np.random.default_rng(0).integers(4, size=(200, 9))
    wanted = sum(row.index(3) + 1 if 3 in row else len(row) for row in written.tolist())
    assert players.useful(torch.from_numpy(written), 3) == wanted


def test_the_reward_is_the_share_of_even_ids() -> None:
    generator = np.random.default_rng(0)
    tokens, lengths = generator.integers(9, size=(20, 6)), generator.integers(1, 7, size=20)
    wanted = [np.mean([token % 2 == 0 for token in row[:n]]) for row, n in zip(tokens.tolist(), lengths, strict=True)]
    np.testing.assert_allclose(evenness.evenness(tokens, lengths), wanted)


def test_the_environment_begins_with_the_peers_prompts_and_pays_their_reward() -> None:
    env = tasks.environment(MICRO, 3, 2)
    observations, _ = env.reset(seed=0, options={"prompt": np.array([5, 0, 7])})
    np.testing.assert_array_equal(observations[:, : shapes.PROMPT], shapes.prompt_ids(MICRO, tasks.NUM_PROMPTS)[[5, 0, 7]])
    env.step(np.array([1, 2, 1]))
    _, rewards, terminated, _, _ = env.step(np.array([1, 2, 2]))
    assert terminated.all()
    np.testing.assert_allclose(rewards, [0.0, 1.0, 0.5])


def test_every_way_of_writing_fixed_texts_writes_as_many_tokens() -> None:
    model = shapes.build(MICRO, GELU)
    policy = rollout.policy_of(model, MICRO)
    ways = {
        "ours": players.through_environment(policy, MICRO, 3, 5),
        "bare": players.bare(policy, MICRO, 3, 5),
        "generate": players.generated(model, MICRO, 3, 5),
        "loop": players.plain_loop(model, MICRO, 3, 5),
    }
    assert {name: play() for name, play in ways.items()} == dict.fromkeys(ways, 15)


def test_ragged_texts_have_the_mean_they_are_said_to_have() -> None:
    model = shapes.build(MICRO, GELU, rollout.HAZARD)
    torch.manual_seed(0)
    generated = players.generated(model, MICRO, 256, rollout.LONGEST, ends=True)() / 256
    wanted = (1 - (1 - rollout.HAZARD) ** rollout.LONGEST) / rollout.HAZARD  # of a geometric length, cut
    assert generated == pytest.approx(wanted, rel=0.2)
    windows = players.windows_of_environment(rollout.policy_of(model, MICRO), MICRO, 4, 9)
    assert [windows(), windows()] == [36, 36]  # in windows every step is a token


def test_the_inverse_cdf_follows_the_distribution() -> None:
    log_probs = torch.log_softmax(torch.from_numpy(np.random.default_rng(0).normal(size=7)), -1)
    drawn = players.inverse_cdf(log_probs.expand(40_000, 7), np.random.default_rng(1))
    shares = torch.bincount(drawn[:, 0], minlength=7) / len(drawn)
    torch.testing.assert_close(shares.double(), log_probs.exp(), rtol=0, atol=0.01)


def test_the_limit_counts_every_matrix_of_the_model() -> None:
    shape = replace(MICRO, layers=3)
    matrices = [p.numel() for name, p in shapes.build(shape, GELU).named_parameters() if p.ndim == 2 and ".h." in name]
    assert sum(matrices) == shape.layer_params
    assert ceiling.step_flops(shape, 2, 0) == 2 * 2 * (sum(matrices) + 30 * 16)
    assert ceiling.step_bytes(shape, 2, 10, 4) - ceiling.step_bytes(shape, 2, 0, 4) == 4 * 2 * 10 * (2 * 3 * 16)  # keys and values
    assert ceiling.tokens_per_second(shape, 2, 10) > 0


def test_a_single_file_loop_trains_the_model() -> None:
    model = shapes.build(MICRO, GELU)
    before = copy.deepcopy(model.state_dict())
    assert peers.single_file(model, MICRO, 8, 3, 4, 2)() == 2 * 8 * 3
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_stable_baselines3_trains_the_transformer_it_is_given() -> None:
    pytest.importorskip("stable_baselines3")
    model = shapes.build(MICRO, GELU)
    before = copy.deepcopy(model.state_dict())
    assert peers.sb3_ppo(model, MICRO, 2, 3)() == 6
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_peer_that_is_not_there_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = training.compared({"ours": lambda: 1}, {"loop": lambda: 1}, {"GRPO": "grpo"}, None, training.GROUPED, tmp_path, 0.01, 1)
    assert [type(line).__name__ for line in found] == ["Line", "NotRun"]
    told = lines.show("training", found)
    assert "pip install -c constraints.txt trl==1.16.*" in capsys.readouterr().out
    assert "not_run" in told[1]


@pytest.mark.skipif(sys.platform == "win32", reason="its interpreter is a shell script")
def test_a_worker_is_paid_for_the_steps_it_has_done(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$3" > "$4"/asked; echo done; while read n; do sleep 0.1; echo done; done\n', encoding="utf-8")
    python.chmod(0o755)
    with peers.worker(python, "grpo", tmp_path, iterations=3, tokens=5) as play:
        began = time.perf_counter()
        assert [play(), play()] == [15, 15]
        assert time.perf_counter() - began > 0.2
    assert (tmp_path / "asked").read_text(encoding="utf-8") == "grpo\n"


@pytest.mark.skipif(sys.platform == "win32", reason="its interpreter is a shell script")
def test_a_worker_that_fails_says_why_and_the_others_are_measured(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho No module named trl >&2; exit 1\n", encoding="utf-8")
    for mode, why in ((0o644, "Permission denied"), (0o755, "No module named trl")):
        python.chmod(mode)
        line, failed = training.compared({"ours": lambda: 1}, {"loop": lambda: 1}, {"GRPO": "grpo"}, python, training.GROUPED, tmp_path, 0.01, 1)
        assert isinstance(line, lines.Line)
        assert isinstance(failed, lines.NotRun)
        assert why in failed.why


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells peaks in /proc")
def test_the_naive_path_holds_its_logits_more_than_once() -> None:
    shape = replace(MICRO, vocab_size=60_000, positions=80)
    logits = 4 * 79 * shape.vocab_size * 4
    assert 1.5 * logits < memory.measured("naive", shape, 4, GELU) < 8 * logits  # in a process that has freed nothing which could serve again


def test_the_command_sets_the_allocator_and_writes_what_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.throughput", "--quick", "--only", "environment", "--seconds", "0.01", "--rounds", "1", "--json", str(file)]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text(encoding="utf-8"))
    assert "MALLOC_TRIM_THRESHOLD_" in report["machine"]
    assert all(line["name"] in done.stdout for line in report["environment"])
    assert "quick: without" in done.stdout
    with pytest.raises(SystemExit, match="no section 'roll'"):
        throughput.main(throughput.Args(only="roll"))
