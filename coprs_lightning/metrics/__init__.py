"""Metrics of reasoning segmentation: pure functions and the torchmetrics classes around them."""

from coprs_lightning.metrics.completions import CompletionRates
from coprs_lightning.metrics.iou import SegmentationIoU, intersection_and_union

__all__ = ["CompletionRates", "SegmentationIoU", "intersection_and_union"]
