"""Boundary IoU (Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation").

Mask IoU of a large object hardly sees its outline; this one looks at nothing else. Every mask is reduced to the pixels
within d of its own border, and IoU is taken of these.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.metrics.answers import Answer
from coprs_lightning.metrics.bootstrap import Bootstrap
from coprs_lightning.metrics.iou import example_ious, intersection_and_union
from coprs_lightning.metrics.ratio import Ratio
from coprs_lightning.metrics.table import ExampleMetric

PUBLISHED_DILATION = 0.02
"""Boundary width of the published metric, as a share of the image's diagonal."""


def boundary_width(height: int, width: int, dilation: float = PUBLISHED_DILATION) -> int:
    """Boundary width d in pixels of an image: ``dilation`` times its diagonal, rounded, at least 1."""
    return max(1, round(dilation * math.hypot(height, width)))


def inner_boundary(mask: Tensor, width: int) -> Tensor:
    """Pixels of a mask that a step of at most ``width`` pixels, along either axis and both, leads out of.

    What lies outside the image is outside the mask, so that a mask cut off by the image has a border there.

    Args:
        mask: (H, W) bool.
        width: d ≥ 1, pixels.

    Returns:
        (H, W) bool.
    """
    inside = mask
    for _ in range(2):
        # twice along the last axis, transposed between: a pixel is deep inside where a run of 2d + 1 is all mask
        sums = F.pad(inside.to(torch.int32), (width + 1, width)).cumsum(-1, dtype=torch.int32)
        inside = (sums[:, 2 * width + 1 :] - sums[:, : -(2 * width + 1)] == 2 * width + 1).mT
    return mask & ~inside


def boundary_counts(
    pred: Tensor, target: Tensor, ignore: Tensor | None = None, *, dilation: float = PUBLISHED_DILATION
) -> tuple[Tensor, Tensor]:
    """Intersection and union of the boundaries of two masks.

    Args:
        pred: (H, W) bool, predicted mask.
        target: (H, W) bool, ground truth.
        ignore: (H, W) bool, pixels that count neither for nor against; boundaries are found before they are left out.
        dilation: boundary width as a share of the image's diagonal.

    Returns:
        two int64 scalars, pixels.

    Raises:
        ValueError: for masks of another dtype than bool, or of different sizes.
    """
    intersection_and_union(pred, target, ignore)
    width = boundary_width(int(target.shape[0]), int(target.shape[1]), dilation)
    return intersection_and_union(inner_boundary(pred, width), inner_boundary(target, width), ignore)


class BoundaryIoU(ExampleMetric):
    """Mean boundary IoU of the masks; 1 where both masks are empty.

    Args:
        dilation: boundary width as a share of the image's diagonal; the published metric takes 0.02 (16 pixels of an
            image of 640 × 480).
        bootstrap: how to find intervals; ``None`` for none.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for a dilation outside (0, 1).
    """

    higher_is_better = True

    def __init__(
        self, *, dilation: float = PUBLISHED_DILATION, bootstrap: Bootstrap | None = None, **kwargs: Any
    ) -> None:
        super().__init__(width=2, bootstrap=bootstrap, **kwargs)
        if not 0 < dilation < 1:
            raise ValueError(
                f"BoundaryIoU.dilation must lie in (0, 1), got {dilation}: it is a share of the image's diagonal, not "
                "a number of pixels."
            )
        self.dilation = dilation

    def update(self, pred: Tensor, target: Tensor, ignore: Tensor | None = None) -> None:
        """Add one example.

        Args:
            pred: (H, W) bool, predicted mask.
            target: (H, W) bool, ground truth.
            ignore: (H, W) bool, pixels that count neither for nor against.
        """
        self.keep(torch.stack(boundary_counts(pred, target, ignore, dilation=self.dilation)))

    def take(self, answer: Answer) -> None:
        """See :meth:`ExampleMetric.take`: the mask."""
        self.update(answer.marked, answer.target, answer.ignore)

    def ratios(self) -> dict[str, Ratio]:
        """``boundary_iou``; NaN without examples."""
        intersections, unions = self.table().T
        return {"boundary_iou": Ratio.mean(example_ious(intersections, unions))}
