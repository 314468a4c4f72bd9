"""RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO in the REFER layout: one sample an image, one target a ref."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.refer_files import Ref, ReferFiles, read_refer, read_refs
from datamodules.convert.refer_images import ReferJob
from datamodules.convert.refer_photos import PhotoFinder
from datamodules.convert.split import SplitPlan

TRAIN = "train"

BENCHMARKS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd", "grefcoco": "unc"}
"""Datasets that share COCO's train2014 photos, and whose split of each is evaluated on."""

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

    @property
    def prefix(self) -> str:
        """How the name of the refs file begins."""
        return "grefs" if self.dataset == "grefcoco" else "refs"


def plan_refer(options: ReferOptions, output: Path) -> list[SplitPlan]:
    """Read the files of a root; every split goes to ``<output>/<dataset>_<split_by>/<split>``.

    Raises:
        BadSourceError: files, splits or photos are missing, or no image is left for ``train``.
    """
    files = read_refer(options.root, options.dataset, options.split_by, options.prefix)
    wanted = list(dict.fromkeys(options.splits or files.splits))
    for split in wanted:
        if split not in files.splits:
            raise BadSourceError(
                f"--splits {split} is not in {options.dataset} refs({options.split_by}); splits there: "
                f"{', '.join(files.splits)}."
            )
    leaks = _leaks(files, options) if TRAIN in wanted else Leaks()
    folder = output / f"{options.dataset}_{options.split_by}"
    finder = PhotoFinder(options.root, options.photos)
    plans = [_plan_split(split, files, options, folder / split, leaks, finder) for split in wanted]
    _check_missing(finder, options)
    return plans


@dataclass
class Leaks:
    """Images of ``train`` that evaluation splits show too.

    Attributes:
        images: their ids.
        sources: how many of them each dataset evaluates on.
    """

    images: set[int] = field(default_factory=set)
    sources: dict[str, int] = field(default_factory=dict)


def _leaks(files: ReferFiles, options: ReferOptions) -> Leaks:
    trained = {ref.image_id for ref in files.refs if ref.split == TRAIN}
    others = {path.resolve(): f"{path.parent.name} {path.stem}" for path in options.held_out}
    for path in siblings(options):
        others.setdefault(path.resolve(), f"{path.parent.name} {path.stem}")
    evaluated = {f"{options.dataset} {options.prefix}({options.split_by})": _evaluated(files.refs)}
    evaluated |= {name: _evaluated(read_refs(path).refs) for path, name in others.items()}
    found = {name: len(trained & images) for name, images in evaluated.items()}
    leaks = Leaks(trained & set().union(*evaluated.values()), {name: count for name, count in found.items() if count})
    if trained and leaks.images == trained and not options.keep_leaks:
        raise BadSourceError(
            f"all {len(trained)} images of {options.dataset} train are images of evaluation splits too, so none is "
            f"left ({', '.join(leaks.sources)}). The google splits divide objects, not images; pass --keep-leaks to "
            "train on them all the same."
        )
    return leaks


def _evaluated(refs: Sequence[Ref]) -> set[int]:
    return {ref.image_id for ref in refs if ref.split != TRAIN}


def siblings(options: ReferOptions) -> list[Path]:
    """Refs files of the datasets beside this one that share its photos, by the splits that benchmarks use."""
    if options.dataset not in BENCHMARKS:
        return []
    names = [(dataset, by, suffix) for dataset, by in BENCHMARKS.items() for suffix in (".p", ".json")]
    paths = [
        options.root / dataset / f"{'grefs' if dataset == 'grefcoco' else 'refs'}({by}){suffix}"
        for dataset, by, suffix in names
        if dataset != options.dataset
    ]
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_file():
            found.setdefault(path.with_suffix(""), path)
    return list(found.values())


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
        for source, number in leaks.sources.items():
            notes[f"… of them in {source}"] = number
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
    """A ref with the ``segmentation`` of each of its annotations; crowds among several are left out, as ReLA does."""
    if ref.ref_id in seen:
        raise BadItemError("ref_id used twice", f"ref {ref.ref_id}")
    seen.add(ref.ref_id)
    found: dict[int, Any] = {}
    for number in ref.ann_ids:
        annotation = files.annotations.get(number)
        if annotation is None or "segmentation" not in annotation:
            raise BadItemError("no annotation", f"ref {ref.ref_id}: instances.json has no mask for ann_id {number}")
        if annotation.get("image_id") != ref.image_id:
            image = annotation.get("image_id")
            raise BadItemError(
                "no annotation", f"ref {ref.ref_id}: ann_id {number} is of image {image}, not {ref.image_id}"
            )
        if annotation.get("iscrowd") == 1 and len(ref.ann_ids) > 1:
            notes["crowd annotations left out of targets of several objects"] += 1
            continue
        found[number] = annotation["segmentation"]
    if ref.ann_ids and not found:
        raise BadItemError("only crowd annotations", f"ref {ref.ref_id}: ann_ids {ref.ann_ids}")
    return replace(ref, ann_ids=list(found)), list(found.values())


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
