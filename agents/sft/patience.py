"""Early stopping: the weights with the lowest held-out loss are kept, and training ends when it has long not fallen."""

from __future__ import annotations

import copy
from typing import Any, Protocol

from ..run import Run


class Weighted(Protocol):
    """What has weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Put the weights back."""


class Patience:
    """Watches the held-out loss of a policy; with a `limit` of None it only looks on, keeps nothing and never stops.

    It ends after `limit` looks in a row without a new minimum; Prechelt 1998, "Early stopping - but when?", compares such rules.
    """

    def __init__(self, policy: Weighted, limit: int | None) -> None:
        self.policy, self.limit = policy, limit
        self.best: dict[str, Any] | None = None  # "loss", "iteration" and "weights" of the best look
        self.bad_looks = 0  # in a row

    def look(self, loss: float, iteration: int) -> dict[str, float]:
        """Take note of a held-out loss after an iteration; return what is to be logged: which look is the best so far."""
        if self.limit is None:
            return {}
        if self.best is None or loss < self.best["loss"]:
            self.best, self.bad_looks = {"loss": loss, "iteration": iteration, "weights": copy.deepcopy(self.policy.state_dict())}, 0
        else:
            self.bad_looks += 1
        return {"best_loss": self.best["loss"], "best_iteration": self.best["iteration"]}

    def stop(self, run: Run) -> None:
        """End the run if the patience is over."""
        if self.limit is not None and self.best is not None and self.bad_looks >= self.limit:
            best = f"the weights kept are those of iteration {self.best['iteration']}, {self.best['loss']:.4f} nats"
            run.stop(f"the held-out loss had no new minimum in {self.bad_looks} looks; {best}.")

    def end(self, run: Run) -> None:
        """Put the best weights back, unless the run was interrupted and means to go on."""
        if self.limit is not None and self.best is not None and (run.stopped is not None or run.done == run.total):
            self.policy.load_state_dict(self.best["weights"])

    def get_state(self) -> dict[str, Any]:
        """Return all that changes."""
        return {"best": self.best, "bad_looks": self.bad_looks}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `get_state` stood."""
        self.best, self.bad_looks = state["best"], state["bad_looks"]


def check_patience(patience: int | None) -> None:
    """Raise `ValueError` for a patience that would stop before anything could get better."""
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1, or None to never stop early; got {patience}.")
