"""Why a mask is as it is: thought, heatmap and decoder of one answer, and what others would give."""

from coprs_lightning.explain.case import Case, View
from coprs_lightning.explain.explaining import explain
from coprs_lightning.explain.explanation import Explanation, Reading
from coprs_lightning.explain.gradients import (
    heatmap_gradient,
    left_out,
    optimise_heatmap,
    region_on_grid,
    soft_iou,
    word_gradient,
)
from coprs_lightning.explain.heatmaps import Levels, box_heatmap, mask_heatmap, read_heatmap, segment_with_heatmap
from coprs_lightning.explain.words import Word
from coprs_lightning.explain.writing import write

__all__ = [
    "Case",
    "Explanation",
    "Levels",
    "Reading",
    "View",
    "Word",
    "box_heatmap",
    "explain",
    "heatmap_gradient",
    "left_out",
    "mask_heatmap",
    "optimise_heatmap",
    "read_heatmap",
    "region_on_grid",
    "segment_with_heatmap",
    "soft_iou",
    "word_gradient",
    "write",
]
