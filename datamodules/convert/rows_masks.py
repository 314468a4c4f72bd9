"""Where one instance's mask comes from: a picture of it, run lengths or polygons. Each source reads one mask."""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.convert.errors import BadItemError
from datamodules.convert.polygons import Rasteriser, coco_mask
from datamodules.rle import decode_mask, mask_size

MISSING, BAD, SIZE = "missing mask", "bad mask", "mask of another size"


class MaskSource(ABC):
    """One instance's mask, not read yet; small enough to travel to a worker process."""

    @abstractmethod
    def read(self, height: int, width: int) -> np.ndarray:
        """The mask as (H, W) bool.

        Raises:
            BadItemError: unreadable, or not of the image's size.
        """


@dataclass(frozen=True)
class PictureMask(MaskSource):
    """A PNG: pixels that are not zero, or those of one value.

    Of a picture with several channels, a pixel is not zero when any colour is not zero and it is not transparent.

    Attributes:
        picture: the file, or its bytes.
        name: what errors call it.
        value: the pixel value that means the target, ``None`` for all but zero.
    """

    picture: Path | bytes
    name: str
    value: int | None = None

    def read(self, height: int, width: int) -> np.ndarray:
        """See :meth:`MaskSource.read`; the size is compared before any pixel is decoded."""
        try:
            data = self.picture if isinstance(self.picture, bytes) else self.picture.read_bytes()
        except OSError as error:
            raise BadItemError(MISSING, f"{self.name}: {error.strerror or error}") from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                    check_size((image.height, image.width), height, width, self.name)
                    return self._select(np.asarray(image if image.mode != "LA" else image.convert("RGBA")))
        except BadItemError:
            raise
        except Exception as error:  # decoders of broken files raise OSError, SyntaxError, struct.error, zlib.error …
            raise BadItemError(BAD, f"{self.name}: no readable PNG: {error}") from error

    def _select(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.ndim == 2:
            return np.asarray(pixels != 0 if self.value is None else pixels == self.value)
        colours = pixels[..., :3]
        visible = pixels[..., 3] > 0 if pixels.shape[2] == 4 else np.ones(pixels.shape[:2], dtype=bool)
        if self.value is None:
            return np.asarray(colours.any(-1) & visible)
        if (colours != colours[..., :1]).any():
            raise BadItemError(
                BAD,
                f"{self.name}: a coloured picture has no single pixel value to compare with {self.value}; save it with "
                "one channel, or leave the value out to take all that is not black",
            )
        return np.asarray((colours[..., 0] == self.value) & visible)


@dataclass(frozen=True)
class CocoMask(MaskSource):
    """Flat polygons (their union) or run lengths in COCO's form.

    Attributes:
        segmentation: a list of flat polygons, an RLE, or a list of RLEs.
        name: what errors call it.
        rasteriser: rule for polygons.
    """

    segmentation: Any
    name: str
    rasteriser: Rasteriser = "pycocotools"

    def read(self, height: int, width: int) -> np.ndarray:
        """See :meth:`MaskSource.read`."""
        if not self.segmentation:
            raise BadItemError("no mask", f"{self.name}: neither polygons nor an RLE (boxes are no masks)")
        try:
            return coco_mask(self.segmentation, height, width, self.rasteriser)
        except ValueError as error:
            raise BadItemError(BAD, f"{self.name}: {error}") from error


@dataclass(frozen=True)
class EncodedMask(MaskSource):
    """A mask that was encoded already.

    Attributes:
        rle: as :func:`datamodules.rle.encode_mask` makes it.
        name: what errors call it.
    """

    rle: dict[str, Any]
    name: str

    def read(self, height: int, width: int) -> np.ndarray:
        """See :meth:`MaskSource.read`."""
        check_size(mask_size(self.rle), height, width, self.name)
        return decode_mask(self.rle)


def check_size(found: tuple[int, int], height: int, width: int, name: str) -> None:
    """Refuse a mask that is not of its image's size.

    Raises:
        BadItemError: with both sizes.
    """
    if found != (height, width):
        hint = "; height and width are exchanged" if found == (width, height) else ""
        raise BadItemError(
            SIZE, f"{name}: {found[0]} × {found[1]} pixels, its image {height} × {width} (height × width){hint}"
        )


def parse_mask(value: Any, name: str, rasteriser: Rasteriser) -> list[MaskSource]:
    """Masks in JSON form: an RLE, the polygons of one instance, or a list with one of these for each instance.

    Raises:
        ValueError: of none of these forms. Coordinates and runs are checked when the mask is read.
    """
    single = _one_instance(value, name, rasteriser)
    if single is not None:
        return [single]
    if isinstance(value, list) and value:
        parts = [_one_instance(part, f"{name}, instance {place}", rasteriser) for place, part in enumerate(value)]
        found = [part for part in parts if part is not None]
        if len(found) == len(parts):
            return [*found]
    raise ValueError(
        f"{name}: expected an RLE, polygons [[x0, y0, x1, y1, …], …] or a list with one of these for each instance, "
        f"got {short(value)}"
    )


def _one_instance(value: Any, name: str, rasteriser: Rasteriser) -> MaskSource | None:
    """``None`` where ``value`` is not the form of one instance."""
    if isinstance(value, dict):
        if not {"size", "counts"} <= value.keys():
            raise ValueError(f'{name}: an object must be an RLE {{"size": [H, W], "counts": …}}, got {short(value)}')
        return coco_source(value, name, rasteriser)
    if isinstance(value, list) and value and all(_is_pair_list(part) for part in value):
        raise ValueError(f"{name}: polygons must be flat lists [x0, y0, x1, y1, …], got [x, y] pairs")
    if isinstance(value, list) and value and all(_is_flat(part) for part in value):
        return CocoMask(value, name, rasteriser)
    return None


def coco_source(segmentation: Any, name: str, rasteriser: Rasteriser) -> CocoMask:
    """One instance in COCO's form, whose lists nest no deeper than that form does: deeper ones break what copies them.

    Raises:
        ValueError: they do.
    """
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    rows = [row for part in parts for row in (part.values() if isinstance(part, dict) else [part])]
    if any(isinstance(row, dict) or (isinstance(row, list) and row and not _is_flat(row)) for row in rows):
        raise ValueError(f"{name}: polygons must be flat lists of numbers, and so must the parts of an RLE")
    return CocoMask(segmentation, name, rasteriser)


def _is_flat(part: Any) -> bool:
    return isinstance(part, list) and bool(part) and not {list, dict} & set(map(type, part))


def _is_pair_list(part: Any) -> bool:
    return isinstance(part, list) and len(part) > 2 and all(isinstance(item, list) and len(item) == 2 for item in part)


def short(value: Any) -> str:
    """The beginning of a value, for errors."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"{type(value).__name__} nested without end"
    return text if len(text) <= 60 else text[:57] + "…"
