"""One answer beside its ground truth, at the resolution of its image: what every metric takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from coprs_lightning.geometry import restore
from coprs_lightning.structures import SegmentationBatch, SegmentationOutput


@dataclass(frozen=True)
class Answer:
    """Mask and heatmap that answer one question, and what is right; (H, W) is the image's own size in pixels.

    Attributes:
        mask_logits: (H, W) float; the mask is ``> 0`` (paper section 3).
        heatmap_logits: (H, W) float, likewise; ``NO_PRIOR_LOGIT`` everywhere where there is no heatmap.
        target: (H, W) bool, the ground truth; empty where nothing fits the question.
        ignore: (H, W) bool, pixels that count neither for nor against, or ``None``.
        key: unique name of the example inside its split.
        question: what was asked.
        kind: kind of question, ``""`` when unknown.
        objects: objects that the ground truth consists of.
        distractors: other objects that could be taken for it, or ``None`` when unknown.
    """

    mask_logits: Tensor
    heatmap_logits: Tensor
    target: Tensor
    ignore: Tensor | None = None
    key: str = ""
    question: str = ""
    kind: str = ""
    objects: int = 1
    distractors: int | None = None

    @cached_property
    def marked(self) -> Tensor:
        """(H, W) bool, the mask."""
        return self.mask_logits > 0

    @cached_property
    def heatmap_marked(self) -> Tensor:
        """(H, W) bool, the heatmap read as a mask."""
        return self.heatmap_logits > 0

    @cached_property
    def counted_target(self) -> Tensor:
        """(H, W) bool, the ground truth without ignored pixels."""
        return self.target if self.ignore is None else self.target & ~self.ignore


def answers(batch: SegmentationBatch, output: SegmentationOutput, frame: int) -> Iterator[Answer]:
    """The answers of a batch, one after the other, so that only one is in memory at full resolution.

    Args:
        batch: B examples with their ground truth.
        output: B rows; several concentration tokens give their union.
        frame: side S of the frames.

    Yields:
        B answers in the batch's order.
    """
    heatmap, mask = output.union()
    for row, (target, ignore) in enumerate(zip(batch.original_masks, batch.original_ignores, strict=True)):
        size = (int(target.shape[0]), int(target.shape[1]))
        valid_height, valid_width = batch.valid_sizes[row].tolist()
        valid = (int(valid_height), int(valid_width))
        yield Answer(
            mask_logits=restore(mask[row], valid, size, frame)[0],
            heatmap_logits=restore(heatmap[row], valid, size, frame)[0],
            target=target,
            ignore=ignore,
            key=batch.keys[row],
            question=batch.questions[row],
            kind=batch.kinds[row],
            objects=_objects(batch, row),
            distractors=None if batch.distractors is None else batch.distractors[row],
        )


def _objects(batch: SegmentationBatch, row: int) -> int:
    instances = None if batch.original_instances is None else batch.original_instances[row]
    return int(batch.original_masks[row].any()) if instances is None else len(instances)
