"""Intersection over union as reasoning segmentation reports it (paper section 3, evaluation protocol).

All counts are integers and every mean is an exactly rounded sum, so a score is the same to the last digit whatever the
order of the examples and the number of processes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn
from torchmetrics.utilities.data import dim_zero_cat

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


def example_iou(intersection: int, union: int) -> float:
    """IoU of one example; 1 where both masks are empty, as nothing was asked for and nothing was marked."""
    return intersection / union if union else 1.0


def giou(ious: Sequence[float]) -> float:
    """gIoU: mean of the per-example IoUs; NaN without examples."""
    return math.fsum(ious) / len(ious) if ious else math.nan


def ciou(intersections: Sequence[int], unions: Sequence[int]) -> float:
    """cIoU: all intersections over all unions; NaN without examples, 1 where every union is empty."""
    return example_iou(sum(intersections), sum(unions)) if unions else math.nan


def precision_at(ious: Sequence[float], threshold: float) -> float:
    """Share of examples whose IoU reaches ``threshold``; NaN without examples."""
    return sum(iou >= threshold for iou in ious) / len(ious) if ious else math.nan


class SegmentationIoU(Metric):
    """gIoU, cIoU, precision at thresholds and gIoU by kind of question, from one table of integer counts.

    Examples come one at a time, since every image has its own size. The table has one row an example – intersection,
    union, pixels of the ground truth, and length of its kind's name – and is concatenated over processes; a process
    without examples is fine.

    Args:
        thresholds: IoUs at which precision is reported.
        per_kind: report the gIoU of every kind of question too.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for a threshold outside (0, 1].
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    rows: list[Tensor]
    names: list[Tensor]

    def __init__(
        self, *, thresholds: Sequence[float] = DEFAULT_THRESHOLDS, per_kind: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        for threshold in thresholds:
            if not 0 < threshold <= 1:
                raise ValueError(f"thresholds must lie in (0, 1], got {threshold}: an IoU is a share, 0.5 means 50 %.")
        self.thresholds = tuple(thresholds)
        self.per_kind = per_kind
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("names", default=[], dist_reduce_fx="cat")
        self._seed_states()

    def _seed_states(self) -> None:
        # torchmetrics stands in a float vector for a process without data, and int tables cannot be gathered with that
        self.rows.append(torch.zeros(0, 4, dtype=torch.int64, device=self.device))
        self.names.append(torch.zeros(0, dtype=torch.uint8, device=self.device))

    def reset(self) -> None:
        """Forget all examples."""
        super().reset()
        self._seed_states()

    def update(self, pred: Tensor, target: Tensor, ignore: Tensor | None = None, kind: str = "") -> None:
        """Add one example.

        Args:
            pred: (H, W) bool, predicted mask.
            target: (H, W) bool, ground truth.
            ignore: (H, W) bool, pixels that count neither for nor against.
            kind: kind of question, empty when unknown.
        """
        intersection, union = intersection_and_union(pred, target, ignore)
        wanted = (target if ignore is None else target & ~ignore).sum()
        name = torch.tensor(list(kind.encode()), dtype=torch.uint8, device=pred.device)
        self.rows.append(torch.stack((intersection, union, wanted, torch.full_like(union, len(name))))[None])
        self.names.append(name)

    def compute(self) -> dict[str, Tensor]:
        """Scores over all examples of all processes.

        Returns:
            ``n``, ``giou``, ``ciou``, ``precision@<t>`` and ``giou/<kind>`` as float64 scalars on the CPU; NaN (and a
            warning) without examples. ``none_accuracy``, the share of examples with an empty ground truth whose
            predicted mask is empty, where there are such examples.
        """
        rows: list[list[int]] = dim_zero_cat(self.rows).tolist()
        if not rows:
            rank_zero_warn("SegmentationIoU has seen no example: its scores are NaN. Is the split empty?", UserWarning)
        ious = [example_iou(intersection, union) for intersection, union, _, _ in rows]
        scores = {"n": float(len(rows)), "giou": giou(ious)}
        scores["ciou"] = ciou([row[0] for row in rows], [row[1] for row in rows])
        scores |= {f"precision@{threshold:g}": precision_at(ious, threshold) for threshold in self.thresholds}
        if empty := [union == 0 for _, union, wanted, _ in rows if wanted == 0]:
            scores["none_accuracy"] = sum(empty) / len(empty)
        if self.per_kind:
            scores |= self._by_kind(ious, [length for _, _, _, length in rows])
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in scores.items()}

    def _by_kind(self, ious: Sequence[float], lengths: Sequence[int]) -> dict[str, float]:
        text = bytes(dim_zero_cat(self.names).tolist())
        groups: dict[str, list[float]] = defaultdict(list)
        start = 0
        for iou, length in zip(ious, lengths, strict=True):
            groups[text[start : start + length].decode()].append(iou)
            start += length
        return {f"giou/{kind}": giou(groups[kind]) for kind in sorted(groups) if kind}
