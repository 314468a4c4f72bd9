from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from datamodules.convert.errors import BadItemError
from datamodules.convert.rows_masks import CocoMask, EncodedMask, PictureMask, parse_mask, short
from datamodules.rle import encode_mask

SHAPE = (30, 40)


@pytest.fixture
def mask() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE) > 0.7


def png(pixels: np.ndarray, mode: str | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["bit", "grey", "palette", "sixteen", "colour", "alpha", "grey and alpha"])
def test_every_kind_of_png(mask: np.ndarray, form: str, tmp_path: Path) -> None:
    grey = mask.astype(np.uint8) * 3
    if form == "palette":
        image = Image.fromarray(grey)
        image.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9, 0, 0, 0])  # index 3 is black: the index counts
    elif form == "alpha":  # white everywhere, visible in the mask alone
        image = Image.fromarray(np.dstack([np.full((*SHAPE, 3), 255, np.uint8), mask.astype(np.uint8) * 255]))
    elif form == "grey and alpha":
        image = Image.merge("LA", [Image.fromarray(grey), Image.new("L", SHAPE[::-1], 255)])
    else:
        pixels = {
            "bit": mask,
            "grey": grey,
            "sixteen": mask.astype(np.uint16) * 700,
            "colour": np.dstack([np.zeros_like(grey), np.zeros_like(grey), grey]),
        }[form]
        image = Image.fromarray(pixels)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(PictureMask(tmp_path / "mask.png", "m").read(*SHAPE), mask)


def test_one_value_of_a_png(mask: np.ndarray) -> None:
    pixels = np.where(mask, 7, 200).astype(np.uint8)
    assert PictureMask(png(pixels), "m").read(*SHAPE).all()
    np.testing.assert_array_equal(PictureMask(png(pixels), "m", 7).read(*SHAPE), mask)
    np.testing.assert_array_equal(PictureMask(png(np.dstack([pixels] * 3)), "m", 7).read(*SHAPE), mask)
    with pytest.raises(
        BadItemError, match="m: a coloured picture has no single pixel value to compare with 7; save it"
    ):
        PictureMask(png(np.dstack([pixels, pixels, 0 * pixels])), "m", 7).read(*SHAPE)


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    whole = png(np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8))
    for data, message in (
        (whole[:-200], "bad mask: m: no readable PNG: "),
        (b"\xff\xd8 no picture", "bad mask: m: no readable PNG: cannot identify"),
        (png(np.zeros((40, 30), np.uint8)), "mask of another size: m: 40 × 30 pixels, its image 30 × 40 .*exchanged"),
        (png(np.zeros((40, 31), np.uint8)), r"m: 40 × 31 pixels, its image 30 × 40 \(height × width\)$"),
        (tmp_path / "absent.png", "missing mask: m: No such file"),
    ):
        with pytest.raises(BadItemError, match=message):
            PictureMask(data, "m").read(*SHAPE)
    jpeg = io.BytesIO()
    Image.new("L", SHAPE[::-1]).save(jpeg, "JPEG")  # its pixels are not those that were drawn
    with pytest.raises(BadItemError, match="no readable PNG"):
        PictureMask(jpeg.getvalue(), "m").read(*SHAPE)


def test_a_huge_picture_is_refused_by_its_header() -> None:
    header = bytearray(png(np.zeros((1, 1), np.uint8)))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(BadItemError, match=r"60000 × 60000 pixels|exceeds limit"):
        PictureMask(bytes(header), "m").read(*SHAPE)


def test_polygons_under_both_rules() -> None:
    polygons = [[4.2, 4, 20, 4.7, 20, 20, 4, 20.9], [25, 5, 35, 5, 30, 25]]
    rles = coco.frPyObjects(polygons, *SHAPE)
    np.testing.assert_array_equal(CocoMask(polygons, "m").read(*SHAPE), coco.decode(coco.merge(rles)) > 0)
    canvas = np.zeros(SHAPE, np.uint8)
    for polygon in polygons:
        cv2.fillPoly(canvas, [np.array(polygon).reshape(-1, 2).astype(np.int32)], 1)
    np.testing.assert_array_equal(CocoMask(polygons, "m", "opencv").read(*SHAPE), canvas > 0)


def test_run_lengths(mask: np.ndarray) -> None:
    compressed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int), [1 - int(mask[-1, -1])]])
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])).tolist()
    for counts in (compressed["counts"].decode(), runs):
        np.testing.assert_array_equal(CocoMask({"size": [30, 40], "counts": counts}, "m").read(*SHAPE), mask)
    np.testing.assert_array_equal(EncodedMask(encode_mask(mask), "m").read(*SHAPE), mask)
    with pytest.raises(BadItemError, match="mask of another size: m: 30 × 40 pixels, its image 40 × 30"):
        EncodedMask(encode_mask(mask), "m").read(40, 30)
    with pytest.raises(BadItemError, match="bad mask: m: part 0 of 1: RLE of size"):
        CocoMask({"size": [40, 30], "counts": runs}, "m").read(*SHAPE)
    with pytest.raises(BadItemError, match=r"no mask: m: neither polygons nor an RLE \(boxes"):
        CocoMask([], "m").read(*SHAPE)


TRIANGLE = [1, 1, 9, 1, 9, 9]
RLE = {"size": [30, 40], "counts": [1200]}


@pytest.mark.parametrize(
    ("value", "instances"),
    [
        (RLE, 1),
        ([RLE, RLE], 2),
        ([TRIANGLE], 1),
        ([TRIANGLE, TRIANGLE], 1),  # the parts of one
        ([[TRIANGLE], [TRIANGLE, TRIANGLE]], 2),
        ([[TRIANGLE], RLE], 2),
    ],
)
def test_forms_in_json(value: object, instances: int) -> None:
    found = parse_mask(value, "m", "pycocotools")
    assert len(found) == instances
    for source in found:
        source.read(*SHAPE)


DEEP: list = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "m: expected an RLE, polygons .* got 7"),
        ([], r"got \[\]"),
        (TRIANGLE, r"m: expected an RLE, .* got \[1, 1, 9, 1, 9, 9\]"),
        ([TRIANGLE, 5], "expected an RLE"),
        ([[[1, 1], [9, 1], [9, 9]]], r"m: polygons must be flat lists \[x0, y0, x1, y1, …\], got \[x, y\] pairs"),
        ({"counts": []}, r'm: an object must be an RLE {"size": \[H, W\], "counts": …}, got'),
        ([RLE, {"size": 3}], "m, instance 1: an object must be an RLE"),
        (
            {"size": [30, 40], "counts": [[1]]},
            "m: polygons must be flat lists of numbers, and so must the parts of an RLE",
        ),
        ({"size": {}, "counts": ""}, "and so must the parts of an RLE"),
        ([[1, 2, 3, 4, 5, [[6]]]], "expected an RLE"),
        (DEEP, "got list nested without end"),
        ({"size": DEEP, "counts": ""}, "and so must the parts of an RLE"),
    ],
)
def test_other_forms(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mask(value, "m", "pycocotools")


def test_malformed_parts_are_named_when_read() -> None:
    for polygons in (
        [[1, 1, 9, 1, 9]],
        [TRIANGLE, ["1", 1, 2, 2, 3, 3]],
        [[1, 1, 2, 2, float("inf"), 3]],
        [[1, 2, 3, 4]],
    ):
        for rasteriser in ("pycocotools", "opencv"):
            with pytest.raises(BadItemError, match=rf"bad mask: m: part {len(polygons) - 1} of {len(polygons)}: "):
                parse_mask(polygons, "m", rasteriser)[0].read(*SHAPE)


def test_short() -> None:
    assert short("a") == "'a'"
    assert len(short("a" * 1000)) == 58
