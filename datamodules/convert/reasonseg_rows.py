"""ReasonSeg as parquet rows, the form in which Seg-Zero and VisionReasoner released its val and test sets.

A row has a picture, one mask as nested booleans and the first of its texts. Ignored pixels were made part of the target
when the rows were made, by OpenCV's rule for polygons; neither can be undone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.hf_columns import ColumnNames, ColumnRows
from datamodules.convert.hf_files import DataFile, find_data_files
from datamodules.convert.hf_forms import Cells, RowImage
from datamodules.convert.hf_jobs import GroupedRows
from datamodules.convert.hf_rows import open_rows
from datamodules.convert.hf_scan import Scan, scan_rows
from datamodules.convert.identity import fingerprint
from datamodules.convert.lisa_json import IgnoreAs
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.rows import RowTarget
from datamodules.convert.rows_paths import IMAGE_SUFFIXES, FileFinder
from datamodules.convert.rows_splits import check_split, order_splits
from datamodules.convert.split import SplitPlan

SUFFIX = ".parquet"
COLUMNS = ("image", "mask", "text")
SOURCE = "ReasonSeg as parquet rows (ignored pixels are part of the target)"

_SIZE = ("img_height", "img_width")
_NAMED = re.compile(r"reasonseg[_-]?(train|val|test)(?![a-z0-9])", re.IGNORECASE)


class ReasonSegRows(ColumnRows):
    """Rows of ReasonSeg.

    Args:
        available: columns of the files.
        folder: where pictures are that rows name by a path, where they bring none.
        first: keep the first text only, where a row has several.
    """

    def __init__(self, available: Mapping[str, str], folder: Path, *, first: bool = False) -> None:
        missing = [column for column in COLUMNS if column not in available]
        if missing:
            raise BadSourceError(
                f"the rows have no column {', '.join(missing)}; expected {', '.join(COLUMNS)} (and, where known, "
                f"image_id, {', '.join(_SIZE)}), found {', '.join(available)}. `coprs data hf` converts other "
                "rows."
            )
        finder = FileFinder(folder, inside=("images",))
        super().__init__(names=ColumnNames(), available=available, finder=finder, empty_is_no_target=True)
        self.name = "ReasonSeg rows"
        self.first = first
        self.image_columns += tuple(name for name in _SIZE if name in available)
        self.columns += tuple(name for name in _SIZE if name in available)

    def image(self, cells: Cells, where: str) -> RowImage:
        """See :meth:`ColumnRows.image`; a picture without a name of its own is called by the row's ``image_id``."""
        found = super().image(cells, where)
        height, width = (cells.get(name) for name in _SIZE)
        size = (height, width) if type(height) is int and type(width) is int else None
        return replace(found, size=size, file_name=found.image_id if found.file_name == found.key else found.file_name)

    def target(self, cells: Cells, where: str) -> RowTarget:
        """See :meth:`ColumnRows.target`; the mask may be empty, but not missing."""
        if cells.get("mask") is None:
            raise BadItemError("no mask", f"{where}: mask is missing")
        found = super().target(cells, where)
        return replace(found, expressions=found.expressions[:1]) if self.first else found


def holds_rows(source: Path) -> bool:
    """Whether an input is a parquet file, or a folder with parquet files somewhere in it (hidden ones aside).

    Raises:
        BadSourceError: the folder holds ReasonSeg's own form as well.
    """
    if source.is_file() or not source.exists():
        return source.suffix.lower() == SUFFIX
    rows = (path.relative_to(source).as_posix() for path in source.rglob(f"*{SUFFIX}"))
    found = next((name for name in rows if "/." not in f"/{name}"), None)
    if found is None:
        return False
    pair = next((path for path in [*source.glob("*.json"), *source.glob("*/*.json")] if _has_image(path)), None)
    if pair is not None:
        raise BadSourceError(
            f"--input {source} holds parquet rows ({found}) and pairs X.jpg and X.json ({pair.relative_to(source)}), "
            "which treat ignored pixels differently. Name the folder of one of them."
        )
    return True


def _has_image(annotation: Path) -> bool:
    return any(annotation.with_suffix(suffix).is_file() for suffix in IMAGE_SUFFIXES)


def plan_reasonseg_rows(
    source: Path,
    output: Path,
    *,
    split: str | None = None,
    ignore_as: IgnoreAs | None = None,
    first: bool = False,
    rasteriser: Rasteriser = "opencv",
) -> list[SplitPlan]:
    """Read which row is about which image, and plan a split for each that occurs, in ``<output>/<split>``.

    Args:
        source: a parquet file or a folder of them.
        output: folder of the dataset to write.
        split: the only split to convert; names the rows when nothing else does.
        ignore_as: only ``"target"`` is possible.
        first: see :class:`ReasonSegRows`.
        rasteriser: only ``"opencv"`` is possible.

    Raises:
        BadSourceError: unusable files, or an option that such rows cannot follow.
    """
    _refuse(source, ignore_as, rasteriser)
    if not source.exists():
        raise BadSourceError(f"--input {source} does not exist. Name a parquet file, or a folder of them.")
    files = _choose(source, _find(source), split)
    form = _form(source, files, first=first)
    scan = scan_rows(form, files)
    return [_plan(name, output, files, form, scan) for name in order_splits(scan.items)]


def _refuse(source: Path, ignore_as: IgnoreAs | None, rasteriser: Rasteriser) -> None:
    for option, given, possible in (
        ("--ignore-as", ignore_as, "target"),
        ("--rasteriser", rasteriser, "opencv"),
    ):
        if given not in (None, possible):
            raise BadSourceError(
                f"{option} {given} is not possible for the parquet rows of {source}: each holds one finished mask, in "
                "which OpenCV painted ignored pixels as part of the target, and nothing tells them apart. Leave "
                f"{option} out (these rows are a benchmark of their own), or convert ReasonSeg's own JSON files."
            )


def _find(source: Path) -> list[DataFile]:
    """The files, with the split that each belongs to as far as names tell.

    The name of the dataset comes first: the file of ``ReasonSeg_val`` is called test, as that of ``ReasonSeg_test`` is.
    So a file that is called test tells nothing by itself.
    """
    found = []
    for file in find_data_files(str(source)):
        if file.path.suffix.lower() == SUFFIX:
            named = _NAMED.findall(file.path.absolute().as_posix())
            own = "" if file.split == "test" else file.split
            found.append(replace(file, split=named[-1].lower() if named else own))
    return found


def _choose(source: Path, files: list[DataFile], split: str | None) -> list[DataFile]:
    there = order_splits(file.split for file in files if file.split)
    if split is None:
        unknown = [file.name for file in files if not file.split]
        if unknown:
            raise BadSourceError(
                f"--input {source}: nothing tells whether {unknown[0]} is val or test, for in both published sets the "
                "file is called test. Pass --split val or --split test (or keep the folder's name, ReasonSeg_val)."
            )
        return files
    check_split(split, "--split")
    chosen = [file for file in files if file.split in (split, "")]
    if not chosen and len(there) > 1:
        raise BadSourceError(f"--split {split} is not in {source}; splits there: {', '.join(there)}.")
    return [replace(file, split=split) for file in chosen or files]


def _form(source: Path, files: Sequence[DataFile], *, first: bool) -> ReasonSegRows:
    folder = source if source.is_dir() else source.absolute().parent
    form: ReasonSegRows | None = None
    for file in files:
        available = open_rows(file.path).columns()
        try:
            other = ReasonSegRows(available, folder, first=first)
        except BadSourceError as error:
            raise BadSourceError(f"{file.path}: {error}") from error
        form = form or other
        if other.columns != form.columns:
            raise BadSourceError(
                f"{file.path} has the columns {', '.join(other.columns)}, {files[0].path} has "
                f"{', '.join(form.columns)}: these are files of different datasets. Name one of them as --input."
            )
    assert form is not None  # there is at least one file
    return form


def _plan(name: str, output: Path, files: Sequence[DataFile], form: ReasonSegRows, scan: Scan) -> SplitPlan:
    wanted = frozenset(group for group, split in enumerate(scan.split) if split == name)
    several = form.available["text"].startswith(("list", "large_list"))
    extra: dict[str, Any] = {
        "converter": "reasonseg",
        "form": form.name,
        "ignore_as": "target",
        "texts": "all" if several and not form.first else "first",
        "rasteriser": "opencv",
    }
    return SplitPlan(
        output / name,
        f"reasonseg-{name}",
        SOURCE,
        "rows",
        scan.items[name],
        GroupedRows(form, files, scan, wanted),
        extra,
        problems=scan.problems.get(name, []),
        made_of=[[file.path for file in files if file.split == name], fingerprint(jobs=scan.photos)],
    )
