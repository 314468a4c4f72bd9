"""Polygons and run lengths of annotation files as masks, under the two rasterisers that published numbers rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from datamodules.rle import decode_mask, mask_size

Rasteriser = Literal["opencv", "pycocotools"]

MAX_COORDINATE = 100_000.0
"""Pixels; beyond it the rasterisers' integers overflow and their memory grows with the length of an edge."""


def check_points(points: Any) -> np.ndarray:
    """A polygon given as ``[[x, y], …]`` as (N, 2) float64.

    Raises:
        ValueError: fewer than 3 points, a point of another form, or a coordinate that is no usable number.
    """
    if not isinstance(points, list | tuple):
        raise ValueError(f"points must be a list of [x, y], got {type(points).__name__}")
    for place, point in enumerate(points):
        if not isinstance(point, list | tuple) or len(point) != 2:
            raise ValueError(f"point {place} must be [x, y], got {_short(point)}")
        _check_numbers(point)
    if len(points) < 3:
        raise ValueError(f"{len(points)} point(s) enclose no area, a polygon needs at least 3")
    return np.array(points, dtype=np.float64)


def check_flat_polygon(polygon: Any) -> list[float]:
    """A polygon given as ``[x0, y0, x1, y1, …]``.

    Raises:
        ValueError: an odd number of coordinates, fewer than 3 points, or a coordinate that is no usable number.
    """
    if not isinstance(polygon, list | tuple):
        raise ValueError(f"a polygon must be a list of numbers, got {type(polygon).__name__}")
    _check_numbers(polygon)
    if len(polygon) % 2:
        raise ValueError(f"odd number of coordinates ({len(polygon)}), x and y must come in pairs")
    if len(polygon) < 6:  # pycocotools would take four numbers for a box
        raise ValueError(f"{len(polygon) // 2} point(s) enclose no area, a polygon needs at least 3")
    return [float(number) for number in polygon]


def paint_polygon(canvas: np.ndarray, points: np.ndarray, value: int) -> None:
    """Paint a polygon the OpenCV way: coordinates cut to integers, border pixels included.

    Args:
        canvas: (H, W) uint8, painted in place.
        points: (N, 2) float64, x and y in pixels; parts outside the canvas are clipped.
        value: what to paint.
    """
    import cv2

    cv2.fillPoly(canvas, [points.astype(np.int32)], value)


def coco_mask(segmentation: Any, height: int, width: int, rasteriser: Rasteriser = "pycocotools") -> np.ndarray:
    """A COCO ``segmentation`` as (H, W) bool: the union of its polygons or run lengths.

    Args:
        segmentation: a list of flat polygons, one RLE, or a list of RLEs (counts compressed or as numbers).
        height: of the image.
        width: of the image.
        rasteriser: of polygons: ``pycocotools`` as REFER does, or ``opencv`` as ReasonSeg's reader does (1 to 6 % more
            pixels, for it counts the border).

    Raises:
        ValueError: naming the part that is malformed.
    """
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list):
        raise ValueError(f"segmentation must be polygons or RLEs, got {type(segmentation).__name__}")
    mask = np.zeros((height, width), dtype=bool)
    for place, part in enumerate(parts):
        try:
            if isinstance(part, dict):
                mask |= _run_mask(part, height, width)
            else:
                mask |= polygon_mask(check_flat_polygon(part), height, width, rasteriser)
        except ValueError as error:
            raise ValueError(f"part {place} of {len(parts)}: {error}") from error
    return mask


def polygon_mask(polygon: Sequence[float], height: int, width: int, rasteriser: Rasteriser) -> np.ndarray:
    """One checked polygon ``[x0, y0, x1, y1, …]`` as (H, W) bool."""
    if rasteriser == "opencv":
        canvas = np.zeros((height, width), dtype=np.uint8)
        paint_polygon(canvas, np.array(polygon, dtype=np.float64).reshape(-1, 2), 1)
        return canvas > 0
    from pycocotools import mask as coco

    rles = coco.frPyObjects([list(polygon)], height, width)
    return np.asarray(coco.decode(rles)[..., 0], dtype=bool)


def _run_mask(rle: dict[str, Any], height: int, width: int) -> np.ndarray:
    counts = rle.get("counts")
    if not isinstance(counts, list):
        if mask_size(rle) != (height, width):
            raise ValueError(f"RLE of size {rle['size']} in an image of {height} × {width}")
        return decode_mask(rle)
    if rle.get("size") != [height, width]:
        raise ValueError(f"RLE of size {_short(rle.get('size'))} in an image of {height} × {width}")
    if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != height * width:
        raise ValueError(f"RLE counts must be integers ≥ 0 that add up to {height} × {width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _check_numbers(numbers: Sequence[Any]) -> None:
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"coordinate {_short(number)} is no number")
        if not math.isfinite(number) or abs(number) > MAX_COORDINATE:
            raise ValueError(f"coordinate {number} is not finite or beyond ±{MAX_COORDINATE:.0f} pixels")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
