"""The expected returns of the best policy and of uniform random actions, exactly, for the tasks that tell them or whose structure gives them away.

Axis legend: M maps, C cells of a map, A = 4 moves, T the step limit, G the budget of a text, V ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..core import FloatArray, IntArray
from ..episodes import TextCore
from ..scorers import Sentiment
from ..scorers.text import normalise
from ..task import Task, WordLevel
from ..toy.path_continuous import ContinuousPathCore
from ..toy.path_core import PathCore, PathTask
from ..toy.path_text import PathScorer
from ..toy.shortest_paths import transitions

LARGEST = 30_000_000  # T * M * C * A of the maps whose returns are worked out: about a second


class Known(NamedTuple):
    """Expected returns of an episode, not discounted, over its random start; None where they are not known."""

    best: float | None = None
    random: float | None = None


def known_returns(core: Any) -> Known:
    """Return what is known of the task of `core`, with the options that it was made with.

    A core or its scorer tells by `best_return` and `random_return`, numbers or methods without arguments. Of grids, texts of moves and the sentiment of
    words the returns are worked out here. A constraint changes what can be reached, and is answered by None.
    """
    if isinstance(core, PathCore):
        return Known() if isinstance(core, ContinuousPathCore) else of_paths(core.task)
    task = getattr(core, "task", None)
    scorer = getattr(task, "scorer", None)
    if getattr(task, "constraint", None) is not None:
        return Known()
    if isinstance(core, TextCore) and isinstance(scorer, PathScorer):
        return of_spelled_paths(core.task, scorer)
    if isinstance(core, TextCore) and isinstance(scorer, Sentiment):
        return of_sentiment(core.task, scorer)
    return Known(_told(core, scorer, "best_return"), _told(core, scorer, "random_return"))


def _told(core: Any, scorer: Any, name: str) -> float | None:
    value = getattr(core, name, getattr(scorer, name, None))
    value = value() if callable(value) else value
    return None if value is None else float(value)


def of_sentiment(task: Task, scorer: Sentiment) -> Known:
    """Return the returns of writing words for their sentiment.

    One positive word is the best text, and scores 1. Random words score 1/2 if as many ids are positive as negative: exchanging the two turns a score s
    into 1 - s, and every text is as likely as the one exchanged. Dense rewards, answers and tokens that are no words are answered by None.
    """
    if task.dense or task.responder is not None or not isinstance(task.tokenizer, WordLevel):
        return Known()
    words = [normalise(word) for i, word in enumerate(task.tokenizer.words) if i != task.tokenizer.eos_id]
    positive, negative = (sum(word in lexicon for word in words) for lexicon in (set(scorer.positive), set(scorer.negative)))
    return Known(1.0 if positive else None, 0.5 if positive == negative else None)


def of_paths(task: PathTask) -> Known:
    """Return the returns of walking on grids, by backward induction over the steps that are left; the best walker knows the map that it stands on.

    Random goals are answered by None, as are maps too large to go through while one waits.
    """
    size = task.maps.walls.size
    if task.goal == "random" or size * 4 * task.max_steps > LARGEST:
        return Known()
    cells = np.arange(size).reshape(len(task.maps), -1)
    goals = cells[:, 0] + task.maps.goals
    if task.start == "map":
        starts = np.zeros(cells.shape)
        starts.reshape(-1)[cells[:, 0] + task.maps.starts] = 1
    else:
        joined = (task.maps.goal_distances > 0).reshape(cells.shape)
        starts = joined / joined.sum(axis=1, keepdims=True)
    chances = starts.reshape(-1) / len(task.maps)  # [M * C]
    return Known(float(chances @ _values(task, goals, np.max)), float(chances @ _values(task, goals, np.mean)))


def _values(task: PathTask, goals: IntArray, of_moves: Callable[..., FloatArray]) -> FloatArray:
    """Return what T steps are worth from each cell [M * C], where a cell is worth what `of_moves` (the greatest, the mean) makes of its moves."""
    moves = transitions(task.maps.walls).reshape(-1, 4)  # [M * C, A]
    at_goal = np.zeros(len(moves), dtype=np.bool_)
    at_goal[goals] = True
    values = np.zeros(len(moves))
    for _ in range(task.max_steps):
        reached = (np.where(at_goal, task.goal_reward, values) - task.step_cost)[moves]
        slipped = (np.roll(reached, 1, axis=1) + np.roll(reached, -1, axis=1)) / 2
        values = of_moves((1 - task.slip) * reached + task.slip * slipped, axis=1)
    return values


def of_spelled_paths(task: Task, scorer: PathScorer) -> Known:
    """Return the returns of spelling the way through a map.

    The best text is a shortest path, where the budget holds it. A random text is followed cell by cell: it ends with each word by a chance of 1 / V.
    """
    maps, budget, ids = scorer.maps, task.max_new_tokens, task.tokenizer.vocab_size
    other = task.dense or task.responder is not None or task.prompt_weights is not None or len(task.prompts) != len(maps)
    if other or maps.walls.size * 4 * budget > LARGEST:
        return Known()
    moves = transitions(maps.walls).reshape(-1, 4)
    first = np.arange(len(maps)) * maps.walls[0].size
    starts, goals = first + maps.starts, first + maps.goals
    shortest = maps.lengths(starts, goals)  # [M]
    chances = np.zeros(len(moves))  # [M * C] that the text goes on, and stands here
    chances[starts] = 1
    score = np.zeros(len(maps))
    for length in range(budget + 1):
        worth = shortest / np.maximum(shortest, length) if scorer.measure == "spl" else 1.0
        score += chances[goals] * worth * (1 / ids if length < budget else 1.0)
        chances = (np.bincount(moves.reshape(-1), np.repeat(chances, 4), len(moves)) + (ids - 5) * chances) / ids
    return Known(float((shortest <= budget).mean()), float(score.mean()))
