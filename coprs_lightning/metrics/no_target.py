"""Questions that nothing answers: did the model say so? (gRefCOCO; Liu et al. 2023, "GRES")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from coprs_lightning.metrics.answers import Answer
from coprs_lightning.metrics.bootstrap import Bootstrap
from coprs_lightning.metrics.iou import ciou_ratio, example_ious, mask_counts
from coprs_lightning.metrics.ratio import Ratio
from coprs_lightning.metrics.table import ExampleMetric

GRES_THRESHOLDS = (0.7, 0.8, 0.9)


class NoTargetScores(ExampleMetric):
    """N-acc, T-acc, and the two ways in which publications score splits with no-target questions.

    - ``n_acc``: share of questions without a target that are answered with an empty mask, TP / (TP + FN) where "nothing
      fits" is positive; ``t_acc``: share of questions with a target that are answered with a mask, TN / (TN + FP).
      (The released gRefCOCO evaluation adds 1 below each bar and, as T-acc, prints TP / (TP + FP); these are the
      paper's definitions.)
    - ``gres_giou``, ``gres_ciou``, ``gres_precision@<t>``: as on gRefCOCO. A question without a target counts IoU 1 if
      the answer is empty and 0 otherwise; its pixels, if any, join the unions of cIoU; precision is over questions with
      a target. LISA's gIoU and cIoU count the same way, so that with ``min_pixels: 1`` they equal ``giou`` and
      ``ciou``.
    - ``target_giou``, ``target_ciou``: as on RefCOCO, whose questions all have a target; the others are left out.

    All of them are absent where every question has a target.

    Args:
        min_pixels: an answer of fewer pixels counts as empty, everywhere in these scores: a model without an output for
            "nothing fits" may leave specks, and 50 is customary for such models on gRefCOCO. 1 takes masks as they are.
        thresholds: IoUs at which ``gres_precision`` is reported.
        bootstrap: how to find intervals; ``None`` for none.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for ``min_pixels`` below 1 or a threshold outside (0, 1].
    """

    higher_is_better = True

    def __init__(
        self,
        *,
        min_pixels: int = 1,
        thresholds: Sequence[float] = GRES_THRESHOLDS,
        bootstrap: Bootstrap | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(width=3, bootstrap=bootstrap, **kwargs)
        if min_pixels < 1:
            raise ValueError(
                f"NoTargetScores.min_pixels must be ≥ 1, got {min_pixels}: with 0 no answer would ever be empty."
            )
        for threshold in thresholds:
            if not 0 < threshold <= 1:
                raise ValueError(
                    f"NoTargetScores.thresholds must lie in (0, 1], got {threshold}: an IoU is a share, 0.5 means 50 %."
                )
        self.min_pixels = min_pixels
        self.thresholds = tuple(thresholds)

    def update(self, pred: Tensor, target: Tensor, ignore: Tensor | None = None) -> None:
        """Add one example.

        Args:
            pred: (H, W) bool, predicted mask.
            target: (H, W) bool, ground truth; empty for a question without a target.
            ignore: (H, W) bool, pixels that count neither for nor against.
        """
        self.keep(mask_counts(pred, target, ignore))

    def take(self, answer: Answer) -> None:
        """See :meth:`ExampleMetric.take`: the mask."""
        self.update(answer.marked, answer.target, answer.ignore)

    def ratios(self) -> dict[str, Ratio]:
        """See the class; nothing where every question has a target."""
        return no_target_ratios(*self.table().T, min_pixels=self.min_pixels, thresholds=self.thresholds)


def no_target_ratios(
    intersections: np.ndarray,
    unions: np.ndarray,
    wanted: np.ndarray,
    *,
    min_pixels: int = 1,
    thresholds: Sequence[float] = GRES_THRESHOLDS,
) -> dict[str, Ratio]:
    """The scores of :class:`NoTargetScores` from (n,) numbers of pixels; nothing where every question has a target.

    Args:
        intersections: shared by mask and ground truth.
        unions: in either.
        wanted: in the ground truth.
        min_pixels: see the class.
        thresholds: see the class.
    """
    absent = wanted == 0
    if not absent.any():
        return {}
    silent = intersections + unions - wanted < min_pixels
    intersections, unions = np.where(silent, 0, intersections), np.where(silent, wanted, unions)
    ious = example_ious(intersections, unions)
    found = {
        "n_acc": Ratio.mean(silent, among=absent),
        "gres_giou": Ratio.mean(ious),
        "gres_ciou": ciou_ratio(intersections, unions),
    }
    if not (there := ~absent).any():
        return found
    found["t_acc"] = Ratio.mean(~silent, among=there)
    found |= {f"gres_precision@{t:g}": Ratio.mean(ious >= t, among=there) for t in thresholds}
    found["target_giou"] = Ratio.mean(ious, among=there)
    found["target_ciou"] = ciou_ratio(np.where(there, intersections, 0), np.where(there, unions, 0))
    return found
