"""TorchRL takes every task as it comes, keeps to masks by its own transforms, and its PPO learns."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import textgym  # noqa: F401 (registers the suite)

pytest.importorskip("torchrl")

TASKS = ["textgen", "textgen_constrained", "even", "path"]


@pytest.mark.parametrize("name", TASKS)
def test_check_env_specs_passes_on_single_and_vector_environments(name: str) -> None:
    from torchrl.envs import GymEnv, GymWrapper, check_env_specs

    from benchmarks.third_party.tasks import TASKS
    from benchmarks.third_party.torchrl_ppo import make

    task = TASKS[name]
    check_env_specs(GymEnv(task.id, **task.options), seed=0)
    check_env_specs(make(task, 3), seed=0)
    check_env_specs(GymWrapper(gym.make_vec(task.id, num_envs=3, autoreset_mode="Disabled", **task.options)), seed=0)


def test_gymnasiums_default_autoreset_is_refused_by_torchrl() -> None:
    from torchrl.envs import GymWrapper

    with pytest.raises(RuntimeError, match="SAME_STEP or DISABLED"):
        GymWrapper(gym.make_vec("textgym/Even-v0", num_envs=2))


def test_masks_reach_the_tensordict_and_random_actions_keep_to_them() -> None:
    from benchmarks.third_party.tasks import TASKS
    from benchmarks.third_party.torchrl_ppo import make

    env = make(TASKS["textgen_constrained"], 4)
    torch.manual_seed(0)
    env.set_seed(0)
    played = env.rollout(60, break_when_any_done=False)
    masks, actions = played["action_mask"], played["action"]
    assert masks.dtype == torch.bool
    assert played["next", "done"].sum() > 4  # resets are among the steps
    assert masks.gather(-1, actions[..., None]).all()
    assert 0.02 < masks.float().mean() < 0.5  # they forbid something, and leave something

    # The masks are those of the very observations beside them, across resets: the same steps elsewhere are told the same.
    twin = gym.make_vec("TextGen-v0", num_envs=4, autoreset_mode="SameStep", constraint="film_grammar")
    twin.reset(seed=0)
    observations, infos = twin.reset()  # set_seed resets once, rollout again
    for t in range(60):
        assert np.array_equal(played["observation"][:, t].numpy(), observations)
        assert np.array_equal(masks[:, t].numpy(), infos["action_mask"].astype(bool))
        observations, _, _, _, infos = twin.step(actions[:, t].numpy())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "random", "bar"), [("even", 0.40, 0.70), ("textgen_constrained", 0.53, 0.65)])
def test_ppo_learns(name: str, random: float, bar: float) -> None:
    from benchmarks.third_party.judge import random_returns, returns
    from benchmarks.third_party.tasks import TASKS
    from benchmarks.third_party.torchrl_ppo import ENTRANTS

    trained = ENTRANTS["ppo"].train(TASKS[name], 12_288, 0)
    assert trained.steps == 12_288
    assert random_returns(TASKS[name]).mean() == pytest.approx(random, abs=0.03)
    assert returns(TASKS[name], trained.actor).mean() > bar
