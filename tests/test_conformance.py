"""The conformance kit: its numbers follow from the definitions, ours and SB3's and TorchRL's functions pass, and seeded mutants are named."""

import json
import math
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from helpers import SmallCore

from agents import advantages, kl, losses
from agents.conformance import BROKEN, UNTOLD, Calling, Misuse, judge, load, names
from agents.conformance.__main__ import guess, main
from textgym.env import GymEnv

ROOT = Path(__file__).parents[1]
KINDS = names()


def verdicts(function, kind, **calling):
    return judge(function, load(kind), Calling(**calling))


def broken(function, kind, **calling):
    return verdicts(function, kind, **calling).broken


# --- the definitions, in loops over plain floats ---------------------------------------------------------------------------------------------


def sums(rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
    """Each advantage as its own sum of TD errors up to the end of its episode."""
    result = np.zeros(rewards.shape)
    for i in range(rewards.shape[1]):
        for t in range(rewards.shape[0]):
            for k in range(t, rewards.shape[0]):
                future = 0.0 if terminated[k, i] else gamma * next_values[k, i]
                result[t, i] += (gamma * gae_lambda) ** (k - t) * (rewards[k, i] + future - values[k, i])
                if terminated[k, i] or truncated[k, i]:
                    break
    return result


def discounted_sums(rewards, next_values, terminated, truncated, gamma):
    result = np.zeros(rewards.shape)
    num_steps, num_envs = rewards.shape
    for i in range(num_envs):
        for t in range(num_steps):
            k = t
            while not (terminated[k, i] or truncated[k, i] or k == num_steps - 1):
                k += 1
            result[t, i] = sum(gamma ** (j - t) * rewards[j, i] for j in range(t, k + 1))
            result[t, i] += 0.0 if terminated[k, i] else gamma ** (k + 1 - t) * next_values[k, i]
    return result


def token_sums(rewards, values, valid, gamma, gae_lambda):
    result = np.zeros(rewards.shape)
    for b in range(len(rewards)):
        places = [t for t in range(rewards.shape[1]) if valid[b, t]]
        deltas = [rewards[b, t] + gamma * (values[b, places[i + 1]] if i + 1 < len(places) else 0.0) - values[b, t] for i, t in enumerate(places)]
        for i, t in enumerate(places):
            result[b, t] = sum((gamma * gae_lambda) ** k * delta for k, delta in enumerate(deltas[i:]))
    return result


def each(formula):
    return lambda log_probs, ref_log_probs: np.array(
        [[formula(float(p), float(q)) for p, q in zip(*rows, strict=True)] for rows in zip(log_probs, ref_log_probs, strict=True)]
    )


def series(p, q):
    """k3 by its Taylor series: sum over n >= 2 of x^n / n!, which cannot cancel."""
    return sum((q - p) ** n / math.factorial(n) for n in range(2, 40))


def penalties(rewards, log_probs, ref_log_probs, coef, valid):
    result = np.zeros(rewards.shape)
    for b, t in np.argwhere(valid):
        result[b, t] = rewards[b, t] - coef * (log_probs[b, t] - ref_log_probs[b, t])
    return result


def mean(values, valid):
    kept = [values[b, t] for b, t in np.argwhere(valid)]
    return math.fsum(kept) / max(len(kept), 1)


def standard(advantages, valid):
    kept = [advantages[b, t] for b, t in np.argwhere(valid)]
    centre = math.fsum(kept) / len(kept)
    spread = math.sqrt(math.fsum((a - centre) ** 2 for a in kept) / len(kept))
    return np.array([[(a - centre) / spread if v else 0.0 for a, v in zip(*rows, strict=True)] for rows in zip(advantages, valid, strict=True)])


def chances(logits, ids):
    result = np.zeros((len(ids), ids.shape[1] - 1))
    for b, t in np.ndindex(result.shape):
        row = logits[b, t]
        top = max(row)
        result[b, t] = row[ids[b, t + 1]] - top - math.log(math.fsum(math.exp(other - top) for other in row))
    return result


def walk(tokens, prompt_lengths, eos_id, pad_id):
    result = np.zeros(tokens.shape, dtype=bool)
    for b, row in enumerate(tokens):
        for t in range(prompt_lengths[b], len(row)):
            result[b, t] = True
            if row[t] == eos_id:
                break
    return result


def at_the_last(scores, valid):
    result = np.zeros(valid.shape)
    for b, score in enumerate(scores):
        result[b, max(t for t in range(valid.shape[1]) if valid[b, t])] = score
    return result


DEFINITIONS = {
    "gae": sums,
    "returns": discounted_sums,
    "token_gae": token_sums,
    "k1": each(lambda p, q: p - q),
    "k2": each(lambda p, q: (p - q) ** 2 / 2),
    "k3": each(series),
    "kl_penalty": penalties,
    "masked_mean": mean,
    "normalise": standard,
    "token_log_probs": chances,
    "response_mask": walk,
    "terminal_reward": at_the_last,
}


def test_every_kind_has_a_definition_and_no_property_is_without_a_case():
    assert set(DEFINITIONS) == set(KINDS)
    for kind in map(load, KINDS):
        listed = [entry.name for entry in kind.properties]
        assert len(set(listed)) == len(listed)
        assert all(entry.cases and entry.breaks and entry.todo for entry in kind.properties)


@pytest.mark.parametrize("name", KINDS)
def test_expected_values_follow_from_the_definition(name):
    for entry in load(name).properties:
        for case in entry.cases:
            if case.expected is not None:
                result = np.asarray(DEFINITIONS[name](**case.inputs), dtype=np.float64)
                where = np.ones(result.shape, dtype=bool) if case.compare is None else case.compare
                np.testing.assert_allclose(result[where], case.expected[where], rtol=1e-7, atol=1e-12, err_msg=f"{entry.name}: {case.why}")


@pytest.mark.parametrize("name", KINDS)
def test_the_definition_keeps_everything(name):
    report = verdicts(DEFINITIONS[name], name)
    assert report.broken == []
    assert report.untold == []


def test_inside_an_episode_the_next_value_is_the_value_of_the_next_step():
    """Functions of values [T + 1] are judged by the same cases, so these must be what a critic can say."""
    for entry in load("gae").properties:
        for case in entry.cases:
            x = case.inputs
            inside = ~(x["terminated"] | x["truncated"])[:-1]
            assert np.array_equal(x["next_values"][:-1][inside], x["values"][1:][inside]), f"{entry.name}: {case.why}"


# --- ours ------------------------------------------------------------------------------------------------------------------------------------


def of_valid_tokens(rewards, values, valid, gamma, gae_lambda):
    """Our gae on the tokens that count, one response after the other."""
    result = np.zeros(rewards.shape)
    for b, row in enumerate(valid):
        r, v = rewards[b, row][:, None], values[b, row][:, None]
        ends = np.arange(len(r))[:, None] == len(r) - 1
        result[b, row] = advantages.gae(r, v, np.vstack([v[1:], [[0.0]]]), ends, np.zeros_like(ends), gamma, gae_lambda)[:, 0]
    return result


def surrogate_kl(log_probs: torch.Tensor, ref_log_probs):
    """The estimator inside clipped_surrogate is KL(old, new): here the old policy is the one that drew, and the new one the reference."""

    def one(p, q):
        return losses.clipped_surrogate(q[None], p[None], torch.zeros_like(p)[None], torch.ones(1), 0.2).approx_kl

    return torch.stack([torch.stack([one(p, q) for p, q in zip(*rows, strict=True)]) for rows in zip(log_probs, ref_log_probs, strict=True)])


def minus_loss(logits: torch.Tensor, ids):
    """next_token_loss of one token at a time."""
    places = np.ndindex(*ids[:, 1:].shape)
    one = torch.ones(1, 1)
    return torch.stack([-losses.next_token_loss(logits[b, t][None, None], ids[b, t + 1][None, None], one) for b, t in places]).reshape(ids[:, 1:].shape)


def play(ids, score=1.0):
    """Rewards of the steps that our environment plays of a response whose EOS is 0; it ends on the last id at the latest."""

    class Constant:
        def __call__(self, completions):
            return np.full(len(completions), score)

    env = GymEnv(SmallCore(scorer=Constant(), max_new_tokens=len(ids)))
    env.reset(seed=0)
    rewards = []
    for token in ids:
        _, reward, terminated, _, _ = env.step(token)
        rewards.append(reward)
        if terminated:
            return rewards
    raise AssertionError("the budget is used up, and the episode has not ended")


def played_mask(tokens, prompt_lengths, eos_id):
    result = np.zeros(tokens.shape, dtype=bool)
    for b, (row, begin) in enumerate(zip(tokens, prompt_lengths, strict=True)):
        result[b, begin : begin + len(play(np.where(row[begin:] == eos_id, 0, 1)))] = True
    return result


def played_rewards(scores, valid):
    result = np.zeros(valid.shape)
    for b, score in enumerate(scores):
        result[b, valid[b]] = play([1] * (int(valid[b].sum()) - 1) + [0], score)
    return result


OURS = {
    "gae": advantages.gae,
    "returns": advantages.monte_carlo_returns,
    "token_gae": of_valid_tokens,
    "k3": surrogate_kl,
    "kl_penalty": kl.kl_penalised,
    "masked_mean": losses.masked_mean,
    "normalise": advantages.normalise,
    "token_log_probs": minus_loss,
    "response_mask": played_mask,
    "terminal_reward": played_rewards,
}


@pytest.mark.parametrize("name", OURS)
def test_ours_pass(name):
    report = verdicts(OURS[name], name)
    assert report.broken == []
    assert report.untold == []


# --- other people's GAE ------------------------------------------------------------------------------------------------------------------------


def sb3(rewards, values, last_values, dones, gamma, gae_lambda):
    """SB3's rollout buffer: one flag a step, of the step before; the value of the last state, and whether it is an end."""
    from stable_baselines3.common.buffers import RolloutBuffer

    num_steps, num_envs = rewards.shape
    spaces = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)
    buffer = RolloutBuffer(num_steps, *spaces, device="cpu", gae_lambda=gae_lambda, gamma=gamma, n_envs=num_envs)
    buffer.rewards[:], buffer.values[:] = rewards, values
    buffer.episode_starts[0], buffer.episode_starts[1:] = 1.0, dones[:-1]
    buffer.compute_returns_and_advantage(torch.as_tensor(last_values), dones[-1])
    return buffer.advantages


def sb3_with_its_repair(rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
    """The same, with what OnPolicyAlgorithm.collect_rollouts does to the rewards of truncated steps."""
    repaired = rewards + np.where(truncated & ~terminated, gamma * next_values, 0.0)
    return sb3(repaired, values, next_values[-1], terminated | truncated, gamma, gae_lambda)


def test_sb3s_buffer_cannot_tell_a_truncation():
    report = verdicts(sb3, "gae")
    assert report.broken == []
    assert report.untold == ["truncation_bootstraps", "bootstrap_is_the_state_reached"]


def test_sb3_passes_with_the_repair_of_its_algorithm():
    report = verdicts(sb3_with_its_repair, "gae")
    assert report.broken == []
    assert report.untold == []


TORCHRL = {
    "names": {"gae_lambda": "lmbda", "values": "state_value", "next_values": "next_state_value", "rewards": "reward", "dones": "done"},
    "result": "0",
}


def test_torchrl_passes():
    from torchrl.objectives.value.functional import generalized_advantage_estimate

    report = verdicts(generalized_advantage_estimate, "gae", **TORCHRL)
    assert report.broken == []
    assert report.untold == []


def test_torchrls_vectorised_estimate_breaks_nothing_but_lambda_0():
    """0.14.1 raises an IndexError for lambda = 0; where it answers, it answers right."""
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

    for verdict in verdicts(vec_generalized_advantage_estimate, "gae", **TORCHRL).verdicts:
        if verdict.outcome == BROKEN:
            assert verdict.failure.raised
            assert verdict.failure.case.inputs["gae_lambda"] == 0


def test_torchrl_without_the_flag_of_terminations_takes_truncation_for_termination():
    from torchrl.objectives.value.functional import generalized_advantage_estimate

    def of_one_flag(rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
        return generalized_advantage_estimate(gamma, gae_lambda, values, next_values, rewards, terminated | truncated)

    report = verdicts(of_one_flag, "gae", arrays="torch", result="0")
    assert report.broken == ["truncation_bootstraps"]


# --- seeded mutants, each of which must be called by its name ------------------------------------------------------------------------------------


def backwards(deltas, carry):
    for t in reversed(range(len(deltas) - 1)):
        deltas[t] += carry[t] * deltas[t + 1]
    return deltas


def gae_with(bug):
    def mutant(rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
        ends = terminated | truncated
        bootstrap, carry, factor = ~terminated, ~ends, gamma * gae_lambda
        following = np.vstack([values[1:], next_values[-1:]])
        if bug == "truncation taken for termination":
            bootstrap = ~ends
        elif bug == "termination bootstrapped":
            bootstrap = np.ones_like(ends)
        elif bug == "both flags: truncation first":
            bootstrap = ~terminated | truncated
        elif bug == "carried over every end":
            carry = np.ones_like(ends)
        elif bug == "carried over truncations":
            carry = ~terminated
        elif bug == "off by one between action and value":
            values = following
        elif bug == "bootstraps with the next episode's first value":
            next_values = following
        elif bug == "the rollout's end is an end":
            bootstrap[-1] = False
        elif bug == "gamma and lambda swapped":
            gamma = gae_lambda
        elif bug == "lambda forgotten":
            factor = gamma
        elif bug == "one long row":
            flat = [x.reshape(-1, 1) for x in (rewards + gamma * bootstrap * next_values - values, factor * carry)]
            return backwards(*flat).reshape(rewards.shape)
        result = backwards(rewards + gamma * bootstrap * next_values - values, factor * carry)
        if bug == "clipped":
            result = result.clip(-10, 10)
        elif bug == "writes into its rewards":
            rewards[:] = result
        return result

    return mutant


@pytest.mark.parametrize(
    ("bug", "named"),
    [
        ("none", []),
        ("truncation taken for termination", ["truncation_bootstraps"]),
        ("termination bootstrapped", ["termination_has_no_future"]),
        ("both flags: truncation first", ["termination_has_no_future"]),
        ("carried over every end", ["nothing_carried_over_an_end"]),
        ("carried over truncations", ["nothing_carried_over_an_end"]),
        ("off by one between action and value", ["values_line_up_with_actions"]),
        ("bootstraps with the next episode's first value", ["bootstrap_is_the_state_reached"]),
        ("the rollout's end is an end", ["rollout_end_is_bootstrapped"]),
        ("gamma and lambda swapped", ["gamma_is_not_lambda"]),
        ("lambda forgotten", ["discounting"]),
        ("one long row", ["columns_do_not_mix"]),
        ("clipped", ["linear_in_rewards_and_values"]),
        ("writes into its rewards", ["inputs_are_left_alone"]),
    ],
)
def test_mutants_of_gae(bug, named):
    found = broken(gae_with(bug), "gae")
    assert found[: len(named)] == named
    assert bool(found) == bool(named)


def returns_with(bug):
    def mutant(rewards, next_values, terminated, truncated, gamma):
        ends = terminated | truncated
        stop, carry = ends.copy(), ~ends
        stop[-1] = True
        future = np.where(stop & ~terminated, next_values, 0.0)
        if bug == "truncation taken for termination":
            future = np.where(stop & ~ends, next_values, 0.0)
        elif bug == "termination bootstrapped":
            future = np.where(stop, next_values, 0.0)
        elif bug == "carried over every end":
            carry = np.ones_like(ends)
        elif bug == "the rollout's end is an end":
            future[-1] = np.where(truncated[-1] & ~terminated[-1], next_values[-1], 0.0)
        elif bug == "the reward of the next step":
            rewards = np.vstack([rewards[1:], 0 * rewards[:1]])
        return backwards(rewards + gamma * future, gamma * carry)

    return mutant


@pytest.mark.parametrize(
    ("bug", "named"),
    [
        ("none", []),
        ("truncation taken for termination", ["truncation_bootstraps"]),
        ("termination bootstrapped", ["termination_has_no_future"]),
        ("carried over every end", ["nothing_carried_over_an_end"]),
        ("the rollout's end is an end", ["rollout_end_is_bootstrapped"]),
        ("the reward of the next step", ["discounting"]),
    ],
)
def test_mutants_of_returns(bug, named):
    assert broken(returns_with(bug), "returns")[: len(named)] == named
    assert bool(broken(returns_with(bug), "returns")) == bool(named)


def trl_place(scores, valid):
    """As TRL's PPOTrainer places scores: one behind the last token where there is room, trl#3750."""
    ends = valid.sum(1)
    rewards = np.zeros(valid.shape)
    rewards[np.arange(len(ends)), np.where(ends < valid.shape[1], ends, ends - 1)] = scores
    return rewards


def lost(scores, valid):
    rewards = np.zeros(valid.shape)
    rewards[:, -1] = scores
    return rewards * valid


def counted(scores, valid):
    rewards = np.zeros(valid.shape)
    rewards[np.arange(len(scores)), valid.sum(1) - 1] = scores
    return rewards


def first_eos(tokens, prompt_lengths, eos_id, begin):
    """[B] the place of the first EOS from `begin` [B] on; the row's length if there is none."""
    places = np.arange(tokens.shape[1])
    found = (tokens == eos_id) & (places >= np.asarray(begin)[:, None])
    return np.where(found.any(1), found.argmax(1), tokens.shape[1])


def mask_with(bug):
    def mutant(tokens, prompt_lengths, eos_id, pad_id):
        places = np.arange(tokens.shape[1])
        response = places >= prompt_lengths[:, None]
        if bug == "pads by their id":
            return response & (tokens != pad_id) & (places <= first_eos(tokens, prompt_lengths, eos_id, prompt_lengths)[:, None])
        if bug == "EOS left out":
            return response & (places < first_eos(tokens, prompt_lengths, eos_id, prompt_lengths)[:, None])
        if bug == "EOS of the prompt":
            return response & (places <= first_eos(tokens, prompt_lengths, eos_id, 0 * prompt_lengths)[:, None])
        if bug == "only pads end it":
            return (
                response
                & ((tokens != pad_id) | (pad_id == eos_id))
                & ((places <= first_eos(tokens, prompt_lengths, eos_id, prompt_lengths)[:, None]) | (pad_id != eos_id))
            )
        return places <= first_eos(tokens, prompt_lengths, eos_id, prompt_lengths)[:, None]

    return mutant


def token_gae_with(bug):
    def mutant(rewards, values, valid, gamma, gae_lambda):
        result, carried, following = np.zeros(rewards.shape), 0.0, 0.0
        for t in reversed(range(rewards.shape[1])):
            seen = valid[:, t] | (bug == "the tool's tokens count") & valid[:, t:].any(1)
            delta = rewards[:, t] + gamma * following - values[:, t] * (valid[:, t] | (bug != "pad rewards"))
            here = delta + gamma * gae_lambda * carried
            carried = np.where(seen | (bug == "pad rewards"), here, carried)
            following = np.where(seen | (bug == "pad values"), values[:, t], following)
            result[:, t] = here
        return result

    return mutant


DRAGS = {"1 forgotten", "reward lost", "raw logits"}  # wrong throughout
NUM = np.nan_to_num
SMALL_MUTANTS = [
    ("masked_mean", "pads in the count", lambda values, valid: np.where(valid, values, 0).mean(), ["pads_stay_out_of_the_count"]),
    ("masked_mean", "pads in the sum", lambda values, valid: values.sum() / max(valid.sum(), 1), ["pads_stay_out_of_the_sum", "garbage_behind_the_mask"]),
    ("masked_mean", "mask by multiplication", lambda values, valid: (values * valid).sum() / max(valid.sum(), 1), ["garbage_behind_the_mask"]),
    ("masked_mean", "no guard", lambda values, valid: values[valid].mean() if valid.any() else math.nan, ["empty_mask_is_zero"]),
    (
        "masked_mean",
        "mean of means",
        lambda values, valid: (np.where(valid, values, 0).sum(1) / np.maximum(valid.sum(1), 1)).mean(),
        ["every_token_counts_once"],
    ),
    (
        "normalise",
        "pads take part",
        lambda advantages, valid: (advantages - advantages.mean()) / advantages.std(),
        ["pads_take_no_part", "garbage_behind_the_mask"],
    ),
    ("normalise", "scaled only", lambda advantages, valid: advantages / advantages[valid].std(), ["mean_is_removed", "order_is_kept"]),
    ("normalise", "centred only", lambda advantages, valid: advantages - advantages[valid].mean(), ["scale_is_removed"]),
    ("k1", "sign flipped", lambda log_probs, ref_log_probs: ref_log_probs - log_probs, ["direction"]),
    ("k1", "summed", lambda log_probs, ref_log_probs: (log_probs - ref_log_probs).sum(1), ["zero_when_equal", "nothing_is_pooled"]),
    ("k2", "half forgotten", lambda log_probs, ref_log_probs: (log_probs - ref_log_probs) ** 2, ["half_the_square"]),
    ("k3", "upside down", lambda log_probs, ref_log_probs: np.expm1(log_probs - ref_log_probs) - (log_probs - ref_log_probs), ["direction"]),
    (
        "k3",
        "float32 cancels",
        lambda log_probs, ref_log_probs: np.exp(ref_log_probs - log_probs) - 1 - (ref_log_probs - log_probs),
        ["small_ratios_survive_float32"],
    ),
    ("k3", "1 forgotten", lambda log_probs, ref_log_probs: np.exp(ref_log_probs - log_probs) - (ref_log_probs - log_probs), ["zero_when_equal", "direction"]),
    (
        "kl_penalty",
        "sign flipped",
        lambda rewards, log_probs, ref_log_probs, coef, valid: np.where(valid, rewards + coef * (log_probs - ref_log_probs), 0),
        ["penalty_is_subtracted"],
    ),
    (
        "kl_penalty",
        "pads pay",
        lambda rewards, log_probs, ref_log_probs, coef, valid: rewards - coef * NUM(log_probs - ref_log_probs),
        ["pads_pay_nothing"],
    ),
    (
        "kl_penalty",
        "reward lost",
        lambda rewards, log_probs, ref_log_probs, coef, valid: np.where(valid, -coef * (log_probs - ref_log_probs), 0),
        ["reward_is_kept"],
    ),
    ("token_log_probs", "off by one", lambda logits, ids: chances(logits[:, 1:], ids), ["predicts_the_next_token"]),
    ("token_log_probs", "raw logits", lambda logits, ids: np.take_along_axis(logits[:, :-1], ids[:, 1:, None], 2)[..., 0], ["probabilities_are_normalised"]),
    ("terminal_reward", "one behind, as in TRL", trl_place, ["reward_behind_the_mask", "hole_in_the_mask"]),
    ("terminal_reward", "last column, then masked", lost, ["reward_behind_the_mask"]),
    ("terminal_reward", "counted", counted, ["hole_in_the_mask"]),
    ("response_mask", "pads by their id", mask_with("pads by their id"), ["pad_equal_to_eos"]),
    ("response_mask", "EOS left out", mask_with("EOS left out"), ["eos_is_an_action", "pad_equal_to_eos"]),
    ("response_mask", "EOS of the prompt", mask_with("EOS of the prompt"), ["eos_in_the_prompt"]),
    ("response_mask", "only pads end it", mask_with("only pads end it"), ["nothing_after_the_first_eos"]),
    ("token_gae", "none", token_gae_with("none"), []),
    ("token_gae", "pad rewards", token_gae_with("pad rewards"), ["pad_rewards_do_not_leak", "masked_tokens_are_skipped"]),
    ("token_gae", "pad values", token_gae_with("pad values"), ["end_of_response_is_terminal", "masked_tokens_are_skipped"]),
    ("token_gae", "the tool's tokens count", token_gae_with("the tool's tokens count"), ["masked_tokens_are_skipped"]),
]


@pytest.mark.parametrize(("kind", "bug", "mutant", "named"), SMALL_MUTANTS, ids=[f"{kind}: {bug}" for kind, bug, *_ in SMALL_MUTANTS])
def test_small_mutants(kind, bug, mutant, named):
    """Where one break drags another along, the list says which; otherwise the right name is the only one."""
    found = broken(mutant, kind)
    assert set(named) <= set(found)
    assert bool(found) == bool(named)
    if bug not in DRAGS:
        assert found == named


# --- how a function is called --------------------------------------------------------------------------------------------------------------------


def test_batch_first_functions_are_judged_by_their_layout():
    def gae_of_rows(rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
        return advantages.gae(rewards.T, values.T, next_values.T, terminated.T, truncated.T, gamma, gae_lambda).T

    assert broken(gae_of_rows, "gae", layout="batch_first") == []
    assert "columns_do_not_mix" in broken(gae_of_rows, "gae")


def test_values_of_one_step_more_and_a_done_flag():
    """The form of many short implementations: values [T + 1], one flag. It is right in all that it can know."""

    def short(r, v, done, gamma, lam):
        deltas = r + gamma * v[1:] * (1 - done) - v[:-1]
        return backwards(deltas, gamma * lam * (1 - done))

    calling = {"names": {"rewards": "r", "values_and_last": "v", "dones": "done", "gae_lambda": "lam"}, "flags": "float"}
    report = verdicts(short, "gae", **calling)
    assert report.broken == []
    assert report.untold == ["truncation_bootstraps", "bootstrap_is_the_state_reached"]
    partly = next(verdict for verdict in report.verdicts if verdict.property.name == "termination_has_no_future")
    assert partly.outcome == "kept"
    assert partly.untold == ("truncated",)


def test_tensors_where_the_annotations_speak_of_them():
    seen = []

    def mean_of(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        seen.append((values.dtype, valid.dtype))
        return losses.masked_mean(values, valid).to(torch.bfloat16)

    assert broken(mean_of, "masked_mean") == []
    assert set(seen) == {(torch.float64, torch.bool)}


def test_a_result_among_several():
    def both(*, rewards, values, next_values, terminated, truncated, gamma, gae_lambda):
        found = advantages.gae(rewards, values, next_values, terminated, truncated, gamma, gae_lambda)
        return {"targets": found + values, "advantages": found}

    assert broken(both, "gae", result="advantages") == []
    assert broken(both, "gae", result="targets") != []
    with pytest.raises(Misuse, match="one of targets, advantages"):
        judge(both, load("gae"))
    with pytest.raises(Misuse, match="no 'weights'"):
        judge(both, load("gae"), Calling(result="weights"))


def test_positional_only_arguments_and_constants():
    def mean_of(values, valid, /, axis, *, keep=False):
        assert (axis, keep) == (None, False)
        return [mean(values, valid)][0]

    assert broken(mean_of, "masked_mean", constants={"axis": None}) == []


def test_the_smallest_input_that_shows_a_break_is_reported():
    verdict = next(v for v in verdicts(trl_place, "terminal_reward").verdicts if v.outcome == BROKEN)
    assert verdict.failure.case.size == min(case.size for case in verdict.property.cases)
    assert verdict.failure.got.tolist() == [[0, 0, 3, 0]]
    assert verdict.failure.wanted.tolist() == [[0, 3, 0, 0]]


def test_an_exception_in_one_case_is_a_finding_and_in_all_a_misuse():
    def picky(values, valid):
        if not valid.any():
            raise ZeroDivisionError("nothing is valid")
        return values[valid].mean()

    (verdict,) = [v for v in verdicts(picky, "masked_mean").verdicts if v.outcome == BROKEN]
    assert verdict.property.name == "empty_mask_is_zero"
    assert "ZeroDivisionError: nothing is valid" in verdict.failure.got

    def hopeless(values, valid):
        raise RuntimeError("no")

    with pytest.raises(Misuse, match="Every call raised; the first: RuntimeError: no"):
        judge(hopeless, load("masked_mean"))


def test_a_result_of_another_shape_is_a_finding():
    (verdict,) = [v for v in verdicts(lambda scores, valid: at_the_last(scores, valid).sum(1), "terminal_reward").verdicts if v.property.name == "full_row"]
    assert (verdict.failure.wanted, verdict.failure.got) == ("shape (1, 2)", "shape (1,)")


@pytest.mark.parametrize(
    ("function", "calling", "message"),
    [
        (lambda values, mask: 0, {}, r"takes 'mask', and no argument of masked_mean has that name\.\nSay which it is"),
        (lambda values: 0, {}, r"does not take 'valid'\.\nMap it"),
        (lambda values, valid: 0, {"names": {"weights": "valid"}}, r"offers no argument 'weights'\.\nMap one of values, valid"),
        (lambda values, valid: 0, {"constants": {"axis": 1}}, r"has no parameter 'axis'\.\nIt has values, valid"),
        (lambda values, valid: 0, {"layout": "sideways"}, r"no layout 'sideways'\.\nChoose time_first or batch_first"),
        (lambda values, valid: 0, {"arrays": "jax"}, r"no arrays 'jax'\.\nChoose numpy or torch"),
        (lambda values, valid: 0, {"flags": "int"}, r"no flags 'int'\.\nChoose bool or float"),
    ],
)
def test_misuse_says_what_is_wrong_and_what_to_do(function, calling, message):
    with pytest.raises(Misuse, match=message):
        verdicts(function, "masked_mean", **calling)


# --- the command -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("agents.advantages:gae", "gae"),
        ("m:compute_gae_advantage_return", "gae"),
        ("m:monte_carlo_returns", "returns"),
        ("m:Trainer.masked_mean", "masked_mean"),
        ("m:masked_whiten", "normalise"),
        ("m:kl_penalised", "kl_penalty"),
        ("m:compute_token_level_rewards", "terminal_reward"),
        ("m:token_gae", "token_gae"),
    ],
)
def test_kinds_are_guessed_from_names(name, kind):
    assert guess(name).name == kind


def test_the_command_passes_ours(capsys):
    assert main(["agents.advantages:gae"]) == 0
    out = capsys.readouterr().out
    assert "kept           truncation_bootstraps" in out
    assert "0 of 11 properties broken, 0 cannot be told." in out


MUTANT = """
import numpy as np

def compute_gae(rew, v, v_next, term, trunc, gamma, lam=0.95):
    adv, carried = np.zeros_like(rew), 0.0
    for t in reversed(range(len(rew))):
        live = ~(term[t] | trunc[t])
        carried = rew[t] + gamma * v_next[t] * live - v[t] + gamma * lam * live * carried
        adv[t] = carried
    return adv
"""
MAPPED = "rewards=rew,values=v,next_values=v_next,terminated=term,truncated=trunc,gae_lambda=lam"


def command(folder, *arguments):
    (folder / "mine.py").write_text(MUTANT, encoding="utf-8")
    call = [sys.executable, "-m", "agents.conformance", *arguments]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)


def test_the_command_names_the_break_of_a_module_in_this_folder(tmp_path):
    done = command(tmp_path, "mine:compute_gae", "--map", MAPPED)
    assert done.returncode == 1, done.stderr
    assert "BROKEN         truncation_bootstraps" in done.stdout
    assert "wanted: [[1.]]" in done.stdout
    assert "got:    [[-1.]]" in done.stdout
    assert "to do:  Bootstrap with gamma V(s')" in done.stdout
    assert "1 of 11 properties broken" in done.stdout


def test_the_commands_json(capsys, monkeypatch, tmp_path):
    (tmp_path / "theirs.py").write_text(MUTANT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["theirs:compute_gae", "--json", "--map", MAPPED]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["broken"] == ["truncation_bootstraps"]
    (verdict,) = [v for v in data["verdicts"] if v["outcome"] == BROKEN]
    assert verdict["wanted"] == [[1.0]]
    assert verdict["inputs"]["truncated"] == [[True]]
    assert verdict["seen_in"]


def test_the_commands_json_holds_no_bare_nan(capsys, monkeypatch, tmp_path):
    (tmp_path / "leaky.py").write_text("def masked_mean(values, valid):\n    return (values * valid).sum() / max(valid.sum(), 1)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["leaky:masked_mean", "--json"]) == 1
    assert '"got": "nan"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["agents.advantages"], "names no function"),
        (["agents.nowhere:gae"], "The module agents.nowhere cannot be imported"),
        (["agents.advantages:gea"], "has no gea"),
        (["agents.kl:__name__"], "cannot be called"),
        (["agents.kl:adapt_kl_coef"], "cannot be guessed"),
        (["agents.advantages:gae", "--kind", "geese"], "no kind 'geese'"),
        (["agents.advantages:gae", "--map", "rewards"], "--map cannot read 'rewards'"),
        (["agents.advantages:gae", "--set", "gamma=zero"], "is no Python literal"),
        (["builtins:max", "--kind", "masked_mean"], "signature of max cannot be read"),
    ],
)
def test_wrong_arguments_are_two_lines_and_exit_2(arguments, message, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 2


def test_without_a_function_the_kinds_are_listed(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}(" in out for name in KINDS)
    assert "May also take: dones, last_values, values_and_last" in out
    assert main(["--kind", "k3"]) == 0
    assert "gae" not in capsys.readouterr().out


def test_the_vectors_are_in_the_package():
    """A wheel holds what setup.cfg lists, and an editable install would hide a gap."""
    assert "conformance/vectors/*.json" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


def test_untold_is_not_broken():
    report = verdicts(sb3, "gae")
    assert {v.outcome for v in report.verdicts if v.property.name in report.untold} == {UNTOLD}


def test_the_document_lists_every_property_and_report():
    text = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
    for kind in map(load, KINDS):
        assert f"| `{kind.name}` |" in text
        for entry in kind.properties:
            assert f"| `{entry.name}` |" in text
            assert all(f"]({link})" in text for link in entry.seen_in)


def test_a_mean_of_shape_1_is_a_mean():
    assert broken(lambda values, valid: np.array([mean(values, valid)]), "masked_mean") == []
    assert broken(lambda values, valid: np.full(2, mean(values, valid)), "masked_mean") != []
