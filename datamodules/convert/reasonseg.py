"""ReasonSeg and other data in the LISA JSON format: ``X.json`` beside each image ``X.jpg``, one target an image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.json_files import read_json
from datamodules.convert.lisa_json import IgnoreAs, LisaAnnotation, paint_shapes, parse_annotation
from datamodules.convert.photos import Photo, read_photo
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.rows import KeyMaker
from datamodules.convert.rows_paths import IMAGE_SUFFIXES
from datamodules.convert.split import Converted, SplitPlan
from datamodules.records import ImageRecord, Target
from datamodules.rle import encode_mask

Texts = Literal["all", "first"]

SOURCE = "ReasonSeg or data in its format (LISA JSON)"


@dataclass(frozen=True)
class ReasonSegJob:
    """One image to convert.

    Attributes:
        image: the image file.
        annotation: its JSON file.
        key: name of the sample.
        ignore_as: see :func:`datamodules.convert.lisa_json.paint_shapes`.
        texts: keep all texts, or the first, which is the only one that benchmarks ask.
        rasteriser: see :func:`datamodules.convert.lisa_json.paint_shapes`.
    """

    image: Path
    annotation: Path
    key: str
    ignore_as: IgnoreAs
    texts: Texts
    rasteriser: Rasteriser = "opencv"


def plan_reasonseg(
    folder: Path,
    output: Path,
    *,
    split: str | None = None,
    ignore_as: IgnoreAs = "ignore",
    texts: Texts = "all",
    rasteriser: Rasteriser = "opencv",
) -> list[SplitPlan]:
    """Find the splits of a folder and pair their files; every split goes to ``<output>/<split>``.

    Args:
        folder: a folder with images and JSON files, or one with a folder for each split.
        output: folder of the dataset to write.
        split: the only split to convert; names the split when ``folder`` is one itself.
        ignore_as: see :func:`datamodules.convert.lisa_json.paint_shapes`.
        texts: see :class:`ReasonSegJob`.
        rasteriser: see :func:`datamodules.convert.lisa_json.paint_shapes`.

    Raises:
        BadSourceError: no such folder or split, or no images in it.
    """
    plans = []
    for name, place in _find_splits(folder, split).items():
        pairs, problems = _pair_files(place, ignore_as, texts)
        jobs = [replace(job, rasteriser=rasteriser) for job in pairs]
        extra = {"converter": "reasonseg", "ignore_as": ignore_as, "texts": texts, "rasteriser": rasteriser}
        items = len(jobs) + len(problems)
        plans.append(
            SplitPlan(output / name, f"reasonseg-{name}", SOURCE, "images", items, jobs, extra, problems=problems)
        )
    return plans


def _find_splits(folder: Path, split: str | None) -> dict[str, Path]:
    if not folder.is_dir():
        raise BadSourceError(f"--input {folder} is no folder. Name the folder of ReasonSeg, or of one of its splits.")
    if _has_images(folder):
        return {split or folder.resolve().name: folder}
    found = {item.name: item for item in sorted(folder.iterdir()) if item.is_dir() and _has_images(item)}
    if not found:
        listing = ", ".join(sorted(item.name for item in folder.iterdir())[:5]) or "nothing"
        raise BadSourceError(
            f"--input {folder} holds no images. Expected pairs X.jpg and X.json in it, or in a folder for each split "
            f"(train, val, test), or parquet files; found {listing}."
        )
    if split is None:
        return found
    if split not in found:
        raise BadSourceError(f"--split {split} is not in {folder}; splits there: {', '.join(found)}.")
    return {split: found[split]}


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())


def _pair_files(folder: Path, ignore_as: IgnoreAs, texts: Texts) -> tuple[list[ReasonSegJob], list[BadItemError]]:
    """Pair images and annotations by stem, in the order of their names."""
    images: dict[str, list[Path]] = {}
    annotations: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images.setdefault(path.stem, []).append(path)
        elif path.suffix.lower() == ".json":
            annotations[path.stem] = path
    jobs: list[ReasonSegJob] = []
    problems = [
        BadItemError("annotation without an image", str(path))
        for stem, path in annotations.items()
        if stem not in images
    ]
    keys = KeyMaker()
    for stem, paths in images.items():
        if stem not in annotations:
            problems.append(BadItemError("image without an annotation", str(paths[0])))
        elif len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            problems.append(BadItemError("several images for one annotation", f"{annotations[stem]}: {names}"))
        else:
            jobs.append(ReasonSegJob(paths[0], annotations[stem], keys.make(stem), ignore_as, texts))
    return jobs, problems


def convert_reasonseg(job: ReasonSegJob) -> Converted:
    """Read, check and paint one image; what is wrong with it comes back as a problem."""
    try:
        annotation = parse_annotation(_read_annotation(job.annotation), str(job.annotation))
        photo = read_photo(job.image)
    except BadItemError as error:
        return Converted(problems=[error])
    return _paint(job, annotation, photo)


def _read_annotation(path: Path) -> object:
    try:
        # the original reader tries cp1252 after any failure; for a syntax error in UTF-8 that can never help
        return read_json(path, fallback="cp1252")
    except (OSError, ValueError) as error:
        raise BadItemError("broken JSON", str(error)) from error


def _paint(job: ReasonSegJob, annotation: LisaAnnotation, photo: Photo) -> Converted:
    height, width = photo.height, photo.width
    mask, ignore = paint_shapes(annotation.shapes, height, width, ignore_as=job.ignore_as, rasteriser=job.rasteriser)
    target = Target(
        target_id="0",
        expressions=annotation.texts if job.texts == "all" else annotation.texts[:1],
        masks=[encode_mask(mask)] if mask.any() else [],
        ignore=encode_mask(ignore) if ignore.any() else None,
        kind=annotation.kind,
    )
    notes = Counter(
        {
            "shapes dropped for their label 'flag'": annotation.flags,
            "targets with an empty mask": int(not mask.any()),
            "targets with ignored pixels": int(ignore.any()),
            "photos turned upright (EXIF), stored as PNG": int(photo.turned),
        }
    )
    record = ImageRecord(job.key, job.image.stem, job.image.name, photo.height, photo.width, [target])
    return Converted(record, photo, notes=+notes, areas=[float(mask.mean())])
