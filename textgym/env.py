"""The single Gymnasium face of every core: a batch of one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from .core import ALL_ROWS, Core, CoreFactory, State, Streams, checked_render_mode, core_masks, core_texts, make_core

_ROW = np.zeros(1, dtype=np.int64)


class GymEnv(gym.Env[Any, Any]):
    """One environment on any core: `GymEnv("module:factory", **options)` or `GymEnv(factory, **options)`.

    `options` are the factory's own, which is called as `factory(num_rows=1, **options)`.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human", "rgb_array"], "render_fps": 4}  # noqa: RUF012 (an instance has its core's own)

    def __init__(self, core: str | CoreFactory, *, render_mode: str | None = None, **options: Any) -> None:
        self.core = make_core(core, 1, options)
        self.observation_space, self.action_space = self.core.observation_space, self.core.action_space
        self.metadata = {"render_modes": list(self.core.render_modes), "render_fps": 4}
        self.render_mode = checked_render_mode(self.core, render_mode)
        self._streams: Streams | None = None
        self._live = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; `options` go to the core (text tasks: {"prompt": index})."""
        super().reset(seed=seed)
        if self._streams is None or seed is not None or self._streams.generators[0] is not self.np_random:
            self._streams = Streams([self.np_random])
        self.core.start(_ROW, self._streams, options or {})
        self._live = True
        if self.render_mode == "human":
            self.render()
        return self.core.observe(ALL_ROWS)[0], row_info(self.core.live_info(ALL_ROWS))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply one action; the reward is a Python float, the flags Python bools."""
        if not self._live or self._streams is None:
            raise ResetNeeded("There is no episode to step: it has ended or never began. Call reset() first.")
        rewards, ended, cut = self.core.advance(ALL_ROWS, np.array([action]), self._streams)
        reward, terminated, truncated = float(rewards.item()), ended.item(), cut.item()
        info = row_info(self.core.live_info(ALL_ROWS))
        if terminated or truncated:
            self._live = False
            info.update(row_info(self.core.end_info(_ROW)))
        if self.render_mode == "human":
            self.render()
        return self.core.observe(ALL_ROWS)[0], reward, terminated, truncated, info

    def render(self) -> Any:
        """Return the drawing of the present state, or print it in "human" mode."""
        if self.render_mode is None:
            gym.logger.warn(f"render() without a render_mode; make the environment with one of {self.metadata['render_modes']}.")
            return None
        if self.render_mode == "human":
            print(self.core.render(0, "ansi"))
            return None
        return self.core.render(0, self.render_mode)

    def texts(self) -> list[str]:
        """Return the continuation as it stands, decoded (a list of one; text tasks only)."""
        return core_texts(self.core)

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, bool [A]: what maskable agents ask for (constrained tasks only; of a chunk, its first token's)."""
        return core_masks(self.core)[0]

    @property
    def P(self) -> Any:
        """Return the core's table {state: {action: [(probability, next state, reward, terminated)]}}, as Gymnasium's toy-text tasks have it."""
        return _of_table(self.core, "P")

    @property
    def initial_state_distrib(self) -> Any:
        """Return the probability of beginning in each state of the table `P`."""
        return _of_table(self.core, "initial_state_distrib")

    def get_state(self) -> State:
        """Return all that changes, random stream included, as a dict of arrays and JSON values."""
        if self._streams is None:
            raise ResetNeeded("Nothing has begun yet: call reset() before get_state().")
        return {"core": self.core.get_state(), "streams": self._streams.get_state(), "live": self._live}

    def set_state(self, state: State) -> None:
        """Continue exactly where `get_state` stood."""
        self.core.set_state(state["core"])
        self._streams = Streams.from_state(state["streams"])
        self.np_random = self._streams.generators[0]
        self._live = bool(state["live"])


def _of_table(core: Core, name: str) -> Any:
    """Return an attribute that only tasks with a table of transitions have; raises `AttributeError` for any other."""
    if name not in vars(core) and not hasattr(type(core), name):  # looked up, not computed: a table may be large
        raise AttributeError(f"{type(core).__name__} has no {name}: its task has no table of transitions (textgym/TwoState-v0 has one).")
    return getattr(core, name)


def row_info(info: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return row 0 of batched facts, numbers as Python scalars."""
    return {key: values[0] if values.ndim > 1 or values.dtype == object else values[0].item() for key, values in info.items()}
