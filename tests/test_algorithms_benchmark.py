"""The table of algorithms and estimators: what it runs, what it refuses and says, and that it goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from agents.advantages import needs
from agents.prompting import Groups
from benchmarks.algorithms import tables
from benchmarks.algorithms.__main__ import Choices, main
from benchmarks.algorithms.entrants import ALGORITHMS, ESTIMATORS, FOUR, GROUP, entrant
from benchmarks.algorithms.running import FIGURES, Counting, Figure, Key, measure, read, refusal, write
from benchmarks.algorithms.tasks import TASKS, share
from benchmarks.statistics import interquartile_mean

SMALL = ("monte_carlo", "gae", "rloo", "retrace")


def small(folder: Path, **changes: object) -> Choices:
    told: dict[str, object] = {"tasks": ("TwoState",), "seeds": 2, "estimators": SMALL, "folder": folder, "quick": True, "resamples": 200}
    return Choices(**(told | changes))  # type: ignore[arg-type]


def test_every_figure_is_kept_and_the_same_command_only_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = main(small(tmp_path / "a", json=tmp_path / "a.json", markdown=tmp_path / "a.md", picture=tmp_path / "a.png"))
    printed = capsys.readouterr().out
    figures = read(tmp_path / "a")
    assert sorted(figure.key for figure in figures) == sorted(
        Key("TwoState", algorithm, name, seed) for algorithm in ALGORITHMS for name in SMALL[:-1] for seed in (0, 1)
    )
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(report))
    assert report["complete"]
    line = next(line for line in printed.splitlines() if "retrace" in line and line.startswith("TwoState-v0"))
    assert line.split()[2:] == ["-", "[1]"] * 3
    assert "[1] retrace needs action values" in printed
    assert "| TwoState-v0 | retrace | - [1] | - [1] | - [1] |" in (tmp_path / "a.md").read_text()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    before = (tmp_path / "a" / FIGURES).read_bytes()
    main(small(tmp_path / "a"))
    assert (tmp_path / "a" / FIGURES).read_bytes() == before, "a run was done again"
    assert "18 runs, 18 of them done before" in capsys.readouterr().out


def test_what_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = main(small(tmp_path / "whole", estimators=("gae",)))
    main(small(tmp_path / "cut", estimators=("gae",)))
    lines = (tmp_path / "cut" / FIGURES).read_text().splitlines(keepends=True)
    (tmp_path / "cut" / FIGURES).write_text("".join(lines[:3]) + lines[3][:20])  # killed in the middle of a line
    assert len(read(tmp_path / "cut")) == 3
    again = main(small(tmp_path / "cut", estimators=("gae",)))
    assert len(read(tmp_path / "cut")) == len(lines)
    assert [cell["scores"] for cell in again["cells"]] == [cell["scores"] for cell in whole["cells"]]


def test_a_folder_of_other_budgets_is_refused(tmp_path: Path) -> None:
    main(small(tmp_path, estimators=("gae",), seeds=1))
    with pytest.raises(SystemExit, match="other budgets"):
        main(small(tmp_path, estimators=("gae",), seeds=1, quick=False))
    with pytest.raises(SystemExit, match="no task 'Evn'; choose among TextGen, CartPole, TwoState, Even"):
        main(small(tmp_path, tasks=("Evn",)))
    with pytest.raises(SystemExit, match="no estimator 'gea'; choose among monte_carlo"):
        main(small(tmp_path, estimators=("gea",)))


@pytest.mark.parametrize("task", TASKS)
def test_an_estimator_changes_only_what_it_needs(task: str) -> None:
    allowed = {"advantage", "vine_samples", "episodes_per_row", "num_steps"}
    for entry in TASKS[task].entries.values():
        assert entry.num_envs % GROUP == 0
        for name in TASKS[task].estimators:
            config, prompting = entrant(entry, name, TASKS[task].gamma, TASKS[task].length)
            wanted = needs(config.advantage)
            changed = {one.name for one in fields(config) if getattr(config, one.name) != getattr(entry.config, one.name)}
            assert changed <= allowed
            assert (prompting == Groups(GROUP)) == wanted.needs_groups
            if wanted.needs_whole_episodes:
                assert config.episodes_per_row is not None
            elif not wanted.needs_forks:
                assert changed <= {"advantage"}


def test_every_estimator_of_the_library_takes_part() -> None:
    from agents.advantages.registry import ADVANTAGES

    assert set(ESTIMATORS) == set(ADVANTAGES)
    for name, make in ESTIMATORS.items():
        assert type(make(0.5)) is ADVANTAGES[name]
        assert make(0.5).gamma == 0.5  # type: ignore[attr-defined]
    assert TASKS["TwoState"].estimators == TASKS["Even"].estimators == tuple(ESTIMATORS)
    assert TASKS["CartPole"].estimators == TASKS["TextGen"].estimators == FOUR


def test_refusals_in_the_algorithms_own_words(tmp_path: Path) -> None:
    found = {name: refusal("TwoState", "a2c", name, tmp_path) for name in ESTIMATORS}
    assert {name for name, reason in found.items() if reason} == {"retrace", "vine"}
    assert "truncates episodes" in str(found["vine"])
    assert refusal("Even", "policy_gradient", "vine", tmp_path) is None
    assert "action values" in str(refusal("Even", "ppo", "retrace", tmp_path))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_cartpole_ends_when_its_budget_is_spent(tmp_path: Path, algorithm: str) -> None:
    budget = 80_000 // 50
    whole = measure(Key("CartPole", algorithm, "monte_carlo", 0), tmp_path, quick=True)
    assert budget <= whole.steps < 2 * budget  # the planned iterations would play three times as much
    assert -0.1 < whole.measured["score"] <= 1
    if algorithm != "policy_gradient":
        windows = measure(Key("CartPole", algorithm, "td", 0), tmp_path, quick=True)
        assert 0.6 * budget <= windows.steps <= budget


def test_text_begins_with_the_seeds_language_model(tmp_path: Path) -> None:
    first = measure(Key("TextGen", "a2c", "gae", 3), tmp_path, quick=True)
    kept = tmp_path / "warmup" / "seed3"
    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    assert measure(Key("TextGen", "a2c", "gae", 3), tmp_path, quick=True).measured == pytest.approx(first.measured, rel=1e-5)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert set(first.measured) == {"score", "grammar", "kl", "distinct"}
    assert 0 <= first.measured["grammar"] <= 1
    assert abs(first.measured["kl"]) > 1e-6, "the reference moved along"


def test_counting_is_the_estimator_it_was_given() -> None:
    for name, make in ESTIMATORS.items():
        inner = make(0.7)
        counting = Counting(inner)
        assert needs(counting) == needs(inner), name
        assert counting.gamma == 0.7


def test_cells_by_hand(tmp_path: Path) -> None:
    scores = [0.1, 0.9, 0.5, 0.6, 0.7]
    figures = [Figure(Key("TwoState", "ppo", "gae", seed), {"score": score}, 10, 1.0) for seed, score in enumerate(scores)]
    figures += [Figure(Key("TwoState", "a2c", "gae", 0), {"score": 0.5}, 10, 1.0), Figure(Key("TwoState", "policy_gradient", "gae", 0), {}, 4, 1.0)]
    figures += [Figure(Key("TwoState", "policy_gradient", "gae", 1), {"score": 0.8}, 10, 1.0)]
    for figure in figures:
        write(tmp_path, figure)
    assert read(tmp_path) == figures
    refusals = {("TwoState", algorithm, "retrace"): "no Q" for algorithm in ALGORITHMS}
    cells = tables.cells_of(figures, refusals, np.random.default_rng(0), 500)
    by_name = {(cell.estimator, cell.algorithm): cell for cell in cells}
    ours = by_name["gae", "ppo"].interval
    assert ours is not None
    assert ours.estimate == pytest.approx(interquartile_mean(scores)) == pytest.approx(0.6)
    assert ours.low < 0.6 < ours.high
    assert by_name["gae", "a2c"].interval is None
    assert by_name["gae", "policy_gradient"].scores == (0.0, 0.8), "who diverges plays at random"
    notes: list[str] = []
    rows = {row[1]: row[2:] for row in tables.rows_of(cells, notes)}
    assert rows["gae"][1] == "0.500, one run"
    assert rows["gae"][2].endswith("[1]")
    assert rows["retrace"] == ("- [2]", "- [2]", "- [2]")
    assert "td" not in rows
    assert notes == ["1 of 2 runs diverged, and count as 0", "no Q"]
    assert "1 to 5 seeds" in tables.title_of(cells)


def test_share_by_hand() -> None:
    assert share(10.0, 16.0, 13.0) == {"score": 0.5}


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    one, two = (main(small(tmp_path / str(workers), workers=workers)) for workers in (1, 2))
    assert [cell["scores"] for cell in one["cells"]] == [cell["scores"] for cell in two["cells"]]
