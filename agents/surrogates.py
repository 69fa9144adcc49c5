"""What PPO climbs instead of the return: choices of a surrogate objective, as objects for `ppo.Config.surrogate`.

Axis legend: * any shape ([T, B] steps of minibatch columns).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Tensor

from . import choices
from .losses import SurrogateLoss, clipped_surrogate, penalised_surrogate


class Surrogate(Protocol):
    """Anything that turns probability ratios and advantages into a loss; a coefficient may adapt from one iteration to the next."""

    def first(self) -> float:
        """Return the coefficient of the first iteration."""

    def __call__(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, valid: Tensor, coef: float, /) -> SurrogateLoss:
        """Return the loss and its diagnostics; the tensors are [*], `coef` is the present coefficient."""

    def after(self, coef: float, approx_kl: float, /) -> float:
        """Return the next coefficient, from the present one and KL(old, new) after the iteration's last epoch, in nats a step."""


@dataclass(frozen=True)
class Clip:
    """The clipped surrogate (Schulman et al. 2017, equation 7): see `losses.clipped_surrogate`.

    `high` above `coef` clips asymmetrically: unlikely actions may gain probability faster than likely ones lose it ("clip-higher" of DAPO,
    Yu et al. 2025, arXiv 2503.14476, equation 10, with 0.2 and 0.28).
    """

    coef: float = choices.number(0.2, 1e-12)
    high: float | None = None  # None: the same as coef

    def __post_init__(self) -> None:
        choices.check(self)
        if self.high is not None and not (isinstance(self.high, float | int) and self.high > 0):
            raise ValueError(f"Clip: high must be a positive number or None, not {self.high!r}.")

    def first(self) -> float:
        """Return `coef`, which never changes."""
        return self.coef

    def __call__(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, valid: Tensor, coef: float, /) -> SurrogateLoss:
        """Return the clipped loss."""
        return clipped_surrogate(log_probs, old_log_probs, advantages, valid, coef, self.high)

    def after(self, coef: float, approx_kl: float, /) -> float:
        """Return `coef`."""
        return coef


@dataclass(frozen=True)
class KLPenalty:
    """The surrogate with an adaptive penalty on KL(old, new) (Schulman et al. 2017, section 4): see `losses.penalised_surrogate`.

    beta / 2 where KL < target / 1.5,  2 beta where KL > 1.5 target
    """

    target: float = choices.number(0.01, 1e-12)  # nats a step
    beta: float = choices.number(1.0, 1e-12)  # of the first iteration

    def __post_init__(self) -> None:
        choices.check(self)

    def first(self) -> float:
        """Return `beta`."""
        return self.beta

    def __call__(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, valid: Tensor, coef: float, /) -> SurrogateLoss:
        """Return the penalised loss."""
        return penalised_surrogate(log_probs, old_log_probs, advantages, valid, coef)

    def after(self, coef: float, approx_kl: float, /) -> float:
        """Return half the coefficient, or twice, or the same."""
        return coef / 2 if approx_kl < self.target / 1.5 else coef * 2 if approx_kl > self.target * 1.5 else coef


SURROGATES: dict[str, type[Any]] = {"clip": Clip, "kl_penalty": KLPenalty}


def parse(text: str) -> Surrogate:
    """Return the surrogate spelled "clip(coef=0.2, high=0.28)" or "module:attribute"; raises `ValueError` saying what is allowed."""
    return cast(Surrogate, choices.parse(text, SURROGATES, "surrogate"))


def spell(surrogate: Surrogate) -> str:
    """Return the text that `parse` reads."""
    return choices.spell(surrogate, SURROGATES)


def to_json(surrogate: Surrogate) -> dict[str, Any]:
    """Return `{"name": "clip", "coef": ...}`, which `from_json` reads."""
    return choices.to_json(surrogate, SURROGATES)


def from_json(data: Mapping[str, Any]) -> Surrogate:
    """Return the surrogate that `to_json` described; raises `ValueError` as `parse` does."""
    return cast(Surrogate, choices.from_json(data, SURROGATES, "surrogate"))
