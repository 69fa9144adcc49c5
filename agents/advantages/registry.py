"""Estimators by name: for the command line, for saved configurations and for logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from .. import choices
from .bootstrapped import GAE, TD, NStep, TDLambda, Vine
from .episodic import MonteCarlo, ReBN, SelfCritical, TotalReturn
from .estimating import Advantage
from .grouped import GRPO, RLOO, DrGRPO
from .off_policy import Retrace, VTrace

# Add your own class here to name it.
ADVANTAGES: dict[str, type[Any]] = {
    "monte_carlo": MonteCarlo,
    "total_return": TotalReturn,
    "rebn": ReBN,
    "self_critical": SelfCritical,
    "rloo": RLOO,
    "grpo": GRPO,
    "dr_grpo": DrGRPO,
    "td": TD,
    "n_step": NStep,
    "td_lambda": TDLambda,
    "gae": GAE,
    "vine": Vine,
    "v_trace": VTrace,
    "retrace": Retrace,
}


def parse(text: str) -> Advantage:
    """Return the advantage spelled "gae(gamma=0.99, gae_lambda=0.95)" or "module:function"; raises `ValueError` saying what is allowed."""
    return cast(Advantage, choices.parse(text, ADVANTAGES, "advantage"))


def spell(advantage: Advantage) -> str:
    """Return the text that `parse` reads; raises `ValueError` for what has no importable name (a lambda)."""
    return choices.spell(advantage, ADVANTAGES)


def to_json(advantage: Advantage) -> dict[str, Any]:
    """Return `{"name": "gae", "gamma": ...}`, which `from_json` reads; a lambda is only described."""
    return choices.to_json(advantage, ADVANTAGES)


def from_json(data: Mapping[str, Any]) -> Advantage:
    """Return the advantage that `to_json` described; raises `ValueError` as `parse` does."""
    return cast(Advantage, choices.from_json(data, ADVANTAGES, "advantage"))
