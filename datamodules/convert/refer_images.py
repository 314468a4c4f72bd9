"""Converts one image of a REFER dataset with the refs that mean something in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.convert.errors import BadItemError
from datamodules.convert.photos import read_photo
from datamodules.convert.polygons import Rasteriser, coco_mask
from datamodules.convert.refer_files import Ref
from datamodules.convert.split import Converted
from datamodules.records import ImageRecord, Target
from datamodules.rle import encode_mask


@dataclass
class ReferJob:
    """One image to convert with the refs of one split.

    Attributes:
        image_id: id in ``instances.json``.
        file_name: file name there.
        height: height there.
        width: width there.
        photo: the file that was found.
        refs: the refs and the ``segmentation`` of each of their annotations.
        rasteriser: see :func:`datamodules.convert.polygons.coco_mask`.
    """

    image_id: int
    file_name: str
    height: int
    width: int
    photo: Path
    refs: list[tuple[Ref, list[Any]]] = field(default_factory=list)
    rasteriser: Rasteriser = "pycocotools"


def convert_refer(job: ReferJob) -> Converted:
    """Read one photo and rasterise its refs; what is wrong comes back as problems, one a ref."""
    try:
        photo = read_photo(job.photo)
        if (photo.height, photo.width) != (job.height, job.width):
            raise BadItemError(
                "photo of another size",
                f"{job.photo}: {photo.height} × {photo.width} pixels, instances.json says {job.height} × {job.width}",
            )
    except BadItemError as error:
        details = [f"ref {ref.ref_id}: {error.detail}" for ref, _ in job.refs]
        return Converted(problems=[BadItemError(error.reason, detail) for detail in details])
    result = Converted(photo=photo)
    targets = [target for ref, segmentations in job.refs if (target := _target(ref, segmentations, job, result))]
    result.notes["photos turned upright (EXIF), stored as PNG"] = int(photo.turned)
    result.notes = +result.notes
    if targets:
        result.record = ImageRecord(str(job.image_id), str(job.image_id), job.file_name, job.height, job.width, targets)
    return result


def _target(ref: Ref, segmentations: list[Any], job: ReferJob, result: Converted) -> Target | None:
    """One target: each annotation is an instance, none means that nothing in the image is meant."""
    masks = []
    for annotation, segmentation in zip(ref.ann_ids, segmentations, strict=True):
        try:
            masks.append(coco_mask(segmentation, job.height, job.width, job.rasteriser))
        except ValueError as error:
            result.problems.append(BadItemError("bad mask", f"ref {ref.ref_id} (ann_id {annotation}): {error}"))
            return None
    empty = sum(not mask.any() for mask in masks)
    if masks:
        result.areas.append(float(np.any(masks, axis=0).mean()))
    result.notes["targets with an empty mask"] += int(bool(masks) and empty == len(masks))
    result.notes["objects without a pixel, left out of their target"] += empty if empty < len(masks) else 0
    result.notes["targets that mean nothing in the image"] += int(not masks)
    result.notes["targets of several objects"] += int(len(masks) > 1)
    return Target(
        target_id=str(ref.ref_id),
        expressions=ref.sentences,
        masks=[encode_mask(mask) for mask in masks if mask.any()],
        kind="referring",
        distractors=ref.distractors,
    )
