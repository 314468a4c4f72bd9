"""Which examples are easy and which are not: gIoU by size of the target, kind of question or anything else known."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coprs_lightning.metrics.answers import Answer
from coprs_lightning.metrics.bootstrap import Bootstrap
from coprs_lightning.metrics.iou import example_ious, mask_counts
from coprs_lightning.metrics.ratio import Ratio
from coprs_lightning.metrics.table import ExampleMetric

COCO_AREAS = (32**2, 96**2)
"""COCO's limits of small and medium objects, pixels of the image."""

SHARES = (0.01, 0.05, 0.2)

_BETWEEN = "\x1f"  # ASCII's own separator of units


class Grouping(ABC):
    """Puts every example into a bucket.

    Attributes:
        name: what it goes by, part of the logged keys.
    """

    name: str = ""

    @abstractmethod
    def bucket(self, answer: Answer) -> str:
        """The bucket of an example; ``""`` where it is in none."""


class ByMaskSize(Grouping):
    """``small``, ``medium`` or ``large`` target, with COCO's limits: below 32², below 96², and from there on.

    Pixels of the image as it is, ignored ones left out (COCO takes the area of the polygon, usually within 1 %). A
    question without a target is in no bucket.
    """

    name = "size"

    def bucket(self, answer: Answer) -> str:
        """See :meth:`Grouping.bucket`."""
        return size_bucket(int(answer.counted_target.sum()))


class ByMaskShare(Grouping):
    """Share of the image that the target covers: ``0-1_percent``, ``1-5_percent``, ``5-20_percent`` ….

    Other than absolute sizes, it does not depend on the resolution. A question without a target is in no bucket.

    Args:
        limits: rising shares; a bucket takes its lower limit and leaves its upper one to the next.

    Raises:
        ValueError: for limits that do not rise strictly inside (0, 1).
    """

    name = "share"

    def __init__(self, *, limits: Sequence[float] = SHARES) -> None:
        ends = (0.0, *limits, 1.0)
        if any(low >= high for low, high in pairwise(ends)):
            raise ValueError(
                f"ByMaskShare.limits must rise strictly inside (0, 1), got {list(limits)}: they part the shares of the "
                "image that targets cover."
            )
        self.limits = tuple(limits)

    def bucket(self, answer: Answer) -> str:
        """See :meth:`Grouping.bucket`."""
        return share_bucket(int(answer.counted_target.sum()), answer.target.numel(), self.limits)


class ByKind(Grouping):
    """Kind of question, where the data names it."""

    name = "kind"

    def bucket(self, answer: Answer) -> str:
        """See :meth:`Grouping.bucket`."""
        return answer.kind


class ByObjects(Grouping):
    """Number of objects that the target consists of: ``0``, ``1``, ``2`` …."""

    name = "objects"

    def bucket(self, answer: Answer) -> str:
        """See :meth:`Grouping.bucket`."""
        return str(answer.objects)


class ByDistractors(Grouping):
    """Number of objects that could be taken for the target: ``0`` … ``4`` and ``5_or_more``; no bucket when unknown."""

    name = "distractors"

    def bucket(self, answer: Answer) -> str:
        """See :meth:`Grouping.bucket`."""
        return distractor_bucket(answer.distractors)


class ByTable(Grouping):
    """What a file says of each example: a difficulty, a source, who annotated it.

    Args:
        name: what it goes by (``difficulty``).
        file: JSON object, key of the example → text or number. Examples that it does not name are in no bucket.

    Raises:
        FileNotFoundError: where the file is not there.
        ValueError: for a file that holds something else.
    """

    def __init__(self, *, name: str, file: str) -> None:
        self.name = name
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(
                f"ByTable.file {path} is not there, so examples cannot be put into buckets by {name!r}."
            )
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or any(isinstance(value, dict | list) for value in content.values()):
            raise ValueError(
                f"ByTable.file {path} must hold one JSON object, from keys of examples to texts or numbers."
            )
        self.table = {key: str(value) for key, value in content.items() if value is not None}

    def bucket(self, answer: Answer) -> str:
        """See :meth:`Grouping.bucket`."""
        return self.table.get(answer.key, "")


def size_bucket(pixels: int) -> str:
    """``small``, ``medium`` or ``large`` by COCO's limits; ``""`` for 0 pixels."""
    if not pixels:
        return ""
    return ("small", "medium", "large")[sum(pixels >= limit for limit in COCO_AREAS)]


def distractor_bucket(distractors: int | None) -> str:
    """``0`` … ``4`` or ``5_or_more``; ``""`` for ``None``."""
    if distractors is None:
        return ""
    return str(distractors) if distractors < 5 else "5_or_more"


def share_bucket(pixels: int, image_pixels: int, limits: Sequence[float] = SHARES) -> str:
    """Bucket of a target that covers ``pixels`` of ``image_pixels``, see :class:`ByMaskShare`; ``""`` for 0 pixels."""
    if not pixels:
        return ""
    ends = (0.0, *limits, 1.0)
    place = sum(pixels >= limit * image_pixels for limit in limits)
    return f"{100 * ends[place]:g}-{100 * ends[place + 1]:g}_percent"


class BucketIoU(ExampleMetric):
    """gIoU of every bucket of every grouping, and how many examples are in it.

    Args:
        by: the groupings; ``null`` is :class:`ByMaskSize` alone.
        bootstrap: how to find intervals; ``None`` for none.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for two groupings of one name.
    """

    higher_is_better = True

    def __init__(self, *, by: list[Grouping] | None = None, bootstrap: Bootstrap | None = None, **kwargs: Any) -> None:
        super().__init__(width=3, bootstrap=bootstrap, **kwargs)
        self.by = [ByMaskSize()] if by is None else list(by)
        names = [grouping.name for grouping in self.by]
        if len(set(names)) < len(names):
            raise ValueError(f"BucketIoU.by has groupings {names}: each name can be logged once.")

    def update(self, pred: Tensor, target: Tensor, ignore: Tensor | None, buckets: Sequence[str]) -> None:
        """Add one example.

        Args:
            pred: (H, W) bool, predicted mask.
            target: (H, W) bool, ground truth.
            ignore: (H, W) bool, pixels that count neither for nor against.
            buckets: the bucket of each grouping, in their order; ``""`` for none.

        Raises:
            ValueError: where there is not one bucket a grouping.
        """
        if len(buckets) != len(self.by):
            raise ValueError(
                f"BucketIoU has {len(self.by)} groupings, but update was given {len(buckets)} buckets: give one each."
            )
        self.keep(mask_counts(pred, target, ignore), _BETWEEN.join(buckets))

    def take(self, answer: Answer) -> None:
        """See :meth:`ExampleMetric.take`: the mask, its buckets found by the groupings."""
        found = [grouping.bucket(answer) for grouping in self.by]
        self.update(answer.marked, answer.target, answer.ignore, found)

    def ratios(self) -> dict[str, Ratio]:
        """``giou_by_<grouping>/<bucket>`` of the buckets that have examples."""
        intersections, unions, _ = self.table().T
        ious = example_ious(intersections, unions)
        places = [label.split(_BETWEEN) for label in self.labels()]
        found = {}
        for number, grouping in enumerate(self.by):
            buckets = np.array([place[number] for place in places], dtype=object)
            for bucket in sorted(set(buckets) - {""}):
                found[f"giou_by_{grouping.name}/{bucket}"] = Ratio.mean(ious[buckets == bucket])
        return found

    def compute(self) -> dict[str, Tensor]:
        """Scores over all examples of all processes.

        Returns:
            :meth:`ratios`, and ``n_by_<grouping>/<bucket>``, the number of examples; float64 scalars on the CPU.
        """
        counts = {name.replace("giou_by_", "n_by_", 1): ratio.n for name, ratio in self.ratios().items()}
        sizes = {name: torch.tensor(count, dtype=torch.float64) for name, count in counts.items()}
        return {**super().compute(), **sizes}
