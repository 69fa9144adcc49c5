"""Motion: a policy plays a vector environment, and what happened comes back as a `Rollout`.

The three autoreset modes of Gymnasium are told apart here and nowhere else in `agents`.
Axis legend: T steps, N environments, E episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from .policies import Acted, Memory, Policy
from .policies.steady import steady_weights
from .rollout import BoolArray, FloatArray, IntArray, Rollout
from .timing import stage

AnyVectorEnv = VectorEnv[Any, Any, Any]


class Position(NamedTuple):
    """Where play stands between two rollouts."""

    observations: NDArray[Any]  # [N, *]
    starts: BoolArray  # [N] the observation is the first of its episode
    over: BoolArray  # [N] the episode has ended and the next step only resets (NEXT_STEP)
    returns: FloatArray  # [N] undiscounted, of the episode so far
    lengths: IntArray  # [N]
    action_masks: BoolArray | None  # [N, A]
    policy_state: Any


Measure = Callable[[Position, BoolArray], FloatArray]  # what the states of some rows [N] bool are worth, [N]; 0 elsewhere


class Played(NamedTuple):
    """A rollout, where play stands after it, and what was told at the ends of episodes."""

    rollout: Rollout
    position: Position
    ends: dict[str, FloatArray]  # [T, N] NaN where no episode ended: "return", "length" and the numbers of the environment's info


class Move(NamedTuple):
    """One step of the environment, told the same way for every autoreset mode."""

    observations: NDArray[Any]  # [N, *] to act on next
    reached: NDArray[Any]  # [N, *] before any reset
    rewards: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    starts: BoolArray  # the next observation begins an episode
    over: BoolArray  # the next step will only reset
    action_masks: BoolArray | None  # [N, A] beside the next observation
    end_info: dict[str, Any]  # of the episodes that ended


def begin(env: AnyVectorEnv, policy: Policy, seed: int | None = None, options: Mapping[str, Any] | None = None) -> Position:
    """Reset every row and return where play starts."""
    check_fit(env, policy)
    observations, infos = env.reset(seed=seed, options=None if options is None else dict(options))
    return position_of(env, observations, infos, policy)


def check_fit(env: AnyVectorEnv, policy: Policy) -> None:
    """Raise where an environment cannot be played: it is no vector environment, or its actions have another vocabulary or size than the policy's."""
    if not hasattr(env, "num_envs"):
        raise TypeError(f"{env} is a single environment; play and training need rows: gym.make_vec(..., num_envs=N).")
    vocab_size, actions = getattr(policy, "vocab_size", None), env.single_action_space
    continuous = getattr(policy, "continuous", None if vocab_size is None else False)  # None: a stranger's policy may know better
    if continuous is False and isinstance(actions, Box):
        raise TypeError(f"The policy makes choices, the environment's actions are real numbers, {actions}: GaussianPolicy is for those.")
    if continuous and not isinstance(actions, Box):
        raise TypeError(f"The policy draws real numbers, the environment's actions are choices, {actions}: MLPPolicy.for_env(env) makes one for those.")
    if vocab_size is None or not isinstance(actions, Discrete | MultiDiscrete):
        return
    sizes = [int(actions.n)] if isinstance(actions, Discrete) else actions.nvec.tolist()
    chunk = getattr(policy, "chunk", 1)
    if sizes != [vocab_size] * len(sizes):
        raise ValueError(f"The environment has {max(sizes)} token ids, the policy was built for {vocab_size}: build it with vocab_size={max(sizes)}.")
    if (chunk > 1 or isinstance(actions, MultiDiscrete)) and chunk != len(sizes):
        raise ValueError(
            f"An action of the environment has {_tokens(len(sizes))}, one of the policy {_tokens(chunk)}: "
            f"build the policy with chunk={len(sizes)}, or make the environment with chunk={chunk}."
        )


def _tokens(num: int) -> str:
    return "1 token" if num == 1 else f"{num} tokens"


def position_of(env: AnyVectorEnv, observations: NDArray[Any], infos: Mapping[str, Any], policy: Policy) -> Position:
    """Return the position of rows that have just been reset."""
    n = len(observations)
    fresh, idle = np.ones(n, np.bool_), np.zeros(n, np.bool_)
    return Position(observations, fresh, idle, np.zeros(n), np.zeros(n, np.int64), _masks(env, infos, idle), policy.initial_state(n))


@steady_weights()
def collect(
    env: AnyVectorEnv,
    policy: Policy,
    position: Position,
    generator: np.random.Generator,
    *,
    num_steps: int | None = None,
    episodes_per_row: int | None = None,
    temperature: float = 1.0,
    measured: Measure | None = None,
) -> Played:
    """Play `num_steps` steps a row, or exactly `episodes_per_row` whole episodes a row, from `position` on.

    Windows cut episodes at their borders: they are for estimators that bootstrap. Whole episodes are for those that do not; `position` must then be
    fresh (`begin`), and a row that has its quota goes on with `valid` false until all have. With `measured`, `values` are what it says of each
    state that is acted on, not the policy's; an environment that truncates is then refused. No weight of the policy may change meanwhile.
    """
    quota = _checked_quota(position, num_steps, episodes_per_row)
    num_rows = len(position.starts)
    memory = position.policy_state[None].copy() if isinstance(position.policy_state, np.ndarray) else None
    steps: list[dict[str, Any]] = []
    ends: list[dict[str, FloatArray]] = []  # of each step: what was told of the episodes that ended
    last_values: list[FloatArray] = []
    finished, episode_ids, nothing = np.zeros(num_rows, dtype=np.int64), np.arange(num_rows), np.zeros(num_rows)
    while len(steps) < num_steps if num_steps is not None else np.count_nonzero(finished < quota):
        observations = np.array(position.observations)  # an environment may lend its own memory and write into it
        acted = _act(env, policy, position, observations, generator, temperature)
        valid = ~position.over & (finished < quota)
        values = acted.values if measured is None else measured(position, valid)  # before the step: the environment still stands there
        move = _move(env, acted.actions, position.over, position.action_masks is not None)
        done = move.terminated | move.truncated
        returns, lengths, ended, facts, last = position.returns + move.rewards, position.lengths + ~position.over, done & valid, {}, nothing
        steps.append(
            {
                "observations": observations,
                "actions": acted.actions,
                "log_probs": acted.log_probs,
                "values": values,
                "rewards": move.rewards,
                "terminated": move.terminated & valid,
                "truncated": move.truncated & valid,
                "starts": position.starts,
                "valid": valid,
                "episode_ids": episode_ids,
                "_masks": position.action_masks if acted.action_masks is None else acted.action_masks,
            }
        )
        if np.count_nonzero(done):  # a third of the time of `any`, at every step
            facts = _end_facts(ended, returns, lengths, move.end_info)
            cut = move.truncated & ~move.terminated & valid  # only these bootstrap from a state that play itself never acts on
            last = _values_at(policy, move.reached, _measurable(cut, measured), acted.state)
            finished, episode_ids = finished + ended, episode_ids + num_rows * ended
            returns, lengths = np.where(done, 0.0, returns), np.where(done, 0, lengths)
        ends.append(facts)
        last_values.append(last)
        position = Position(move.observations, move.starts, move.over, returns, lengths, move.action_masks, acted.state)
    open_rows = valid & ~ended
    after = _values_at(policy, position.observations, open_rows, position.policy_state) if measured is None else measured(position, open_rows)
    _fill_values(policy, [] if measured else steps)
    return Played(_stacked(steps, last_values, after, memory), position, _stacked_ends(ends, num_rows))


def _stacked(steps: list[dict[str, Any]], last_values: list[FloatArray], after: FloatArray, memory: NDArray[Any] | None) -> Rollout:
    """Return steps of N rows as a rollout; the values behind them are `last_values` where an episode was cut, and `after` [N] behind the last step."""
    masks = _stacked_masks([step.pop("_masks") for step in steps])
    fields: dict[str, Any] = {name: _laid_out([step[name] for step in steps]) for name in steps[0]}
    alive = ~(fields["terminated"] | fields["truncated"])
    next_values = np.where(alive, np.concatenate([fields["values"][1:], after[None]]), _laid_out(last_values))
    return Rollout(**fields, next_values=next_values, action_masks=masks, memory=memory)


def _laid_out(rows: list[NDArray[Any]]) -> NDArray[Any]:
    """Return T arrays [N, *] as one [T, N, *]: a third of the time that `numpy.stack` takes for small ones."""
    return np.concatenate(rows).reshape(len(rows), *rows[0].shape)


def _fill_values(policy: Any, steps: list[dict[str, Any]], columns: int = 256) -> None:
    """Put into each step what a policy whose values come later, text by text, says of its states, a few columns at a time."""
    if not steps or not getattr(policy, "values_later", False):
        return
    observations = np.stack([step["observations"] for step in steps])
    with stage("acting"), torch.no_grad():
        values = [policy.evaluate_values(torch.from_numpy(observations[:, i : i + columns])) for i in range(0, observations.shape[1], columns)]
    for step, row in zip(steps, np.concatenate([part.to("cpu", torch.float64).numpy() for part in values], axis=1), strict=True):
        step["values"] = row


def _act(env: AnyVectorEnv, policy: Policy, position: Position, observations: NDArray[Any], generator: np.random.Generator, temperature: float) -> Acted:
    with stage("acting"):
        return policy.act(observations, position.policy_state, position.starts, generator, _for_chunks(env, policy, position), temperature)


def _measurable(cut: BoolArray, measured: Measure | None) -> BoolArray:
    if measured is not None and cut.any():
        raise ValueError("This environment truncates episodes, and the state behind a truncation cannot be measured: use an estimator with a critic.")
    return cut


def _checked_quota(position: Position, num_steps: int | None, episodes_per_row: int | None) -> float:
    """Return how many episodes a row may finish: as many as it likes in a window of steps."""
    if (num_steps is None) == (episodes_per_row is None):
        raise ValueError("collect() takes either num_steps or episodes_per_row.")
    if (num_steps or episodes_per_row or 0) < 1:
        raise ValueError(f"There is nothing to play: num_steps={num_steps}, episodes_per_row={episodes_per_row}; give at least 1.")
    if episodes_per_row is not None and not position.starts.all():
        raise ValueError("Whole episodes begin at a reset: pass collect(..., position=begin(env, policy)) with episodes_per_row.")
    return np.inf if episodes_per_row is None else episodes_per_row


def _move(env: AnyVectorEnv, actions: NDArray[Any], over: BoolArray, masked: bool) -> Move:
    """Step the environment; only one that was `masked` before is asked for masks that its info does not tell."""
    with stage("environment and scorer"):
        observations, rewards, terminated, truncated, infos = env.step(actions)
    done = terminated | truncated
    mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
    rewards = np.array(rewards, dtype=np.float64)
    if mode is AutoresetMode.NEXT_STEP:
        return Move(observations, observations, rewards, terminated, truncated, over, done, _masks(env, infos, done, masked), infos)
    nobody = np.zeros(len(done), np.bool_)
    if not np.count_nonzero(done):
        return Move(observations, observations, rewards, terminated, truncated, nobody, nobody, _masks(env, infos, nobody, masked), {})
    reached = observations.copy()
    if mode is AutoresetMode.SAME_STEP:
        for row in np.flatnonzero(done):
            reached[row] = infos["final_obs"][row]
        return Move(observations, reached, rewards, terminated, truncated, done, nobody, _masks(env, infos, nobody, masked), infos.get("final_info", {}))
    after, reset_infos = env.reset(options={"reset_mask": done})
    both = _masks(env, infos, done, masked), _masks(env, reset_infos, ~done, masked)  # each is all True in the other's rows
    told = [masks for masks in both if masks is not None]
    return Move(after, reached, rewards, terminated, truncated, done, nobody, np.logical_and.reduce(told) if told else None, infos)


def _masks(env: AnyVectorEnv, infos: Mapping[str, Any], idle: BoolArray, ask: bool = True) -> BoolArray | None:
    """Return the action masks [N, A] of an info, or of the environment if it tells them on request only (`info_mask=False`); None if nothing is forbidden.

    They are all True on rows that were told none, or whose next action is ignored.
    """
    if "action_mask" in infos:
        masks = np.array(infos["action_mask"], dtype=np.bool_)
        masks[~infos.get("_action_mask", np.ones_like(idle))] = True
    elif not ask:
        return None
    else:
        try:
            masks = np.array(_asked(env)())
        except TypeError:
            return None
    masks[idle] = True
    return masks


def _asked(env: AnyVectorEnv) -> Callable[..., BoolArray]:
    """Return the environment's `action_masks`, or that of what stands below its wrappers; raises `TypeError` if there is none."""
    for one in (env, env.unwrapped):
        if hasattr(one, "action_masks"):
            ask: Callable[..., BoolArray] = one.action_masks
            return ask
    raise TypeError("nothing is forbidden here")


def _for_chunks(env: AnyVectorEnv, policy: Policy, position: Position) -> Any:
    """Return the masks that a policy is to act under: those of the position, or for chunks of tokens a way to ask token by token."""
    masks = position.action_masks
    if masks is None or getattr(policy, "chunk", 1) == 1:
        return masks
    return lambda tokens: masks if not tokens.shape[1] else _asked(env)(tokens) | position.over[:, None]


def _stacked_masks(masks: list[BoolArray | None]) -> BoolArray | None:
    """Return masks [T, N, A], all True in the steps that had none; None if no step had any."""
    shape = next((mask.shape for mask in masks if mask is not None), None)
    return None if shape is None else np.stack([np.ones(shape, np.bool_) if mask is None else mask for mask in masks])


def _values_at(policy: Policy, observations: NDArray[Any], where: BoolArray, state: Any) -> FloatArray:
    values = np.zeros(len(where))
    if where.any():
        with stage("acting"):
            values[where] = policy.value(observations[where], _of_rows(state, where))
    return values


def _of_rows(state: Any, rows: BoolArray) -> Any:
    """Return what the policy remembers of some rows, where its state can be taken apart."""
    if isinstance(state, np.ndarray):
        return state[rows]
    return state.of_rows(rows) if hasattr(state, "of_rows") else None


def _end_facts(ended: BoolArray, returns: FloatArray, lengths: IntArray, infos: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Return the numbers told at the ends of this step's episodes, [N] each, NaN elsewhere; "return" and "length" are always ours."""
    if not ended.any():
        return {}
    facts = {"return": np.where(ended, returns, np.nan), "length": np.where(ended, lengths, np.nan)}
    for key, values in infos.items():
        if key not in facts and isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iufb" and f"_{key}" in infos:
            facts[key] = np.where(ended & infos[f"_{key}"], values, np.nan).astype(np.float64)
    return facts


def _stacked_ends(steps: list[dict[str, FloatArray]], num_rows: int) -> dict[str, FloatArray]:
    names = ["return", "length", *sorted({name for step in steps for name in step} - {"return", "length"})]
    nothing = np.full(num_rows, np.nan)
    return {name: _laid_out([step.get(name, nothing) for step in steps]) for name in names}


class Evaluation(NamedTuple):
    """Whole episodes under a fixed quota, in the order of rows and, within a row, of time."""

    returns: FloatArray  # [E] undiscounted
    lengths: IntArray  # [E]
    ends: dict[str, FloatArray]  # [E] each: the numbers of the environment's info at the end
    rollout: Rollout


def evaluate(
    env: AnyVectorEnv,
    policy: Policy,
    generator: np.random.Generator,
    *,
    episodes_per_row: int = 1,
    temperature: float = 1.0,
    seed: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Play exactly `episodes_per_row` episodes on every row; temperature 0 is greedy.

    The quota is a row's own: the first finishers of a pool are the short episodes, and a mean over them would be biased.
    Which prompts are played is said by `options={"prompt": [N]}`; options are those of the first reset, and so of each row's first episode.
    """
    played = collect(env, policy, begin(env, policy, seed, options), generator, episodes_per_row=episodes_per_row, temperature=temperature)
    ended = played.rollout.ends.T  # row after row
    ends = {name: values.T[ended] for name, values in played.ends.items()}
    return Evaluation(ends.pop("return"), ends.pop("length").astype(np.int64), ends, played.rollout)


def log_probs_under(policy: Policy, rollout: Rollout, temperature: float = 1.0, columns: int = 256) -> FloatArray:
    """Return log pi(a | s) [T, N] of a rollout's actions under another policy, a few columns at a time."""
    masks = rollout.action_masks
    found: FloatArray = np.zeros(rollout.valid.shape)
    with torch.no_grad():
        for first in range(0, found.shape[1], columns):
            part = slice(first, first + columns)
            mask = None if masks is None else torch.from_numpy(masks[:, part])
            remembered = None if rollout.memory is None else Memory(torch.from_numpy(rollout.memory[0, part]), torch.from_numpy(rollout.starts[:, part]))
            observations, actions = torch.from_numpy(rollout.observations[:, part]), torch.from_numpy(rollout.actions[:, part])
            evaluated = policy.evaluate(observations, actions, mask, temperature, remembered)
            found[:, part] = evaluated.log_probs.to("cpu", torch.float64).numpy()
    return found
