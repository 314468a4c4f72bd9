"""Makes images with targets out of the rows of a table of questions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.convert.errors import BadItemError
from datamodules.convert.folder_table import Row
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.rows import RowTarget
from datamodules.convert.rows_masks import MaskSource, PictureMask, parse_mask, short
from datamodules.convert.rows_paths import FileFinder
from datamodules.convert.rows_splits import check_split
from datamodules.convert.rows_texts import BAD_ROW, read_flag, read_text, read_texts

COLUMNS = ("image", "question", "mask", "target", "no_target", "ignore", "reasoning", "kind", "split")
REQUIRED = ("image", "question")


@dataclass
class Question:
    """One checked row.

    Attributes:
        where: the file's name and the line.
        image: the photo's file.
        name: of the photo, as the table has it.
        split: as the table has it, or ``""``.
        target: id of its target, or ``""`` for one of its own.
        raw: JSON text of the mask and ignore cells, to compare rows of one target.
        content: the target that this row alone would make.
    """

    where: str
    image: Path
    name: str
    split: str
    target: str
    raw: tuple[str, str]
    content: RowTarget


class QuestionReader:
    """Checks rows and finds the files that they name.

    Args:
        finder: where images and masks are.
        mask_value: pixel value of masks that means the target, ``None`` for all but zero.
        rasteriser: rule for polygons.
    """

    def __init__(self, finder: FileFinder, mask_value: int | None, rasteriser: Rasteriser) -> None:
        self._finder = finder
        self._mask_value = mask_value
        self._rasteriser: Rasteriser = rasteriser
        self._images: dict[str, Path] = {}

    def read(self, row: Row) -> Question:
        """Check one row.

        Raises:
            BadItemError: naming the row and the column.
            BadSourceError: a split that cannot name a folder.
        """
        cells = row.cells
        name = read_text(cells, "image", row.where)
        split = check_split(text, f"{row.where}, column split") if (text := self._optional(row, "split")) else ""
        if name not in self._images:
            self._images[name] = self._finder.find(name, what="image", where=row.where).resolve()
        content = RowTarget(
            target_id="",
            expressions=read_texts(cells, "question", row.where),
            masks=self._masks(cells.get("mask"), row.where),
            items=[row.where],
            ignore=self._ignore(cells.get("ignore"), row.where),
            reasoning=self._optional(row, "reasoning") or None,
            kind=self._optional(row, "kind"),
            no_target=read_flag(cells.get("no_target"), f"{row.where}: column no_target"),
        )
        raw = (_canonical(cells.get("mask")), _canonical(cells.get("ignore")))
        return Question(row.where, self._images[name], name, split, self._optional(row, "target"), raw, content)

    def _optional(self, row: Row, column: str) -> str:
        value = row.cells.get(column)
        if value is None or value == "":
            return ""
        if column == "target" and type(value) is int:
            return str(value)
        return read_text(row.cells, column, row.where)

    def _masks(self, value: Any, where: str) -> list[MaskSource]:
        if isinstance(value, str):
            value = _json_in_text(value)
        if value is None or value in ("", [], {}):
            return []
        if isinstance(value, str):
            return [self._picture(value, "mask", where, self._mask_value)]
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return [self._picture(part, "mask", where, self._mask_value) for part in value]
        try:
            return parse_mask(value, f"{where}, mask", self._rasteriser)
        except ValueError as error:
            raise BadItemError("bad mask", str(error)) from error

    def _ignore(self, value: Any, where: str) -> MaskSource | None:
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise BadItemError(BAD_ROW, f"{where}: column ignore must be the path of a PNG, got {short(value)}")
        return self._picture(value, "ignore", where, None)

    def _picture(self, name: str, what: str, where: str, value: int | None) -> PictureMask:
        path = self._finder.find(name, what=what, where=where)
        return PictureMask(path, f"{where}, {what} {name}", value)


def _json_in_text(text: str) -> Any:
    """A CSV cell with an RLE, polygons or a list of paths; any other text stays what it is."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text.strip()


def _canonical(value: Any) -> str:
    return "" if value in (None, "", [], {}) else json.dumps(value, sort_keys=True)
