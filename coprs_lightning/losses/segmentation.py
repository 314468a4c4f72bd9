"""Segmentation losses of the paper (section 3): ``BCE(heat) + c_d·Dice(mask) + c_f·Focal(mask)``.

Every function averages inside an example first and returns one value an example, so that the mean over a batch does not
depend on how the batch is split (1×8 accumulation = 8×1).

Shape legend: N examples, (H, W) any grid over the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_target(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ground truth (N, 1, S, S) to the grid of some logits: area average when shrinking, soft stays soft."""
    if tuple(mask.shape[-2:]) == tuple(size):
        return mask
    if mask.shape[-2] >= size[0] and mask.shape[-1] >= size[1]:
        return F.interpolate(mask, size, mode="area")
    return F.interpolate(mask, size, mode="bilinear", align_corners=False)


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over pixels, restricted to ``valid`` where given: (N, 1, H, W) → (N,)."""
    if valid is None:
        return values.flatten(1).mean(1)
    weights = valid.to(values.dtype)
    return (values * weights).flatten(1).sum(1) / weights.flatten(1).sum(1).clamp_min(1.0)


def binary_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Pixel-mean binary cross-entropy of an example: (N, 1, H, W) logits and soft target → (N,)."""
    return _mean(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), valid)


def dice(logits: Tensor, target: Tensor, valid: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """Soft Dice loss ``1 - (2·Σpt + ε) / (Σp + Σt + ε)`` of an example: (N, 1, H, W) → (N,)."""
    probability = logits.sigmoid()
    if valid is not None:
        probability, target = probability * valid, target * valid
    overlap = (probability * target).flatten(1).sum(1)
    total = probability.flatten(1).sum(1) + target.flatten(1).sum(1)
    return 1 - (2 * overlap + eps) / (total + eps)


def focal(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sigmoid focal loss (Lin et al. 2017, eq. 5) with torchvision's defaults, of an example: (N, 1, H, W) → (N,)."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_true = probability * target + (1 - probability) * (1 - target)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return _mean(weight * cross_entropy * (1 - p_true) ** gamma, valid)


@dataclass(frozen=True)
class SegmentationWeights:
    """Coefficients of the segmentation loss.

    The paper's set is dice 3, focal 10; the released scripts' is dice 0.8, focal 0 until step 300 and dice 2, focal 5
    after (heatmap dice equals mask dice there).

    Attributes:
        heatmap_bce: weight of the cross-entropy of the heatmap.
        heatmap_dice: weight of the Dice loss of the heatmap (in the released code only).
        dice: weight of the Dice loss of the mask.
        focal: weight of the focal loss of the mask.
    """

    heatmap_bce: float = 1.0
    heatmap_dice: float = 0.0
    dice: float = 3.0
    focal: float = 10.0


PAPER_WEIGHTS = SegmentationWeights()
"""The paper's coefficients."""


def segmentation_loss(
    heatmap_logits: Tensor,
    mask_logits: Tensor,
    target: Tensor,
    weights: SegmentationWeights,
    valid: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the four parts.

    Args:
        heatmap_logits: (N, 1, H', W').
        mask_logits: (N, 1, H'', W'').
        target: (N, 1, S, S) ground truth in frame geometry, soft values allowed.
        weights: coefficients.
        valid: valid masks (N, 1, H', W') and (N, 1, H'', W'') to leave padding out; ``None`` counts padding as
            background, as the paper does.

    Returns:
        (N,) loss of each example and its unweighted parts, (N,) each, by name.
    """
    heat_valid, mask_valid = valid if valid is not None else (None, None)
    # sums over 65k pixels overflow in half precision
    heat_logits, mask_logits = heatmap_logits.float(), mask_logits.float()
    heat_target = resize_target(target.float(), (heat_logits.shape[-2], heat_logits.shape[-1]))
    mask_target = resize_target(target.float(), (mask_logits.shape[-2], mask_logits.shape[-1]))
    parts = {
        "heatmap_bce": binary_cross_entropy(heat_logits, heat_target, heat_valid),
        "heatmap_dice": dice(heat_logits, heat_target, heat_valid),
        "dice": dice(mask_logits, mask_target, mask_valid),
        "focal": focal(mask_logits, mask_target, mask_valid),
    }
    total = torch.zeros_like(parts["dice"])
    for name, value in parts.items():
        total = total + getattr(weights, name) * value
    return total, parts
