"""Rollouts of noise that several tests of the estimators share: every field that an estimator may read, and NaN where none may."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from agents.rollout import Rollout

NAN = float("nan")


def column(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float64)[:, None]


R, V, V_NEXT = column(1, 2, 3), column(4, 2, 1), column(2, 1, 8)
NO = np.zeros((3, 1), dtype=bool)
LAST = np.array([[False], [False], [True]])
BEGIN = np.array([[True], [False], [False]])


def make_rollout(rewards, values, next_values, terminated=None, truncated=None, starts=None, valid=None, **others) -> Rollout:
    """A rollout [T, N] of the fields an estimator reads; nothing ends and everything counts unless it is said."""
    none = np.zeros(rewards.shape, dtype=bool)
    terminated, truncated = none if terminated is None else terminated, none if truncated is None else truncated
    valid = ~none if valid is None else valid
    if starts is None:
        starts = np.vstack([~none[:1], (terminated | truncated)[:-1]])
    zeros = np.zeros(rewards.shape)
    ids = (starts & valid).T.cumsum().reshape(starts.T.shape).T
    return Rollout(zeros, zeros, zeros, values, next_values, rewards, terminated, truncated, starts, valid, ids)._replace(**others)


def random_rollout(num_steps: int, num_envs: int, seed: int, whole: bool = False) -> Rollout:
    """Episodes of random length, ended either way, with gaps and quotas; whatever must not be read is NaN.

    Inside an episode next_values are the values of the next step, as a critic's are. With `whole` no episode is cut, and every group
    has at least two episodes (where there are two).
    """
    rng = np.random.default_rng(seed)
    shape = (num_steps, num_envs)
    rewards, values, next_values, log_probs, target, action_values, baselines = (rng.normal(size=shape) for _ in range(7))
    terminated, truncated, starts = (np.zeros(shape, dtype=bool) for _ in range(3))
    valid = np.ones(shape, dtype=bool)
    for i in range(num_envs):
        fresh, gap, t = bool(whole or rng.random() < 0.5), rng.random() < 0.5, 0
        while t < num_steps:
            length = int(rng.integers(1, 6))
            stop = min(t + length, num_steps)
            starts[t, i] = fresh
            next_values[t : stop - 1, i] = values[t + 1 : stop, i]
            if stop == t + length or whole:
                (terminated if rng.random() < 0.5 else truncated)[stop - 1, i] = True
                terminated[stop - 1, i] |= rng.random() < 0.2  # both at once: termination counts
            fresh, t = True, stop
            pause = (num_steps - t) if rng.random() < 0.1 else int(gap)  # a finished quota, or a step that only resets
            valid[t : t + pause, i] = False
            t += pause
    next_values[terminated] = NAN
    for array in (rewards, values, next_values, log_probs, target, action_values, baselines):
        array[~valid] = NAN
    terminated[~valid], truncated[~valid] = rng.random((~valid).sum()) < 0.5, rng.random((~valid).sum()) < 0.5
    rollout = make_rollout(rewards, values, next_values, terminated, truncated, starts, valid)
    total = int((starts & valid).sum())
    names = rng.permutation(np.minimum(np.arange(total) // 2, max(0, total // 2 - 1))) * 7 - 3
    groups = np.where(valid & (rollout.episode_ids > 0), names[np.maximum(rollout.episode_ids, 1) - 1] if total else 0, rng.integers(100, 200, shape))
    return rollout._replace(log_probs=log_probs, target_log_probs=target, action_values=action_values, baselines=baselines, groups=groups.astype(np.int64))


def pieces(rollout: Rollout) -> Iterator[tuple[int, int, int]]:
    """The (row, first, last) of every run of valid steps that belongs to one episode."""
    for i in range(rollout.valid.shape[1]):
        first = None
        for t in range(rollout.valid.shape[0]):
            if not rollout.valid[t, i]:
                continue
            first = t if first is None else first
            last_step = t + 1 == rollout.valid.shape[0] or not rollout.valid[t + 1, i]
            if last_step or rollout.terminated[t, i] or rollout.truncated[t, i]:
                yield i, first, t
                first = None


def futures(rollout: Rollout, i: int) -> list[float]:
    """What lies behind each step of a row, as the critic says."""
    return [0.0 if end else value for end, value in zip(rollout.terminated[:, i], rollout.next_values[:, i], strict=True)]


def masked(rollout: Rollout, array: np.ndarray) -> np.ndarray:
    return np.where(rollout.valid, array, 0.0)


def columns(rollout: Rollout, which) -> Rollout:
    """Some columns of a rollout, in that order."""
    return Rollout(*(None if field is None else field[:, which] for field in rollout))


def steps(rollout: Rollout, which) -> Rollout:
    """Some steps of a rollout."""
    return Rollout(*(None if field is None else field[which] for field in rollout))
