"""What the callbacks read from an evaluation step: masks at the original resolution, one example at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from coprs_lightning.geometry import restore
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput

if TYPE_CHECKING:
    import lightning.pytorch as pl


def check_step(outputs: Any, pl_module: pl.LightningModule) -> SegmentationOutput:
    """The step's output, which must be a :class:`SegmentationOutput`.

    Raises:
        TypeError: naming the module and what its step returned.
    """
    if not isinstance(outputs, SegmentationOutput):
        raise TypeError(
            f"the evaluation step of {type(pl_module).__name__} returned {type(outputs).__name__}, so there is nothing "
            "to measure or draw. Return the SegmentationOutput of the batch from validation_step and test_step."
        )
    return outputs


def original_logits(logits: Tensor, batch: SegmentationBatch, index: int, frame: int) -> Tensor:
    """Logits of one example at its image's own resolution.

    Args:
        logits: (B, 1, h, w) logits over the frames, of any resolution (:meth:`SegmentationOutput.union`).
        batch: the batch they belong to.
        index: which example.
        frame: side S of the frames.

    Returns:
        (H, W) logits; the mask is ``> 0``.
    """
    height, width = batch.original_masks[index].shape
    valid_height, valid_width = batch.valid_sizes[index].tolist()
    return restore(logits[index], (valid_height, valid_width), (height, width), frame)[0]
