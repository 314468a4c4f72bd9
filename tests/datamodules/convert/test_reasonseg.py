from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.convert.errors import BadSourceError
from datamodules.convert.reasonseg import convert_reasonseg, plan_reasonseg
from datamodules.convert.split import MADE_FROM, SplitSummary, WriteOptions, write_splits
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.sources import SQUARE, save_lisa, save_photo


def convert(folder: Path, output: Path, *, workers: int = 1, max_skipped: float = 0.0, **options) -> list[SplitSummary]:
    plans = plan_reasonseg(folder, output, **options)
    write = WriteOptions("none", workers=workers, max_skipped=max_skipped)
    return list(write_splits(plans, convert_reasonseg, write, lambda name, total: lambda: None))


def test_one_image(tmp_path: Path) -> None:
    path = save_lisa(tmp_path / "in", text=("what is it?", "say what it is"))
    (summary,) = convert(tmp_path / "in", tmp_path / "out", split="val")
    (sample,) = read_split(tmp_path / "out/val").values()
    assert sample["bytes"] == path.with_suffix(".jpg").read_bytes()
    (target,) = sample["targets"]
    assert (sample["image_id"], sample["file_name"], sample["height"], sample["width"]) == ("a", "a.jpg", 30, 40)
    assert target["expressions"] == ["what is it?", "say what it is"]
    assert (target["target_id"], target["kind"], target["ignore"], target["reasoning"]) == ("0", "sentence", None, None)
    expected = np.zeros((30, 40), np.uint8)
    cv2.fillPoly(expected, [np.array(SQUARE)], 1)
    np.testing.assert_array_equal(mask_of(*target["masks"]), expected > 0)
    assert summary.areas == [17 * 17 / 1200]
    index = json.loads((tmp_path / "out/val/index.json").read_text())
    assert (index["name"], index["licence"]) == ("reasonseg-val", "none")
    del index["extra"][MADE_FROM]
    options = {"ignore_as": "ignore", "texts": "all", "rasteriser": "opencv"}
    assert index["extra"] == {"converter": "reasonseg", **options}


def test_first_text_only(tmp_path: Path) -> None:
    save_lisa(tmp_path / "in", text=("one", "two"), is_sentence=False)
    convert(tmp_path / "in", tmp_path / "out", texts="first")
    (sample,) = read_split(tmp_path / "out/in").values()
    assert sample["targets"][0]["expressions"] == ["one"]
    assert sample["targets"][0]["kind"] == "phrase"


def test_ignored_pixels_and_flags(tmp_path: Path) -> None:
    hole = [[8, 8], [12, 8], [12, 12], [8, 12]]
    save_lisa(tmp_path / "in", shapes=[("ignored hole", hole), ("target", SQUARE), ("flag", [[1, 1], [2, 2]])])
    for ignore_as, area, ignored in (("ignore", 17 * 17 - 25, 25), ("target", 17 * 17, None)):
        (summary,) = convert(tmp_path / "in", tmp_path / ignore_as, ignore_as=ignore_as)
        ((sample,),) = [read_split(tmp_path / ignore_as / "in").values()]
        (target,) = sample["targets"]
        assert mask_of(*target["masks"]).sum() == area
        assert (target["ignore"] and mask_of(target["ignore"]).sum()) == ignored
        assert summary.notes["shapes dropped for their label 'flag'"] == 1
        assert summary.notes["targets with ignored pixels"] == int(ignored is not None)


def test_no_shapes_make_an_empty_target(tmp_path: Path) -> None:
    save_lisa(tmp_path / "in", shapes=[])
    (summary,) = convert(tmp_path / "in", tmp_path / "out")
    (sample,) = read_split(tmp_path / "out/in").values()
    assert sample["targets"][0]["masks"] == []
    assert summary.notes == {"targets with an empty mask": 1}


def test_cp1252_file(tmp_path: Path) -> None:
    save_lisa(tmp_path / "in", text=("the deer’s café",), encoding="cp1252")
    convert(tmp_path / "in", tmp_path / "out")
    (sample,) = read_split(tmp_path / "out/in").values()
    assert sample["targets"][0]["expressions"] == ["the deer’s café"]


def test_names_of_all_kinds_in_order(tmp_path: Path) -> None:
    for stem, suffix in (("b.v1", ".jpg"), ("b v1", ".png"), ("b_v1", ".jpeg"), ("__a", ".JPG"), ("ünï", ".webp")):
        save_lisa(tmp_path / "in", stem, suffix=suffix, text=(stem,))
    convert(tmp_path / "in", tmp_path / "out")
    samples = read_split(tmp_path / "out/in")
    assert {key: sample["targets"][0]["expressions"][0] for key, sample in samples.items()} == {
        "x__a": "__a",
        "b_v1": "b v1",
        "b_v1-2": "b.v1",
        "b_v1-3": "b_v1",
        "ünï": "ünï",
    }
    assert samples["x__a"]["image"] == "x__a.jpg"


def test_a_turned_photo_and_its_mask_stay_together(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save_lisa(tmp_path / "in", exif=exif, shapes=[("target", [[0, 30], [29, 30], [29, 39], [0, 39]])])
    (summary,) = convert(tmp_path / "in", tmp_path / "out")
    (sample,) = read_split(tmp_path / "out/in").values()
    assert (sample["height"], sample["width"], sample["image"]) == (40, 30, "a.png")
    assert mask_of(*sample["targets"][0]["masks"])[30:].all()
    assert summary.notes == {"photos turned upright (EXIF), stored as PNG": 1}


def test_folder_of_splits(tmp_path: Path) -> None:
    for split in ("val", "train"):
        save_lisa(tmp_path / "in" / split)
    (tmp_path / "in/explanatory").mkdir()
    (tmp_path / "in/explanatory/train.json").write_text("[]")
    assert [summary.name for summary in convert(tmp_path / "in", tmp_path / "out")] == [
        "reasonseg-train",
        "reasonseg-val",
    ]
    assert [plan.name for plan in plan_reasonseg(tmp_path / "in", tmp_path / "x", split="val")] == ["reasonseg-val"]
    with pytest.raises(BadSourceError, match=r"--split test is not in .*splits there: train, val"):
        plan_reasonseg(tmp_path / "in", tmp_path / "x", split="test")


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match="nowhere is no folder"):
        plan_reasonseg(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(BadSourceError, match=r"holds no images. Expected pairs X\.jpg and X\.json.*found nothing"):
        plan_reasonseg(tmp_path, tmp_path / "out")
    (tmp_path / "refcoco").mkdir()
    with pytest.raises(BadSourceError, match="found refcoco"):
        plan_reasonseg(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_broken_pair_is_named(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "in"
    save_lisa(folder, "fine")
    (folder / "lonely.json").write_text("{}")
    save_photo(folder / "bare.jpg")
    save_lisa(folder, "twice")
    save_photo(folder / "twice.png")
    save_lisa(folder, "syntax").write_text('{"text":\n oops}')
    save_lisa(folder, "cut")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-300])
    save_lisa(folder, "mute", text=())
    save_lisa(folder, "thin", shapes=[("target", SQUARE[:2])])
    with pytest.raises(BadSourceError) as error:
        convert(folder, tmp_path / "out", workers=workers)
    text = str(error.value)
    for part in (
        "reasonseg-in: 7 of 8 images cannot be converted",
        "annotation without an image (1):\n    " + str(folder / "lonely.json"),
        "image without an annotation (1):\n    " + str(folder / "bare.jpg"),
        "several images for one annotation (1):\n    " + f"{folder / 'twice.json'}: twice.jpg, twice.png",
        "broken JSON (1):\n    " + f"{folder / 'syntax.json'}: broken JSON at line 2 column 2",
        "broken image (1):\n    " + f"{folder / 'cut.jpg'}: image file is truncated",
        "bad text (1):\n    " + f"{folder / 'mute.json'}: 'text' is an empty list",
        "bad polygon (1):\n    " + f"{folder / 'thin.json'}: shape 0 (target): 2 point(s)",
        "--max-skipped 0.88",
    ):
        assert part in text
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    (summary,) = convert(folder, tmp_path / "out", workers=workers, max_skipped=0.88)
    assert list(read_split(tmp_path / "out/in")) == ["fine"]
    assert len(summary.skipped) == 7


@pytest.mark.realdata
def test_real_antlers(realdata: Path, tmp_path: Path) -> None:
    shutil.copytree(realdata / "reasonseg", tmp_path / "in")
    convert(tmp_path / "in", tmp_path / "out")
    (sample,) = read_split(tmp_path / "out/train").values()
    (target,) = sample["targets"]
    assert len(target["expressions"]) == 5
    assert target["kind"] == "sentence"
    assert (sample["height"], sample["width"]) == (533, 685)
    mask, ignore = mask_of(*target["masks"]), mask_of(target["ignore"])
    assert not (mask & ignore).any()
    # two antlers; the ignored gap lies in the right one and touches it on all sides
    count, _ = cv2.connectedComponents(mask.astype(np.uint8))
    assert count - 1 == 2
    hole = cv2.dilate(ignore.astype(np.uint8), np.ones((3, 3))) > 0
    assert (hole & ~ignore & ~mask).mean() < 0.001
    shapes = json.loads(next((tmp_path / "in/train").glob("*.json")).read_text())["shapes"]
    painted = np.zeros((533, 685), np.uint8)
    for item in sorted(shapes, key=lambda item: item["label"] == "ignore"):  # here the ignored one is the smallest
        cv2.fillPoly(painted, [np.array(item["points"], dtype=np.int32)], 255 if item["label"] == "ignore" else 1)
    np.testing.assert_array_equal(mask, painted == 1)
    np.testing.assert_array_equal(ignore, painted == 255)
