"""What every script of another library offers, so that one judge can hold them all to the same measure.

Axis legend: N rows, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class Task:
    """One environment, as everybody trains on it and is judged on it."""

    name: str
    id: str
    options: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of gym.make
    held_out: Mapping[str, Any] = field(default_factory=dict)  # those that differ where agents are judged
    steps: int = 30_000  # environment steps of a training, where an entrant names none
    masked: bool = False  # the environment forbids actions: its info holds "action_mask"

    @property
    def module_id(self) -> str:
        """Return the id that imports textgym first, for libraries that make environments in processes of their own."""
        return f"textgym:{self.id}"


class Actor(Protocol):
    """A trained agent, as it is judged: it acts as its library acts when it is evaluated."""

    def __call__(self, observations: NDArray[Any], starts: NDArray[Any], masks: NDArray[Any] | None) -> NDArray[Any]:
        """Return actions [N] for observations [N, *]; `starts` [N] bool: an episode begins here; `masks` [N, A] bool: what is allowed, or None."""


class Trained(NamedTuple):
    """What a training came to."""

    actor: Actor
    steps: int  # environment steps that were taken, all rows together


Train = Callable[[Task, int, int], Trained]  # (task, steps, seed) -> a trained agent


@dataclass(frozen=True)
class Entrant:
    """One algorithm of one library."""

    library: str  # as pip calls it
    algorithm: str
    train: Train
    tasks: tuple[str, ...]  # names of the tasks that it enters
    steps: Mapping[str, int] = field(default_factory=dict)  # by task, where it differs from the task's own

    @property
    def name(self) -> str:
        """Return what the table calls it."""
        return f"{self.library} {self.algorithm}"
