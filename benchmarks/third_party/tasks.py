"""The environments that every library's agents are trained on."""

from __future__ import annotations

import gymnasium as gym

import textgym  # noqa: F401 (registers the suite)

from .contract import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        # Continue a film review so that it is positive: 137 words, up to 24 of them, paid at the end. Judged on held-out prompts.
        Task("textgen", "TextGen-v0", held_out={"split": "test"}),
        # The same where only grammatical words are allowed: for agents that know masks.
        Task("textgen_constrained", "TextGen-v0", {"constraint": "film_grammar"}, {"split": "test"}, masked=True),
        # The share of even tokens among 16: 32 tokens, paid at the end.
        Task("even", "textgym/Even-v0", {"vocab_size": 32}),
        # From a random cell of four rooms to the goal: 10 for reaching it, 0.1 a move, at most 121 moves.
        Task("path", "textgym/PathPlanning-v0", {"map": "four_rooms", "start": "random", "step_cost": 0.1}),
    )
}


def best_return(task: Task) -> float:
    """Return the best that anybody can earn on average: 1 where a score is paid, and what the exact solution of the grid says."""
    if task.name != "path":
        return 1.0
    from textgym import oracle  # needs SciPy, which not every script's environment has

    grid = oracle.from_table(gym.make(task.id, **task.options, view="cell"))
    return float(grid.start @ oracle.solve(grid, gamma=1.0).v)
