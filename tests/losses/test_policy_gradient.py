"""Gradients, clipping and bounds of the policy losses; their values are held to loops in tests/parity/test_grpo.py."""

from __future__ import annotations

import math

import pytest
import torch

from coprs_lightning.losses.policy_gradient import clipped_policy_loss, k3_kl


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    logits = torch.randn(4, 6, 11, requires_grad=True)
    ids = torch.randint(0, 11, (4, 6))
    advantages = torch.tensor([1.3, -0.4, 0.0, -2.0])
    log_probs = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    losses, clipped = clipped_policy_loss(log_probs, log_probs.detach(), advantages, 0.2, 0.2)
    assert losses.shape == clipped.shape == (4, 6)
    assert clipped.dtype == torch.bool
    assert not clipped.any()
    torch.testing.assert_close(losses.detach(), -advantages[:, None].expand(4, 6))
    (found,) = torch.autograd.grad(losses.sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-(advantages[:, None] * log_probs).sum(), logits)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped"),
    [
        (1.5, 1.0, True),  # already likelier than wanted
        (1.5, -1.0, False),  # likelier, and should not be
        (0.5, -1.0, True),  # already less likely than wanted
        (0.5, 1.0, False),
        (1.25, 1.0, False),  # below 1 + epsilon_high
        (0.85, -1.0, False),
        (1.5, 0.0, False),  # no gradient to take away
        (0.5, 0.0, False),
    ],
)
def test_the_clip_takes_gradients_away_where_it_says_so(ratio: float, advantage: float, clipped: bool) -> None:
    log_probs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    losses, active = clipped_policy_loss(log_probs, torch.zeros(1, 1), torch.tensor([advantage]), 0.2, 0.3)
    losses.sum().backward()
    assert active.item() is clipped
    assert log_probs.grad is not None
    expected = 0.0 if clipped else -advantage * ratio
    assert float(log_probs.grad) == pytest.approx(expected)
    bound = min(max(ratio, 0.8), 1.3)
    assert float(losses.detach()) == pytest.approx(-min(ratio * advantage, bound * advantage))


def test_extreme_ratios_stay_finite() -> None:
    log_probs = torch.tensor([[0.0, -1e4], [0.0, -1e4]], requires_grad=True)
    old = torch.tensor([[-1e4, 0.0], [-1e4, 0.0]])
    losses, clipped = clipped_policy_loss(log_probs, old, torch.tensor([1.0, -1.0]), 0.2, 0.2)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()
    assert clipped.tolist() == [[True, False], [False, True]]


def test_the_kl_is_never_negative() -> None:
    log_probs = -torch.rand(200, 200) * 20
    for scale in (0.0, 1e-8, 1e-6, 1e-4, 1e-2, 1.0, 10.0, 1e3):
        values = k3_kl(log_probs, log_probs + scale * torch.randn(200, 200))
        assert values.isfinite().all()
        assert float(values.min()) >= 0
        assert float(values.max()) <= 10
    assert (k3_kl(log_probs, log_probs) == 0).all()


def test_small_differences_keep_their_digits() -> None:
    difference = torch.tensor([[1e-3, -1e-3, 1e-4, -1e-4]])
    torch.testing.assert_close(k3_kl(torch.zeros(1, 4), difference), difference.square() / 2, rtol=1e-3, atol=0)


def test_the_mean_over_samples_is_the_kl() -> None:
    """Weighted by π the estimate is KL(π ‖ π_ref) exactly, whatever the two are."""
    log_probs, ref = torch.randn(5, 9).log_softmax(-1), torch.randn(5, 9).log_softmax(-1)
    expected = torch.nn.functional.kl_div(ref, log_probs, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close((log_probs.exp() * k3_kl(log_probs, ref, limit=1e6)).sum(-1), expected)


def test_the_gradient_leads_back_to_the_reference() -> None:
    log_probs = torch.tensor([[-1.0, -1.0, -1.0]], requires_grad=True)
    ref = torch.tensor([[-2.0, -1.0, -0.5]])
    k3_kl(log_probs, ref).sum().backward()
    assert log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad, 1 - (ref - log_probs.detach()).exp())


def test_beyond_the_limit_there_is_no_gradient() -> None:
    log_probs = torch.tensor([[-1e4, -5.0, -1.0]], requires_grad=True)
    values = k3_kl(log_probs, torch.zeros(1, 3), limit=3.0)
    assert values[0].tolist() == pytest.approx([3.0, 3.0, math.e - 2])
    values.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad[0, :2].tolist() == [0, 0]
    assert float(log_probs.grad[0, 2]) == pytest.approx(1 - math.e)
