"""The first pass over rows: which image each is about, and in which split, by reading only what tells these."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.convert.errors import BadItemError
from datamodules.convert.hf_files import DataFile, split_name
from datamodules.convert.hf_forms import RowForm, RowImage
from datamodules.convert.hf_rows import open_rows
from datamodules.convert.rows import PhotoFile
from datamodules.convert.rows_splits import TRAIN, check_split

NOT_USED = -1


@dataclass
class Scan:
    """What the first pass found. A group is the rows about one image in one split, and becomes one sample.

    Attributes:
        rows: for each file, the group of each row, or :data:`NOT_USED`.
        split: of each group.
        size: number of rows of each group.
        image: number of the image of each group.
        keys: number of each image by its key.
        items: rows of each split.
        problems: unusable rows of each split.
        missing: file names of photos that are not there, by key, in each split.
        without_photo: rows of each split that are left out because their photo is missing.
        photos: files of the photos that are.
    """

    rows: list[array[int]] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    size: array[int] = field(default_factory=lambda: array("q"))
    image: array[int] = field(default_factory=lambda: array("q"))
    keys: dict[str, int] = field(default_factory=dict)
    items: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[BadItemError]] = field(default_factory=dict)
    missing: dict[str, dict[str, str]] = field(default_factory=dict)
    without_photo: Counter[str] = field(default_factory=Counter)
    photos: list[Path] = field(default_factory=list)
    _groups: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, image: RowImage, split: str) -> int:
        """The group of a row, or :data:`NOT_USED` when its photo is missing."""
        new = image.key not in self.keys
        number = self.keys.setdefault(image.key, len(self.keys))
        if image.photo is None:
            self.missing.setdefault(split, {})[image.key] = image.file_name
            self.without_photo[split] += 1
            return NOT_USED
        if new and isinstance(image.photo, PhotoFile):
            self.photos.append(image.photo.path)
        group = self._groups.setdefault((number, split), len(self.split))
        if group == len(self.split):
            self.split.append(split)
            self.size.append(0)
            self.image.append(number)
        self.size[group] += 1
        return group

    def shared(self, evaluated: set[str]) -> set[int]:
        """Images of train that another split shows too, or that are among other datasets' keys."""
        number = {image for image, split in zip(self.image, self.split, strict=True) if split != TRAIN}
        number |= {self.keys[key] for key in evaluated if key in self.keys}
        return number & {image for image, split in zip(self.image, self.split, strict=True) if split == TRAIN}


def scan_rows(form: RowForm, files: Sequence[DataFile], split: str = "") -> Scan:
    """Read the columns of images and splits of all files.

    Args:
        form: what the rows mean.
        files: the files.
        split: the split of all rows; ``""`` takes the rows' own, else the one in the file's name, else train.

    Raises:
        BadSourceError: an unreadable file, or a split that cannot name a folder.
    """
    found = Scan()
    for file in files:
        groups: array[int] = array("q")
        rows = open_rows(file.path)
        for number, cells in rows.read(form.image_columns, lambda first, end: True):
            where = f"{file.name} {rows.place(number)}"
            groups.extend([NOT_USED] * (number - len(groups)))
            own = "" if isinstance(cells, BadItemError) else cells.get(form.split_column)
            name = split or check_split(split_name(str(own)), where) if own else split or file.split or TRAIN
            found.items[name] += 1
            try:
                if isinstance(cells, BadItemError):
                    raise cells
                groups.append(found.add(form.image(cells, where), name))
            except BadItemError as error:
                found.problems.setdefault(name, []).append(error)
                groups.append(NOT_USED)
        found.rows.append(groups)
    return found
