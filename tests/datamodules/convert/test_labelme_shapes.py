from __future__ import annotations

import base64
import io
import math
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from datamodules.convert.errors import BadItemError
from datamodules.convert.labelme_shapes import ShapesMask

H, W = 120, 160


def labelme_rule(kind: str, points: list[list[float]]) -> np.ndarray:
    """How LabelMe itself paints a shape: with PIL, outline and fill."""
    image = Image.new("L", (W, H))
    draw = ImageDraw.Draw(image)
    corners = [tuple(point) for point in points]
    if kind == "circle":
        (x, y), (edge_x, edge_y) = corners
        radius = math.hypot(x - edge_x, y - edge_y)
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    elif kind == "rectangle":
        (x0, y0), (x1, y1) = corners
        draw.rectangle([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], outline=1, fill=1)
    else:
        draw.polygon(corners, outline=1, fill=1)
    return np.array(image) > 0


def read(*shapes: dict[str, Any], rasteriser: str = "opencv") -> np.ndarray:
    return ShapesMask(list(shapes), "a.json shape 0", rasteriser).read(H, W)


@pytest.mark.parametrize("rasteriser", ["opencv", "pycocotools"])
@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("polygon", [[20.3, 10.8], [120.5, 30.1], [90.0, 100.2], [30.7, 80.9]]),
        ("polygon", [[-40, -20], [200, 30], [90, 150]]),
        ("rectangle", [[100.2, 90.7], [20.6, 15.1]]),
        ("circle", [[80.2, 60.6], [100.9, 75.3]]),
        ("circle", [[10, 10], [60, 10]]),
    ],
)
def test_as_labelme_paints(kind: str, points: list[list[float]], rasteriser: str) -> None:
    truth = labelme_rule(kind, points)
    mask = read({"shape_type": kind, "points": points}, rasteriser=rasteriser)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95
    window = np.ones((5, 5), np.uint8)  # differences lie within two pixels of the border
    inside, around = (cv2.erode(truth.astype(np.uint8), window), cv2.dilate(truth.astype(np.uint8), window))
    assert mask[inside > 0].all()
    assert not mask[around == 0].any()


def test_a_missing_type_is_a_polygon_and_shapes_unite() -> None:
    one = {"points": [[1, 1], [30, 1], [30, 30]], "shape_type": None}
    two = {"points": [[50, 50], [80, 50], [80, 80], [50, 80]], "shape_type": "rectangle"}
    np.testing.assert_array_equal(read(one, two), read(one) | read(two))
    assert read({"points": one["points"]}).sum() == read(one).sum() > 400


def picture(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(("left", "top"), [(30, 20), (0, 0), (-5, -7), (140, 100), (400, 20), (-90, 20)])
def test_pictures_of_masks(left: int, top: int) -> None:
    pixels = np.random.default_rng(0).random((25, 40)) > 0.5
    truth = np.zeros((H + 800, W + 800), dtype=bool)
    truth[400 + top : 425 + top, 400 + left : 440 + left] = pixels
    points = [[left, top], [left + 39, top + 24]]
    for data in (pixels, pixels.astype(np.uint8) * 255):
        mask = read({"shape_type": "mask", "points": points, "mask": picture(data)})
        np.testing.assert_array_equal(mask, truth[400 : 400 + H, 400 : 400 + W])


BOX = [[0, 0], [39, 24]]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"shape_type": "ellipse", "points": BOX}, "shape_type 'ellipse' is none of polygon, rectangle, circle, mask"),
        ({"shape_type": "polygon", "points": BOX}, r"2 point\(s\) enclose no area"),
        ({"shape_type": "polygon"}, "points must be a list of"),
        (
            {"shape_type": "polygon", "points": [[0, 0], [1e7, 0], [0, 5]]},
            "coordinate 10000000.0 is not finite or beyond",
        ),
        ({"shape_type": "rectangle", "points": [[0, 0]]}, "a rectangle has 2 opposite corners or 4 corners, got"),
        ({"shape_type": "rectangle", "points": [[0, 0], 3]}, "point 1 must be"),
        ({"shape_type": "circle", "points": [[0, 0], [0, 1], [2, 2]]}, "a circle has 2 points, got"),
        ({"shape_type": "circle", "points": [[0, 0], [float("nan"), 1]]}, "coordinate nan is not finite"),
        ({"shape_type": "mask", "points": BOX}, "a shape of type mask needs a base64 text 'mask', got None"),
        ({"shape_type": "mask", "points": BOX, "mask": "%%%"}, "'mask' is no base64"),
        ({"shape_type": "mask", "points": BOX, "mask": "ü"}, "'mask' is no base64|only ASCII"),
        ({"shape_type": "mask", "points": BOX, "mask": "aaaa"}, "'mask' is no readable PNG"),
        (
            {"shape_type": "mask", "points": BOX, "mask": picture(np.ones((25, 41), np.uint8))},
            "the picture of the mask is 25 × 41 pixels, its box 25 × 40",
        ),
        ({"shape_type": "mask", "points": [[0, 0]], "mask": ""}, "a mask has 2 points"),
    ],
)
def test_shapes_that_cannot_be_painted(shape: dict[str, Any], message: str) -> None:
    with pytest.raises(BadItemError, match=f"bad mask: a.json shape 0: .*{message}"):
        read(shape)


def test_four_corners_of_a_rectangle() -> None:
    four = [[20, 10], [60, 20], [50, 60], [10, 50]]
    np.testing.assert_array_equal(
        read({"shape_type": "rectangle", "points": four}), read({"shape_type": "polygon", "points": four})
    )
