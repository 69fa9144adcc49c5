"""GAE beside Stable-Baselines3's buffer on the same numbers, at the sizes of `benchmarks.estimators_speed`, which has all the estimators.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from typing import Any

from agents.advantages import GAE, estimate

from ..machine import median_seconds
from .lines import Bar, Line, NotRun, show


def measure(*, rounds: int) -> list[dict[str, Any]]:
    """Print the table of the estimators and return its lines."""
    try:
        from .. import estimators_speed as speed
    except ImportError:
        return show("estimators", [NotRun("GAE of SB3", "pip install stable-baselines3")])
    lines, choice = [], GAE()
    for (steps, envs), bar in speed.BAR.items():
        played = speed.rollout(steps, envs)
        _, theirs = speed.their_buffer(played, choice)
        seconds = median_seconds({"theirs": theirs, "ours": lambda played=played: estimate(choice, played)}, rounds)  # type: ignore[misc]
        name = f"estimate(GAE) [{steps}, {envs}] / GAE of SB3"
        lines.append(Line(name, 1e6 * seconds["ours"], 1e6 * seconds["theirs"], "microseconds", Bar(bar, bar, below=True)))
    return show("estimators, time taken", lines)
