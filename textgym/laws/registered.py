"""Laws about a registered id: its spec, its native vector form, and the forks of that.

Axis legend: N rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from .playing import choose, difference, parting, play
from .verdicts import Make, NotApplicableError

ROWS = 3
MODES = ("NextStep", "SameStep", "Disabled")


class VectorMoment(NamedTuple):
    """What one step of N rows gave."""

    observations: Any
    rewards: NDArray[Any]  # [N]
    terminated: NDArray[np.bool_]  # [N]
    truncated: NDArray[np.bool_]  # [N]
    infos: dict[str, Any]


def through_json(make: Make, steps: int) -> str:
    """The spec, written as JSON and read again, makes an equal environment."""
    spec = _spec_of(make)
    again = EnvSpec.from_json(spec.to_json())
    with contextlib.closing(gym.make(spec).unwrapped) as one, contextlib.closing(gym.make(again).unwrapped) as other:
        if found := difference((str(one.observation_space), str(one.action_space)), (str(other.observation_space), str(other.action_space))):
            return f"the spaces differ{found}."
        found = parting(play(one, steps, 0), play(other, steps, 0))
    return f"the environment of the spec that was read again differs: {found}." if found else ""


def native_equals_sync(make: Make, steps: int) -> str:
    """The native vector form equals `SyncVectorEnv` of single environments exactly, in every autoreset mode that it has."""
    spec = _vector_spec_of(make)
    for mode in _modes(spec):
        taken = {} if mode is None else {"autoreset_mode": mode}
        with contextlib.closing(_native(spec, taken)) as ours, contextlib.closing(_sync(spec, _mode_of(ours))) as theirs:
            if found := _vector_parting(ours, theirs, 2 * steps):
                return f"in the autoreset mode {_mode_of(ours)}, {found} (the native form first)."
    return ""


def forks(make: Make, steps: int) -> str:
    """A fork of the native vector form replays exactly what its original does."""
    with contextlib.closing(_native(_vector_spec_of(make), {})) as env:
        if not hasattr(env, "fork"):
            raise NotApplicableError("its vector form has no fork()")
        infos = _live_infos(env)
        with contextlib.closing(env.fork(list(range(ROWS)), 1)) as fork:
            for t in range(steps):
                now, twin = _step_both(env, fork, infos)
                if found := difference(now, twin):
                    return f"the fork differs at step {t}{found}."
                infos = now.infos
                if _mode_of(env) == MODES[2] and _ended(now).any():  # they would have to be reset by hand
                    break
    return ""


def _live_infos(env: Any) -> dict[str, Any]:
    """Bring all rows into the middle of an episode, or to the beginning if one of them has ended by then; return the infos."""
    _, infos = env.reset(seed=0)
    _seed(env.single_action_space)
    now = VectorMoment(*env.step(_actions(env, infos)))
    found: dict[str, Any] = env.reset(seed=1)[1] if _ended(now).any() else now.infos
    return found


def _ended(now: VectorMoment) -> NDArray[np.bool_]:
    """Return on which rows the episode ended, bool [N]."""
    return now.terminated | now.truncated


def _mode_of(env: Any) -> str:
    """Return the autoreset mode that a vector environment names; Gymnasium's default if it names none."""
    mode: str = getattr(env.metadata.get("autoreset_mode"), "value", MODES[0])
    return mode


def _spec_of(make: Make) -> EnvSpec:
    spec = make().unwrapped.spec
    if spec is None:
        raise NotApplicableError("it is not made by a registered id")
    return spec


def _vector_spec_of(make: Make) -> EnvSpec:
    spec = _spec_of(make)
    if spec.vector_entry_point is None:
        raise NotApplicableError("its id has no vector_entry_point")
    return spec


def _native(spec: EnvSpec, options: Mapping[str, Any]) -> Any:
    return gym.make_vec(spec, ROWS, "vector_entry_point", **options)


def _sync(spec: EnvSpec, mode: str) -> VectorEnv[Any, Any, Any]:
    return gym.make_vec(spec, ROWS, "sync", vector_kwargs={"autoreset_mode": mode})


def _modes(spec: EnvSpec) -> tuple[str | None, ...]:
    """Return the autoreset modes to compare; only its own, None, of a vector form that takes no `autoreset_mode`."""
    try:
        _native(spec, {"autoreset_mode": MODES[0]}).close()
    except TypeError:
        return (None,)
    return MODES


def _vector_parting(ours: VectorEnv[Any, Any, Any], theirs: VectorEnv[Any, Any, Any], steps: int) -> str:
    """Return where two vector environments differ first; each plays the actions that the first one's masks allow."""
    _seed(ours.single_action_space)
    (observations, infos), other = ours.reset(seed=7), theirs.reset(seed=7)
    if found := difference((observations, infos), other):
        return f"the reset differs{found}"
    for t in range(steps):
        now, twin = _step_both(ours, theirs, infos)
        if found := difference(now, twin):
            return f"step {t} differs{found}"
        infos = now.infos
        if _mode_of(ours) == MODES[2] and _ended(now).any():
            observations, infos = ours.reset(options={"reset_mask": _ended(now)})
            if found := difference((observations, infos), theirs.reset(options={"reset_mask": _ended(now)})):
                return f"the reset after step {t} differs{found}"
    return ""


def _step_both(first: Any, second: Any, infos: Mapping[str, Any]) -> tuple[VectorMoment, VectorMoment]:
    """Step two environments by the same actions, which the first one's masks allow."""
    actions = _actions(first, infos)
    return VectorMoment(*first.step(actions)), VectorMoment(*second.step(actions))


def _seed(space: gym.Space[Any]) -> None:
    space.seed(0)


def _actions(env: Any, infos: Mapping[str, Any]) -> Any:
    """Return an action for each row [N, ...], an allowed one where the infos have masks [N, A]."""
    return np.array([choose(env.single_action_space, mask) for mask in infos.get("action_mask", [None] * ROWS)])
