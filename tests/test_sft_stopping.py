"""Early stopping, of next tokens and of cloning: the best weights are kept, and a run that was stopped in between is the same run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import WORDS, tiny_language_model
from torch import Tensor

from agents import sft
from agents.policies import CausalLMPolicy, MLPPolicy, seeded
from agents.report import SUPERVISED_PANELS, learning_curve
from agents.run import Run, load_checkpoint
from agents.sft.patience import Patience

V = len(WORDS)
CONFIG = sft.Config(num_updates=60, batch_size=8, learning_rate=0.03, evaluate_every=4, patience=3)


def noise(num: int, seed: int) -> sft.Sequences:
    """Return texts without any rule: to learn a few of them by heart makes the others less likely."""
    return sft.pad_sequences(np.random.default_rng(seed).integers(V, size=(num, 6)).tolist(), 6)


TEXTS = noise(8, 0), noise(40, 1)


def timeless(run: Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in run.history]


def weights(policy: Any) -> Tensor:
    return torch.nn.utils.parameters_to_vector(policy.parameters()).detach().clone()


class Interrupted(CausalLMPolicy):
    """Somebody presses Ctrl-C in the k-th update."""

    k, updates = 0, 0

    def next_token_logits(self, tokens: Tensor, asked: Tensor | None = None) -> Tensor:
        self.updates += torch.is_grad_enabled()
        if self.updates == self.k and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGINT)
        return super().next_token_logits(tokens, asked)


def test_it_stops_and_keeps_the_best_weights() -> None:
    policy = tiny_language_model()
    run = sft.train(policy, *TEXTS, CONFIG, quiet=True)
    looks = {row["iteration"]: row["heldout_loss"] for row in run.history if "heldout_loss" in row}
    best = min(looks, key=lambda iteration: looks[iteration])
    assert run.done < CONFIG.num_updates
    assert [iteration for iteration in looks if iteration > best] == [best + 4, best + 8, best + 12], "three looks, then no more"
    assert run.done == best + 13
    assert run.stopped is not None
    assert f"no new minimum in 3 looks; the weights kept are those of iteration {best}, {looks[best]:.4f} nats" in run.stopped
    assert {name: run.history[-1][name] for name in ("best_iteration", "best_loss")} == {"best_iteration": best, "best_loss": looks[best]}
    assert sft.judge(policy, TEXTS[1]).loss == looks[best] < looks[best + 12]
    assert [row["best_loss"] for row in run.history if "best_loss" in row] == np.minimum.accumulate(list(looks.values())).tolist()


def test_it_is_the_same_run_up_to_there_and_without_patience_the_last_weights_stay() -> None:
    policy, shorter = tiny_language_model(), tiny_language_model()
    run, stopped = (sft.train(p, *TEXTS, config, quiet=True) for p, config in ((policy, replace(CONFIG, patience=None)), (shorter, CONFIG)))
    assert run.done == 60
    assert run.stopped is None
    assert sft.judge(policy, TEXTS[1]).loss == run.history[-1]["heldout_loss"]
    assert [row["loss"] for row in run.history[: stopped.done]] == [row["loss"] for row in stopped.history]
    assert "best_loss" not in run.history[-1]


def test_the_best_weights_are_kept_where_the_budget_ends_first() -> None:
    policy = tiny_language_model()
    run = sft.train(policy, *TEXTS, replace(CONFIG, patience=1000), quiet=True)
    assert (run.done, run.stopped) == (60, None)
    assert sft.judge(policy, TEXTS[1]).loss == run.history[-1]["best_loss"] < run.history[-1]["heldout_loss"]


@pytest.mark.parametrize("back", [14, 6, 1])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, back: int) -> None:
    whole, stopping, resumed = tiny_language_model(), Interrupted(tiny_language_model().model, V), tiny_language_model(seed=5)
    run = sft.train(whole, *TEXTS, CONFIG, quiet=True, folder=tmp_path / "whole")
    stopping.k = run.done - back  # before the best look (at 13 from the end), behind it, and just before the end of all patience
    stopped = sft.train(stopping, *TEXTS, CONFIG, quiet=True, folder=tmp_path / "run")
    assert (stopped.done, stopped.stopped) == (stopping.k, None)
    last = load_checkpoint(tmp_path / "run").state["policy"]
    assert all(torch.equal(last[name], weight) for name, weight in stopping.state_dict().items()), "interrupted: the last weights, not the best"
    again = sft.train(resumed, *TEXTS, CONFIG, quiet=True, folder=tmp_path / "run", resume=True)
    assert timeless(again) == timeless(run)
    assert again.stopped == run.stopped
    assert torch.equal(weights(resumed), weights(whole))
    for file in ("state.json", "arrays.safetensors"):
        name = f"checkpoints/{run.done:06d}/{file}"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_what_has_stopped_stays_so_and_more_patience_goes_on_from_there(tmp_path: Path) -> None:
    policy, again, longer, whole = (tiny_language_model(seed=seed) for seed in (0, 5, 6, 0))
    run = sft.train(policy, *TEXTS, CONFIG, quiet=True, folder=tmp_path)
    resumed = sft.train(again, *TEXTS, CONFIG, quiet=True, folder=tmp_path, resume=True)
    assert (resumed.done, resumed.stopped) == (run.done, run.stopped)
    assert torch.equal(weights(again), weights(policy))
    more = sft.train(longer, *TEXTS, replace(CONFIG, patience=5), quiet=True, folder=tmp_path, resume=True)
    assert more.done > run.done
    assert timeless(more) == timeless(sft.train(whole, *TEXTS, replace(CONFIG, patience=5), quiet=True))
    assert torch.equal(weights(longer), weights(whole))


def crowded(num: int, seed: int) -> sft.Demonstrations:
    """Return a demonstrator that nobody can follow: two features, and an action drawn apart from them."""
    random = np.random.default_rng(seed)
    return sft.Demonstrations(random.standard_normal((num, 2)).astype(np.float32), random.integers(2, size=num))


def cloned(folder: Path | None, stop_after: int | None = None, resume: bool = False, seed: int = 0) -> tuple[MLPPolicy, Run | None]:
    with seeded(seed):
        policy = MLPPolicy(2, 2, hidden=(32,))
    config = sft.CloningConfig(num_epochs=40, batch_size=16, learning_rate=0.03, patience=4)
    done: list[int] = []

    def evaluate(generator: np.random.Generator) -> dict[str, float]:
        done.append(1)
        if len(done) == stop_after:
            raise KeyboardInterrupt
        return {"noise": float(generator.random())}

    try:
        return policy, sft.clone(policy, crowded(64, 0), crowded(200, 1), config, evaluate=evaluate, folder=folder, resume=resume, quiet=True)
    except KeyboardInterrupt:
        return policy, None


def test_cloning_stops_keeps_the_best_and_resumes(tmp_path: Path) -> None:
    policy, run = cloned(tmp_path / "whole")
    assert run is not None
    losses = [row["heldout_loss"] for row in run.history]
    assert run.done == int(np.argmin(losses)) + 5 < 40
    assert sft.imitation(policy, crowded(200, 1))["loss"] == min(losses) == run.history[-1]["best_loss"]
    for stop_after in (2, run.done - 1, None):
        folder = tmp_path / str(stop_after)
        cloned(folder, stop_after)  # None: until its own end, from where it must not go on
        same, resumed = cloned(folder, resume=True, seed=3)
        assert resumed is not None
        assert timeless(resumed) == timeless(run)
        assert torch.equal(weights(same), weights(policy))


@pytest.mark.parametrize("config", [sft.Config, sft.CloningConfig])
def test_no_patience_at_all_is_refused(config: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="patience must be at least 1, or None"):
        config(patience=0)


def test_the_curves_become_a_picture(tmp_path: Path) -> None:
    run = sft.train(tiny_language_model(), *TEXTS, replace(CONFIG, num_updates=8), quiet=True)
    learning_curve(run.history, tmp_path / "curve.png", SUPERVISED_PANELS, x="iteration")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_only_looks_in_a_row_end_the_patience() -> None:
    policy, run = tiny_language_model(), Run(100, quiet=True)
    patience = Patience(policy, 2)
    for iteration, (loss, bad_looks) in enumerate([(3.0, 0), (3.5, 1), (2.0, 0), (2.0, 1), (1.0, 0), (1.5, 1), (float("nan"), 2)]):
        patience.stop(run)
        assert run.stopped is None
        patience.look(loss, iteration)
        assert patience.bad_looks == bad_looks, "no more than equally good is no better, and what is no number is not either"
    patience.stop(run)
    assert run.stopped is not None
    assert "iteration 4, 1.0000 nats" in run.stopped
