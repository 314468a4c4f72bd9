"""Scores of a split from the records of its examples, with bootstrap intervals.

Values are exactly rounded sums over examples, and intervals depend on the examples' scores and a seed alone: neither
knows the order of the examples or the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coprs_lightning.evaluation.examples import ExampleRecord
from coprs_lightning.metrics import Bootstrap, Ratio
from coprs_lightning.metrics.buckets import distractor_bucket, size_bucket
from coprs_lightning.metrics.iou import iou_ratios
from coprs_lightning.metrics.no_target import no_target_ratios

_MEANS = ("boundary_iou", "heatmap_inside", "heatmap_entropy", "heatmap_pointing")

_BUCKETS: dict[str, Callable[[ExampleRecord], str]] = {
    "kind": lambda record: record.kind,
    "target size": lambda record: size_bucket(record.scores["target_pixels"]),
    "objects": lambda record: str(record.objects),
    "distractors": lambda record: distractor_bucket(record.distractors),
}
_SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Score:
    """A score and its bootstrap interval; fractions, except for lengths.

    Attributes:
        value: over all examples.
        low: lower end of the 95 % interval; NaN where all examples are of one image.
        high: upper end.
        n: examples that it is about.
    """

    value: float
    low: float
    high: float
    n: int


def ratios(records: Sequence[ExampleRecord]) -> dict[str, Ratio]:
    """Every score by name, in the order of the tables; without those that no example has."""

    def column(name: str) -> np.ndarray:
        return np.array([record.scores[name] for record in records], dtype=np.float64)  # NaN where it is None

    intersections, unions = column("intersection"), column("union")
    heatmap = iou_ratios(column("heatmap_intersection"), column("heatmap_union"), ())
    found = iou_ratios(intersections, unions)
    found |= {f"heatmap_{name}": ratio for name, ratio in heatmap.items()}
    for name in _MEANS:
        if (known := ~np.isnan(values := column(name))).any():
            found[name] = Ratio.mean(np.where(known, values, 0.0), among=known)
    for name in ("well_formed", "truncated", "present", "completion_tokens"):
        found[name] = Ratio.mean([float(getattr(record, name)) for record in records])
    return found | no_target_ratios(intersections, unions, column("target_pixels"))


def summarise(records: Sequence[ExampleRecord], *, seed: int, resamples: int) -> dict[str, Score]:
    """Every score of some examples.

    Args:
        records: the examples.
        seed: of the bootstrap.
        resamples: of the bootstrap; whole images are drawn, since questions about one image are not independent.
    """
    return _scored(ratios(records), records, Bootstrap(resamples, seed)) if records else {}


def buckets(records: Sequence[ExampleRecord], *, seed: int, resamples: int) -> dict[str, dict[str, Any]]:
    """GIoU and cIoU by kind of question, size of the target, number of its objects and of its distractors.

    What puts all examples into one bucket, or into none, is left out.

    Returns:
        ``{"kind": {name: {"n": …, "giou": Score, "ciou": Score}}, …}``.
    """
    found: dict[str, dict[str, Any]] = {}
    for by, bucket in _BUCKETS.items():
        groups: dict[str, list[ExampleRecord]] = {}
        for record in records:
            groups.setdefault(bucket(record), []).append(record)
        if len(groups) < 2:
            continue
        groups.pop("", None)
        found[by] = {}
        for name in sorted(groups, key=lambda one: (_SIZES.index(one) if one in _SIZES else len(one), one)):
            both = {key: ratio for key, ratio in ratios(groups[name]).items() if key in ("giou", "ciou")}
            scores = _scored(both, groups[name], Bootstrap(resamples, seed))
            found[by][name] = {"n": len(groups[name]), **scores}
    return found


def _scored(found: dict[str, Ratio], records: Sequence[ExampleRecord], bootstrap: Bootstrap) -> dict[str, Score]:
    images = [record.image for record in records]
    return {name: Score(ratio.value(), *bootstrap.interval(ratio, images), ratio.n) for name, ratio in found.items()}
