"""Metrics of reasoning segmentation: pure functions and the torchmetrics classes around them."""

from coprs_lightning.metrics.completions import CompletionRates
from coprs_lightning.metrics.iou import SegmentationIoU, intersection_and_union
from coprs_lightning.metrics.objects import ObjectCounts

__all__ = ["CompletionRates", "ObjectCounts", "SegmentationIoU", "intersection_and_union"]
