"""Rows with a picture, a mask and a text in columns that the user names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.hf_forms import Cells, RowForm, RowImage, from_json
from datamodules.convert.polygons import Rasteriser
from datamodules.convert.rows import PhotoBytes, PhotoFile, RowTarget
from datamodules.convert.rows_masks import EncodedMask, MaskSource, PictureMask, parse_mask, short
from datamodules.convert.rows_paths import FileFinder
from datamodules.convert.rows_texts import BAD_ROW, read_text, read_texts
from datamodules.rle import encode_mask


@dataclass(frozen=True)
class ColumnNames:
    """Where things are.

    Attributes:
        image: an encoded picture (``{"bytes", "path"}`` or bytes), or the path of one.
        mask: nested lists of booleans, a PNG, an RLE or polygons; or a list with one of these for each instance.
        text: a text, or a list of texts that mean the same.
        reasoning: a written thought; ``""`` for none.
        split: the split; ``""`` for none.
    """

    image: str = "image"
    mask: str = "mask"
    text: str = "text"
    reasoning: str = ""
    split: str = ""

    def check(self, available: Mapping[str, str]) -> None:
        """Compare with the columns that there are.

        Raises:
            BadSourceError: one is missing.
        """
        for name in ("image", "mask", "text", "reasoning", "split"):
            column = getattr(self, name)
            if column and column not in available:
                listing = "; ".join(f"{column} ({kind[:60]})" for column, kind in available.items())
                raise BadSourceError(
                    f"--input has no column {column!r}. Name the one with the {name} by --{name}-column; there are "
                    f"{listing}."
                )


@dataclass
class ColumnRows(RowForm):
    """Rows of named columns.

    Attributes:
        names: of the columns.
        available: columns of the files.
        finder: where files are that pictures and masks name by their path.
        mask_value: pixel value of PNG masks that means the target, ``None`` for all but zero.
        rasteriser: rule for polygons.
        empty_is_no_target: a row without a mask, or with an empty one, asks for what is not in the image.
    """

    names: ColumnNames
    available: Mapping[str, str]
    finder: FileFinder
    mask_value: int | None = None
    rasteriser: Rasteriser = "pycocotools"
    empty_is_no_target: bool = False
    name: str = field(default="columns", init=False)

    def __post_init__(self) -> None:
        self.names.check(self.available)
        names = self.names
        self.split_column = names.split
        ids = "image_id" if "image_id" in self.available else ""
        self.image_columns = tuple(dict.fromkeys(filter(None, (names.image, names.split, ids))))
        wanted = (names.image, names.mask, names.text, names.reasoning, names.split, ids)
        self.columns = tuple(dict.fromkeys(filter(None, wanted)))

    def image(self, cells: Cells, where: str) -> RowImage:
        """See :meth:`RowForm.image`; pictures are the same when their bytes are, whatever they are called."""
        what = self.names.image
        value: Any = cells.get(what)
        path: Any = None
        if isinstance(value, dict):
            value, path = value.get("bytes"), value.get("path")
            value = path if value is None else value
        image_id = cells.get("image_id")
        image_id = str(image_id) if type(image_id) in (int, str) else ""
        if isinstance(value, bytes):
            key = hashlib.blake2b(value, digest_size=16).hexdigest()
            file_name = _base(path) if isinstance(path, str) else ""
            photo = PhotoBytes(value, f"{where}, {what}")
            return RowImage(key, image_id or file_name or key, file_name or key, photo)
        if isinstance(value, str) and value.strip():
            found = self.finder.find(value, what=what, where=where).resolve()
            return RowImage(str(found), image_id or _base(value), _base(value), PhotoFile(found))
        raise BadItemError(BAD_ROW, f"{where}: {what} must be a picture or the path of one, got {short(value)}")

    def target(self, cells: Cells, where: str) -> RowTarget:
        """See :meth:`RowForm.target`."""
        masks = self._masks(cells.get(self.names.mask), where)
        if not masks and not self.empty_is_no_target:
            detail = "Leave it out, or pass --empty-is-no-target if nothing in the image is meant"
            raise BadItemError("no mask", f"{where}: {self.names.mask} is empty. {detail}")
        reasoning = cells.get(self.names.reasoning) if self.names.reasoning else None
        return RowTarget(
            target_id="",
            expressions=read_texts(dict(cells), self.names.text, where),
            masks=masks,
            items=[where],
            reasoning=read_text(dict(cells), self.names.reasoning, where) if reasoning else None,
            no_target=None if self.empty_is_no_target else False,
        )

    def _masks(self, value: Any, where: str) -> list[MaskSource]:
        value = from_json(value)
        name = f"{where}, {self.names.mask}"
        if value is None or (isinstance(value, list | str | dict) and not value):
            return []
        single = self._picture(value, where)
        if single is not None:
            return [single]
        if isinstance(value, list) and self._picture(value[0], where) is not None:
            pictures = [self._picture(part, where) for part in value]
            if None in pictures:
                raise BadItemError("bad mask", f"{name}: a list of pictures holds something else, too")
            return [picture for picture in pictures if picture is not None]
        grid = _as_grid(value)
        if grid is not None:
            layers = grid if grid.ndim == 3 else grid[None]
            return [EncodedMask(encode_mask(np.asarray(layer != 0)), name) for layer in layers]
        if isinstance(_first_number(value), bool):
            raise BadItemError("bad mask", f"{name}: rows of booleans differ in length, so they are no picture")
        try:
            return parse_mask(_as_json(value), name, self.rasteriser)
        except ValueError as error:
            raise BadItemError("bad mask", str(error)) from error

    def _picture(self, value: Any, where: str) -> MaskSource | None:
        """A PNG as bytes or by its path; ``None`` for anything else."""
        if isinstance(value, dict) and "counts" not in value:
            value = value.get("bytes") or value.get("path")
        name = f"{where}, {self.names.mask}"
        if isinstance(value, bytes):
            return PictureMask(value, name, self.mask_value)
        if isinstance(value, str) and value.strip():
            path = self.finder.find(value, what=self.names.mask, where=where)
            return PictureMask(path, f"{name} {value}", self.mask_value)
        return None


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _as_grid(value: Any) -> np.ndarray | None:
    """Nested lists as (H, W) or (n, H, W) when they are a mask: of booleans, or of zeros and one other integer."""
    if not isinstance(value, np.ndarray):
        if not isinstance(_first_number(value), bool | int):  # polygons of millions of points stay lists
            return None
        try:
            value = np.array(value)
        except ValueError:  # lists of different lengths
            return None
    if value.ndim not in (2, 3) or not value.size:
        return None
    if value.dtype == np.bool_:
        return value
    if np.issubdtype(value.dtype, np.integer) and value.shape[-2] > 1 and len({0, value.min(), value.max()}) <= 2:
        return value if np.isin(value, (0, value.min(), value.max())).all() else None
    return None


def _first_number(value: Any) -> Any:
    """What lies deepest at the beginning of two or three levels of lists, ``None`` elsewhere."""
    depth = 0
    while isinstance(value, list) and value and depth < 4:
        value, depth = value[0], depth + 1
    return value if depth in (2, 3) else None


def _as_json(value: Any) -> Any:
    """Run lengths and polygons as the parser of JSON would give them: text for bytes, lists for arrays."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        counts = value.get("counts")
        return value | {"counts": counts.decode("ascii", "replace")} if isinstance(counts, bytes) else value
    if isinstance(value, list):
        return [_as_json(part) if isinstance(part, dict) else part for part in value]
    return value
