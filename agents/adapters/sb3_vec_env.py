"""textgym's native vector environment as a `VecEnv` of Stable-Baselines3: all rows in one step, where its own `DummyVecEnv` loops over single ones.

Axis legend: N rows, A actions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from textgym.vector import GymVectorEnv

Indices = int | Iterable[int] | None
BY_ROW = ("action_masks", "texts", "render")  # what can be asked of single rows
SPACES = {"observation_space": "single_observation_space", "action_space": "single_action_space"}


class SB3VecEnv(VecEnv):
    """N rows for Stable-Baselines3, equal to `DummyVecEnv` over N single environments, and many times faster.

        env = SB3VecEnv(gym.make_vec("TextGen-v0", num_envs=64))

    Seeds, options, final observations (`info["terminal_observation"]`), `info["TimeLimit.truncated"]` and `reset_infos` are those of `DummyVecEnv`, and
    with `monitor` so is `info["episode"]`, as `make_vec_env` with its `Monitor` has it. sb3-contrib's MaskablePPO finds its masks.

    Args:
        env: textgym's own vector environment, with wrappers of `textgym.wrappers.vector` or without; not in "SameStep" mode, since here it is this class
            that begins anew.
        monitor: also tell each episode's return `r`, length `l` and seconds since the beginning `t`; False where `VecMonitor` is to stand above.

    Raises:
        TypeError: if `env` is no vector environment of textgym's.
        ValueError: if it restarts by itself.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *, monitor: bool = True) -> None:
        if not (isinstance(env, VectorEnv) and isinstance(env.unwrapped, GymVectorEnv)):
            raise TypeError(f"SB3VecEnv takes textgym's vector environment, as gymnasium.make_vec gives it, not {env}; DummyVecEnv takes single ones.")
        if env.metadata["autoreset_mode"].value == "SameStep":
            raise ValueError('SB3VecEnv begins episodes anew itself: make the environment without autoreset_mode="SameStep".')
        self.env, self.monitor = env, monitor
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.spec = env.spec
        self._actions: NDArray[Any] | None = None
        self._begun = False
        self._returns, self._lengths, self._began = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64), time.time()

    def reset(self) -> Any:
        """Begin an episode on every row, with the seeds and options that were set; return the observations."""
        groups = self._by_options()
        if len(groups) > 1 and not self._begun:
            self.env.reset(seed=self._seeds)  # the first reset must begin all rows; below, those with a seed are seeded once more
        for rows, options in groups:
            observations, infos = self.env.reset(seed=self._seeds, options={**options, "reset_mask": rows})
            self._keep(infos, np.flatnonzero(rows))
        self._begun = True
        self._returns[:], self._lengths[:] = 0.0, 0
        self._reset_seeds()
        self._reset_options()
        return observations

    def _by_options(self) -> list[tuple[NDArray[np.bool_], dict[str, NDArray[Any]]]]:
        """Return the rows [N] bool that were given options of the same names, and these as arrays [N], for each such set of names."""
        if len(self._options) != self.num_envs:
            raise ValueError(f"Options are one dict for all, or one for each of the {self.num_envs} rows; got {len(self._options)}.")
        names = [tuple(sorted(options)) for options in self._options]
        found = []
        for some in dict.fromkeys(names):
            rows = np.array([own == some for own in names])
            filler = self._options[int(rows.argmax())]  # a reset looks at the rows it begins only, but checks all
            found.append((rows, {key: np.array([options.get(key, filler[key]) for options in self._options]) for key in some}))
        return found

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep one action for each row [N, *]."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> Any:
        """Return observations, rewards float32 [N], dones bool [N] and a dict for each row; rows whose episode ended have begun the next one."""
        if self._actions is None:
            raise RuntimeError("There are no actions to wait for: call step(actions), or step_async(actions) first.")
        actions, self._actions = self._actions, None
        observations, rewards, terminated, truncated, told = self.env.step(actions)
        dones = terminated | truncated
        infos = [{"TimeLimit.truncated": cut} for cut in (truncated > terminated).tolist()]
        _tell(told, infos)
        self._returns += rewards
        self._lengths += 1
        if dones.any():
            observations = self._begin_anew(dones, observations, infos)
        return observations, rewards.astype(np.float32), dones, infos

    def _begin_anew(self, dones: NDArray[np.bool_], finals: Any, infos: list[dict[str, Any]]) -> Any:
        """Write into `infos` what the episodes came to, and return the observations after new ones have begun."""
        ended = dones.nonzero()[0]
        for row, final in zip(ended.tolist(), _cut_into_rows(finals, ended), strict=True):
            infos[row]["terminal_observation"] = final
        if self.monitor:
            seconds = round(time.time() - self._began, 6)
            for row, total, length in zip(ended.tolist(), self._returns[ended].tolist(), self._lengths[ended].tolist(), strict=True):
                infos[row]["episode"] = {"r": round(total, 6), "l": length, "t": seconds}
        self._returns[ended], self._lengths[ended] = 0.0, 0
        observations, told = self.env.reset(options={"reset_mask": dones})
        self._keep(told, ended)
        return observations

    def _keep(self, told: dict[str, Any], rows: NDArray[np.int64]) -> None:
        for row in rows.tolist():
            self.reset_infos[row] = {}
        _tell(told, self.reset_infos)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_images(self) -> Sequence[NDArray[np.uint8]]:
        """Return the drawings of all rows, [H, W, 3] each (`render_mode="rgb_array"`)."""
        drawn: Any = self.env.render()
        return list(drawn)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Return an attribute once for each of the rows `indices`: they share one environment, and so its attributes."""
        return [getattr(self.env, SPACES.get(attr_name, attr_name))] * len(self._some(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of all rows; raises `ValueError` for some of them, since they share one environment."""
        if len(set(self._some(indices))) != self.num_envs:
            raise ValueError(f"The rows share one environment: {attr_name} can be set for all of them at once only (indices=None).")
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any) -> list[Any]:
        """Return what `action_masks`, `texts` or `render` say of the rows `indices`, one by one; raises `AttributeError` for any other method."""
        if method_name not in BY_ROW:
            raise AttributeError(f"The rows share one environment, which {method_name!r} cannot be asked of row by row ({', '.join(BY_ROW)} can): see `.env`.")
        answer = getattr(self.env, method_name)(*method_args, **method_kwargs)
        if answer is None:
            return [None for _ in self._some(indices)]
        return [[answer[row]] if method_name == "texts" else answer[row] for row in self._some(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Indices = None) -> list[bool]:
        """Tell whether rows are wrapped: in `Monitor` if `monitor`, whose work is done here; else in nothing."""
        return [self.monitor and wrapper_class is Monitor for _ in self._some(indices)]

    def _some(self, indices: Indices) -> list[int]:
        return list(self._get_indices(indices))


def _tell(told: dict[str, Any], infos: list[dict[str, Any]]) -> None:
    """Write batched facts [N, ...] into the dict of each row that they are told of, numbers as Python scalars."""
    for key, values in told.items():
        whom = told.get(f"_{key}")
        if whom is None:  # it is such a mask itself
            continue
        rows = whom.nonzero()[0]
        cells = values[rows]
        for row, cell in zip(rows.tolist(), cells.tolist() if values.ndim == 1 else cells, strict=True):
            infos[row][key] = cell


def _cut_into_rows(seen: Any, rows: NDArray[np.int64]) -> list[Any]:
    """Return what is seen [N, ...] of `rows` [B], one by one."""
    return [{key: part[row] for key, part in seen.items()} for row in rows] if isinstance(seen, dict) else list(seen[rows])
