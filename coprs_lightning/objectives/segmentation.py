"""The segmentation loss of an objective: which coefficients when, and over which completions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coprs_lightning.geometry import valid_mask
from coprs_lightning.losses.matching import (
    DEFAULT_MATCHING,
    MatchingOptions,
    assign,
    assignment_cost,
    confidence_loss,
    merge_surplus,
)
from coprs_lightning.losses.segmentation import SegmentationWeights, segmentation_loss
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput


@dataclass(frozen=True)
class SegmentationSchedule:
    """Coefficients that may switch once, as in the released training scripts.

    Attributes:
        first: coefficients from the start.
        later: coefficients from ``switch_step`` on, or ``None``.
        switch_step: optimizer step of the switch; -1 for never.

    Raises:
        ValueError: for a switch to nothing.
    """

    first: SegmentationWeights
    later: SegmentationWeights | None
    switch_step: int

    def __post_init__(self) -> None:
        if self.switch_step >= 0 and self.later is None:
            raise ValueError(
                f"objective.switch_step is {self.switch_step} but objective.later_segmentation is null: nothing would "
                "switch. Give the second set of coefficients, or switch_step: -1."
            )

    def at(self, step: int) -> SegmentationWeights:
        """The coefficients in force at an optimizer step."""
        if self.later is not None and 0 <= self.switch_step <= step:
            return self.later
        return self.first


def segmentation_rows(
    output: SegmentationOutput,
    batch: SegmentationBatch,
    weights: SegmentationWeights,
    frame: int,
    ignore_padding: bool,
    matching: MatchingOptions = DEFAULT_MATCHING,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Segmentation loss of every completion.

    Without confidences (the paper's one token) the answer is held against the example's mask. With them, every object
    of the example is assigned to a slot that is held against it, and every slot's confidence learns whether there is
    one; the masks of slots without an object are not trained.

    Args:
        output: B·G rows, the G of an example beside each other.
        batch: the B examples.
        weights: coefficients.
        frame: side S of the frames.
        ignore_padding: leave the padding out.
        matching: how objects are assigned to slots.

    Returns:
        (B·G,) losses and what is to be logged of them, (B·G,) each, by key: their unweighted parts and, with
        confidences, how the assignment went. 0 in rows without a concentration token, which have no heatmap that could
        be wrong. The losses keep the graph even where no row has one.
    """
    group = len(output.present) // len(batch)
    sizes = batch.valid_sizes.repeat_interleave(group, 0) if ignore_padding else None
    if output.confidence_logits is None:
        return _union_rows(output, batch.masks.repeat_interleave(group, 0), weights, frame, sizes)
    objects = [batch.masks[i] if batch.instances is None else batch.instances[i] for i in range(len(batch))]
    repeated = [objects[row // group] for row in range(len(output.present))]
    return _matched_rows(output, output.confidence_logits, repeated, weights, frame, sizes, matching)


def _union_rows(
    output: SegmentationOutput, targets: Tensor, weights: SegmentationWeights, frame: int, sizes: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The union of a row's slots against the mask of its example."""
    rows = output.present.any(1)
    heat, mask = output.heatmap_logits[rows].amax(1, keepdim=True), output.mask_logits[rows].amax(1, keepdim=True)
    if not rows.any():
        nothing = _connected_zero(output)
        zeros = torch.zeros(rows.shape, dtype=nothing.dtype, device=rows.device) + nothing
        return zeros, {f"loss/{name}": zeros.detach() for name in SegmentationWeights.__dataclass_fields__}
    valid = None if sizes is None else _valid(sizes[rows], heat, mask, frame)
    losses, parts = segmentation_loss(heat, mask, targets[rows], weights, valid)

    def spread(values: Tensor) -> Tensor:
        return torch.zeros(rows.shape, dtype=values.dtype, device=values.device).masked_scatter(rows, values)

    return spread(losses), {f"loss/{name}": spread(value) for name, value in parts.items()}


def _matched_rows(
    output: SegmentationOutput,
    confidence: Tensor,
    objects: list[Tensor],
    weights: SegmentationWeights,
    frame: int,
    sizes: Tensor | None,
    matching: MatchingOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each object (n_i, h, w) of a row against the slot that it is assigned to; every slot's confidence."""
    present = output.present
    found = _assignments(output, confidence, objects, frame, sizes, matching)
    matched = torch.zeros_like(present)
    matched[found.rows, found.slots] = True
    doubts = confidence_loss(confidence, matched, present, matching.unmatched)
    right = ((confidence > 0) == matched) & present
    facts = {
        "loss/confidence": doubts.detach(),
        "several/confidence_accuracy": right.sum(1) / present.sum(1).clamp_min(1),
        "several/merged_fraction": found.merged,
    }
    losses = matching.confidence * doubts
    if not len(found.rows):
        # nothing fits anywhere: every process of a distributed run still has to reduce the same gradients
        zeros = torch.zeros_like(losses).detach()
        parts = {f"loss/{name}": zeros for name in SegmentationWeights.__dataclass_fields__}
        return losses + _connected_zero(output), {**parts, **facts}
    heat = output.heatmap_logits[found.rows, found.slots][:, None]
    mask = output.mask_logits[found.rows, found.slots][:, None]
    valid = None if sizes is None else _valid(sizes[found.rows], heat, mask, frame)
    values, parts = segmentation_loss(heat, mask, found.targets[:, None], weights, valid)
    share = 1 / matched.sum(1)[found.rows]

    def spread(values: Tensor) -> Tensor:
        """Mean over the objects of a row, 0 in rows without one."""
        return torch.zeros(len(present), dtype=values.dtype, device=values.device).index_add(
            0, found.rows, values * share
        )

    return losses + spread(values), {**{f"loss/{name}": spread(value) for name, value in parts.items()}, **facts}


@dataclass(frozen=True)
class _Assignments:
    """Which slot answers for which object, over all rows of a pass.

    Attributes:
        rows: (M,) int64.
        slots: (M,) int64.
        targets: (M, h, w) float32, the objects.
        merged: (B·G,) float32, 1 where a row had more objects than slots, so that some were made one.
    """

    rows: Tensor
    slots: Tensor
    targets: Tensor
    merged: Tensor


def _assignments(
    output: SegmentationOutput,
    confidence: Tensor,
    objects: list[Tensor],
    frame: int,
    sizes: Tensor | None,
    matching: MatchingOptions,
) -> _Assignments:
    present, logits = output.present, output.mask_logits.detach()
    rows: list[int] = []
    slots: list[Tensor] = []
    targets: list[Tensor] = []
    merged = [0.0] * len(objects)
    for row, here in enumerate(present.cpu()):
        open_slots = here.nonzero()[:, 0]
        if not len(open_slots) or not len(objects[row]):
            continue
        wanted = merge_surplus(objects[row], len(open_slots))
        merged[row] = float(len(wanted) < len(objects[row]))
        chosen = open_slots.to(logits.device)
        masks = logits[row, chosen]
        valid = (
            None if sizes is None else valid_mask(sizes[row : row + 1], (masks.shape[-2], masks.shape[-1]), frame)[0]
        )
        own, which = assign(assignment_cost(masks, confidence.detach()[row, chosen], wanted, matching, valid))
        rows += [row] * len(own)
        slots.append(open_slots[own])
        targets.append(wanted.float()[which.to(wanted.device)])
    device = present.device
    return _Assignments(
        rows=torch.tensor(rows, dtype=torch.int64, device=device),
        slots=torch.cat(slots).to(device) if slots else torch.zeros(0, dtype=torch.int64, device=device),
        targets=torch.cat(targets) if targets else torch.zeros(0, 1, 1, device=device),
        merged=torch.tensor(merged, device=device),
    )


def _valid(sizes: Tensor, heat: Tensor, mask: Tensor, frame: int) -> tuple[Tensor, Tensor]:
    """Which cells of heatmaps and masks are image."""
    return (
        valid_mask(sizes, (heat.shape[-2], heat.shape[-1]), frame),
        valid_mask(sizes, (mask.shape[-2], mask.shape[-1]), frame),
    )


def _connected_zero(output: SegmentationOutput) -> Tensor:
    """A zero whose graph reaches every part."""
    # times zero before the sum, since a sum may overflow in half precision; hidden states of padding may be NaN
    hidden = output.policy.hidden[output.policy.attention_mask]
    return (output.mask_logits * 0.0).sum() + (hidden * 0.0).sum()
