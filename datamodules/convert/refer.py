"""RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO in the REFER layout: one sample an image, one target a ref."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.refer_files import Ref, ReferFiles, read_refer
from datamodules.convert.refer_images import ReferJob
from datamodules.convert.refer_leaks import TRAIN, Leaks, find_leaks
from datamodules.convert.refer_photos import PhotoFinder
from datamodules.convert.split import SplitPlan

_SHOWN = 5


@dataclass(frozen=True)
class ReferOptions:
    """What to convert of a REFER root.

    Attributes:
        root: the REFER root.
        dataset: folder of the dataset under it.
        split_by: whose split: ``unc``, ``google``, ``umd`` …
        splits: split values, ``None`` for all that occur; compared exactly (``test`` is not testA + testB).
        photos: further folders of photos, searched first.
        max_missing: share of the images whose photo may be missing; never all.
        keep_leaks: keep images in ``train`` that evaluation splits show too.
        held_out: refs files that lie elsewhere, see :func:`datamodules.convert.refer_leaks.find_leaks`.
        rasteriser: see :func:`datamodules.convert.polygons.coco_mask`.
    """

    root: Path
    dataset: str
    split_by: str
    splits: Sequence[str] | None = None
    photos: Sequence[Path] = ()
    max_missing: float = 0.0
    keep_leaks: bool = False
    held_out: Sequence[Path] = ()
    rasteriser: Rasteriser = "pycocotools"


def plan_refer(options: ReferOptions, output: Path) -> list[SplitPlan]:
    """Read the files of a root; every split goes to ``<output>/<dataset>_<split_by>/<split>``.

    Raises:
        BadSourceError: files, splits or photos are missing, or no image is left for ``train``.
    """
    files = read_refer(options.root, options.dataset, options.split_by)
    wanted = list(dict.fromkeys(options.splits or files.splits))
    for split in wanted:
        if split not in files.splits:
            raise BadSourceError(
                f"--splits {split} is not in {options.dataset} ({options.split_by}); splits there: "
                f"{', '.join(files.splits)}."
            )
    leaks = Leaks()
    if TRAIN in wanted:
        where = (options.root, options.dataset, options.split_by)
        leaks = find_leaks(files, *where, held_out=options.held_out, keep=options.keep_leaks)
    folder = output / f"{options.dataset}_{options.split_by}"
    finder = PhotoFinder(options.root, options.photos)
    plans = [_plan_split(split, files, options, folder / split, leaks, finder) for split in wanted]
    _check_missing(finder, options)
    return plans


def _plan_split(
    split: str,
    files: ReferFiles,
    options: ReferOptions,
    output: Path,
    leaks: Leaks,
    finder: PhotoFinder,
) -> SplitPlan:
    refs = [ref for ref in files.refs if ref.split == split]
    problems = list(files.problems.get(split, []))
    extra: dict[str, Any] = {"converter": "refer", "dataset": options.dataset, "split_by": options.split_by}
    extra["rasteriser"] = options.rasteriser
    notes: Counter[str] = Counter()
    if split == TRAIN:
        extra |= {"shared_images": len(leaks.images), "shared_images_kept": options.keep_leaks}
        extra["shared_with"] = leaks.sources
        verdict = "kept (--keep-leaks)" if options.keep_leaks else "removed"
        notes[f"images shared with evaluation splits, {verdict}"] = len(leaks.images)
        notes |= Counter({f"… of them in {source}": number for source, number in leaks.sources.items()})
        notes |= Counter({f"… not compared, for it is unreadable: {source}": 1 for source in leaks.unread})
        if not options.keep_leaks:
            refs = [ref for ref in refs if ref.image_id not in leaks.images]
    items = len(refs) + len(problems)
    jobs: dict[int, ReferJob] = {}
    seen: set[int] = set()
    for ref in refs:
        if not ref.sentences:
            notes["refs left out for want of a sentence"] += 1
            continue
        try:
            ref, segmentations = _join(ref, files, seen, notes)
            job = jobs.get(ref.image_id) or _job(ref, files, finder, options.rasteriser)
        except BadItemError as error:
            problems.append(error)
            continue
        if job is None:
            notes["refs left out because their photo is missing"] += 1
            continue
        job.refs.append((ref, segmentations))
        jobs[ref.image_id] = job
    name = f"{options.dataset}-{options.split_by}-{split}"
    source = f"{options.dataset} ({options.split_by} split), REFER layout"
    ordered = [jobs[image_id] for image_id in sorted(jobs)]
    return SplitPlan(output, name, source, "refs", items, ordered, extra, problems=problems, notes=+notes)


def _join(ref: Ref, files: ReferFiles, seen: set[int], notes: Counter[str]) -> tuple[Ref, list[Any]]:
    """A ref with the ``segmentation`` of each of its annotations.

    Crowds are left out as gRefCOCO's own code does, except where nothing would remain.
    """
    if ref.ref_id in seen:
        raise BadItemError("ref_id used twice", f"ref {ref.ref_id}")
    seen.add(ref.ref_id)
    found: dict[int, Any] = {}
    crowds: dict[int, Any] = {}
    for number in ref.ann_ids:
        annotation = files.annotations.get(number)
        if annotation is None or "segmentation" not in annotation:
            raise BadItemError("no annotation", f"ref {ref.ref_id}: instances.json has no mask for ann_id {number}")
        if annotation.get("image_id") != ref.image_id:
            image = annotation.get("image_id")
            raise BadItemError(
                "no annotation", f"ref {ref.ref_id}: ann_id {number} is of image {image}, not {ref.image_id}"
            )
        (crowds if annotation.get("iscrowd") == 1 else found)[number] = annotation["segmentation"]
    notes["crowd annotations left out of targets that have others"] += len(crowds) if found else 0
    notes["targets of crowd annotations alone, kept"] += int(bool(crowds) and not found)
    found = found or crowds
    ref = replace(ref, ann_ids=list(found))
    return replace(ref, distractors=files.distractors(ref)), list(found.values())


def _job(ref: Ref, files: ReferFiles, finder: PhotoFinder, rasteriser: Rasteriser) -> ReferJob | None:
    """The job of a ref's image, ``None`` when its photo is missing."""
    entry = files.images.get(ref.image_id, {})
    file_name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
    if not isinstance(file_name, str) or type(height) is not int or type(width) is not int:
        detail = f"ref {ref.ref_id}: instances.json has no file_name, height and width for image {ref.image_id}"
        raise BadItemError("no image entry", detail)
    photo = finder.find(file_name, ref.image_id)
    return None if photo is None else ReferJob(ref.image_id, file_name, height, width, photo, rasteriser=rasteriser)


def _check_missing(finder: PhotoFinder, options: ReferOptions) -> None:
    missing, images = finder.missing, len(finder.sought)
    if not missing or (len(missing) < images and len(missing) <= options.max_missing * images + 1e-9):
        return
    names = ", ".join(sorted(missing.values())[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
    searched = "\n".join(f"  {folder}{'' if folder.is_dir() else ' (no such folder)'}" for folder in finder.searched)
    raise BadSourceError(
        f"{len(missing)} of {images} photos of {options.dataset} are missing: {names}. Searched:\n{searched}\n"
        "Put COCO's train2014 photos (or train2017, which shows the same pictures) into one of these folders, name "
        f"their folder with --images, or allow some to be left out with --max-missing (now {options.max_missing:g})."
    )
