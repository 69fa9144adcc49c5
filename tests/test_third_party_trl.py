"""TRL's GRPO learns on textgym's rewards, and its trained model is what plays."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trl")

from benchmarks.third_party.judge import random_returns, returns
from benchmarks.third_party.tasks import TASKS
from benchmarks.third_party.trl_grpo import ENTRANTS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ENTRANTS["grpo"].tasks)
def test_grpo_learns(name: str) -> None:
    task = TASKS[name]
    trained = ENTRANTS["grpo"].train(task, 15_000, 0)
    reached, random = returns(task, trained.actor, 128), random_returns(task, 128)
    assert 15_000 <= trained.steps < 17_000
    assert np.mean(reached) > np.mean(random) + 0.25


def test_grpo_refuses_a_task_that_is_no_text() -> None:
    assert "path" not in ENTRANTS["grpo"].tasks
    with pytest.raises(TypeError, match="text environment"):
        ENTRANTS["grpo"].train(TASKS["path"], 100, 0)
