"""Segmentation losses against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from coprs_lightning.losses.segmentation import (
    PAPER_WEIGHTS,
    SegmentationWeights,
    binary_cross_entropy,
    dice,
    focal,
    resize_target,
    segmentation_loss,
)

LOSSES = {"bce": binary_cross_entropy, "dice": dice, "focal": focal}


def case(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, soft targets and valid masks on a 5 × 7 grid; the first target is empty, the second full."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, 1, 5, 7, generator=generator)
    target = torch.rand(count, 1, 5, 7, generator=generator)
    target[0], target[1] = 0, 1
    valid = torch.rand(count, 1, 5, 7, generator=generator) < 0.6
    return logits, target, valid


def loop(name: str, logits: Tensor, target: Tensor, valid: Tensor | None) -> list[float]:
    """The loss of every example, pixel by pixel in double precision."""
    results = []
    for row in range(len(logits)):
        cross, focals, overlap, total = [], [], 0.0, 0.0
        for i, j in np.ndindex(*logits.shape[-2:]):
            if valid is not None and not valid[row, 0, i, j]:
                continue
            x, t = float(logits[row, 0, i, j]), float(target[row, 0, i, j])
            p = 1 / (1 + math.exp(-x))
            ce = -(t * math.log(p) + (1 - t) * math.log(1 - p))
            p_true = p * t + (1 - p) * (1 - t)
            cross.append(ce)
            focals.append((0.25 * t + 0.75 * (1 - t)) * (1 - p_true) ** 2 * ce)
            overlap, total = overlap + p * t, total + p + t
        dice_loss = 1 - (2 * overlap + 1e-6) / (total + 1e-6)
        results.append({"bce": np.mean(cross), "focal": np.mean(focals), "dice": dice_loss}[name])
    return results


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("with_valid", [False, True])
def test_matches_a_loop_over_pixels(name, with_valid):
    logits, target, valid = case()
    mask = valid if with_valid else None
    result = LOSSES[name](logits, target, mask)
    assert result.shape == (3,)
    np.testing.assert_allclose(result.numpy(), loop(name, logits, target, mask), rtol=2e-5)


def test_focal_is_torchvisions():
    logits, target, _ = case()
    expected = sigmoid_focal_loss(logits, target, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(focal(logits, target), expected)
    other = sigmoid_focal_loss(logits, target, alpha=0.6, gamma=1.0, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(focal(logits, target, alpha=0.6, gamma=1.0), other)


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_that_are_not_valid_have_neither_value_nor_gradient(name):
    logits, target, valid = case()
    plain = LOSSES[name](logits, target, valid)
    changed = torch.where(valid, logits, 7 - logits).requires_grad_(True)
    result = LOSSES[name](changed, torch.where(valid, target, 1 - target), valid)
    torch.testing.assert_close(result, plain)
    result.sum().backward()
    assert changed.grad is not None
    assert (changed.grad[~valid] == 0).all()
    assert (changed.grad[valid] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_valid_is_finite(name):
    logits, target, valid = case()
    assert LOSSES[name](logits, target, torch.zeros_like(valid)).isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", [-50.0, 50.0])
def test_extreme_logits_have_finite_gradients(name, level):
    _, target, valid = case()
    logits = torch.full_like(target, level).requires_grad_(True)
    result = LOSSES[name](logits, target, valid)
    assert result.isfinite().all()
    result.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_dice_of_an_empty_target():
    empty = torch.zeros(1, 1, 8, 8)
    assert dice(torch.full_like(empty, -50.0), empty).item() == pytest.approx(0, abs=1e-6)  # nothing found, rightly
    assert dice(torch.full_like(empty, -5.0), empty).item() == pytest.approx(1, abs=1e-4)
    assert dice(torch.full_like(empty, 50.0), empty).item() == pytest.approx(1, abs=1e-6)
    # a larger eps forgives small probabilities
    assert dice(torch.full_like(empty, -5.0), empty, eps=1.0).item() == pytest.approx(
        1 - 1 / (1 + 64 / (1 + math.e**5))
    )


def test_dice_of_a_perfect_and_a_disjoint_mask():
    target = torch.zeros(1, 1, 8, 8)
    target[..., :4] = 1
    assert dice(100 * (target - 0.5), target).item() == pytest.approx(0, abs=1e-6)
    assert dice(100 * (0.5 - target), target).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (16, 2), (32, 32)])
def test_shrinking_a_target_keeps_its_mean(size):
    target = torch.rand(2, 1, 32, 32)
    target[0] = (target[0] > 0.7).float()
    resized = resize_target(target, size)
    assert tuple(resized.shape) == (2, 1, *size)
    torch.testing.assert_close(resized.mean((1, 2, 3)), target.mean((1, 2, 3)))


def test_shrinking_averages_and_enlarging_interpolates():
    target = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])[None, None]
    assert resize_target(target, (1, 2)).flatten().tolist() == [0.25, 1.0]
    larger = resize_target(target, (4, 8))
    assert larger.mean() == pytest.approx(target.mean().item())
    assert ((larger > 0) & (larger < 1)).any()
    assert resize_target(target, (2, 4)) is target


def test_a_size_that_does_not_divide_keeps_the_mean_roughly():
    target = torch.zeros(1, 1, 50, 50)
    target[..., 13:40, 5:31] = 1
    assert resize_target(target, (16, 16)).mean() == pytest.approx(target.mean().item(), rel=0.05)


def loss_case(count: int = 8) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Heatmap logits 4 × 4, mask logits 8 × 8, soft targets 16 × 16 and valid masks."""
    generator = torch.Generator().manual_seed(1)
    heat = torch.randn(count, 1, 4, 4, generator=generator)
    mask = torch.randn(count, 1, 8, 8, generator=generator)
    target = torch.rand(count, 1, 16, 16, generator=generator)
    valid = torch.ones(count, 1, 8, 8, dtype=torch.bool)
    valid[: count // 2, :, 4:] = False
    return heat, mask, target, (valid[..., ::2, ::2], valid)


@pytest.mark.parametrize("with_valid", [False, True])
def test_the_loss_is_the_weighted_sum_of_its_parts(with_valid):
    heat, mask, target, valid = loss_case()
    heat_target, mask_target = resize_target(target, (4, 4)), resize_target(target, (8, 8))
    heat_valid, mask_valid = valid if with_valid else (None, None)
    weights = SegmentationWeights(heatmap_bce=0.7, heatmap_dice=1.1, dice=2.0, focal=5.0)
    loss, parts = segmentation_loss(heat, mask, target, weights, valid if with_valid else None)
    expected = {
        "heatmap_bce": loop("bce", heat, heat_target, heat_valid),
        "heatmap_dice": loop("dice", heat, heat_target, heat_valid),
        "dice": loop("dice", mask, mask_target, mask_valid),
        "focal": loop("focal", mask, mask_target, mask_valid),
    }
    assert parts.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(parts[name].numpy(), values, rtol=2e-5)
    total = sum(getattr(weights, name) * np.array(values) for name, values in expected.items())
    np.testing.assert_allclose(loss.numpy(), total, rtol=2e-5)


def test_the_papers_coefficients():
    assert SegmentationWeights() == PAPER_WEIGHTS == SegmentationWeights(1.0, 0.0, 3.0, 10.0)
    loss, parts = segmentation_loss(*loss_case()[:3], PAPER_WEIGHTS)
    torch.testing.assert_close(loss, parts["heatmap_bce"] + 3 * parts["dice"] + 10 * parts["focal"])


def test_the_mean_over_a_batch_is_the_mean_over_its_examples():
    heat, mask, target, valid = loss_case()
    together, _ = segmentation_loss(heat, mask, target, PAPER_WEIGHTS, valid)
    alone = []
    for i in range(8):
        row = slice(i, i + 1)
        alone.append(
            segmentation_loss(heat[row], mask[row], target[row], PAPER_WEIGHTS, (valid[0][row], valid[1][row]))[0]
        )
    torch.testing.assert_close(together, torch.cat(alone))
    assert together.std() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_extreme_logits(dtype):
    """A plain sum over 256 × 256 probabilities would be infinite in float16."""
    heat = torch.full((2, 1, 64, 64), 50.0, dtype=dtype)
    mask = torch.full((2, 1, 256, 256), 50.0, dtype=dtype)
    heat[1], mask[1] = -50, -50
    heat.requires_grad_(True)
    mask.requires_grad_(True)
    target = torch.zeros(2, 1, 256, 256)
    target[:, :, :100, :200] = 1
    loss, parts = segmentation_loss(heat, mask, target, SegmentationWeights(heatmap_dice=1.0))
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    share = 100 * 200 / 256**2
    assert parts["dice"][0].item() == pytest.approx(1 - 2 * share / (1 + share), rel=1e-4)
    loss.sum().backward()
    for tensor in (heat, mask):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
