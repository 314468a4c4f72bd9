"""The segmentation loss of an objective: which coefficients when, and over which completions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coprs_lightning.geometry import valid_mask
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
) -> tuple[Tensor, dict[str, Tensor]]:
    """Segmentation loss of every completion.

    Args:
        output: B·G rows, the G of an example beside each other.
        batch: the B examples.
        weights: coefficients.
        frame: side S of the frames.
        ignore_padding: leave the padding out.

    Returns:
        (B·G,) losses and their unweighted parts, (B·G,) each, by name; 0 in rows without a concentration token, which
        have no heatmap that could be wrong. The losses keep the graph even where no row has one.
    """
    group = len(output.present) // len(batch)
    rows = output.present.any(1)
    heat, mask = output.heatmap_logits[rows].amax(1, keepdim=True), output.mask_logits[rows].amax(1, keepdim=True)
    if not rows.any():
        # times zero before the sum, since a sum may overflow in half precision; hidden states of padding may be NaN
        hidden = output.policy.hidden[output.policy.attention_mask]
        nothing = (output.mask_logits * 0.0).sum() + (hidden * 0.0).sum()
        zeros = torch.zeros(rows.shape, dtype=nothing.dtype, device=rows.device) + nothing
        return zeros, {name: zeros.detach() for name in SegmentationWeights.__dataclass_fields__}
    valid = None
    if ignore_padding:
        sizes = batch.valid_sizes.repeat_interleave(group, 0)[rows]
        valid = (
            valid_mask(sizes, (heat.shape[-2], heat.shape[-1]), frame),
            valid_mask(sizes, (mask.shape[-2], mask.shape[-1]), frame),
        )
    targets = batch.masks.repeat_interleave(group, 0)[rows]
    losses, parts = segmentation_loss(heat, mask, targets, weights, valid)

    def spread(values: Tensor) -> Tensor:
        return torch.zeros(rows.shape, dtype=values.dtype, device=values.device).masked_scatter(rows, values)

    return spread(losses), {name: spread(value) for name, value in parts.items()}
