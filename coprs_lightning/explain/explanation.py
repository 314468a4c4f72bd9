"""What an explanation holds: one answer taken apart, and what it would have been otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from coprs_lightning.explain.heatmaps import Levels
from coprs_lightning.explain.words import Word
from coprs_lightning.metrics.iou import example_iou, intersection_and_union

WITHOUT_THOUGHT = "without the thought"
OTHER_THOUGHT = "with another thought"
BOX = "with a box as the heatmap"
GIVEN = "with the given heatmap"
TARGET = "with the target as the heatmap"
"""What a :class:`Reading` changes."""


@dataclass
class Reading:
    """One heatmap and the mask that the decoder makes of it; arrays have the image's size (H, W).

    Attributes:
        name: what was changed, in words.
        completion: the text that the heatmap comes from; ``None`` where the heatmap was given.
        thought: the thought in it.
        present: there is a heatmap; ``False`` without a concentration token.
        heatmap: float32 in [0, 1], the union over the objects.
        before: bool, the heatmap thresholded at 0.5: the mask if there were no decoder.
        mask: bool, the decoder's.
        mask_probability: float32 in [0, 1].
        objects: heatmaps that count; 0 says that nothing fits.
        iou: of the mask with that of the answer as it is; ``None`` for this one itself.
        iou_target: of the mask with the target; ``None`` without one.
        before_iou_target: of ``before`` with the target, likewise.
        inside_target: share of the heatmap's probability in the target, likewise; ``None`` for an empty target too.
    """

    name: str
    completion: str | None
    thought: str | None
    present: bool
    heatmap: np.ndarray
    before: np.ndarray
    mask: np.ndarray
    mask_probability: np.ndarray
    objects: int
    iou: float | None = None
    iou_target: float | None = None
    before_iou_target: float | None = None
    inside_target: float | None = None

    @property
    def decoder_iou(self) -> float:
        """IoU of the masks before and after the decoder: 1 where it changed nothing."""
        return mask_iou(self.before, self.mask)


@dataclass(frozen=True)
class HeadMap:
    """One of :meth:`HeatmapHead.maps`.

    Attributes:
        name: as the head calls it.
        slot: number of the concentration token, from 1.
        values: (H, W) float32, in the head's unit.
    """

    name: str
    slot: int
    values: np.ndarray


@dataclass
class Explanation:
    """What :func:`~coprs_lightning.explain.explaining.explain` found.

    Attributes:
        question: what was asked.
        image: (H, W, 3) uint8 RGB.
        original: the answer as it is.
        counterfactuals: what it would have been otherwise.
        words: tokens of the completion.
        prompt: tokens of the prompt, without the image's.
        head_maps: what the heatmap head saw, of every slot that counts.
        heatmap_logits: (n, H, W) float32, the heatmaps that count, for editing.
        heatmap_gradient: (H, W) float32: where more heatmap would bring the mask nearer to the region (above 0) or
            away from it (below); ``None`` without a heatmap.
        soft_iou: of the mask's probabilities with the region, to which the gradient belongs.
        region: what the gradients are about: ``target``, ``mask``, ``heatmap``, or ``None`` where there is no region.
        region_share: share of the heatmap's probability inside the region.
        levels: logits of boxes and drawings.
        target: (H, W) bool, or ``None``.
        truncated: the length limit cut the completion.
        num_tokens: concentration tokens in the completion.
        num_slots: K, those that the model reads.
        has_decoder: the model has a decoder stage.
        findings: what the numbers say, in sentences.
    """

    question: str
    image: np.ndarray
    original: Reading
    counterfactuals: list[Reading]
    words: list[Word]
    prompt: list[Word]
    head_maps: list[HeadMap]
    heatmap_logits: np.ndarray
    heatmap_gradient: np.ndarray | None
    soft_iou: float | None
    region: str | None
    region_share: float | None
    levels: Levels
    target: np.ndarray | None
    truncated: bool
    num_tokens: int
    num_slots: int
    has_decoder: bool = True
    findings: list[str] = field(default_factory=list)


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two masks (H, W) bool; 1 where both are empty."""
    common, union = intersection_and_union(torch.from_numpy(first), torch.from_numpy(second))
    return example_iou(int(common), int(union))
