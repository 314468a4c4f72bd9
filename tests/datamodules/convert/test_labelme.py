from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.rows_splits import SplitRule
from tests.datamodules.convert.own_folders import convert
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.sources import SQUARE, save_photo

OTHER = [[22, 4], [36, 4], [36, 25], [22, 25]]


def shape(label: Any, points: Any = SQUARE, **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": "polygon", "group_id": None, "flags": {}, **more}


def save(folder: Path, stem: str, *shapes: Any, photo: str | None = "", **more: Any) -> Path:
    """A LabelMe file and its photo, ``photo`` for another name of it or ``None`` for none."""
    if photo is not None:
        save_photo(folder / (photo or f"{stem}.jpg"))
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": photo or f"{stem}.jpg",
        "imageData": None,
        "imageHeight": 30,
        "imageWidth": 40,
        **more,
    }
    path = folder / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def targets(folder: Path, output: Path, **options: Any) -> dict[str, list[dict[str, Any]]]:
    convert(folder, output, **options)
    return {key: sample["targets"] for key, sample in read_split(output / "train").items()}


def test_shapes_of_a_label_are_one_target(tmp_path: Path) -> None:
    save(tmp_path / "in", "a", shape("cat"), shape("dog", OTHER), shape("cat", OTHER))
    found = targets(tmp_path / "in", tmp_path / "out")["a"]
    assert [target["expressions"] for target in found] == [["Where is the cat?"], ["Where is the dog?"]]
    assert [[mask_of(mask).sum() for mask in target["masks"]] for target in found] == [[256, 294], [294]]
    found = targets(tmp_path / "in", tmp_path / "out2", per_instance=True, rasteriser="opencv", question="the {label}")
    assert [target["expressions"] for target in found["a"]] == [["the cat"], ["the dog"], ["the cat"]]
    assert [[mask_of(mask).sum() for mask in target["masks"]] for target in found["a"]] == [[289], [330], [330]]
    extra = json.loads((tmp_path / "out2/train/index.json").read_text())["extra"]
    expected = {"form": "labelme", "rasteriser": "opencv", "question": ["the {label}"], "per_instance": True}
    assert extra.items() >= expected.items()


def test_shapes_of_a_group_are_one_instance(tmp_path: Path) -> None:
    shapes = [shape("cat", group_id=1), shape("cat", OTHER, group_id=1), shape("cat", OTHER, group_id=2), shape("cat")]
    save(tmp_path / "in", "a", *shapes)
    (target,) = targets(tmp_path / "in", tmp_path / "out")["a"]
    assert [mask_of(mask).sum() for mask in target["masks"]] == [550, 294, 256]


def test_questions_from_descriptions_and_flags(tmp_path: Path) -> None:
    described = shape("cat", description=" the lazy one ", flags={"black": True, "wet": False, "old": True})
    save(tmp_path / "in", "a", described, shape("dog", OTHER, description=""))
    for question, expected in (
        (None, ["the lazy one", "Where is the dog?"]),
        ("{label}: {description}", ["cat: the lazy one", "dog:"]),
        ("the {flags} {label}", ["the black, old cat", "the  dog"]),
    ):
        found = targets(tmp_path / "in", tmp_path / str(question).replace("{", "").replace("}", ""), question=question)
        assert [target["expressions"][0] for target in found["a"]] == expected
    with pytest.raises(
        BadSourceError, match=r"a.json shape 1: --question '{description}' gives '' for it, which is no"
    ):
        targets(tmp_path / "in", tmp_path / "out", question="{description}")


def test_special_labels_and_shapes_without_area(tmp_path: Path) -> None:
    hole = [[6, 6], [10, 6], [10, 10], [6, 10]]
    save(
        tmp_path / "in",
        "a",
        shape("cat"),
        shape("__ignore__", hole),
        shape("_background_", OTHER),
        shape("cat", [[1, 1]], shape_type="point"),
        shape("tail", [[1, 1], [5, 5]], shape_type="line"),
    )
    save(tmp_path / "in", "b")
    save(tmp_path / "in", "c", shape("_background_"))
    save_photo(tmp_path / "in/bare.png")
    plan, summaries = convert(tmp_path / "in", tmp_path / "out")
    (sample,) = read_split(tmp_path / "out/train").values()
    (target,) = sample["targets"]
    assert mask_of(*target["masks"]).sum() == 256
    assert mask_of(target["ignore"]).sum() == 16
    assert summaries["train"].notes == {
        "shapes without area (points, lines), left out": 2,
        "shapes labelled _background_, left out": 2,
        "images without a labelled shape, left out": 2,
        "targets with ignored pixels": 1,
    }
    assert plan.found == "3 LabelMe files"
    assert plan.warnings == ["1 image(s) have no JSON file and are left out, bare.png for one."]


def test_where_the_photo_is(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(folder, "plain", shape("a"))
    save(folder, "other", shape("a"), photo="photos/7.png")
    save(folder, "windows", shape("a"), photo="w.jpg", imagePath="C:\\Users\\me\\w.jpg")
    save(folder, "elsewhere", shape("a"), photo="elsewhere.webp", imagePath="/home/me/x.jpg")
    save(folder, "notes/deep", shape("a"), photo=None, imagePath="../plain.jpg")
    data = base64.b64encode((folder / "plain.jpg").read_bytes()).decode()
    save(folder, "inside", shape("a"), photo=None, imageData=data)
    save(folder, "far", shape("a"), photo=None, imagePath="f.jpg")
    save_photo(tmp_path / "more/f.jpg")
    _, summaries = convert(folder, tmp_path / "out", images=[tmp_path / "more"])
    names = {key: sample["file_name"] for key, sample in read_split(tmp_path / "out/train").items()}
    assert names == {
        "elsewhere": "elsewhere.webp",
        "far": "f.jpg",
        "inside": "inside.jpg",
        "notes_deep": "plain.jpg",
        "other": "7.png",
        "plain": "plain.jpg",
        "windows": "w.jpg",
    }
    assert summaries["train"].notes == {"images taken from their JSON file": 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unusable_file_is_named(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "in"
    save_photo(tmp_path / "secret.jpg")
    save(folder, "a-fine", shape("a"))
    save(folder, "escape", shape("a"), photo=None, imagePath="../secret.jpg")
    save(folder, "gone", shape("a"), photo=None)
    save(folder, "base64", shape("a"), photo=None, imageData="%%")
    save(folder, "label", shape(""))
    save(folder, "kind", shape("a", shape_type=3))
    save(folder, "group", shape("a", group_id=[1]))
    save(folder, "list", "x")
    save(folder, "thin", shape("a"), shape("a", SQUARE[:2]), shape("b"))
    save(folder, "size", shape("a"), imageHeight=31)
    (folder / "syntax.json").write_text('{"shapes": ')
    (folder / "settings.json").write_text("{}")
    with pytest.raises(BadSourceError) as error:
        convert(folder, tmp_path / "out", workers=workers)
    text = str(error.value)
    for part in (
        "in-train: 11 of 12 files cannot be converted",
        f"path outside the folders (1):\n    escape.json: imagePath '../secret.jpg' is {tmp_path / 'secret.jpg'}, ",
        "missing file (1):\n    gone.json: imagePath 'gone.jpg' is not in",
        "broken image (1):\n    base64.json: imageData is no base64",
        "label.json shape 0: expected an object with a text 'label', got {",
        "kind.json shape 0: shape_type must be a text, got 3",
        "group.json shape 0: group_id must be a number, got [1]",
        "list.json shape 0: expected an object with a text 'label', got 'x'",
        "bad mask (1):\n    thin.json shape 1: 2 point(s) enclose no area",
        "photo of another size (1):\n    size.json: size.jpg: 30 × 40 pixels, the annotation says 31 × 40",
        "broken JSON (1):\n    " + str(folder / "syntax.json"),
        "bad annotation (5):",
    ):
        assert part in text, text
    _, summaries = convert(folder, tmp_path / "out", workers=workers, max_skipped=0.92)
    assert list(read_split(tmp_path / "out/train")) == ["a-fine"]
    assert "settings.json: expected LabelMe's form" in str(summaries["train"].skipped)


def test_splits_and_names_in_folders(tmp_path: Path) -> None:
    for number in range(10):
        save(tmp_path / "in" / ("x" if number % 2 else "y"), f"{number // 2}", shape("a"))
    plan, _ = convert(tmp_path / "in", tmp_path / "out", rule=SplitRule(val_fraction=0.3))
    found = [key for split in plan.plans for key in read_split(split.output)]
    assert [len(split.jobs) for split in plan.plans] == [7, 3]
    assert sorted(found) == sorted(f"{name}_{number}" for name in "xy" for number in range(5))


def test_no_field_of_its_own(tmp_path: Path) -> None:
    save(tmp_path / "in", "a", shape("a"))
    with pytest.raises(
        BadSourceError, match=r"{category} is no field of it; fields are {label}, {description}, {flags}"
    ):
        convert(tmp_path / "in", tmp_path / "out", question="{category}")


def test_repeated_commands_keep_the_split(tmp_path: Path) -> None:
    save(tmp_path / "in", "a", shape("a"))
    convert(tmp_path / "in", tmp_path / "out")
    _, summaries = convert(tmp_path / "in", tmp_path / "out")
    assert any(note.startswith("unchanged") for note in summaries["train"].notes)
    save(tmp_path / "in", "a", shape("b", OTHER))
    with pytest.raises(FileExistsError):
        convert(tmp_path / "in", tmp_path / "out")


@pytest.mark.realdata
def test_real_polygons_through_labelme(realdata: Path, tmp_path: Path) -> None:
    """COCO's polygons written as LabelMe would, against pycocotools."""
    from pycocotools.coco import COCO

    source = COCO(str(realdata / "coco_icevision/annotations.json"))
    image = source.imgs[128372]
    (tmp_path / "in").mkdir()
    photo = realdata / "coco_icevision/images" / image["file_name"]
    (tmp_path / "in" / image["file_name"]).write_bytes(photo.read_bytes())
    annotations = source.loadAnns(source.getAnnIds(imgIds=128372))
    shapes = [
        shape(source.cats[item["category_id"]]["name"], np.reshape(part, (-1, 2)).tolist(), group_id=item["id"])
        for item in annotations
        for part in item["segmentation"]
    ]
    save(
        tmp_path / "in",
        "000000128372",
        *shapes,
        photo=None,
        imagePath=image["file_name"],
        imageHeight=427,
        imageWidth=640,
    )
    for found in targets(tmp_path / "in", tmp_path / "out")["000000128372"]:
        name = found["expressions"][0].removeprefix("Where is the ").removesuffix("?")
        chosen = [item for item in annotations if source.cats[item["category_id"]]["name"] == name]
        assert len(chosen) == len(found["masks"])
        for item, mask in zip(chosen, found["masks"], strict=True):
            np.testing.assert_array_equal(mask_of(mask), source.annToMask(item) > 0)
