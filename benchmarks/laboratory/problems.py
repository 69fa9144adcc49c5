"""Problems with an exact oracle, and the outcomes that their episodes are drawn from.

A limit of H steps is folded into the states: (t, s) is a state, and step H ends the episode. So every episode ends, every value is exact without a
discount, and a policy has a table for each step. Prefix trees are such problems already.

Axis legend: S states, A actions, O outcomes of one action, H steps of a horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import textgym  # noqa: F401 (registers the suite)
from textgym import oracle

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Table = Mapping[int, Mapping[int, list[tuple[float, int, float, bool]]]]  # {state: {action: [(probability, next state, reward, terminated)]}}

GRID = "S..\n.#.\n..G"


class Problem(NamedTuple):
    """A problem for the oracle, and the same for the sampler."""

    name: str
    tabular: oracle.Tabular
    chances: FloatArray  # [S * A, O] cumulative
    following: IntArray  # [S * A, O] the next state; S where the episode ends
    rewards: FloatArray  # [S * A, O]
    noise: float = 0.0  # standard deviation of what is added to every reward

    @property
    def num_states(self) -> int:
        """Return S."""
        return self.tabular.num_states

    @property
    def num_actions(self) -> int:
        """Return A."""
        return self.tabular.num_actions


def of_table(name: str, table: Table, start: FloatArray, noise: float = 0.0) -> Problem:
    """Return the problem of a table in Gymnasium's toy-text format that begins in `start` [S]."""
    return _sampled(name, oracle.from_table(table, start=start), table, noise)


def of_tree(name: str, core: Any, noise: float = 0.0) -> Problem:
    """Return the problem of a deterministic token task, all of whose prefixes are enumerated."""
    tabular = oracle.from_core(core)
    return _sampled(name, tabular, lines(tabular), noise)


def lines(tabular: oracle.Tabular) -> Table:
    """Return a problem as a table; raises `ValueError` where one action may end in several ways that pay differently: the oracle keeps their mean only."""
    actions = tabular.num_actions
    within = np.asarray(tabular.reward_transitions.sum(axis=1)).reshape(tabular.rewards.shape)
    at_end = np.divide(tabular.rewards - within, tabular.ends, out=np.zeros_like(within), where=tabular.ends > 0)
    table: dict[int, dict[int, list[tuple[float, int, float, bool]]]] = {}
    for pair in range(tabular.num_states * actions):
        state, action = divmod(pair, actions)
        first, last = tabular.transitions.indptr[pair : pair + 2]
        found = [
            (float(p), int(s), float(tabular.reward_transitions[pair, s] / p), False)
            for p, s in zip(tabular.transitions.data[first:last], tabular.transitions.indices[first:last], strict=True)
        ]
        if tabular.ends[state, action] > 0:
            found.append((float(tabular.ends[state, action]), 0, float(at_end[state, action]), True))
        if abs(sum(p * r * r for p, _, r, _ in found) - tabular.second_moments[state, action]) > 1e-9:
            raise ValueError(
                f"State {state}, action {action}: its rewards are chance themselves. Build the problem with of_table, from the table it came from."
            )
        table.setdefault(state, {})[action] = found
    return table


def expanded(table: Table, start: FloatArray, horizon: int) -> tuple[Table, FloatArray]:
    """Return the table of states t * S + s, and its start [H * S]: the step `horizon` ends the episode."""
    states = len(table)
    told = {
        t * states + s: {
            a: [(p, 0 if ended or t == horizon - 1 else (t + 1) * states + after, r, bool(ended) or t == horizon - 1) for p, after, r, ended in outcomes]
            for a, outcomes in actions.items()
        }
        for t in range(horizon)
        for s, actions in table.items()
    }
    return told, np.concatenate([start, np.zeros((horizon - 1) * states)])


def _sampled(name: str, tabular: oracle.Tabular, table: Table, noise: float) -> Problem:
    states, actions = tabular.rewards.shape
    outcomes = [table[s][a] for s in range(states) for a in range(actions)]
    width = max(map(len, outcomes))
    chances, rewards = np.ones((len(outcomes), width)), np.zeros((len(outcomes), width))
    following = np.full((len(outcomes), width), states)
    for pair, found in enumerate(outcomes):
        chances[pair, : len(found)] = np.cumsum([p for p, *_ in found])
        chances[pair, len(found) - 1 :] = 1.0  # rounding must not lead beyond the last one
        rewards[pair, : len(found)] = [r for _, _, r, _ in found]
        following[pair, : len(found)] = [states if ended else s for _, s, _, ended in found]
    exact = tabular._replace(second_moments=tabular.second_moments + noise**2)
    return Problem(name, exact, chances, following, rewards, noise)


def two_state(horizon: int = 8, noise: float = 0.0) -> Problem:
    """Return TwoState with slips: every step pays, and every action has chance behind it."""
    core = _core("TwoState", slip=0.2, horizon=horizon)
    return of_table("TwoState", *expanded(core.P, core.initial_state_distrib, horizon), noise)


def even(horizon: int = 4, noise: float = 0.0) -> Problem:
    """Return Even, three ids and two prompts: the text pays at its end for each even token; all of it is determined by the policy."""
    return of_tree("Even", _core("Even", vocab_size=3, prompt_tokens=1, max_new_tokens=horizon), noise)


def recall(horizon: int = 3, noise: float = 0.0) -> Problem:
    """Return Recall, four ids and three prompts: one token out of the whole text counts."""
    return of_tree("Recall", _core("Recall", vocab_size=4, prompt_tokens=1, max_new_tokens=horizon), noise)


def grid(horizon: int = 10, noise: float = 0.0) -> Problem:
    """Return path planning around a wall on 3 x 3 cells: a step costs 0.05, the goal pays 1, a fifth of the moves slips."""
    core = _core("PathPlanning", map=GRID, view="cell", slip=0.2, goal_reward=1.0, step_cost=0.05)
    return of_table("Grid", *expanded(core.P, core.initial_state_distrib, horizon), noise)


PROBLEMS: dict[str, Callable[..., Problem]] = {"TwoState": two_state, "Even": even, "Recall": recall, "Grid": grid}


def _core(name: str, **options: Any) -> Any:
    env: Any = gym.make(f"textgym/{name}-v0", **options)
    return env.unwrapped.core
