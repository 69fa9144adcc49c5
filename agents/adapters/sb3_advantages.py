"""Rollout buffers of Stable-Baselines3 that ask an estimator of `agents.advantages` where theirs know GAE only.

Axis legend: T steps, N environments.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from ..advantages import Advantage, estimate, needs
from ..rollout import Rollout

REFUSALS = {  # what an estimator may need (`agents.advantages.Needs`), and why it is not there
    "needs_whole_episodes": "adds up whole episodes, and Stable-Baselines3 plays windows of n_steps that cut them; GAE(gae_lambda=1.0) is a return too",
    "needs_groups": "compares episodes of one prompt, and Stable-Baselines3 knows no groups",
    "needs_forks": "needs forks of the environment at every step, which Stable-Baselines3 does not play",
    "needs_baselines": "reads baselines, which nobody fills in Stable-Baselines3",
    "needs_action_values": "needs action values Q(s, a), and a policy of Stable-Baselines3's PPO and A2C has state values only",
}


class AdvantageBuffer(RolloutBuffer):
    """A `RolloutBuffer` for PPO and A2C whose advantages and returns come from an estimator.

        PPO("MlpPolicy", env, rollout_buffer_class=AdvantageBuffer, rollout_buffer_kwargs={"advantage": NStep(gamma=0.99, n=5)})

    `GAE` gives what Stable-Baselines3 computes itself. What an estimator sees is a `Rollout` in which every end is `terminated`: where an episode was
    truncated, Stable-Baselines3 has added gamma V(final observation) to the last reward already. `target_log_probs` are `log_probs`, since PPO and A2C
    play by the policy that learns. The algorithm's own `gae_lambda` is not read. (sb3-contrib's MaskablePPO takes none but its own buffer.)

    Args:
        buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs: given by the algorithm.
        advantage: any callable from a `Rollout` to advantages and value targets [T, N].

    Raises:
        TypeError: if `advantage` is missing.
        ValueError: if it needs what cannot be had here, or its gamma is not the algorithm's.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: gym.Space,
        action_space: gym.Space,
        device: torch.device | str = "auto",
        gae_lambda: float = 1.0,
        gamma: float = 0.99,
        n_envs: int = 1,
        *,
        advantage: Advantage | None = None,
    ) -> None:
        self.advantage = checked(advantage, gamma)
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda=gae_lambda, gamma=gamma, n_envs=n_envs)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: NDArray[np.bool_]) -> None:
        """Fill `advantages` and `returns` [T, N]; `last_values` [N] are of the states reached, `dones` [N] where the last step ended an episode."""
        found = estimate(self.advantage, as_rollout(self, last_values, dones))
        self.advantages[:], self.returns[:] = found.advantages, found.value_targets


def checked(advantage: Advantage | None, gamma: float) -> Advantage:
    """Return the estimator; raises what `AdvantageBuffer` says."""
    if advantage is None or not callable(advantage):
        raise TypeError(f'AdvantageBuffer asks an estimator: pass rollout_buffer_kwargs={{"advantage": GAE(gamma={gamma})}}, say; got {advantage!r}.')
    wanted = needs(advantage)._asdict()
    for name, reason in REFUSALS.items():
        if wanted[name]:
            raise ValueError(f"{advantage!r} {reason}.")
    own = getattr(advantage, "gamma", gamma)
    if own != gamma:
        raise ValueError(f"{advantage!r} discounts by {own} and the algorithm by gamma={gamma}, which it adds to truncated rewards: give both the same.")
    return advantage


def as_rollout(buffer: RolloutBuffer, last_values: Tensor, dones: NDArray[np.bool_]) -> Rollout:
    """Return a full buffer as a `Rollout`; the arguments are those of `compute_returns_and_advantage`."""
    values, log_probs, starts = _double(buffer.values), _double(buffer.log_probs), buffer.episode_starts > 0
    ends = np.concatenate([starts[1:], np.asarray(dones, np.bool_).reshape(1, -1)])
    last = _double(last_values.detach().cpu().numpy()).reshape(1, -1)
    actions: NDArray[Any] = buffer.actions[..., 0] if isinstance(buffer.action_space, gym.spaces.Discrete) else buffer.actions
    numbers = starts.cumsum(0)  # of the episodes in a row
    return Rollout(
        observations=buffer.observations,
        actions=actions,
        log_probs=log_probs,
        values=values,
        next_values=np.concatenate([values[1:], last]),
        rewards=_double(buffer.rewards),
        terminated=ends,
        truncated=np.zeros_like(ends),
        starts=starts,
        valid=np.ones_like(ends),
        episode_ids=numbers * buffer.n_envs + np.arange(buffer.n_envs),
        target_log_probs=log_probs,
    )


def _double(array: NDArray[Any]) -> NDArray[np.float64]:
    return array.astype(np.float64)
