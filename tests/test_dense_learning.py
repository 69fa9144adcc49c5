"""The benchmark of dense rewards runs and says what it promises; and, slowly, the promise itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_benchmarks import run


def test_dense_in_small(tmp_path: Path) -> None:
    printed, report = run("dense", "--quick", "--max-new-tokens", "4", "--width", "16", json_file=tmp_path / "figures.json")
    assert [(result["task"], result["dense"]) for result in report["results"]] == [(task, dense) for task in ("Successor", "Copy") for dense in (False, True)]
    for result in report["results"]:
        assert result["tokens"] == [512]
        assert result["passed"] == [None, None]
        assert 0 < result["scores"][0] < 0.5
    assert printed.count("> 512") == 8
    assert report["machine"] in printed


def test_counts_of_tokens_are_spoken_of_by_their_median() -> None:
    from benchmarks.dense import spoken

    assert spoken([30_000, 10_000, 20_000], 50_000) == "20,000 (10,000 to 30,000)"
    assert spoken([None, 10_000, 20_000], 50_000) == "20,000 (10,000 to > 50,000)"
    assert spoken([None, None, 20_000], 50_000) == "> 50,000 (20,000 to > 50,000)"
    assert spoken([None], 50_000) == "> 50,000"


@pytest.mark.slow
def test_ppo_needs_fewer_tokens_with_dense_rewards(tmp_path: Path) -> None:
    """To 0.5 of the best a fifth fewer at least, to 0.9 half as many at most."""
    _, report = run("dense", "--seeds", "1", "--limit", "80000", json_file=tmp_path / "figures.json")
    passed = {(result["task"], result["dense"]): [80_000 if at is None else at for at in result["passed"]] for result in report["results"]}
    for task in ("Successor", "Copy"):
        for dense, sparse, share in zip(passed[task, True], passed[task, False], (0.8, 0.5), strict=True):
            assert dense <= share * sparse
