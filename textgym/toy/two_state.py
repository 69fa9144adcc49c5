"""TwoState-v0: does the agent learn to be where the reward is? Two states, two actions, every value in closed form.

The action is the state to go to; with probability `slip` the other one is reached, and the state reached pays. With pi_s the probability
that the policy goes to state 1 from state s, q_s = pi_s (1 - slip) + (1 - pi_s) slip that of reaching it, D = r_1 - r_0 and k = q_1 - q_0:

    discounted, without end:    V_0 = (r_0 + q_0 (D + g d)) / (1 - g),   V_1 = V_0 + d,   d = k D / (1 - g k)
    T steps, not discounted:    V_0 = T r_0 + q_0 (T D + sum_{t < T} d_t),   V_1 = V_0 + d_T,   d_t = D (k + k^2 + ... + k^t)

for the discount g. What is reached depends on the action alone, so the best values are the same in both states: m / (1 - g) and T m,
where m = (1 - e) max(r_0, r_1) + e min(r_0, r_1) and e = min(slip, 1 - slip).

Axis legend: N rows, B rows of one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from ..core import FloatArray, IntArray, Rows, Step, Streams, refuse_unknown
from .noise import normal_quantile

Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]  # Gymnasium's: {state: {action: [(probability, next state, reward, terminated)]}}


class TwoState:
    """N walkers between two states; the observation is the state, the action the state to go to, both Discrete(2).

    Args:
        num_rows: number of walkers (the two Gymnasium faces fill it in).
        rewards: what reaching state 0 and state 1 pays.
        slip: probability that the other state is reached.
        horizon: steps until the episode is cut: truncated, since the state does not tell the time. None: it never ends, and the discount is yours.
        start: probabilities of beginning in state 0 and in state 1.
        reward_noise: standard deviation of Gaussian noise added to every reward.
    """

    render_modes: tuple[str, ...] = ("ansi", "human")

    def __init__(
        self,
        num_rows: int,
        *,
        rewards: Sequence[float] = (0.0, 1.0),
        slip: float = 0.0,
        horizon: int | None = 20,
        start: Sequence[float] = (0.5, 0.5),
        reward_noise: float = 0.0,
    ) -> None:
        self.num_rows, self.horizon = num_rows, _checked_horizon(horizon)
        self.rewards, self.slip = _checked_rewards(rewards), _checked_slip(slip)
        self.start_probs, self.reward_noise = _checked_start(start), _checked_noise(reward_noise)
        self.rich = int(self.rewards[1] >= self.rewards[0])
        self.observation_space, self.action_space = Discrete(2), Discrete(2)
        self._all = np.arange(num_rows)
        self._states = np.zeros(num_rows, dtype=np.int64)
        self._steps = np.zeros(num_rows, dtype=np.int64)  # of the present episode
        self._rich_steps = np.zeros(num_rows, dtype=np.int64)  # of those, the ones that reached the rich state

    def best_return(self) -> float | None:
        """Return the best expected return of an episode; None if it never ends."""
        return None if self.horizon is None else best_return(self.horizon, rewards=tuple(self.rewards), slip=self.slip)

    def random_return(self) -> float | None:
        """Return the expected return of uniform random actions; None if the episode never ends."""
        return None if self.horizon is None else random_return(self.horizon, rewards=tuple(self.rewards), slip=self.slip)

    @property
    def P(self) -> Table:
        """Return the table of transitions in Gymnasium's toy-text format; it knows of no horizon, and rewards are those expected."""
        return {state: {action: self._outcomes(action) for action in (0, 1)} for state in (0, 1)}

    def _outcomes(self, action: int) -> list[tuple[float, int, float, bool]]:
        both = ((1 - self.slip, action), (self.slip, 1 - action))
        return [(chance, reached, float(self.rewards[reached]), False) for chance, reached in both if chance > 0]

    @property
    def initial_state_distrib(self) -> FloatArray:
        """Return the probability of beginning in each state, float64 [2]."""
        return self.start_probs.copy()

    def start(self, rows: IntArray, streams: Streams, options: Mapping[str, Any]) -> None:
        """Put each row into a state drawn from `start`; starts differ by chance alone, so that there is one prompt, `options["prompt"]` 0."""
        refuse_unknown(options, "prompt")
        if np.any(options.get("prompt") is not None and options["prompt"]):
            raise ValueError(f'options["prompt"] must be 0 in a task without prompts of its own, got {options["prompt"]!r}.')
        self._states[rows] = streams.uniform(rows) >= self.start_probs[0]
        self._steps[rows] = 0
        self._rich_steps[rows] = 0

    def advance(self, rows: Rows, actions: NDArray[Any], streams: Streams) -> Step:
        """Go to the states `actions` [B], or slip into the others; the state reached pays."""
        index, reached = self._all[rows], _checked_actions(actions)
        if self.slip > 0:
            reached = reached ^ (streams.uniform(index) < self.slip)
        rewards = self.rewards[reached]
        if self.reward_noise > 0:
            rewards += self.reward_noise * normal_quantile(streams.uniform(index))
        self._states[rows] = reached
        self._rich_steps[rows] += reached == self.rich
        self._steps[rows] += 1
        nowhere = np.zeros(len(reached), dtype=np.bool_)
        return Step(rewards, nowhere, nowhere.copy() if self.horizon is None else self._steps[rows] >= self.horizon)

    def observe(self, rows: Rows, copy: bool = True) -> IntArray:
        """Return the states [B] of `rows`."""
        states = self._states[rows]
        return states.copy() if copy and isinstance(rows, slice) else states

    def live_info(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return nothing: the state says all."""
        return {}

    def end_info(self, rows: IntArray) -> dict[str, NDArray[Any]]:
        """Return `rich_share`, the share of the episode's steps that reached the rich state."""
        return {"rich_share": self._rich_steps[rows] / self._steps[rows]}

    def render(self, row: int, mode: str) -> str:
        """Return both states with what they pay, brackets around the present one, and the steps so far."""
        cells = [f"[{pay:g}]" if state == self._states[row] else f" {pay:g} " for state, pay in enumerate(self.rewards)]
        return f"{' '.join(cells)}  step {self._steps[row]}{'' if self.horizon is None else f'/{self.horizon}'}"

    def get_state(self) -> dict[str, NDArray[Any]]:
        """Return states, steps and rich steps, int64 [N] each."""
        return {"states": self._states.copy(), "steps": self._steps.copy(), "rich_steps": self._rich_steps.copy()}

    def set_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become what `get_state` described."""
        if np.shape(state["states"]) != (self.num_rows,):
            raise ValueError(f"This state holds states of shape {np.shape(state['states'])}, this environment has {self.num_rows} rows.")
        self._states[:], self._steps[:], self._rich_steps[:] = state["states"], state["steps"], state["rich_steps"]

    def like(self, num_rows: int) -> TwoState:
        """Return an unstarted core of the same task with `num_rows` rows."""
        settings: dict[str, Any] = {"rewards": self.rewards.tolist(), "slip": self.slip, "horizon": self.horizon}
        return TwoState(num_rows, **settings, start=self.start_probs.tolist(), reward_noise=self.reward_noise)


def best_return(horizon: int = 20, *, rewards: Sequence[float] = (0.0, 1.0), slip: float = 0.0) -> float:
    """Return the best expected return of an episode of `horizon` steps, not discounted: T m."""
    return horizon * _best_reward(rewards, slip)


def random_return(horizon: int = 20, *, rewards: Sequence[float] = (0.0, 1.0), slip: float = 0.0) -> float:
    """Return the expected return of an episode of uniform random actions: T (r_0 + r_1) / 2, whatever the slip."""
    _checked_slip(slip)
    return horizon * float(_checked_rewards(rewards).mean())


def best_values(gamma: float, *, rewards: Sequence[float] = (0.0, 1.0), slip: float = 0.0) -> FloatArray:
    """Return V* of both states, float64 [2], discounted by `gamma` and without end: m / (1 - gamma)."""
    return np.full(2, _best_reward(rewards, slip) / (1 - _checked_discount(gamma)))


def policy_values(go_to_1: Sequence[float], gamma: float, *, rewards: Sequence[float] = (0.0, 1.0), slip: float = 0.0) -> FloatArray:
    """Return V^pi of both states, float64 [2], discounted and without end; `go_to_1[s]` is the policy's probability of action 1 in state s."""
    low, gap, reach, k = _chain(go_to_1, rewards, slip)
    difference = k * gap / (1 - _checked_discount(gamma) * k)
    poor = (low + reach * (gap + gamma * difference)) / (1 - gamma)
    return np.array([poor, poor + difference])


def horizon_values(go_to_1: Sequence[float], horizon: int, *, rewards: Sequence[float] = (0.0, 1.0), slip: float = 0.0) -> FloatArray:
    """Return the expected sum of the next `horizon` rewards from both states, float64 [2], not discounted, under `go_to_1` [2]."""
    low, gap, reach, k = _chain(go_to_1, rewards, slip)
    differences = gap * np.concatenate([[0.0], np.cumsum(k ** np.arange(1, horizon + 1))])  # d_0 .. d_T
    poor = horizon * low + reach * (horizon * gap + differences[:-1].sum())
    return np.array([poor, poor + differences[-1]])


def _chain(go_to_1: Sequence[float], rewards: Sequence[float], slip: float) -> tuple[float, float, float, float]:
    """Return r_0, D, q_0 and k of the module's docstring."""
    pi, pay, slip = np.asarray(go_to_1, dtype=np.float64), _checked_rewards(rewards), _checked_slip(slip)
    if pi.shape != (2,) or not ((pi >= 0) & (pi <= 1)).all():
        raise ValueError(f"go_to_1 must be two probabilities, those of action 1 in state 0 and in state 1, got {go_to_1!r}.")
    reach = pi * (1 - slip) + (1 - pi) * slip
    return float(pay[0]), float(pay[1] - pay[0]), float(reach[0]), float(reach[1] - reach[0])


def _best_reward(rewards: Sequence[float], slip: float) -> float:
    pay, error = _checked_rewards(rewards), min(_checked_slip(slip), 1 - slip)
    return float((1 - error) * pay.max() + error * pay.min())


def _checked_actions(actions: NDArray[Any]) -> IntArray:
    if actions.dtype.kind not in "iu":
        raise ValueError(f"Actions are states to go to (0 or 1, integers), got dtype {actions.dtype}.")
    actions = actions.astype(np.int64, copy=False)
    if actions.view(np.uint64).max(initial=0) > 1:  # a negative action reads as a huge one: one comparison for both sides
        raise ValueError(f"Action {actions[(actions < 0) | (actions > 1)][0]} is outside the action space Discrete(2); it names the state to go to, 0 or 1.")
    return actions


def _checked_rewards(rewards: Sequence[float]) -> FloatArray:
    pay = np.array(rewards, dtype=np.float64)
    if pay.shape != (2,) or not np.isfinite(pay).all():
        raise ValueError(f"rewards must be two finite numbers, what reaching state 0 and state 1 pays, got {rewards!r}.")
    return pay


def _checked_slip(slip: float) -> float:
    if not 0 <= slip <= 1:
        raise ValueError(f"slip must be a probability in [0, 1], got {slip!r}.")
    return float(slip)


def _checked_discount(gamma: float) -> float:
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma must lie in [0, 1) where nothing ends, got {gamma!r}; without a discount use horizon_values.")
    return float(gamma)


def _checked_horizon(horizon: int | None) -> int | None:
    if horizon is not None and (isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1):
        raise ValueError(f"horizon must be a number of steps of at least 1, or None for an episode without end, got {horizon!r}.")
    return horizon


def _checked_start(start: Sequence[float]) -> FloatArray:
    probs = np.array(start, dtype=np.float64)
    if probs.shape != (2,) or not (probs >= 0).all() or abs(probs.sum() - 1) > 1e-9:
        raise ValueError(f"start must be the probabilities of beginning in state 0 and in state 1, which add up to 1, got {start!r}.")
    return probs


def _checked_noise(reward_noise: float) -> float:
    if not 0 <= reward_noise < np.inf:
        raise ValueError(f"reward_noise is a standard deviation: a finite number of at least 0, got {reward_noise!r}.")
    return float(reward_noise)
