"""Reward for the mask that a completion leads to (paper section 3, rewards)."""

from __future__ import annotations

from torch import Tensor

from coprs_lightning.losses.segmentation import resize_target
from coprs_lightning.rl.rewards.base import Reward, RewardInputs


class MaskReward(Reward):
    """Weighted sum of soft IoU, soft Dice and hard IoU between predicted probabilities and ground truth.

    Taken on the mask's own grid, to which the ground truth is resized; padding counts as background. The soft scores
    take probabilities p and soft ground truth t as they are: ``Σpt / Σ(p + t − pt)`` and ``2·Σpt / Σ(p + t)``; the hard
    one cuts p at ``threshold`` and t at 0.5. An empty prediction for an empty target scores 1; a completion without a
    concentration token has no mask and scores 0, whatever the target.

    Args:
        soft_iou: weight of the soft IoU.
        soft_dice: weight of the soft Dice score.
        hard_iou: weight of the hard IoU.
        threshold: probability from which a pixel counts as marked.

    Raises:
        ValueError: for weights that are negative or all 0, or a threshold outside (0, 1).
    """

    eps = 1e-6
    """Pixels added above and below the bar of a soft score: an empty mask for an empty target gives 1, not 0 / 0."""

    def __init__(
        self, *, soft_iou: float = 0.5, soft_dice: float = 0.2, hard_iou: float = 0.3, threshold: float = 0.5
    ) -> None:
        weights = (soft_iou, soft_dice, hard_iou)
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(
                f"MaskReward.soft_iou, soft_dice and hard_iou are {soft_iou}, {soft_dice} and {hard_iou}: they must be "
                "≥ 0 and not all 0, else better masks would earn nothing or less."
            )
        if not 0 < threshold < 1:
            raise ValueError(
                f"MaskReward.threshold must lie in (0, 1), got {threshold}: it cuts probabilities, not logits."
            )
        self.soft_iou = soft_iou
        self.soft_dice = soft_dice
        self.hard_iou = hard_iou
        self.threshold = threshold

    @property
    def range(self) -> tuple[float, float]:
        """See :attr:`Reward.range`."""
        return 0.0, self.soft_iou + self.soft_dice + self.hard_iou

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """See :meth:`Reward.__call__`."""
        height, width = inputs.masks.shape[-2:]
        predicted = inputs.masks.float()
        target = resize_target(inputs.targets[:, None].float(), (height, width))[:, 0]
        marked, wanted = predicted >= self.threshold, target >= 0.5
        overlap, both = _pixels(predicted * target), _pixels((marked & wanted).float())
        total = _pixels(predicted) + _pixels(target)
        union, either = total - overlap, _pixels((marked | wanted).float())
        scores = (
            self.soft_iou * (overlap + self.eps) / (union + self.eps)
            + self.soft_dice * (2 * overlap + self.eps) / (total + self.eps)
            + self.hard_iou * (both + self.eps) / (either + self.eps)
        )
        return scores.masked_fill(~inputs.present, 0.0).detach()


def _pixels(values: Tensor) -> Tensor:
    """(N, H, W) → (N,) sums."""
    return values.flatten(1).sum(1)
