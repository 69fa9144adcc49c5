"""The benchmark at the field's reference size runs and counts what it says; and, slowly, the promise itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_benchmarks import run


def test_tokens_in_small(tmp_path: Path) -> None:
    from benchmarks import tokens

    printed, report = run("tokens", "--quick", json_file=tmp_path / "figures.json")
    assert [(result["task"], result["seed"]) for result in report["results"]] == [("Even", 0), ("Successor", 0), ("Copy", 0)]
    window = tokens.ENVS * tokens.TOKENS
    for result in report["results"]:
        assert result["tokens"] == [window, 2 * window]
        assert all(0 < score < 0.9 for score in result["scores"])
        assert set(result["passed"].values()) == {None}
    assert printed.count(f"> {2 * window:,}") == 4
    assert "18,000" in printed
    assert report["settings"]["envs"] == tokens.ENVS
    assert report["settings"]["advantage"] == {"gamma": 1.0, "gae_lambda": tokens.CONFIG.advantage.gae_lambda}  # type: ignore[attr-defined]
    assert report["machine"] in printed


def test_a_run_ends_at_its_last_threshold_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import tokens

    window = 4 * tokens.TOKENS
    for last, played, reached in ((0.02, 1, window), (0.99, 3, None)):
        monkeypatch.setattr(tokens, "THRESHOLDS", {"Even": {0.01: None, last: None}})
        result = tokens.measure("Even", 0, 3 * window, envs=4, held_out=8)
        assert result.tokens == [window, 2 * window, 3 * window][:played]  # the judge's eight episodes are not counted
        assert len(result.scores) == played
        assert result.passed == {"0.01": window, str(last): reached}


def test_the_table_speaks_of_medians_and_names_the_bar() -> None:
    from benchmarks import tokens

    passed: list[dict[str, int | None]] = [{"0.5": 30_000, "0.9": None}, {"0.5": 10_000, "0.9": None}, {"0.5": 20_000, "0.9": 90_000}]
    results = [tokens.Result("Successor", seed, [1], [0.25 * seed], at, 2.0) for seed, at in enumerate(passed)]
    half, most = tokens.rows_of(results, 100_000)
    assert half == ("Successor to 0.5", "20,000 (10,000 to 30,000)", "45,000", "30,000 10,000 20,000", "0.25", "6")
    assert most == ("Successor to 0.9", "> 100,000 (90,000 to > 100,000)", "", "- - 90,000", "0.25", "6")


def test_a_task_without_thresholds_is_refused() -> None:
    from benchmarks import tokens

    with pytest.raises(SystemExit, match="no task 'Recall': choose from Even, Successor, Copy"):
        tokens.main(tokens.Choices(tasks=("Recall",)))


@pytest.mark.slow
def test_even_is_learned_within_18k_tokens() -> None:
    from benchmarks import tokens

    at = tokens.measure("Even", 0, 18_000).passed["0.9"]
    assert at is not None
    assert at <= 18_000
