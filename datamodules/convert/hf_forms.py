"""What the rows of a Hugging Face dataset mean: their image and their target."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datamodules.convert.rows import PhotoSource, RowTarget

Cells = Mapping[str, Any]


@dataclass(frozen=True)
class RowImage:
    """The image of a row.

    Attributes:
        key: equal for rows about the same image.
        image_id: id in the source.
        file_name: file name in the source.
        photo: the image itself, ``None`` when it is a file that is missing.
        size: height and width that the row claims, where it does.
    """

    key: str
    image_id: str
    file_name: str
    photo: PhotoSource | None
    size: tuple[int, int] | None = None


class RowForm(ABC):
    """One meaning of rows.

    Attributes:
        name: for the index and messages.
        image_columns: columns that tell the image, and the split where rows do.
        columns: all columns needed.
        split_column: the column of the split, ``""`` for none.
    """

    name: str
    image_columns: tuple[str, ...]
    columns: tuple[str, ...]
    split_column: str = ""

    @abstractmethod
    def image(self, cells: Cells, where: str) -> RowImage:
        """The image of a row.

        Raises:
            BadItemError: naming the row and the column.
        """

    @abstractmethod
    def target(self, cells: Cells, where: str) -> RowTarget:
        """The target of a row; its masks are small enough to wait in memory or on disk.

        Raises:
            BadItemError: naming the row and the column.
        """


def from_json(value: Any) -> Any:
    """A cell that may hold JSON as text; texts that are none stay what they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
