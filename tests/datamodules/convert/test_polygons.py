from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from datamodules.convert.polygons import check_flat_polygon, check_points, coco_mask, paint_polygon
from datamodules.rle import encode_mask

RNG = np.random.default_rng(3)


def test_points() -> None:
    assert check_points([[1, 2.5], [3, 4], (5, 6)]).tolist() == [[1, 2.5], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("abc", r"points must be a list of \[x, y\], got str"),
        ([[1, 2], [3], [4, 5]], r"point 1 must be \[x, y\], got \[3\]"),
        ([[1, 2], [3, 4]], r"2 point\(s\) enclose no area"),
        ([], r"0 point\(s\) enclose no area"),
        ([[1, 2], [3, float("nan")], [5, 6]], "coordinate nan is not finite"),
        ([[1, 2], [3, float("inf")], [5, 6]], "coordinate inf is not finite"),
        ([[1, 2], [3, 1e30], [5, 6]], r"coordinate 1e\+30 is not finite or beyond ±100000"),
        ([[1, 2], [3, "4"], [5, 6]], "coordinate '4' is no number"),
        ([[1, 2], [3, True], [5, 6]], "coordinate True is no number"),
    ],
)
def test_bad_points(points: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_points(points)


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        (3, "a polygon must be a list of numbers, got int"),
        ([1, 2, 3, 4, 5, 6, 7], r"odd number of coordinates \(7\)"),
        ([1, 2, 3, 4], r"2 point\(s\) enclose no area"),
        ([], r"0 point\(s\) enclose no area"),
        ([1, 2, 3, 4, 5, float("nan")], "coordinate nan"),
        ([1, 2, 3, 4, 5, None], "coordinate None is no number"),
        ([[1, 2], [3, 4]], r"coordinate \[1, 2\] is no number"),
    ],
)
def test_bad_flat_polygons(polygon: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_flat_polygon(polygon)


def test_coordinates_are_cut_not_rounded_and_borders_count() -> None:
    canvas = np.zeros((8, 8), dtype=np.uint8)
    paint_polygon(canvas, np.array([[1.9, 1.9], [4.9, 1.9], [4.9, 3.9], [1.9, 3.9]]), 7)
    expected = np.zeros((8, 8), dtype=np.uint8)
    expected[1:4, 1:5] = 7
    np.testing.assert_array_equal(canvas, expected)


def test_polygons_equal_pycocotools_even_where_parts_overlap() -> None:
    for _ in range(30):
        parts = [RNG.uniform(-5, 50, 2 * RNG.integers(3, 8)).tolist() for _ in range(RNG.integers(1, 4))]
        # the REFER API sums the decoded parts, so that overlaps count 2; the union is what is above 0
        summed = coco.decode(coco.frPyObjects(parts, 32, 45)).sum(axis=2)
        np.testing.assert_array_equal(coco_mask(parts, 32, 45), summed > 0)


@pytest.mark.parametrize("outline", [False, True])
def test_polygons_equal_opencv_even_where_parts_overlap(outline: bool) -> None:
    """LISA draws the outline and then fills; both count the border, so that the outline adds nothing."""
    larger = 0
    for _ in range(30):
        parts = [RNG.uniform(-5, 50, 2 * RNG.integers(3, 8)).tolist() for _ in range(RNG.integers(1, 4))]
        expected = np.zeros((32, 45), np.uint8)
        for part in parts:
            points = np.array([[int(x), int(y)] for x, y in zip(part[::2], part[1::2], strict=True)], np.int32)
            if outline:
                cv2.polylines(expected, [points], True, 1, 1)
            cv2.fillPoly(expected, [points], 1)
        mask = coco_mask(parts, 32, 45, "opencv")
        np.testing.assert_array_equal(mask, expected > 0)
        larger += int(mask.sum() > coco_mask(parts, 32, 45, "pycocotools").sum())
    assert larger > 20


def test_run_lengths_need_no_rasteriser() -> None:
    mask = RNG.random((9, 7)) > 0.5
    np.testing.assert_array_equal(coco_mask(encode_mask(mask), 9, 7, "opencv"), mask)


def test_no_parts_make_an_empty_mask() -> None:
    assert coco_mask([], 4, 5).shape == (4, 5)
    assert not coco_mask([], 4, 5).any()


def test_run_lengths_of_all_forms() -> None:
    mask = RNG.random((9, 7)) > 0.5
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    crowd = {"size": [9, 7], "counts": runs if not flat[0] else [0, *runs]}
    np.testing.assert_array_equal(coco.decode(coco.frPyObjects(crowd, 9, 7)) > 0, mask)  # the oracle reads it alike
    half = np.zeros_like(mask)
    half[:4] = True
    for segmentation, expected in (
        (crowd, mask),
        ([crowd], mask),
        (encode_mask(mask), mask),
        ([encode_mask(mask & half), encode_mask(mask & ~half)], mask),
        ([crowd, encode_mask(half)], mask | half),
    ):
        np.testing.assert_array_equal(coco_mask(segmentation, 9, 7), expected)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("abc", "segmentation must be polygons or RLEs, got str"),
        (None, "segmentation must be polygons or RLEs, got NoneType"),
        ([[1, 2, 3, 4, 5, 6], [1, 2, 3]], "part 1 of 2: odd number"),
        ({"size": [3, 4], "counts": [12]}, r"RLE of size \[3, 4\] in an image of 4 × 3"),
        ({"counts": [12]}, "RLE of size None"),
        ({"size": [4, 3], "counts": [5, 6]}, "must be integers ≥ 0 that add up to 4 × 3"),
        ({"size": [4, 3], "counts": [13, -1]}, "must be integers ≥ 0"),
        ({"size": [4, 3], "counts": [11.0, 1]}, "must be integers ≥ 0"),
        ({"size": [4, 3]}, "a mask must be"),
        (encode_mask(np.ones((2, 6), dtype=bool)), r"RLE of size \[2, 6\] in an image of 4 × 3"),
        ({"size": [4, 3], "counts": "zzz"}, "mask counts"),
    ],
)
def test_bad_segmentations(segmentation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coco_mask(segmentation, 4, 3)


@pytest.mark.realdata
def test_real_coco_annotations_equal_ann_to_mask(realdata: Path) -> None:
    from pycocotools.coco import COCO

    path = realdata / "coco_icevision/annotations.json"
    reader, sizes = COCO(str(path)), {}
    for image in json.loads(path.read_text())["images"]:
        sizes[image["id"]] = image["height"], image["width"]
    assert len(reader.anns) > 20
    assert any(annotation["iscrowd"] for annotation in reader.anns.values())
    for annotation in reader.anns.values():
        mask = coco_mask(annotation["segmentation"], *sizes[annotation["image_id"]])
        np.testing.assert_array_equal(mask, reader.annToMask(annotation) > 0)
