"""Losses against float64 references in NumPy, against finite differences, and with NaN wherever nothing counts."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from agents.losses import clipped_surrogate, masked_mean, mean_entropy, next_token_loss, value_loss  # noqa: E402

SHAPE = (6, 4)
BAD = [float("nan"), float("inf"), float("-inf")]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def tensors(rng, count, shape=SHAPE):
    return [torch.from_numpy(rng.normal(size=shape)) for _ in range(count)]


def mask(rng, shape=SHAPE):
    valid = torch.from_numpy(rng.random(shape) < 0.7)
    assert 0 < valid.sum() < valid.numel()
    return valid


def mean(values, weights):
    """The weighted mean by its definition, over the entries that count."""
    seen = weights.numpy() > 0
    w = weights.numpy()[seen].astype(np.float64)
    return (values.numpy()[seen] * w).sum() / w.sum()


def spoilt(values, valid, bad):
    return torch.where(valid.bool() if values.dim() == valid.dim() else valid.bool()[..., None], values, bad)


# --- by hand --------------------------------------------------------------------------------------------------------------------------------


def test_clipped_surrogate_by_hand():
    # ratios 2, 2, 1/2, 1/2, 1.1; advantages 1, -1, 1, -1, 3; clip 0.2: min(2, 1.2), min(-2, -1.2), min(.5, .8), min(-.5, -.8), min(3.3, 3.3)
    ratios = torch.tensor([2.0, 2.0, 0.5, 0.5, 1.1], dtype=torch.float64)
    result = clipped_surrogate(ratios.log(), torch.zeros_like(ratios), torch.tensor([1.0, -1, 1, -1, 3]).double(), torch.ones(5), 0.2)
    assert result.loss.item() == pytest.approx(-(1.2 - 2 + 0.5 - 0.8 + 3.3) / 5)
    assert result.clip_fraction.item() == pytest.approx(4 / 5)
    assert result.approx_kl.item() == pytest.approx(((2 - 1 - np.log(2)) * 2 + (0.5 - 1 - np.log(0.5)) * 2 + 0.1 - np.log(1.1)) / 5)


def test_value_loss_by_hand():
    values, targets, old = (torch.tensor(numbers).double() for numbers in ([2.0, 0.0, 9.0], [1.0, 3.0, 0.0], [1.5, 1.0, 0.0]))
    valid = torch.tensor([True, True, False])
    assert value_loss(values, targets, valid).item() == 0.5 * (1 + 9) / 2
    # clipped to 0.2 around the old values: 1.7 and 0.8, so 0.7^2 < 1 and 2.2^2 < 9: the larger error stays
    assert value_loss(values, targets, valid, old, 0.2).item() == 0.5 * (1 + 9) / 2
    # 1.5 -> 1 moved all the way to the target: unclipped 0, clipped 1.3: 0.3^2
    assert value_loss(targets[:1], targets[:1], valid[:1], old[:1], 0.2).item() == pytest.approx(0.5 * 0.09)


def test_next_token_loss_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [0.0, np.log(3)], [5.0, 5.0]]]).double()
    assert next_token_loss(logits, torch.tensor([[0, 1, 2]]), torch.tensor([[1, 1, 0]])).item() == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)


# --- references -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_references(rng, weighted):
    new, old, a, v, target, old_v = tensors(rng, 6)
    valid = mask(rng)
    weights = valid * torch.from_numpy(rng.random(SHAPE)) if weighted else valid
    ratio = np.exp(new.numpy() - old.numpy())
    gains = np.minimum(ratio * a.numpy(), np.clip(ratio, 0.8, 1.2) * a.numpy())
    result = clipped_surrogate(new, old, a, weights, 0.2)
    assert result.loss.item() == pytest.approx(-mean(torch.from_numpy(gains), weights), rel=1e-12)
    assert result.clip_fraction.item() == pytest.approx(mean(torch.from_numpy(1.0 * (np.abs(ratio - 1) > 0.2)), weights), rel=1e-12)
    assert result.approx_kl.item() == pytest.approx(mean(torch.from_numpy(ratio - 1 - np.log(ratio)), weights), rel=1e-9)
    clipped = np.clip(v.numpy(), old_v.numpy() - 0.3, old_v.numpy() + 0.3)
    errors = np.maximum((v - target).numpy() ** 2, (clipped - target.numpy()) ** 2)
    assert value_loss(v, target, weights).item() == pytest.approx(0.5 * mean((v - target) ** 2, weights), rel=1e-12)
    assert value_loss(v, target, weights, old_v, 0.3).item() == pytest.approx(0.5 * mean(torch.from_numpy(errors), weights), rel=1e-12)
    assert mean_entropy(v, weights).item() == pytest.approx(mean(v, weights), rel=1e-12)
    logits, ids = tensors(rng, 1, (*SHAPE, 5))[0], torch.from_numpy(rng.integers(5, size=SHAPE))
    nll = np.log(np.exp(logits.numpy()).sum(-1)) - np.take_along_axis(logits.numpy(), ids.numpy()[..., None], -1)[..., 0]
    assert next_token_loss(logits, ids, weights).item() == pytest.approx(mean(torch.from_numpy(nll), weights), rel=1e-12)


def test_k3_is_the_kl_in_expectation(rng):
    """Over actions of the old policy, weighted by its probabilities, approx_kl is KL(old, new) exactly; the other way round it is not."""
    old, new = (torch.from_numpy(rng.normal(size=7)).log_softmax(0) for _ in range(2))
    kl = (old.exp() * (old - new)).sum().item()
    assert clipped_surrogate(new, old, torch.zeros(7).double(), old.exp(), 0.2).approx_kl.item() == pytest.approx(kl, rel=1e-12)
    assert clipped_surrogate(new, old, torch.zeros(7).double(), new.exp(), 0.2).approx_kl.item() != pytest.approx(kl, rel=1e-3)


def test_at_the_old_policy_the_gradient_is_the_policy_gradient(rng):
    (log_probs, a), valid = tensors(rng, 2), mask(rng)
    log_probs.requires_grad_()
    result = clipped_surrogate(log_probs, log_probs.detach().clone(), a, valid, 0.2)
    (gradient,) = torch.autograd.grad(result.loss, log_probs)
    torch.testing.assert_close(gradient, -(a * valid) / valid.sum())
    assert result.clip_fraction == result.approx_kl == 0
    assert not result.clip_fraction.requires_grad
    assert not result.approx_kl.requires_grad


# --- gradients ------------------------------------------------------------------------------------------------------------------------------


def test_gradcheck(rng):
    (new, old, a, v, target, old_v), valid = tensors(rng, 6), mask(rng)
    check = torch.autograd.gradcheck
    new.requires_grad_()
    v.requires_grad_()
    assert check(lambda x: masked_mean(x, valid), new)
    assert check(lambda x: mean_entropy(x, valid), new)
    assert check(lambda x: clipped_surrogate(x, old, a, valid, 0.2).loss, new)
    assert check(lambda x: value_loss(x, target, valid), v)
    assert check(lambda x: value_loss(x, target, valid, old_v, 0.3), v)
    logits, ids = tensors(rng, 1, (3, 4, 5))[0].requires_grad_(), torch.from_numpy(rng.integers(5, size=(3, 4)))
    assert check(lambda x: next_token_loss(x, ids, mask(np.random.default_rng(1), (3, 4))), logits)


def losses(new, old, a, v, target, old_v, logits, ids, valid):
    yield "surrogate", clipped_surrogate(new, old, a, valid, 0.2).loss
    yield "value", value_loss(v, target, valid)
    yield "clipped value", value_loss(v, target, valid, old_v, 0.3)
    yield "entropy", mean_entropy(v, valid)
    yield "next token", next_token_loss(logits, ids, valid)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("as_float", [False, True])
def test_what_is_not_valid_does_not_leak(rng, bad, as_float):
    clean, valid = [*tensors(rng, 6), *tensors(rng, 1, (*SHAPE, 5))], mask(rng)
    ids = torch.from_numpy(rng.integers(5, size=SHAPE))
    dirty = [spoilt(tensor, valid, bad).requires_grad_() for tensor in clean]
    dirty_ids = torch.where(valid, ids, 10**6)  # no id at all
    weights = valid.double() if as_float else valid
    for (name, ours), (_, expected) in zip(losses(*dirty, dirty_ids, weights), losses(*clean, ids, weights), strict=True):
        assert ours.item() == expected.item(), name
        for gradient in torch.autograd.grad(ours, dirty, allow_unused=True):
            if gradient is not None:
                assert torch.isfinite(gradient).all(), name
                assert not gradient[~valid].any(), name


def test_nothing_valid_is_zero_with_zero_gradients(rng):
    everything = [spoilt(tensor, torch.zeros(SHAPE), float("nan")).requires_grad_() for tensor in [*tensors(rng, 6), *tensors(rng, 1, (*SHAPE, 5))]]
    for name, loss in losses(*everything, torch.full(SHAPE, -100), torch.zeros(SHAPE, dtype=torch.bool)):
        assert loss.item() == 0, name
        for gradient in torch.autograd.grad(loss, everything, allow_unused=True):
            assert gradient is None or not gradient.any(), name


def test_multiplying_by_the_mask_would_leak():
    """The twin that must fail: this is what the losses avoid."""
    values = torch.tensor([1.0, float("nan")], requires_grad=True)
    valid = torch.tensor([1.0, 0.0])
    assert torch.isnan((values * valid).sum())
    late = torch.where(valid > 0, values.exp(), 0.0).sum()  # finite, and its gradient is not
    assert torch.isnan(torch.autograd.grad(late, values)[0][1])


def test_half_precision_is_counted_in_float32():
    """In bfloat16 256 + 1 is 256: a mean of 10000 ones would be far from 1."""
    ones = torch.ones(10_000, dtype=torch.bfloat16)
    assert masked_mean(ones, ones.bool()).item() == 1.0
    assert next_token_loss(
        torch.zeros(1, 10_000, 2, dtype=torch.bfloat16), torch.zeros(1, 10_000, dtype=torch.int64), ones.bool()[None]
    ).item() == pytest.approx(np.log(2))


# --- errors ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: masked_mean(x, x[:, :1]), r"one shape \(values, valid\); got \(6, 4\), \(6, 1\)"),
        (lambda x: mean_entropy(x, x[0]), "one shape"),
        (lambda x: clipped_surrogate(x, x, x[:, :1], x, 0.2), r"log_probs, old_log_probs, advantages, valid\); got \(6, 4\), \(6, 4\), \(6, 1\), \(6, 4\)"),
        (lambda x: value_loss(x, x[:1], x), r"values, targets, valid"),
        (lambda x: value_loss(x, x, x, x[:1], 0.2), r"old_values, valid"),
        (lambda x: value_loss(x, x, x, old_values=x), "needs both old_values and clip_coef"),
        (lambda x: value_loss(x, x, x, clip_coef=0.2), "needs both old_values and clip_coef"),
        (lambda x: next_token_loss(x[..., None], x[:1], x), r"targets, valid"),
        (lambda x: next_token_loss(x, x, x), r"logits must be \[B, L, V\] for targets \[B, L\]; got \(6, 4\) and \(6, 4\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(SHAPE))
