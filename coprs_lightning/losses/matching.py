"""Which slot answers for which object, and what a slot's confidence should have been.

Bipartite matching as in DETR (Carion et al. 2020, section 3.1) with the mask costs of MaskFormer (Cheng et al. 2021,
section 3.2): Dice, focal, and the confidence as a probability, so that it is commensurable with them. Everything here
looks at one example at a time, so that a result does not depend on how a batch is split.

Shape legend: K slots of an example, n its objects, (H, W) any grid over the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.losses.segmentation import resize_target

_GRID = 64
"""Side of the grid on which costs are compared; finer ones cost more and hardly ever change who is nearest."""


@dataclass(frozen=True)
class MatchingOptions:
    """How objects are assigned to slots, and how the slots' confidence is trained.

    Attributes:
        cost_dice: weight of the Dice loss in the cost of an assignment.
        cost_focal: weight of the focal loss in it.
        cost_confidence: weight of the probability that the slot stands for an object; it makes the same slots step
            forward every time.
        confidence: weight of the confidence's cross-entropy in the loss, beside the segmentation loss.
        unmatched: weight of slots without an object in that cross-entropy (DETR has 0.1, for a hundred slots).

    Raises:
        ValueError: for a negative weight, or costs that are all 0.
    """

    cost_dice: float = 3.0
    cost_focal: float = 10.0
    cost_confidence: float = 1.0
    confidence: float = 1.0
    unmatched: float = 1.0

    def __post_init__(self) -> None:
        weights = vars(self)
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"objective.matching.{name} must be ≥ 0, got {weight}.")
        if self.cost_dice == self.cost_focal == 0:
            raise ValueError(
                "objective.matching.cost_dice and cost_focal are both 0: objects would be assigned to slots without a "
                "look at their masks."
            )


DEFAULT_MATCHING = MatchingOptions()
"""Mask costs weighed like the paper's loss."""


def merge_surplus(objects: Tensor, most: int) -> Tensor:
    """Objects (n, H, W) for ``most`` slots: where there are more, the largest stay, and all others become one.

    With a single slot that is their union, the mask that a model without several slots learns. Nothing is left out, so
    the union of the answer can still be right.
    """
    if len(objects) <= most:
        return objects
    order = objects.flatten(1).float().sum(1).argsort(descending=True, stable=True)
    rest = objects[order[most - 1 :]].float().sum(0, keepdim=True).clamp(max=1).to(objects.dtype)
    return torch.cat([objects[order[: most - 1]], rest])


@torch.no_grad()
def assignment_cost(
    mask_logits: Tensor,
    confidence_logits: Tensor,
    objects: Tensor,
    options: MatchingOptions,
    valid: Tensor | None = None,
) -> Tensor:
    """What every slot would cost as the answer for every object.

    Args:
        mask_logits: (K, H, W).
        confidence_logits: (K,).
        objects: (n, h, w) in [0, 1] over the same frame.
        options: weights.
        valid: (1, H, W) bool to leave padding out.

    Returns:
        (K, n) float32.
    """
    logits = mask_logits.float()
    size = (min(_GRID, logits.shape[-2]), min(_GRID, logits.shape[-1]))
    weight = torch.ones(size, device=logits.device).flatten()
    if valid is not None:
        weight = resize_target(valid[None].float(), size).flatten()
    logits = F.interpolate(logits[None], size, mode="area")[0].flatten(1)
    truth = resize_target(objects[:, None].float(), size).flatten(1).clamp(0, 1)
    probability = logits.sigmoid()
    overlap = (probability * weight) @ truth.T
    total = (probability * weight).sum(1)[:, None] + (truth * weight).sum(1)[None]
    dice = 1 - (2 * overlap + 1) / (total + 1)
    inside = 0.25 * (1 - probability) ** 2 * F.softplus(-logits) * weight
    outside = 0.75 * probability**2 * F.softplus(logits) * weight
    focal = (inside @ truth.T + outside @ (1 - truth).T) / weight.sum().clamp_min(1)
    confident = confidence_logits.float().sigmoid()[:, None]
    return options.cost_dice * dice + options.cost_focal * focal - options.cost_confidence * confident


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one assignment (Hungarian method).

    Args:
        cost: (K, n) with n ≤ K.

    Returns:
        (n,) int64 slots in ascending order, and the object (n,) of each, on the CPU.
    """
    from scipy.optimize import linear_sum_assignment

    # a loss that is not finite is reported where it is minimised; here it only must not be an error
    finite = torch.nan_to_num(cost.double().cpu(), nan=1e6, posinf=1e6, neginf=-1e6)
    slots, objects = linear_sum_assignment(finite.numpy())
    return torch.as_tensor(slots, dtype=torch.int64), torch.as_tensor(objects, dtype=torch.int64)


def confidence_loss(logits: Tensor, matched: Tensor, present: Tensor, unmatched: float) -> Tensor:
    """Cross-entropy of the confidences, mean over the slots of an example.

    Args:
        logits: (N, K).
        matched: (N, K) bool, the slot answers for an object.
        present: (N, K) bool; other slots do not count.
        unmatched: weight of slots that answer for none.

    Returns:
        (N,), 0 where no slot is present.
    """
    losses = F.binary_cross_entropy_with_logits(logits.float(), matched.float(), reduction="none")
    weights = torch.where(matched, 1.0, unmatched) * present
    return (losses * weights).sum(1) / weights.sum(1).clamp_min(1e-6)
