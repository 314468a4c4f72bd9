from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from datamodules.convert.errors import BadItemError
from datamodules.convert.lisa_json import paint_shapes, parse_annotation
from tests.datamodules.convert.sources import SQUARE

BIG, SMALL = [[0, 0], [30, 0], [30, 20], [0, 20]], [[5, 5], [9, 5], [9, 9], [5, 9]]


def annotation(**changes: object) -> dict:
    return {"text": ["a"], "is_sentence": True, "shapes": [{"label": "target", "points": SQUARE}], **changes}


def shape(label: str, points: list) -> dict:
    return {"label": label, "points": points}


def original_painter(shapes: list[dict], height: int, width: int) -> np.ndarray:
    """The rules of the original reader, written down once more with its own calls: (H, W) of 0, 1 and 255."""
    kept = [item for item in shapes if item["label"].lower() != "flag"]
    areas = []
    for item in kept:
        alone = np.zeros((height, width), np.uint8)
        points = np.array([item["points"]], dtype=np.int32)
        cv2.polylines(alone, points, True, 1, 1)
        cv2.fillPoly(alone, points, 1)
        areas.append(alone.sum())
    mask = np.zeros((height, width), np.uint8)
    for place in np.argsort(areas)[::-1]:
        value = 255 if "ignore" in kept[place]["label"].lower() else 1
        points = np.array([kept[place]["points"]], dtype=np.int32)
        cv2.polylines(mask, points, True, value, 1)
        cv2.fillPoly(mask, points, value)
    return mask


def test_painting_equals_the_original_on_random_shapes() -> None:
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(60):
        labels = rng.choice(["target", "Ignore", "wheel", "flag", "ignored part"], rng.integers(0, 6))
        shapes = [shape(str(label), rng.uniform(-10, 70, (rng.integers(3, 8), 2)).tolist()) for label in labels]
        parsed = parse_annotation(annotation(shapes=shapes), "a.json")
        target, ignore = paint_shapes(parsed.shapes, 50, 60)
        expected = original_painter(shapes, 50, 60)
        np.testing.assert_array_equal(target, expected == 1)
        np.testing.assert_array_equal(ignore, expected == 255)
        merged, none = paint_shapes(parsed.shapes, 50, 60, ignore_as="target")
        np.testing.assert_array_equal(merged, expected.astype(bool))
        assert not none.any()
        seen += int(target.any() and ignore.any())
    assert seen > 10


@pytest.mark.parametrize("order", [1, -1])
def test_the_smaller_lies_on_top_whatever_its_label_and_place(order: int) -> None:
    for top, bottom in (("ignore", "target"), ("target", "ignore")):
        shapes = [shape(top, SMALL), shape(bottom, BIG)][::order]
        target, ignore = paint_shapes(parse_annotation(annotation(shapes=shapes), "a").shapes, 30, 40)
        inside = {"target": target, "ignore": ignore}
        assert inside[top].sum() == 25
        assert inside[bottom].sum() == 31 * 21 - 25


def test_of_equal_areas_the_first_lies_on_top() -> None:
    shapes = [shape("ignore", SMALL), shape("target", SMALL)]
    target, ignore = paint_shapes(parse_annotation(annotation(shapes=shapes), "a").shapes, 30, 40)
    assert (target.sum(), ignore.sum()) == (0, 25)
    target, ignore = paint_shapes(parse_annotation(annotation(shapes=shapes[::-1]), "a").shapes, 30, 40)
    assert (target.sum(), ignore.sum()) == (25, 0)


def test_the_rasteriser_of_coco() -> None:
    """Fractions of a pixel count, and the border does not."""
    points = [[4.6, 5.2], [20.9, 4.1], [18.3, 22.7]]
    shapes = parse_annotation(annotation(shapes=[shape("target", points)]), "a").shapes
    flat = [number for point in points for number in point]
    expected = coco.decode(coco.frPyObjects([flat], 30, 40))[..., 0] > 0
    np.testing.assert_array_equal(paint_shapes(shapes, 30, 40, rasteriser="pycocotools")[0], expected)
    assert expected.sum() < paint_shapes(shapes, 30, 40)[0].sum()


def test_fields() -> None:
    shapes = [shape("FLAG", [[1, 2], [3, 4]]), shape("target", SQUARE), shape("Ignored", SMALL), shape("a flag", SMALL)]
    parsed = parse_annotation(annotation(text=[" one? ", "two"], is_sentence=False, shapes=shapes), "a.json")
    assert parsed.texts == ["one?", "two"]
    assert (parsed.kind, parsed.flags) == ("phrase", 1)
    assert [value for _, value in parsed.shapes] == [1, 255, 1]  # only the label 'flag' itself drops a shape
    assert parse_annotation(annotation(), "a").kind == "sentence"
    bare = annotation(shapes=[])
    del bare["is_sentence"]
    assert parse_annotation(bare, "a").kind == ""
    assert not paint_shapes([], 4, 5)[0].any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r"bad annotation: a\.json: expected a JSON object, got list"),
        ({"shapes": []}, "'text' must be a list, got nothing"),
        (annotation(text="what?"), "'text' must be a list, got str"),
        (annotation(shapes={}), "'shapes' must be a list, got dict"),
        (annotation(is_sentence="yes"), "'is_sentence' must be true or false, got 'yes'"),
        (annotation(text=[]), r"bad text: a\.json: 'text' is an empty list"),
        (annotation(text=["a", "  "]), "text 1 is empty"),
        (annotation(text=["a", 3]), "text 1 must be a string, got int"),
        (annotation(shapes=[{"points": SQUARE}]), "shape 0 must be an object with a string 'label'"),
        (annotation(shapes=["target"]), "shape 0 must be an object"),
        (annotation(shapes=[shape("target", SQUARE[:2])]), r"bad polygon: a\.json: shape 0 \(target\): 2 point"),
        (annotation(shapes=[{"label": "target"}]), r"shape 0 \(target\): points must be a list"),
        (annotation(shapes=[shape("Ignore", [[1, 2], [3, float("nan")], [5, 6]])]), r"\(Ignore\): coordinate nan"),
    ],
)
def test_bad_annotations(content: object, message: str) -> None:
    with pytest.raises(BadItemError, match=message):
        parse_annotation(content, "a.json")
