"""Metrics of reasoning segmentation: pure functions and the torchmetrics classes around them."""

from coprs_lightning.metrics.answers import Answer, answers
from coprs_lightning.metrics.bootstrap import Bootstrap
from coprs_lightning.metrics.boundary import BoundaryIoU, boundary_counts
from coprs_lightning.metrics.buckets import (
    BucketIoU,
    ByDistractors,
    ByKind,
    ByMaskShare,
    ByMaskSize,
    ByObjects,
    ByTable,
    Grouping,
)
from coprs_lightning.metrics.completions import CompletionRates
from coprs_lightning.metrics.concentration import HeatmapConcentration, concentration
from coprs_lightning.metrics.iou import SegmentationIoU, intersection_and_union
from coprs_lightning.metrics.no_target import NoTargetScores
from coprs_lightning.metrics.objects import ObjectCounts
from coprs_lightning.metrics.per_example import example_scores
from coprs_lightning.metrics.ratio import Ratio
from coprs_lightning.metrics.table import ExampleMetric

__all__ = [
    "Answer",
    "Bootstrap",
    "BoundaryIoU",
    "BucketIoU",
    "ByDistractors",
    "ByKind",
    "ByMaskShare",
    "ByMaskSize",
    "ByObjects",
    "ByTable",
    "CompletionRates",
    "ExampleMetric",
    "Grouping",
    "HeatmapConcentration",
    "NoTargetScores",
    "ObjectCounts",
    "Ratio",
    "SegmentationIoU",
    "answers",
    "boundary_counts",
    "concentration",
    "example_scores",
    "intersection_and_union",
]
