"""One image with the questions that some table, annotation file or dataset asks about it, and its conversion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.convert.errors import BadItemError
from datamodules.convert.photos import Photo, check_photo, read_photo
from datamodules.convert.rows_masks import MaskSource
from datamodules.convert.split import Converted
from datamodules.records import ImageRecord, Target
from datamodules.rle import encode_mask

_KEY_LETTERS = 40


@dataclass
class RowTarget:
    """One target as a source describes it.

    Attributes:
        target_id: unique inside the image.
        expressions: its questions.
        masks: one source an instance.
        items: what counts against the limit of unusable items (rows, annotations), as errors name it.
        ignore: pixels that do not count.
        reasoning: a written thought.
        kind: kind of question.
        no_target: the questions mean nothing in the image, so there must be no mask; else there must be one. ``None``
            where an empty mask says so.
    """

    target_id: str
    expressions: list[str]
    masks: list[MaskSource]
    items: list[str]
    ignore: MaskSource | None = None
    reasoning: str | None = None
    kind: str = ""
    no_target: bool | None = False


class PhotoSource(ABC):
    """Where a photo comes from; small enough to travel to a worker process, or the encoded bytes themselves."""

    @abstractmethod
    def read(self) -> Photo:
        """Read and check it (:func:`datamodules.convert.photos.read_photo`)."""


@dataclass(frozen=True)
class PhotoFile(PhotoSource):
    """A file."""

    path: Path

    def read(self) -> Photo:
        """See :meth:`PhotoSource.read`."""
        return read_photo(self.path)


@dataclass(frozen=True)
class PhotoBytes(PhotoSource):
    """An encoded image that came with its row; ``name`` is what errors call it."""

    data: bytes
    name: str

    def read(self) -> Photo:
        """See :meth:`PhotoSource.read`."""
        return check_photo(self.data, self.name)


@dataclass
class RowsJob:
    """One image to convert.

    Attributes:
        key: name of the sample.
        image_id: id in the source.
        file_name: file name in the source.
        photo: the image.
        targets: what is asked about it.
        size: height and width that the source claims, where it does.
        problems: what is unusable of it already.
        notes: see :class:`datamodules.convert.split.Converted`.
    """

    key: str
    image_id: str
    file_name: str
    photo: PhotoSource
    targets: list[RowTarget] = field(default_factory=list)
    size: tuple[int, int] | None = None
    problems: list[BadItemError] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


def convert_rows(job: RowsJob) -> Converted:
    """Read one photo and its masks; what is wrong comes back as problems, one for every item of a lost target."""
    if not job.targets:
        return Converted(problems=job.problems, notes=job.notes)
    try:
        photo = job.photo.read()
        if job.size not in (None, (photo.height, photo.width)):
            found = f"{photo.height} × {photo.width} pixels, the annotation says {job.size[0]} × {job.size[1]}"
            raise BadItemError("photo of another size", f"{job.file_name}: {found} (height × width)")
    except BadItemError as error:
        items = [item for target in job.targets for item in target.items]
        problems = [BadItemError(error.reason, f"{item}: {error.detail}") for item in items]
        return Converted(problems=[*job.problems, *problems], notes=job.notes)
    result = Converted(photo=photo, problems=list(job.problems), notes=Counter(job.notes))
    targets = [made for target in job.targets if (made := _convert_target(target, photo, result)) is not None]
    result.notes["photos turned upright (EXIF), stored as PNG"] = int(photo.turned)
    result.notes = +result.notes
    if targets:
        result.record = ImageRecord(job.key, job.image_id, job.file_name, photo.height, photo.width, targets)
    return result


def _convert_target(target: RowTarget, photo: Photo, result: Converted) -> Target | None:
    masks, union = [], np.zeros((photo.height, photo.width), dtype=bool)
    try:
        for source in target.masks:
            mask = source.read(photo.height, photo.width)
            union |= mask
            if mask.any():
                masks.append(encode_mask(mask))
        ignore = None if target.ignore is None else target.ignore.read(photo.height, photo.width)
        _check_presence(target, bool(masks))
    except BadItemError as error:
        result.problems += lost_target(target, error)
        return None
    result.areas.append(float(union.mean()))
    result.notes["instances without a pixel, left out of their target"] += (
        len(target.masks) - len(masks) if masks else 0
    )
    result.notes["targets that fill the whole image"] += int(union.all())
    result.notes["targets with ignored pixels"] += int(ignore is not None and ignore.any())
    result.notes["targets that are not in the image"] += int(not masks)
    return Target(
        target_id=target.target_id,
        expressions=target.expressions,
        masks=masks,
        ignore=encode_mask(ignore) if ignore is not None and ignore.any() else None,
        reasoning=target.reasoning,
        kind=target.kind,
    )


def _check_presence(target: RowTarget, present: bool) -> None:
    """Compare the masks with what the source says about the target."""
    if present and target.no_target:
        raise BadItemError("mask of no target", f"{target.items[0]}: no_target is true, yet its mask is not empty")
    if not present and target.no_target is False:
        raise BadItemError(
            "empty mask",
            f"{target.items[0]}: no pixel of its mask is set. Give its mask, or say that nothing in the image is meant",
        )


def lost_target(target: RowTarget, error: BadItemError) -> list[BadItemError]:
    """A problem for every item of a target of which one part is unusable."""
    problems = []
    for item in target.items:
        own = error.detail.startswith((f"{item}:", f"{item},", f"{item} "))
        problems.append(error if own else BadItemError(error.reason, f"{item}: same target as {error.detail}"))
    return problems


class KeyMaker:
    """Makes names of samples that a tar can carry; names that become equal are numbered."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()

    def make(self, name: str) -> str:
        """The key of a file or id called ``name``."""
        cleaned = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)[-_KEY_LETTERS:]
        key = "x" + cleaned if not cleaned or cleaned.startswith("__") else cleaned
        while self._used[key]:
            self._used[key] += 1
            key = f"{key}-{self._used[key]}"
        self._used[key] += 1
        return key
