from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.convert.errors import BadItemError, BadSourceError
from datamodules.convert.hf_refer import ReferRows
from datamodules.convert.refer_photos import PhotoFinder
from datamodules.convert.rows import PhotoFile
from tests.datamodules.convert.sources import save_photo

COLUMNS = dict.fromkeys(("image_id", "image_path", "raw_anns", "ref_id", "captions", "sentences", "split"), "")
BOX = [[4, 4, 20, 4, 20, 20, 4, 20]]


def refer_row(ref_id: int, image_id: int, split: str = "train", /, **changes: Any) -> dict[str, Any]:
    """A row as jxu124's datasets have it."""
    texts = [f"thing {ref_id}", "left one"]
    return {
        "sent_ids": [1, 2],
        "file_name": "unused.jpg",
        "ann_id": 9,
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "sentences": [{"sent": text, "raw": text.title(), "sent_id": 1, "tokens": []} for text in texts],
        "raw_anns": json.dumps({"segmentation": BOX, "iscrowd": 0, "image_id": image_id, "id": 9}),
        "raw_image_info": json.dumps({"height": 30, "width": 40, "file_name": "x"}),
        "image_path": f"coco/train2014/COCO_train2014_{image_id:012d}.jpg",
        "captions": texts,
        **changes,
    }


def rows(folder: Path, **columns: str) -> ReferRows:
    return ReferRows({**COLUMNS, **columns}, PhotoFinder(folder, [folder]), "pycocotools")


def test_a_row(tmp_path: Path) -> None:
    path = save_photo(tmp_path / "train2014/COCO_train2014_000000000005.jpg")
    form = rows(tmp_path, raw_image_info="")
    assert form.image_columns == ("image_id", "image_path", "raw_image_info", "split")
    assert form.columns == ("image_id", "image_path", "raw_anns", "ref_id", "captions", "raw_image_info", "split")
    image = form.image(refer_row(3, 5), "f row 0")
    assert (image.key, image.image_id, image.size) == ("5", "5", (30, 40))
    assert image.file_name == "COCO_train2014_000000000005.jpg"
    assert image.photo == PhotoFile(path)
    assert form.image(refer_row(3, 6), "f row 0").photo is None
    assert form.image({**refer_row(3, 5), "image_id": "5", "raw_image_info": "no json"}, "f").size is None
    target = form.target(refer_row(3, 5), "f row 0")
    assert (target.target_id, target.expressions, target.kind) == ("3", ["thing 3", "left one"], "referring")
    assert target.masks[0].read(30, 40).sum() == 256
    assert form.target(refer_row(3, 5, captions=["", " "]), "f").expressions == []


def test_a_2017_copy_serves(tmp_path: Path) -> None:
    path = save_photo(tmp_path / "000000000005.jpg")
    assert rows(tmp_path).image(refer_row(3, 5), "f").photo == PhotoFile(path)


def test_sentences_where_there_are_no_captions(tmp_path: Path) -> None:
    available = {name: "" for name in COLUMNS if name != "captions"}
    form = ReferRows(available, PhotoFinder(tmp_path), "pycocotools")
    assert form.target(refer_row(3, 5), "f").expressions == ["thing 3", "left one"]
    with pytest.raises(BadSourceError, match=r"has refs .* but neither a column captions nor one of sentences, so"):
        ReferRows({}, PhotoFinder(tmp_path), "pycocotools")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"raw_anns": "{broken"}, "f row 1: raw_anns must be a COCO annotation as JSON, got '{broken'"),
        ({"raw_anns": "[" * 100_000}, "raw_anns must be a COCO annotation as JSON"),
        ({"ref_id": None}, "ref_id must be a number or a text, got None"),
        ({"captions": "one"}, "captions must be a list, got 'one'"),
        ({"captions": [3]}, "f row 1, text 0: column captions must be a text, got 3"),
        (
            {"raw_anns": '{"segmentation": [[1, [[2]], 3]]}'},
            "bad mask: f row 1: polygons must be flat lists of numbers",
        ),
    ],
)
def test_targets_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadItemError, match=message):
        rows(tmp_path).target(refer_row(3, 5, **changes), "f row 1")


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    for changes, message in (
        ({"image_id": "x"}, "bad row: f row 1: image_id must be a number, got 'x'"),
        ({"image_id": None}, "image_id must be a number"),
        ({"image_path": None}, "column image_path must be a text, got nothing"),
    ):
        with pytest.raises(BadItemError, match=message):
            rows(tmp_path).image(refer_row(3, 5, **changes), "f row 1")
    save_photo(tmp_path / "secret.jpg")
    (tmp_path / "in").mkdir()
    assert rows(tmp_path / "in").image(refer_row(3, 5, image_path="../secret.jpg"), "f").photo is None
