"""Every number about one answer in one flat record, for tables, plots and debugging."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from coprs_lightning.metrics.answers import Answer
from coprs_lightning.metrics.boundary import PUBLISHED_DILATION, boundary_counts
from coprs_lightning.metrics.concentration import PUBLISHED_TOLERANCE, concentration
from coprs_lightning.metrics.iou import example_iou, mask_counts
from coprs_lightning.metrics.pixels import check_logits, log_sigmoid, pixel_blocks

DICE_EPS = 1e-6
"""Pixels above and below the bar of Dice, as in the Dice loss: nothing marked where nothing is wanted gives 1."""


def example_scores(
    answer: Answer, *, dilation: float = PUBLISHED_DILATION, tolerance: float = PUBLISHED_TOLERANCE
) -> dict[str, float | None]:
    """Score one answer at the image's own size; ignored pixels count nowhere.

    Args:
        answer: mask, heatmap and ground truth.
        dilation: boundary width as a share of the image's diagonal, see :mod:`coprs_lightning.metrics.boundary`.
        tolerance: pixels by which the heatmap's peak may miss, see :mod:`coprs_lightning.metrics.concentration`.

    Returns:
        numbers that JSON can hold, ``None`` where one has no meaning. Counts of pixels (int): ``intersection``,
        ``union``, ``target_pixels``, ``predicted_pixels``, ``counted_pixels``, ``boundary_intersection``,
        ``boundary_union``, ``heatmap_intersection``, ``heatmap_union``, ``heatmap_pixels``. Shares in [0, 1]: ``iou``,
        ``boundary_iou`` and ``dice`` (soft Dice score of the mask: 1 − its loss) of the mask, ``heatmap_iou``,
        ``heatmap_dice``, ``heatmap_inside``, ``heatmap_entropy``, ``heatmap_pointing`` of the heatmap. ``bce`` and
        ``heatmap_bce``: binary cross-entropy, nats a pixel. ``target_empty``, ``predicted_empty``, ``heatmap_empty``:
        bool.
    """
    target, ignore = answer.target, answer.ignore
    intersection, union, wanted = (int(count) for count in mask_counts(answer.marked, target, ignore).tolist())
    heat_both, heat_either, _ = (int(count) for count in mask_counts(answer.heatmap_marked, target, ignore).tolist())
    edge_both, edge_either = (int(n) for n in boundary_counts(answer.marked, target, ignore, dilation=dilation))
    dice, bce = soft_scores(answer.mask_logits, target, ignore)
    heatmap_dice, heatmap_bce = soft_scores(answer.heatmap_logits, target, ignore)
    spread = concentration(answer.heatmap_logits, target, ignore, tolerance=tolerance)
    predicted, hot = union - wanted + intersection, heat_either - wanted + heat_both
    scores: dict[str, float | None] = {
        "iou": example_iou(intersection, union),
        "intersection": intersection,
        "union": union,
        "boundary_iou": example_iou(edge_both, edge_either),
        "boundary_intersection": edge_both,
        "boundary_union": edge_either,
        "dice": dice,
        "bce": bce,
        "heatmap_iou": example_iou(heat_both, heat_either),
        "heatmap_intersection": heat_both,
        "heatmap_union": heat_either,
        "heatmap_dice": heatmap_dice,
        "heatmap_bce": heatmap_bce,
        "heatmap_inside": spread.inside,
        "heatmap_entropy": spread.entropy,
        "heatmap_pointing": spread.pointing,
        "target_pixels": wanted,
        "predicted_pixels": predicted,
        "heatmap_pixels": hot,
        "counted_pixels": target.numel() if ignore is None else int((~ignore).sum()),
        "target_empty": wanted == 0,
        "predicted_empty": predicted == 0,
        "heatmap_empty": hot == 0,
    }
    return {name: None if value is None or math.isnan(value) else value for name, value in scores.items()}


def soft_scores(logits: Tensor, target: Tensor, ignore: Tensor | None = None) -> tuple[float, float]:
    """Soft Dice score ``(2·Σpt + ε) / (Σp + Σt + ε)`` and pixel-mean binary cross-entropy in nats, in float64.

    Args:
        logits: (H, W) float.
        target: (H, W) bool, ground truth.
        ignore: (H, W) bool, pixels that are left out; with all of them left out the cross-entropy is NaN.

    Raises:
        ValueError: for logits or masks of another dtype, or of different sizes.
    """
    check_logits(logits, target, ignore)
    overlap, total, entropy, count = [], [], [], 0
    for x, wanted in pixel_blocks(logits, target, ignore):
        log_p = log_sigmoid(x)
        p = np.exp(log_p)
        overlap.append(float(p[wanted].sum()))
        total.append(float(p.sum()) + float(wanted.sum()))
        # ln(1 − p) is ln(p) − x
        entropy.append(float(np.where(wanted, log_p, log_p - x).sum()))
        count += len(x)
    dice = (2 * math.fsum(overlap) + DICE_EPS) / (math.fsum(total) + DICE_EPS)
    return dice, -math.fsum(entropy) / count if count else math.nan
