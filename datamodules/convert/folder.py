"""A user's own folder of images with questions or labels: finds out which of the known forms it has.

The forms are a table of questions (``*.jsonl``, ``*.csv``, ``*.tsv``), LabelMe files and COCO instances.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from datamodules.convert.coco import plan_coco
from datamodules.convert.errors import BadSourceError
from datamodules.convert.folder_options import FolderOptions, FolderPlan
from datamodules.convert.folder_table import TABLE_SUFFIXES
from datamodules.convert.folder_targets import plan_table
from datamodules.convert.json_files import read_json
from datamodules.convert.labelme import plan_labelme

_LOOKED_AT = 20
"""JSON files read to tell LabelMe's from others."""


class FolderForm(ABC):
    """One way in which folders hold questions.

    Attributes:
        expected: what a folder of this form holds.
        suffixes: endings of the files that ``--table`` may name.
    """

    expected: str
    suffixes: tuple[str, ...] = ()

    @abstractmethod
    def find(self, folder: Path) -> list[Path]:
        """The files of this form, none when the folder has another form."""

    @abstractmethod
    def plan(self, options: FolderOptions, paths: list[Path], output: Path) -> FolderPlan:
        """Plan the conversion of these files."""


class TableForm(FolderForm):
    """A table of questions."""

    expected = "a table *.jsonl, *.csv or *.tsv with columns image, question and mask"
    suffixes = TABLE_SUFFIXES

    def find(self, folder: Path) -> list[Path]:
        """See :meth:`FolderForm.find`."""
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)

    def plan(self, options: FolderOptions, paths: list[Path], output: Path) -> FolderPlan:
        """See :meth:`FolderForm.plan`."""
        for option, given in (("--question", options.question is not None), ("--per-instance", options.per_instance)):
            if given:
                raise BadSourceError(f"{option} makes questions of labels, but {paths[0]} has its own. Leave it out.")
        return plan_table(options, _only(options, paths), output)


class CocoForm(FolderForm):
    """COCO instances, beside the images or in ``annotations``."""

    expected = "a JSON file with 'images', 'annotations' and 'categories' (COCO)"
    suffixes = (".json",)

    def find(self, folder: Path) -> list[Path]:
        """See :meth:`FolderForm.find`."""
        paths = [*sorted(folder.glob("*.json")), *sorted(folder.glob("annotations/*.json"))]
        return [path for path in paths[:_LOOKED_AT] if {"images", "annotations"} <= _keys(path)]

    def plan(self, options: FolderOptions, paths: list[Path], output: Path) -> FolderPlan:
        """See :meth:`FolderForm.plan`."""
        _refuse_mask_value(options)
        return plan_coco(options, _only(options, paths), output)


class LabelMeForm(FolderForm):
    """LabelMe files, anywhere below the folder."""

    expected = "JSON files with 'shapes' beside the images (LabelMe)"

    def find(self, folder: Path) -> list[Path]:
        """See :meth:`FolderForm.find`; files with ``text`` are of LISA's form, not of LabelMe's."""
        paths = sorted(folder.rglob("*.json"))
        return paths if any("shapes" in keys and "text" not in keys for keys in map(_keys, paths[:_LOOKED_AT])) else []

    def plan(self, options: FolderOptions, paths: list[Path], output: Path) -> FolderPlan:
        """See :meth:`FolderForm.plan`."""
        _refuse_mask_value(options)
        return plan_labelme(options, paths, output)


FORMS: dict[str, FolderForm] = {"table": TableForm(), "coco": CocoForm(), "labelme": LabelMeForm()}
"""In the order in which a folder is tried."""


def plan_folder(options: FolderOptions, output: Path, form: str | None = None) -> FolderPlan:
    """Find the form of a folder and plan its conversion; every split goes to ``<output>/<split>``.

    Args:
        options: how to read.
        output: folder of the dataset to write.
        form: a key of :data:`FORMS`, ``None`` to find out.

    Raises:
        BadSourceError: no such folder, no known form in it, or unusable files.
    """
    folder = options.folder
    if not folder.is_dir():
        raise BadSourceError(f"--input {folder} is no folder. Name the folder that holds your images and questions.")
    candidates = list(FORMS.values()) if form is None else [FORMS[form]]
    for candidate in candidates:
        paths = candidate.find(folder) if options.table is None else _named(options, candidate)
        if paths:
            return candidate.plan(options, paths, output)
    listing = ", ".join(sorted(item.name for item in folder.iterdir())[:5]) or "nothing"
    subject = (
        f"--input {folder} holds no questions" if options.table is None else f"--table {options.table} is of no use"
    )
    expected = "; ".join(candidate.expected for candidate in candidates)
    raise BadSourceError(f"{subject}. Expected {expected}; found {listing}.{_hint(folder)}")


def _named(options: FolderOptions, form: FolderForm) -> list[Path]:
    """The file of ``--table`` when it can be of a form."""
    table = options.table
    if table is None or table.suffix.lower() not in form.suffixes:
        return []
    for path in (table, options.folder / table):
        if path.is_file():
            return [path]
    raise BadSourceError(f"--table {table} is no file, neither here nor in {options.folder}.")


def _only(options: FolderOptions, paths: list[Path]) -> Path:
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise BadSourceError(f"--input {options.folder} holds several such files: {names}. Name one with --table.")
    return paths[0]


def _refuse_mask_value(options: FolderOptions) -> None:
    if options.mask_value is not None:
        raise BadSourceError("--mask-value is about PNG masks of a table, and there is no table here. Leave it out.")


def _keys(path: Path) -> set[str]:
    """Keys of a JSON object, none of anything else."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return set()
    return set(content) if isinstance(content, dict) else set()


def _hint(folder: Path) -> str:
    """What a folder of no known form may be instead."""
    for path in sorted(folder.rglob("*.json"))[:_LOOKED_AT]:
        try:
            read_json(path)
        except (OSError, ValueError) as error:
            return f" A file that cannot be read: {error}."
        if {"shapes", "text"} <= _keys(path):
            return f" {path.name} has 'text' beside 'shapes', ReasonSeg's form: use `coprs data reasonseg`."
    return ""
