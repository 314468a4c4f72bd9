"""Intersection over union as reasoning segmentation reports it (paper section 3, evaluation protocol).

All counts are integers and every mean is an exactly rounded sum, so a score is the same to the last digit whatever the
order of the examples and the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from coprs_lightning.metrics.answers import Answer
from coprs_lightning.metrics.bootstrap import Bootstrap
from coprs_lightning.metrics.ratio import Ratio
from coprs_lightning.metrics.table import ExampleMetric

DEFAULT_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def intersection_and_union(pred: Tensor, target: Tensor, ignore: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Count the pixels that two masks share and the pixels that either has.

    Args:
        pred: (H, W) bool, predicted mask.
        target: (H, W) bool, ground truth.
        ignore: (H, W) bool, pixels that count neither for nor against.

    Returns:
        two int64 scalars, intersection and union.

    Raises:
        ValueError: for masks of another dtype than bool, or of different sizes.
    """
    masks = {"pred": pred, "target": target} | ({} if ignore is None else {"ignore": ignore})
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise ValueError(f"{name} must be a bool mask, got {mask.dtype}: threshold logits with `> 0` first.")
        if mask.shape != target.shape:
            raise ValueError(
                f"{name} has size {tuple(mask.shape)}, target has {tuple(target.shape)}: scores are taken at the "
                "original resolution. Bring logits there with coprs_lightning.geometry.restore first."
            )
    intersection, union = pred & target, pred | target
    if ignore is not None:
        intersection, union = intersection & ~ignore, union & ~ignore
    return intersection.sum(), union.sum()


def mask_counts(pred: Tensor, target: Tensor, ignore: Tensor | None = None) -> Tensor:
    """(3,) int64: intersection, union and pixels of the target; arguments as :func:`intersection_and_union`."""
    intersection, union = intersection_and_union(pred, target, ignore)
    return torch.stack((intersection, union, (target if ignore is None else target & ~ignore).sum()))


def example_iou(intersection: int, union: int) -> float:
    """IoU of one example; 1 where both masks are empty, as nothing was asked for and nothing was marked."""
    return intersection / union if union else 1.0


def example_ious(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """:func:`example_iou` of (n,) counts: (n,) float64."""
    return np.where(unions == 0, 1.0, intersections / np.maximum(unions, 1))


def giou(ious: Sequence[float] | np.ndarray) -> float:
    """gIoU: mean of the per-example IoUs; NaN without examples."""
    return Ratio.mean(ious).value()


def ciou_ratio(intersections: Sequence[int] | np.ndarray, unions: Sequence[int] | np.ndarray) -> Ratio:
    """CIoU as a ratio: pixels that masks share, over pixels that either has; 1 where every union is empty."""
    above, below = (np.asarray(counts, dtype=np.float64) for counts in (intersections, unions))
    return Ratio(above, below, empty=1.0 if len(below) else math.nan)


def ciou(intersections: Sequence[int] | np.ndarray, unions: Sequence[int] | np.ndarray) -> float:
    """cIoU: all intersections over all unions; NaN without examples, 1 where every union is empty."""
    return ciou_ratio(intersections, unions).value()


def precision_at(ious: Sequence[float] | np.ndarray, threshold: float) -> float:
    """Share of examples whose IoU reaches ``threshold``; NaN without examples."""
    return Ratio.mean(np.asarray(ious) >= threshold).value()


def iou_ratios(
    intersections: np.ndarray, unions: np.ndarray, thresholds: Sequence[float] = DEFAULT_THRESHOLDS
) -> dict[str, Ratio]:
    """``giou``, ``ciou`` and ``precision@<t>`` from (n,) numbers of pixels."""
    ious = example_ious(intersections, unions)
    found = {"giou": Ratio.mean(ious), "ciou": ciou_ratio(intersections, unions)}
    return found | {f"precision@{threshold:g}": Ratio.mean(ious >= threshold) for threshold in thresholds}


class SegmentationIoU(ExampleMetric):
    """gIoU, cIoU, precision at thresholds and gIoU by kind of question, from one table of integer counts.

    As LISA and the paper count: masks are cut at the image's own size, two empty masks have IoU 1, a mask where nothing
    fits has IoU 0 and adds its pixels to the unions. :class:`NoTargetScores` has the other convention.

    Args:
        thresholds: IoUs at which precision is reported.
        per_kind: report the gIoU of every kind of question too.
        bootstrap: how to find intervals; ``None`` for none.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for a threshold outside (0, 1].
    """

    higher_is_better = True

    def __init__(
        self,
        *,
        thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
        per_kind: bool = True,
        bootstrap: Bootstrap | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(width=3, bootstrap=bootstrap, **kwargs)
        for threshold in thresholds:
            if not 0 < threshold <= 1:
                raise ValueError(f"thresholds must lie in (0, 1], got {threshold}: an IoU is a share, 0.5 means 50 %.")
        self.thresholds = tuple(thresholds)
        self.per_kind = per_kind

    def update(self, pred: Tensor, target: Tensor, ignore: Tensor | None = None, kind: str = "") -> None:
        """Add one example.

        Args:
            pred: (H, W) bool, predicted mask.
            target: (H, W) bool, ground truth.
            ignore: (H, W) bool, pixels that count neither for nor against.
            kind: kind of question, empty when unknown.
        """
        self.keep(mask_counts(pred, target, ignore), kind)

    def take(self, answer: Answer) -> None:
        """See :meth:`ExampleMetric.take`: the mask."""
        self.update(answer.marked, answer.target, answer.ignore, answer.kind)

    def ratios(self) -> dict[str, Ratio]:
        """``giou``, ``ciou``, ``precision@<t>`` and ``giou/<kind>``; NaN without examples.

        ``none_accuracy``, the share of examples with an empty ground truth whose predicted mask is empty, where there
        are such examples.
        """
        intersections, unions, wanted = self.table().T
        ious = example_ious(intersections, unions)
        found = iou_ratios(intersections, unions, self.thresholds)
        if (absent := wanted == 0).any():
            found["none_accuracy"] = Ratio.mean(unions == 0, among=absent)
        if self.per_kind:
            kinds = np.array(self.labels(), dtype=object)
            found |= {f"giou/{kind}": Ratio.mean(ious[kinds == kind]) for kind in sorted(set(kinds)) if kind}
        return found

    def compute(self) -> dict[str, Tensor]:
        """Scores over all examples of all processes.

        Returns:
            ``n`` and :meth:`ratios` as float64 scalars on the CPU; NaN (and a warning) without examples.
        """
        count = len(self.table())
        if not count:
            rank_zero_warn("SegmentationIoU has seen no example: its scores are NaN. Is the split empty?", UserWarning)
        return {"n": torch.tensor(count, dtype=torch.float64), **super().compute()}
