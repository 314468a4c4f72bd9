from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from datamodules.convert.errors import BadSourceError
from datamodules.convert.rows_splits import SplitRule
from tests.datamodules.convert.own_folders import convert
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.sources import save_photo
from tests.datamodules.convert.test_rows_masks import DEEP

BOX = [[4, 4, 20, 4, 20, 20, 4, 20]]
OTHER = [[22, 4, 36, 4, 36, 25, 22, 25]]
CROWD = {"size": [30, 40], "counts": [300, 90, 810]}
CATEGORIES = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "dog", "supercategory": "animal"}]


def save(folder: Path, *annotations: Any, photos: int = 2, **content: Any) -> Path:
    """Photos 0.jpg … in ``images`` and ``annotations.json``; an annotation is image, category, mask, more fields."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(photos):
        save_photo(folder / f"images/{number}.jpg", seed=number)
    entries = [
        {
            "id": 100 + place,
            "image_id": image,
            "category_id": category,
            "segmentation": mask,
            "iscrowd": 0,
            **dict(*more),
        }
        for place, (image, category, mask, *more) in enumerate(annotations)
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 30, "width": 40} for n in range(photos)]
    whole = {"images": images, "annotations": entries, "categories": CATEGORIES, **content}
    (folder / "annotations.json").write_text(json.dumps(whole))
    return folder


def test_a_target_for_each_category(tmp_path: Path) -> None:
    save(tmp_path / "in", (0, 7, BOX), (0, 1, OTHER), (0, 7, OTHER), (0, 7, CROWD, {"iscrowd": 1}), photos=3)
    plan, summaries = convert(
        tmp_path / "in", tmp_path / "out", question="Where is the {category}, a kind of {supercategory}?"
    )
    ((key, sample),) = read_split(tmp_path / "out/train").items()
    assert (key, sample["image_id"], sample["file_name"]) == ("0", "0", "0.jpg")
    dog, cat = sample["targets"]
    assert (dog["target_id"], dog["expressions"]) == ("7", ["Where is the dog, a kind of animal?"])
    assert [mask_of(mask).sum() for mask in dog["masks"]] == [256, 294, 90]
    assert (cat["target_id"], len(cat["masks"])) == ("1", 1)
    assert summaries["train"].notes == {
        "crowds, each one instance of its target": 1,
        "images without an annotation, left out": 2,
    }
    assert plan.found == "COCO annotations, annotations.json: 3 images, 4 annotations"


def test_a_target_for_each_object(tmp_path: Path) -> None:
    save(tmp_path / "in", (0, 7, BOX), (0, 7, OTHER), (0, 7, CROWD, {"iscrowd": 1}), (0, 7, BOX, {"id": 101}))
    with pytest.raises(BadSourceError, match=r"id used twice \(1\):\n    annotations.json annotation 101"):
        convert(tmp_path / "in", tmp_path / "out", per_instance=True)
    _, summaries = convert(tmp_path / "in", tmp_path / "out", per_instance=True, max_skipped=0.25)
    (sample,) = read_split(tmp_path / "out/train").values()
    assert [(target["target_id"], target["expressions"]) for target in sample["targets"]] == [
        ("100", ["dog"]),
        ("101", ["dog"]),
    ]
    assert summaries["train"].notes["crowds, left out where each object is a target"] == 1


def test_rasterisers(tmp_path: Path) -> None:
    save(tmp_path / "in", (0, 1, BOX))
    for rasteriser, area in (("pycocotools", 256), ("opencv", 289)):
        convert(tmp_path / "in", tmp_path / rasteriser, rasteriser=rasteriser)
        (sample,) = read_split(tmp_path / rasteriser / "train").values()
        assert mask_of(*sample["targets"][0]["masks"]).sum() == area
        extra = json.loads((tmp_path / rasteriser / "train/index.json").read_text())["extra"]
        assert (
            extra.items()
            >= {"form": "coco", "rasteriser": rasteriser, "per_instance": False, "question": "{category}"}.items()
        )


def test_names_of_files(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "in",
        ("a", 1, BOX),
        ("b", 1, BOX),
        ("c", 1, BOX),
        photos=0,
        images=[
            {"id": "a", "file_name": "train2017/a.jpg"},
            {"id": "b", "file_name": "D:\\photos\\b.jpg", "height": 30, "width": 40},
            {"id": "c", "file_name": "c.jpg"},
        ],
    )
    for name in ("in/train2017/a.jpg", "in/images/b.jpg", "more/c.jpg"):
        save_photo(tmp_path / name)
    convert(folder, tmp_path / "out", images=[tmp_path / "more"])
    found = read_split(tmp_path / "out/train")
    assert [(sample["image_id"], sample["file_name"]) for sample in found.values()] == [
        ("a", "a.jpg"),
        ("b", "b.jpg"),
        ("c", "c.jpg"),
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unusable_annotation_is_named(tmp_path: Path, workers: int) -> None:
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 30, "width": 40} for n in range(3)]
    images[1]["height"] = 31
    images[2]["file_name"] = "../secret.jpg"
    images += [{"id": 3, "file_name": "gone.jpg"}, {"id": 4, "file_name": None}, {"id": 5, "file_name": "0.jpg"}]
    save_photo(tmp_path / "secret.jpg")
    save(
        tmp_path / "in",
        (0, 1, BOX),
        (0, 7, BOX),
        (0, 7, []),
        (1, 1, BOX),
        (2, 1, BOX),
        (3, 1, BOX),
        (4, 1, BOX),
        (9, 1, BOX),
        ([0], 1, BOX),
        (0, 5, BOX),
        (0, {}, BOX),
        (0, 1, [[1, [2], 3]]),
        (5, 1, [[1, 2, 3, 4]]),
        photos=2,
        images=images,
    )
    (tmp_path / "in/images/secret.jpg").unlink(missing_ok=True)
    with pytest.raises(BadSourceError) as error:
        convert(tmp_path / "in", tmp_path / "out", workers=workers)
    text = str(error.value)
    for part in (
        "in-train: 12 of 13 annotations cannot be converted",
        "annotations.json annotation 101: same target as annotations.json annotation 102: neither polygons nor an RLE",
        "photo of another size (1):\n    annotations.json annotation 103: 1.jpg: 30 × 40 pixels, the annotation says",
        "annotations.json annotation 104: same target as annotations.json image 2: file_name '../secret.jpg' is",
        "annotations.json annotation 105: same target as annotations.json image 3: file_name 'gone.jpg' is not in",
        "image 4: file_name must be a text, got None",
        "annotation 107: image_id 9 is none of its images",
        "annotation 108: image_id [0] is none of its images",
        "annotation 109: category_id 5 is no category with a name",
        "annotation 111: polygons must be flat lists of numbers",
        "annotation 112: part 0 of 1: 2 point(s) enclose no area",
    ):
        assert part in text, text
    _, summaries = convert(tmp_path / "in", tmp_path / "out", workers=workers, max_skipped=1)
    assert (summaries["train"].images, summaries["train"].targets) == (1, 1)
    assert "annotation 110: category_id {} is no category" in str(summaries["train"].skipped)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"categories": {}}, "annotations.json: expected COCO's form, an object with a list 'categories'"),
        ({"images": [{"id": None}]}, r"images\[0\] is no object with an 'id'"),
        ({"annotations": [3]}, r"annotations\[0\] is no object with an 'id'"),
        ({"annotations": []}, "annotations.json: none of its 2 images has an annotation, so nothing is asked"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    save(tmp_path / "in", (0, 1, BOX), **content)
    with pytest.raises(BadSourceError, match=message):
        convert(tmp_path / "in", tmp_path / "out")


def test_hostile_json(tmp_path: Path) -> None:
    save(tmp_path / "in", (0, 1, BOX))
    path = tmp_path / "in/annotations.json"
    text = path.read_text()
    for harm, message in (
        (text.replace("[[4, 4,", "[" * 100_000 + "[[4, 4,"), "broken JSON"),
        (text[:-5], "broken JSON at line 1"),
        (text.replace("[[4, 4,", "[[1e999, 4,"), "coordinate inf is not finite"),
        (text.replace("[[4, 4,", "[[4e9, 4,"), "coordinate 4000000000.0 is not finite or beyond"),
    ):
        path.write_text(harm)
        with pytest.raises(BadSourceError, match=message):
            convert(tmp_path / "in", tmp_path / "out", form="coco", table=path)
    assert DEEP


def test_splits(tmp_path: Path) -> None:
    save(tmp_path / "in", *((number, 1, BOX) for number in range(8)), photos=10)
    plan, summaries = convert(tmp_path / "in", tmp_path / "out", rule=SplitRule(val_fraction=0.25))
    assert [(name, summary.images) for name, summary in summaries.items()] == [("train", 6), ("val", 2)]
    assert not read_split(tmp_path / "out/train").keys() & read_split(tmp_path / "out/val").keys()
    assert plan.plans[0].items == 6


@pytest.mark.realdata
def test_real_photos(realdata: Path, tmp_path: Path) -> None:
    shutil.copytree(realdata / "coco_icevision", tmp_path / "in")
    source = COCO(str(tmp_path / "in/annotations.json"))
    plan, summaries = convert(tmp_path / "in", tmp_path / "out")
    summary = summaries["train"]
    assert plan.found == "COCO annotations, annotations.json: 6 images, 36 annotations"
    assert (summary.images, summary.targets, summary.skipped) == (5, 9, {})
    assert summary.notes == {
        "crowds, each one instance of its target": 1,
        "images without an annotation, left out": 1,
    }
    seen = 0
    for sample in read_split(tmp_path / "out/train").values():
        image = source.imgs[int(sample["image_id"])]
        assert sample["bytes"] == (realdata / "coco_icevision/images" / image["file_name"]).read_bytes()
        for target in sample["targets"]:
            (category,) = [item for item in source.cats.values() if item["name"] == target["expressions"][0]]
            annotations = source.loadAnns(source.getAnnIds(imgIds=image["id"], catIds=category["id"]))
            assert len(annotations) == len(target["masks"])
            for annotation, mask in zip(annotations, target["masks"], strict=True):
                np.testing.assert_array_equal(mask_of(mask), source.annToMask(annotation) > 0)
                seen += 1
    assert seen == 36
    _, summaries = convert(tmp_path / "in", tmp_path / "each", per_instance=True)
    assert summaries["train"].targets == 35
