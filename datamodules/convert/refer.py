"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF in the REFER layout: one sample an image, one target a ref."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.refer_files import Ref, ReferFiles, read_refer, read_refs
from datamodules.convert.refer_images import ReferJob
from datamodules.convert.refer_photos import PhotoFinder
from datamodules.convert.split import SplitPlan

TRAIN = "train"
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
        keep_leaks: keep images in ``train`` that other splits show too.
        held_out: refs files of other datasets whose images outside ``train`` are taken from this ``train`` as well.
    """

    root: Path
    dataset: str
    split_by: str
    splits: Sequence[str] | None = None
    photos: Sequence[Path] = ()
    max_missing: float = 0.0
    keep_leaks: bool = False
    held_out: Sequence[Path] = ()


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
                f"--splits {split} is not in {options.dataset} refs({options.split_by}); splits there: "
                f"{', '.join(files.splits)}."
            )
    leaks = _leaks(files, options) if TRAIN in wanted else set()
    folder = output / f"{options.dataset}_{options.split_by}"
    finder = PhotoFinder(options.root, options.photos)
    plans = [_plan_split(split, files, options, folder / split, leaks, finder) for split in wanted]
    _check_missing(finder, options)
    return plans


def _leaks(files: ReferFiles, options: ReferOptions) -> set[int]:
    """Images of ``train`` that evaluation splits show too."""
    refs = list(files.refs)
    for path in options.held_out:
        refs += read_refs(path).refs
    evaluated = {ref.image_id for ref in refs if ref.split != TRAIN}
    trained = {ref.image_id for ref in files.refs if ref.split == TRAIN}
    leaks = trained & evaluated
    if trained and leaks == trained and not options.keep_leaks:
        raise BadSourceError(
            f"all {len(trained)} images of {options.dataset} train are images of evaluation splits too, so none is "
            "left. The google splits divide objects, not images; pass --keep-leaks to train on them all the same."
        )
    return leaks


def _plan_split(
    split: str,
    files: ReferFiles,
    options: ReferOptions,
    output: Path,
    leaks: set[int],
    finder: PhotoFinder,
) -> SplitPlan:
    refs = [ref for ref in files.refs if ref.split == split]
    problems = list(files.problems.get(split, []))
    extra: dict[str, Any] = {"converter": "refer", "dataset": options.dataset, "split_by": options.split_by}
    notes: Counter[str] = Counter()
    if split == TRAIN:
        extra |= {"shared_images": len(leaks), "shared_images_kept": options.keep_leaks}
        verdict = "kept (--keep-leaks)" if options.keep_leaks else "removed"
        notes[f"images shared with evaluation splits, {verdict}"] = len(leaks)
        if not options.keep_leaks:
            refs = [ref for ref in refs if ref.image_id not in leaks]
    items = len(refs) + len(problems)
    jobs: dict[int, ReferJob] = {}
    seen: set[int] = set()
    for ref in refs:
        if not ref.sentences:
            notes["refs left out for want of a sentence"] += 1
            continue
        try:
            segmentation = _join(ref, files, seen)
            job = jobs.get(ref.image_id) or _job(ref, files, finder)
        except BadItemError as error:
            problems.append(error)
            continue
        if job is None:
            notes["refs left out because their photo is missing"] += 1
            continue
        job.refs.append((ref, segmentation))
        jobs[ref.image_id] = job
    name = f"{options.dataset}-{options.split_by}-{split}"
    source = f"{options.dataset} ({options.split_by} split), REFER layout"
    ordered = [jobs[image_id] for image_id in sorted(jobs)]
    return SplitPlan(output, name, source, "refs", items, ordered, extra, problems=problems, notes=+notes)


def _join(ref: Ref, files: ReferFiles, seen: set[int]) -> Any:
    """The ``segmentation`` of a ref's annotation."""
    if ref.ref_id in seen:
        raise BadItemError("ref_id used twice", f"ref {ref.ref_id}")
    seen.add(ref.ref_id)
    annotation = files.annotations.get(ref.ann_id)
    if annotation is None or "segmentation" not in annotation:
        raise BadItemError("no annotation", f"ref {ref.ref_id}: instances.json has no mask for ann_id {ref.ann_id}")
    if annotation.get("image_id") != ref.image_id:
        found = annotation.get("image_id")
        raise BadItemError(
            "no annotation", f"ref {ref.ref_id}: ann_id {ref.ann_id} is of image {found}, not {ref.image_id}"
        )
    return annotation["segmentation"]


def _job(ref: Ref, files: ReferFiles, finder: PhotoFinder) -> ReferJob | None:
    """The job of a ref's image, ``None`` when its photo is missing."""
    entry = files.images.get(ref.image_id, {})
    file_name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
    if not isinstance(file_name, str) or type(height) is not int or type(width) is not int:
        detail = f"ref {ref.ref_id}: instances.json has no file_name, height and width for image {ref.image_id}"
        raise BadItemError("no image entry", detail)
    photo = finder.find(file_name, ref.image_id)
    return None if photo is None else ReferJob(ref.image_id, file_name, height, width, photo)


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
