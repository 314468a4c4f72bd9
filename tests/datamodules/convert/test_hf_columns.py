from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.hf_columns import ColumnNames, ColumnRows
from datamodules.convert.rows import PhotoBytes, PhotoFile
from datamodules.convert.rows_paths import FileFinder
from datamodules.rle import encode_mask
from tests.datamodules.convert.hf_datasets import SIZE, box, photo, png
from tests.datamodules.convert.sources import save_photo

COLUMNS = {"image": "struct", "mask": "list", "text": "string", "image_id": "string", "why": "string", "part": "string"}


def form(folder: Path, **options: Any) -> ColumnRows:
    names = ColumnNames(**options.pop("names", {}))
    return ColumnRows(names, COLUMNS, FileFinder(folder, inside=("images",)), **options)


def masks(folder: Path, value: Any, **options: Any) -> list[np.ndarray]:
    target = form(folder, **options).target({"mask": value, "text": "q"}, "f row 1")
    return [source.read(*SIZE) for source in target.masks]


ONE, TWO = box(1), box(2)


def rle(mask: np.ndarray, counts: Any = str) -> dict[str, Any]:
    made = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": made["counts"] if counts is bytes else made["counts"].decode()}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (ONE, [ONE]),
        (ONE.tolist(), [ONE]),
        (ONE.astype(np.int64), [ONE]),
        ((ONE * 255).astype(np.uint8).tolist(), [ONE]),
        ([ONE.tolist(), TWO.tolist()], [ONE, TWO]),
        (png(ONE), [ONE]),
        (png(ONE)["bytes"], [ONE]),
        ([png(ONE), png(TWO)], [ONE, TWO]),
        ("m.png", [ONE]),
        (["m.png", "m.png"], [ONE, ONE]),
        ({"bytes": None, "path": "m.png"}, [ONE]),
        (rle(ONE), [ONE]),
        (rle(ONE, bytes), [ONE]),
        ([rle(ONE), rle(TWO, bytes)], [ONE, TWO]),
        (json.dumps(rle(TWO)), [TWO]),
        (encode_mask(TWO), [TWO]),
    ],
)
def test_forms_of_masks(tmp_path: Path, value: Any, expected: list[np.ndarray]) -> None:
    (tmp_path / "m.png").write_bytes(png(ONE)["bytes"])
    found = masks(tmp_path, value)
    assert len(found) == len(expected)
    for mask, truth in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, truth)


BOX = [4, 4, 20, 4, 20, 20, 4, 20]


@pytest.mark.parametrize(
    ("value", "areas"),
    [
        ([BOX], [256]),
        ([[float(number) for number in BOX], BOX], [256]),
        (np.array([BOX, BOX]), [256]),  # polygons of equal length come as a grid of integers
        ([[BOX], [BOX]], [256, 256]),
        (json.dumps([BOX]), [256]),
    ],
)
def test_polygons(tmp_path: Path, value: Any, areas: list[int]) -> None:
    assert [mask.sum() for mask in masks(tmp_path, value)] == areas
    assert [mask.sum() for mask in masks(tmp_path, value, rasteriser="opencv")] == [289] * len(areas)


def test_value_of_masks(tmp_path: Path) -> None:
    assert masks(tmp_path, png(ONE, 7), mask_value=7)[0].sum() == ONE.sum()
    assert masks(tmp_path, png(ONE, 7), mask_value=8)[0].sum() == 0


def test_all_of_a_target(tmp_path: Path) -> None:
    rows = form(tmp_path, names={"reasoning": "why", "split": "part"})
    assert rows.image_columns == ("image", "part", "image_id")
    assert rows.columns == ("image", "mask", "text", "why", "part", "image_id")
    target = rows.target({"mask": ONE, "text": ["q", " r "], "why": "so"}, "f row 1")
    assert (target.expressions, target.reasoning, target.items, target.no_target) == (
        ["q", "r"],
        "so",
        ["f row 1"],
        False,
    )
    assert rows.target({"mask": ONE, "text": "q", "why": None}, "f").reasoning is None


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"mask": None}, "no mask: f row 1: mask is empty. Leave it out, or pass --empty-is-no-target"),
        ({"mask": []}, "no mask: f row 1: mask is empty"),
        ({"mask": [[True], [True, False]]}, "bad mask: f row 1, mask: rows of booleans differ in length"),
        ({"mask": 3}, "bad mask: f row 1, mask: expected an RLE, .* got 3"),
        ({"mask": [png(ONE), 3]}, "f row 1, mask: a list of pictures holds something else"),
        ({"mask": "../m.png"}, "f row 1: mask '../m.png' is not in|path outside"),
        ({"mask": {"counts": "x"}}, "f row 1, mask: an object must be an RLE"),
        ({"mask": ONE, "text": ""}, "f row 1: column text must be a text, got an empty text"),
        ({"mask": ONE, "text": []}, "column text is an empty list"),
        ({"mask": ONE, "why": 3}, "column why must be a text, got 3"),
    ],
)
def test_targets_that_cannot_be_used(tmp_path: Path, cells: dict[str, Any], message: str) -> None:
    with pytest.raises(BadItemError, match=message):
        form(tmp_path, names={"reasoning": "why"}).target({"text": "q", **cells}, "f row 1")


def test_empty_masks_that_mean_no_target(tmp_path: Path) -> None:
    rows = form(tmp_path, empty_is_no_target=True)
    for value in (None, [], "", np.zeros(SIZE, bool)):
        target = rows.target({"mask": value, "text": "q"}, "f")
        assert target.no_target is None
        assert not any(source.read(*SIZE).any() for source in target.masks)


def test_images(tmp_path: Path) -> None:
    rows = form(tmp_path)
    one = rows.image({"image": photo(1, "x/a.png"), "image_id": 7}, "f row 1")
    assert (one.image_id, one.file_name, type(one.photo)) == ("7", "a.png", PhotoBytes)
    other = rows.image({"image": photo(1, "b.png")["bytes"]}, "f row 2")
    assert other.key == one.key  # the same picture, whatever it is called
    assert other.image_id == other.file_name == other.key
    assert rows.image({"image": photo(2, "x/a.png")}, "f").key != one.key
    save_photo(tmp_path / "images/c.jpg")
    for value in ("c.jpg", {"bytes": None, "path": "c.jpg"}):
        found = rows.image({"image": value}, "f")
        assert (found.image_id, found.photo) == ("c.jpg", PhotoFile(tmp_path / "images/c.jpg"))
    for value, message in (
        (None, "bad row: f row 3: image must be a picture or the path of one, got None"),
        ({"bytes": None, "path": None}, "must be a picture"),
        ("gone.jpg", "missing file: f row 3: image 'gone.jpg' is not in"),
    ):
        with pytest.raises(BadItemError, match=message):
            rows.image({"image": value}, "f row 3")


def test_missing_columns(tmp_path: Path) -> None:
    for name in ("image", "mask", "text", "reasoning", "split"):
        with pytest.raises(
            BadSourceError, match=rf"no column 'x'. Name the one with the {name} by --{name}-column; .*mask \(list\)"
        ):
            form(tmp_path, names={name: "x"})
