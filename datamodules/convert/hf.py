"""Datasets of Hugging Face form: parquet, arrow or JSON lines files with a row for each question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadSourceError
from datamodules.convert.folder_options import FolderPlan
from datamodules.convert.hf_columns import ColumnNames, ColumnRows
from datamodules.convert.hf_files import DataFile, find_data_files
from datamodules.convert.hf_forms import RowForm
from datamodules.convert.hf_jobs import GroupedRows
from datamodules.convert.hf_refer import REFER_COLUMNS, ReferRows
from datamodules.convert.hf_rows import open_rows
from datamodules.convert.hf_scan import Scan, scan_rows
from datamodules.convert.identity import fingerprint
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.refer_photos import PhotoFinder
from datamodules.convert.rows import convert_rows
from datamodules.convert.rows_paths import FileFinder
from datamodules.convert.rows_splits import TRAIN, order_splits
from datamodules.convert.split import SplitPlan

_SHOWN = 5


@dataclass(frozen=True)
class HfOptions:
    """What to convert and how.

    Attributes:
        source: a file, a folder, or the id of a dataset on the hub.
        revision: of the dataset on the hub.
        name: of the dataset; splits are called ``<name>-<split>``.
        names: columns, where the user named any; else refs are found by their columns.
        images: folders of photos that rows name by their path.
        split: the split of all rows, ``""`` to take what rows and file names say.
        splits: those to convert, all when empty.
        max_missing: share of the images whose photo may be missing; never all.
        keep_leaks: keep images in ``train`` that other splits show too.
        held_out: other datasets of the same form whose images outside ``train`` are taken from this ``train``.
        mask_value: pixel value of PNG masks that means the target, ``None`` for all but zero.
        rasteriser: rule for polygons.
        empty_is_no_target: see :class:`datamodules.convert.hf_columns.ColumnRows`.
    """

    source: str
    revision: str | None = None
    name: str = ""
    names: ColumnNames | None = None
    images: Sequence[Path] = ()
    split: str = ""
    splits: Sequence[str] = ()
    max_missing: float = 0.0
    keep_leaks: bool = False
    held_out: Sequence[str] = field(default_factory=tuple)
    mask_value: int | None = None
    rasteriser: Rasteriser = "pycocotools"
    empty_is_no_target: bool = False

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        path = Path(self.source)
        local = path.resolve().stem if path.is_file() else path.resolve().name
        return self.name or (local if path.exists() else self.source.rpartition("/")[2])


def plan_hf(options: HfOptions, output: Path) -> FolderPlan:
    """Read which row is about which image, and plan a split for each that occurs, in ``<output>/<split>``.

    Raises:
        BadSourceError: unusable files, columns that are missing, too many photos missing, or nothing left for train.
    """
    files = find_data_files(options.source, options.revision)
    form = _form(options, options.source, files)
    scan = scan_rows(form, files, options.split)
    splits = _choose(options, order_splits(scan.items))
    _check_missing(scan, splits, options)
    leaks = scan.shared(_held_out(options, form))
    trained = {image for image, split in zip(scan.image, scan.split, strict=True) if split == TRAIN}
    if TRAIN in splits and leaks and leaks == trained and not options.keep_leaks:
        raise BadSourceError(
            f"all {len(leaks)} images of train are images of evaluation splits too, so none is left for it. Pass "
            "--keep-leaks to train on them all the same."
        )
    plans = [_plan(split, options, output, files, form, scan, leaks) for split in splits]
    rows = sum(scan.items.values())
    found = f"{form.name} in {len(files)} file(s): {rows} rows about {len(scan.keys)} images"
    return FolderPlan(found, plans, convert_rows)


def _choose(options: HfOptions, there: list[str]) -> list[str]:
    if not there:
        raise BadSourceError(f"--input {options.source} has no row in its data files, so there is nothing to convert.")
    for split in options.splits:
        if split not in there:
            raise BadSourceError(f"--splits {split} is not in {options.source}; splits there: {', '.join(there)}.")
    return list(dict.fromkeys(options.splits)) or there


def _form(options: HfOptions, source: str, files: Sequence[DataFile]) -> RowForm:
    """The meaning of the rows, from the columns of the first file; the others must have them too."""
    available = open_rows(files[0].path).columns()
    if options.names is None and set(REFER_COLUMNS) <= set(available):
        _refuse_foreign(options)
        first = options.images[0] if options.images else files[0].path.parent
        form: RowForm = ReferRows(available, PhotoFinder(first, options.images), options.rasteriser)
    else:
        root = Path(source) if Path(source).is_dir() else files[0].path.parent
        form = ColumnRows(
            names=options.names or ColumnNames(),
            available=available,
            finder=FileFinder(root, options.images, inside=("images",)),
            mask_value=options.mask_value,
            rasteriser=options.rasteriser,
            empty_is_no_target=options.empty_is_no_target,
        )
    for file in files[1:]:
        _check_columns(form, file, open_rows(file.path).columns())
    return form


def _check_columns(form: RowForm, file: DataFile, available: Mapping[str, str]) -> None:
    missing = [column for column in form.columns if column not in available]
    if missing and file.path.suffix.lower() != ".jsonl":  # rows of JSON may leave out what is null
        raise BadSourceError(
            f"{file.path} has no column {', '.join(missing)}, unlike the first file; columns there: "
            f"{', '.join(available)}. Name one file, or a folder of files with the same columns, as --input."
        )


def _refuse_foreign(options: HfOptions) -> None:
    for option, given in (
        ("--mask-value", options.mask_value is not None),
        ("--empty-is-no-target", options.empty_is_no_target),
    ):
        if given:
            raise BadSourceError(f"{option} is about masks of named columns, but these rows are refs. Leave it out.")


def _check_missing(scan: Scan, splits: Sequence[str], options: HfOptions) -> None:
    names_of = {key: name for split in splits for key, name in scan.missing.get(split, {}).items()}
    missing = len(names_of)
    images = missing + len({image for image, split in zip(scan.image, scan.split, strict=True) if split in splits})
    if not missing or (missing < images and missing <= options.max_missing * images + 1e-9):
        return
    names = ", ".join(sorted(names_of.values())[:_SHOWN]) + (" …" if missing > _SHOWN else "")
    folders = ", ".join(map(str, options.images)) or "no folder, for --images names none"
    raise BadSourceError(
        f"{missing} of {images} photos are missing: {names}. Searched: {folders} (and train2014, images/train2014 … "
        "in it). These rows bring no pictures: name the folder of COCO's train2014 photos (or train2017, which shows "
        f"the same) with --images, or allow some to be left out with --max-missing (now {options.max_missing:g})."
    )


def _held_out(options: HfOptions, form: RowForm) -> set[str]:
    """Keys of the images that other datasets evaluate on."""
    keys: set[str] = set()
    for source in options.held_out:
        files = find_data_files(source)
        other = _form(replace(options, images=options.images), source, files)
        if type(other) is not type(form):
            raise BadSourceError(
                f"--held-out {source} holds {other.name}, --input {form.name}: images of different kinds of rows "
                "cannot be compared. Leave it out, or convert both by the same columns."
            )
        scan = scan_rows(other, files)
        ids = {number: key for key, number in scan.keys.items()}
        keys |= {ids[image] for image, split in zip(scan.image, scan.split, strict=True) if split != TRAIN}
        keys |= {key for split, missing in scan.missing.items() if split != TRAIN for key in missing}
    return keys


def _plan(
    split: str,
    options: HfOptions,
    output: Path,
    files: Sequence[DataFile],
    form: RowForm,
    scan: Scan,
    leaks: set[int],
) -> SplitPlan:
    wanted = {group for group, name in enumerate(scan.split) if name == split}
    extra: dict[str, Any] = {"converter": "hf", "form": form.name, "columns": list(form.columns)}
    extra["rasteriser"] = options.rasteriser
    notes: Counter[str] = Counter()
    notes["rows left out because their photo is missing"] = scan.without_photo[split]
    if split == TRAIN:
        verdict = "kept (--keep-leaks)" if options.keep_leaks else "removed"
        notes[f"images shared with evaluation splits, {verdict}"] = len(leaks)
        extra |= {"shared_images": len(leaks), "shared_images_kept": options.keep_leaks}
        if not options.keep_leaks:
            wanted = {group for group in wanted if scan.image[group] not in leaks}
    jobs = GroupedRows(form, files, scan, frozenset(wanted))
    made_of = [replace(options, images=[]), [file.path for file in files], fingerprint(jobs=scan.photos), sorted(leaks)]
    return SplitPlan(
        output / split,
        f"{options.dataset}-{split}",
        f"rows of Hugging Face form: {options.source if not Path(options.source).exists() else options.dataset}",
        "rows",
        scan.items[split],
        jobs,
        extra,
        problems=scan.problems.get(split, []),
        notes=+notes,
        made_of=made_of,
    )
