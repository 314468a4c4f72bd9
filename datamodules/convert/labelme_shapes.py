"""The shapes that LabelMe draws, as masks: polygon, rectangle, circle, and a picture of the mask inside its box."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from datamodules.convert.errors import BadItemError
from datamodules.convert.polygons import Rasteriser, check_points
from datamodules.convert.rows_masks import BAD, CocoMask, MaskSource, short

WITHOUT_AREA = ("point", "points", "line", "linestrip")
"""Types of shape that mark places and no pixels."""


@dataclass(frozen=True)
class ShapesMask(MaskSource):
    """The union of the shapes that make one instance.

    Attributes:
        shapes: as the file has them.
        name: what errors call them.
        rasteriser: rule for polygons and rectangles.
    """

    shapes: list[dict[str, Any]]
    name: str
    rasteriser: Rasteriser

    def read(self, height: int, width: int) -> np.ndarray:
        """See :meth:`MaskSource.read`."""
        mask = np.zeros((height, width), dtype=bool)
        for shape in self.shapes:
            kind = shape.get("shape_type") or "polygon"
            try:
                if kind not in _PAINTERS:
                    raise ValueError(f"shape_type {short(kind)} is none of {', '.join(_PAINTERS)}")
                mask |= _PAINTERS[kind](shape, height, width, self.rasteriser)
            except ValueError as error:
                raise BadItemError(BAD, f"{self.name}: {error}") from error
        return mask


def _polygon(shape: dict[str, Any], height: int, width: int, rasteriser: Rasteriser) -> np.ndarray:
    points = check_points(shape.get("points"))
    return CocoMask([points.ravel().tolist()], "polygon", rasteriser).read(height, width)


def _rectangle(shape: dict[str, Any], height: int, width: int, rasteriser: Rasteriser) -> np.ndarray:
    points = shape.get("points")
    if not isinstance(points, list) or len(points) not in (2, 4):
        raise ValueError(f"a rectangle has 2 opposite corners or 4 corners, got {short(points)}")
    if len(points) == 4:
        return _polygon(shape, height, width, rasteriser)
    (left, top), (right, bottom) = _pairs(points, "rectangle")
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return _polygon({"points": corners}, height, width, rasteriser)


def _circle(shape: dict[str, Any], height: int, width: int, rasteriser: Rasteriser) -> np.ndarray:
    """Pixels whose place is not farther from the centre than the second point."""
    (x, y), (edge_x, edge_y) = _pairs(shape.get("points"), "circle")
    rows, columns = np.ogrid[:height, :width]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= (edge_x - x) ** 2 + (edge_y - y) ** 2)


def _picture(shape: dict[str, Any], height: int, width: int, rasteriser: Rasteriser) -> np.ndarray:
    """A PNG in base64 that covers the box of the two points, both corners included."""
    (left, top), (right, bottom) = [(int(x), int(y)) for x, y in _pairs(shape.get("points"), "mask")]
    box = (bottom - top + 1, right - left + 1)
    pixels = _decode_picture(shape.get("mask"), box)
    mask = np.zeros((height, width), dtype=bool)
    if top >= height or left >= width or bottom < 0 or right < 0:
        return mask
    inside = pixels[max(-top, 0) : height - top, max(-left, 0) : width - left]
    mask[max(top, 0) : max(top, 0) + inside.shape[0], max(left, 0) : max(left, 0) + inside.shape[1]] = inside
    return mask


def _decode_picture(text: Any, box: tuple[int, int]) -> np.ndarray:
    if not isinstance(text, str):
        raise ValueError(f"a shape of type mask needs a base64 text 'mask', got {short(text)}")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            if (image.height, image.width) != box:
                raise ValueError(
                    f"the picture of the mask is {image.height} × {image.width} pixels, its box {box[0]} × {box[1]}"
                )
            pixels = np.asarray(image)
    except binascii.Error as error:
        raise ValueError(f"'mask' is no base64: {error}") from error
    except ValueError:
        raise
    except Exception as error:  # decoders of broken files raise OSError, SyntaxError, struct.error, zlib.error …
        raise ValueError(f"'mask' is no readable PNG: {error}") from error
    return np.asarray(pixels.reshape(*pixels.shape[:2], -1).any(-1))


def _pairs(points: Any, kind: str) -> list[list[float]]:
    if not isinstance(points, list) or len(points) != 2:
        raise ValueError(f"a {kind} has 2 points, got {short(points)}")
    check_points([*points, points[0]])  # as a polygon: forms and sizes of the numbers
    return points


_Painter = Callable[[dict[str, Any], int, int, Rasteriser], np.ndarray]
_PAINTERS: dict[str, _Painter] = {
    "polygon": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "mask": _picture,
}
