"""How far estimates are from the truth: advantages step by step, and the gradients that are made of them.

All squares are estimated without bias themselves, so a bias of nothing gives figures on both sides of 0, and each is one number a replication.
Axis legend: T steps, N episodes, S states, A actions, K batches, M steps that count, P pairs of state and action.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .problems import FloatArray
from .sampling import Played

Measures = dict[str, float]  # without those that are not defined

ADVANTAGE = ("bias", "bias of actions", "variance", "error", "signs", "ranks")
GRADIENT = ("share", "gradient bias", "skew", "gradient variance", "gradient error", "cosine", "signal to noise")
TINY = 1e-9  # an advantage of less is 0


def advantage_errors(estimates: FloatArray, played: Played, exact: FloatArray, generator: np.random.Generator) -> Measures:
    """Return how advantages [T, N] compare with the exact ones [S, A], weighted by visits.

        bias        sum_sa w(s, a) (E[est | s, a] - A)^2 / E[A^2],  w the share of the visits
        variance    sum_sa w(s, a) Var[est | s, a] / E[A^2]
        error       E[(est - A)^2] / E[A^2] = bias + variance, exactly; 1 is what an estimate of 0 has
        bias of actions   the same as the bias after the mean error of each state is taken off: a policy gradient sees no more of it than that
        signs       the share of the steps with A != 0 at which the estimate has A's sign; an estimate of 0 counts half
        ranks       the share of pairs of steps in one state, with actions of different A, that the estimates order as A does; ties count half

    Squares of biases are unbiased for independent samples: members of a group and windows are a little less than that.
    Pairs seen only once are left out. A measure that is not defined (nothing but zeros) is left out of the result.
    """
    actions = exact.shape[1]
    pairs, found = (played.states * actions + played.actions)[played.valid], estimates[played.valid]
    seen = np.bincount(pairs, minlength=exact.size)
    kept = seen[pairs] >= 2
    pairs, found = pairs[kept], found[kept]
    truth = exact.reshape(-1)[pairs]
    return _squares(pairs, found, truth, exact.shape) | _orders(pairs // actions, found, truth, generator)


def _squares(pairs: NDArray[Any], found: FloatArray, truth: FloatArray, shape: tuple[int, ...]) -> Measures:
    size, num = shape[0] * shape[1], len(pairs)
    counts = np.bincount(pairs, minlength=size)
    at_least = np.maximum(counts, 2)
    errors = found - truth
    mean = np.bincount(pairs, errors, minlength=size) / at_least
    spread = np.bincount(pairs, (errors - mean[pairs]) ** 2, minlength=size) / (at_least - 1)  # [P] the variance of one estimate
    visits = np.bincount(np.arange(size) // shape[1], counts)[:, None].repeat(shape[1], axis=1).reshape(-1)
    of_state = (counts * mean).reshape(shape).sum(axis=1).repeat(shape[1]) / np.maximum(visits, 1)
    between = counts * (mean - of_state) ** 2 - spread * (1 - counts / np.maximum(visits, 1)) * (counts > 0)
    signal = max(float((truth**2).mean()), TINY)
    return {
        "bias": float((counts * mean**2 - spread * (counts > 0)).sum() / num / signal),
        "bias of actions": float(between.sum() / num / signal),
        "variance": float((counts * spread).sum() / num / signal),
        "error": float((errors**2).mean() / signal),
    }


def _orders(states: NDArray[Any], found: FloatArray, truth: FloatArray, generator: np.random.Generator) -> Measures:
    told, mixed = np.abs(truth) > TINY, generator.permutation(len(states))
    order = mixed[np.argsort(states[mixed], kind="stable")]  # neighbours are two random visits of one state
    first, second = order[:-1], order[1:]
    gap = truth[first] - truth[second]
    pairs = (states[first] == states[second]) & (np.abs(gap) > TINY)
    result: Measures = {}
    if told.any():
        result["signs"] = float((_agreement(found[told], truth[told])).mean())
    if pairs.any():
        result["ranks"] = float(_agreement((found[first] - found[second])[pairs], gap[pairs]).mean())
    return result


def _agreement(found: FloatArray, truth: FloatArray) -> FloatArray:
    return 0.5 + 0.5 * np.sign(np.where(np.abs(found) > TINY, found, 0.0)) * np.sign(truth)


def gradients(estimates: FloatArray, played: Played, policy: FloatArray, batches: int) -> FloatArray:
    """Return each batch's estimate of the gradient in the logits of a softmax policy, [K, S * A].

    It is the mean over the batch's episodes of sum_t A_t grad log pi(a_t | s_t), where grad = 1[a = a_t] - pi(a | s_t) in the row of s_t.
    """
    steps, rows = estimates.shape
    size = rows // batches
    batch = np.broadcast_to(np.arange(rows) // size, (steps, rows))[played.valid]
    states, weights = played.states[played.valid], estimates[played.valid]
    num, actions = policy.shape
    at_states = np.bincount(batch * num + states, weights, minlength=batches * num).reshape(batches, num, 1)
    pairs = (batch * num + states) * actions + played.actions[played.valid]
    taken = np.bincount(pairs, weights, minlength=batches * num * actions).reshape(batches, num, actions)
    found: FloatArray = ((taken - at_states * policy) / size).reshape(batches, -1)
    return found


def gradient_errors(found: FloatArray, exact: FloatArray) -> Measures:
    """Return how K independent estimates [K, D] of a gradient compare with the exact one, any shape of D numbers, in parts of its squared length.

    share               E[g] . g* / |g*|^2, 1 without bias
    gradient bias       |E[g] - g*|^2 / |g*|^2
    skew                the squared sine of the angle between E[g] and g*: what no step size repairs
    gradient variance   tr Cov[g] / |g*|^2 of one batch
    gradient error      E|g - g*|^2 / |g*|^2 = bias + variance, exactly
    cosine              E[cos(g, g*)]; a g of 0 counts as 0
    signal to noise     |E[g]|^2 / tr Cov[g] of one batch
    """
    num, flat = len(found), exact.reshape(-1)
    size = float(flat @ flat)
    mean = found.mean(axis=0)
    spread = float(((found - mean) ** 2).sum()) / (num - 1)
    along = found @ flat / size**0.5  # [K] length on g*
    across = float(mean @ mean) - float(along.mean()) ** 2 - (spread - float(along.var(ddof=1))) / num
    share = float(along.mean()) / size**0.5
    lengths = np.linalg.norm(found, axis=1)
    return {
        "share": share,
        "gradient bias": (float(((mean - flat) ** 2).sum()) - spread / num) / size,
        "skew": across / max(across + size * share**2, 1e-3 * size),
        "gradient variance": spread / size,
        "gradient error": float(((found - flat) ** 2).sum()) / num / size,
        "cosine": float((along / np.where(lengths > 0, lengths, 1.0)).mean()),
        "signal to noise": (float(mean @ mean) - spread / num) / max(spread, 1e-300),
    }
