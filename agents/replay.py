"""What is kept of what was played: how often each action was tried, and older rollouts, to be read anew by the present policy beside the new one.

An old rollout says what happened; what the present policy and its critic think of that is asked anew each time. Only behind a step that was
truncated the old critic's opinion stays, because the state reached there was not kept.
Axis legend: T steps, N environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .exploration import Visits
from .kl import kl_penalised
from .off_policy import OffPolicy
from .play import AnyVectorEnv, Played
from .policies import Memory, Policy
from .rollout import FloatArray, Rollout


class Old(NamedTuple):
    """A rollout that was learned from before."""

    rollout: Rollout  # its rewards are the environment's own, before any bonus or price
    after: NDArray[Any]  # [N, *] the observations behind its last steps


@dataclass
class Experience:
    """What a learner keeps beyond an iteration, and how it comes back."""

    old: list[Old] = field(default_factory=list)  # the newest last
    visits: Visits | None = None  # of an iteration with a bonus on

    def curious(self, rollout: Rollout, env: AnyVectorEnv, bonus_coef: float) -> tuple[Rollout, dict[str, float]]:
        """Return the rollout with a bonus in its rewards for what was tried rarely, and what to log of it; see `Visits.bonus`.

        Logged are "bonus", the mean of a step, and "tried", the share of all pairs of state and action that were ever tried.
        """
        if not bonus_coef:
            return rollout, {}
        self.visits = self.visits or Visits.for_env(env)
        self.visits.add(rollout)
        bonus = self.visits.bonus(rollout, bonus_coef)
        return rollout._replace(rewards=rollout.rewards + bonus), {"bonus": float(bonus[rollout.valid].mean()), "tried": self.visits.share()}

    def recall(
        self, played: Played, rollout: Rollout, policy: Policy, config: OffPolicy, kl_price: float, generator: np.random.Generator
    ) -> tuple[Rollout, dict[str, float]]:
        """Return the rollout with some older ones beside it, drawn by lot and read by the present policy, and how far they are; and keep this one.

        Args:
            played: what the rollout was before bonus and price: what is kept has the environment's own rewards.
            rollout: with bonus and price.
            policy: who learns.
            config: how many are kept and drawn, and what is paid in the rewards: the old ones are paid the bonus and the price of today.
            kl_price: of a nat away from the reference policy.
            generator: draws.
        """
        if not config.replay:
            return rollout, {}
        drawn = generator.permutation(len(self.old))[: config.replayed]
        before = [self._shaped(read_again(policy, self.old[i], config.temperature), config, kl_price) for i in drawn]
        told = replay_metrics(before, [len(self.old) - int(i) for i in drawn], getattr(config.advantage, "rho_bar", np.inf))
        self.old = [*self.old, Old(rollout._replace(rewards=played.rollout.rewards), np.array(played.position.observations))][-config.replay :]
        return joined([rollout, *before]), told

    def _shaped(self, rollout: Rollout, config: OffPolicy, kl_price: float) -> Rollout:
        rewards = rollout.rewards
        if rollout.ref_log_probs is not None and config.kl_in == "reward":
            rewards = kl_penalised(rewards, rollout.require("target_log_probs"), rollout.ref_log_probs, kl_price, rollout.valid)
        return rollout._replace(rewards=rewards if self.visits is None else rewards + self.visits.bonus(rollout, config.bonus_coef))

    def get_state(self) -> dict[str, Any]:
        """Return all of it, as `files.save_state` takes it."""
        old = [{"rollout": old.rollout._asdict(), "after": old.after} for old in self.old]
        return {"old": old, "counts": None if self.visits is None else self.visits.counts}

    @classmethod
    def from_state(cls, state: dict[str, Any], env: AnyVectorEnv) -> Experience:
        """Return what `get_state` described, of play on `env`."""
        old = [Old(Rollout(**one["rollout"]), one["after"]) for one in state["old"]]
        return cls(old, None if state["counts"] is None else replace(Visits.for_env(env), counts=state["counts"]))


def read_again(policy: Policy, old: Old, temperature: float, columns: int = 256) -> Rollout:
    """Return an old rollout with `target_log_probs`, `values` and `next_values` of the present policy, a few columns at a time.

    `next_values` of steps that were truncated stay those of the critic of that time. What a recurrent policy remembers is asked anew too, from
    the episodes' starts on; a rollout that begins in mid-episode would begin with what older weights remembered.
    """
    rollout, masks = old.rollout, old.rollout.action_masks
    log_probs, values = np.zeros((2, *rollout.valid.shape))
    with torch.no_grad():
        for first in range(0, rollout.valid.shape[1], columns):
            part = slice(first, first + columns)
            mask = None if masks is None else torch.from_numpy(masks[:, part])
            memory = None if rollout.memory is None else Memory(torch.from_numpy(rollout.memory[0, part]), torch.from_numpy(rollout.starts[:, part]))
            observations, actions = torch.from_numpy(rollout.observations[:, part]), torch.from_numpy(rollout.actions[:, part])
            now = policy.evaluate(observations, actions, mask, temperature, memory)
            log_probs[:, part], values[:, part] = (found.to("cpu", torch.float64).numpy() for found in (now.log_probs, now.values))
    following = np.concatenate([values[1:], _values_after(policy, old)[None]])
    return rollout._replace(target_log_probs=log_probs, values=values, next_values=np.where(rollout.ends, rollout.next_values, following))


def _values_after(policy: Policy, old: Old) -> FloatArray:
    """Return what the critic says of the state behind each row's last step [N], 0 where nothing goes on."""
    goes_on = old.rollout.valid[-1] & ~old.rollout.ends[-1]
    values = np.zeros(len(goes_on))
    if goes_on.any():
        values[goes_on] = policy.value(old.after[goes_on])
    return values


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """Return rollouts side by side [T, N + N + ...], the shorter ones padded by steps that are not valid.

    Groups, baselines and action values belong to one rollout's own company and are left out.
    """
    if len(rollouts) == 1:
        return rollouts[0]
    steps = max(len(rollout.valid) for rollout in rollouts)
    shape = next((rollout.action_masks.shape[2:] for rollout in rollouts if rollout.action_masks is not None), None)
    alike: list[Rollout] = []
    last = 0
    for rollout in rollouts:
        masks = np.ones((*rollout.valid.shape, *shape), np.bool_) if shape is not None and rollout.action_masks is None else rollout.action_masks
        alone = rollout._replace(action_masks=masks, episode_ids=rollout.episode_ids + last, groups=None, baselines=None, action_values=None)
        alike.append(_lengthened(alone, steps))
        last += int(rollout.episode_ids.max()) + 1
    return Rollout._make(None if parts[0] is None else np.concatenate(parts, axis=1) for parts in zip(*alike, strict=True))


def _lengthened(rollout: Rollout, steps: int) -> Rollout:
    """Return a rollout of `steps` steps, whose last one is repeated and not valid."""
    more = steps - len(rollout.valid)

    def repeated(name: str, field: Any) -> Any:
        if field is None or name == "memory":
            return field
        tail = np.repeat(field[-1:], more, axis=0)
        return np.concatenate([field, np.zeros_like(tail) if name in ("valid", "terminated", "truncated") else tail])

    return Rollout(**{name: repeated(name, field) for name, field in rollout._asdict().items()})


def replay_metrics(old: Sequence[Rollout], ages: Sequence[int], rho_bar: float) -> dict[str, float]:
    """Return how far older steps are from the present policy; nothing where there are none.

    "replay/rho" is the mean of the truncated ratios min(rho_bar, pi / mu), "replay/truncated" the share of steps that were, "replay/ess" the
    effective share of the steps, (sum w)^2 / (n sum w^2) of the ratios as they are (Kish 1965, "Survey sampling", section 11.7), "replay/age" iterations.
    """
    if not old:
        return {}
    log_ratios = np.concatenate([(rollout.require("target_log_probs") - rollout.log_probs)[rollout.valid] for rollout in old])
    weights = np.exp(log_ratios - log_ratios.max())
    with np.errstate(over="ignore"):
        ratios = np.exp(log_ratios)
    return {
        "replay/rho": float(np.minimum(ratios, rho_bar).mean()),
        "replay/truncated": float((ratios > rho_bar).mean()),
        "replay/ess": float(weights.sum() ** 2 / (len(weights) * (weights**2).sum())),
        "replay/age": float(np.mean(ages)),
    }
