from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from datamodules.convert.errors import BadSourceError
from datamodules.convert.refer import ReferOptions, plan_refer
from datamodules.convert.refer_images import convert_refer
from datamodules.convert.split import MADE_FROM, SplitSummary, WriteOptions, write_splits
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.sources import ref, save_photo, save_refer

BOX = [[2.0, 3.0, 20.0, 3.0, 20.0, 15.0, 2.0, 15.0]]


def convert(
    root: Path, output: Path, *, workers: int = 1, max_skipped: float = 0.0, **options: Any
) -> list[SplitSummary]:
    plans = plan_refer(ReferOptions(root, **{"dataset": "refcoco", "split_by": "unc", **options}), output)
    write = WriteOptions("none", workers=workers, max_skipped=max_skipped)
    return list(write_splits(plans, convert_refer, write, lambda name, total: lambda: None))


def test_one_sample_an_image_and_one_target_a_ref(tmp_path: Path) -> None:
    parts = [BOX[0], [10.5, 10.2, 35.0, 12.0, 30.0, 28.0]]
    refs = [ref(7, 3, 55, sents=["left one", " the left one ", ""]), ref(8, 4, 55), ref(9, 5, 12, "val")]
    save_refer(tmp_path, refs, {3: (55, BOX), 4: (55, parts), 5: (12, BOX)})
    train, val = convert(tmp_path, tmp_path / "out")
    assert (train.images, train.targets, train.expressions, val.images) == (1, 2, 3, 1)
    (key,) = samples = read_split(tmp_path / "out/refcoco_unc/train")
    sample = samples[key]
    assert (key, sample["image_id"], sample["file_name"]) == ("55", "55", "COCO_train2014_000000000055.jpg")
    photo = tmp_path / "images/mscoco/images/train2014" / sample["file_name"]
    assert sample["bytes"] == photo.read_bytes()
    first, second = sample["targets"]
    assert (first["target_id"], first["kind"], first["ignore"]) == ("7", "referring", None)
    assert first["expressions"] == ["left one", "the left one"]
    summed = coco.decode(coco.frPyObjects(parts, 30, 40)).sum(axis=2)  # as the REFER API does; here parts overlap
    assert summed.max() == 2
    np.testing.assert_array_equal(mask_of(*second["masks"]), summed > 0)
    index = json.loads((tmp_path / "out/refcoco_unc/train/index.json").read_text())
    assert len(index["extra"].pop(MADE_FROM)) == 64
    assert index["extra"] == {
        "converter": "refer",
        "dataset": "refcoco",
        "split_by": "unc",
        "rasteriser": "pycocotools",
        "shared_images": 0,
        "shared_images_kept": False,
        "shared_with": {},
    }


def test_other_objects_of_the_same_category_are_counted(tmp_path: Path) -> None:
    """Objects 3, 4 and 9 are of one category, 5 is alone in its own, 6 is a crowd, and 8 has no category."""
    places = {3: (55, BOX), 4: (55, BOX), 5: (55, BOX), 6: (55, BOX), 8: (12, BOX), 9: (55, BOX)}
    refs = [ref(1, 3, 55), ref(2, 5, 55), ref(3, 8, 12)]
    path = save_refer(tmp_path, refs, places) / "refcoco/instances.json"
    content = json.loads(path.read_text())
    annotations = {entry["id"]: entry for entry in content["annotations"]}
    annotations[5]["category_id"] = 2
    annotations[6]["iscrowd"] = 1
    del annotations[8]["category_id"]
    path.write_text(json.dumps(content))
    convert(tmp_path, tmp_path / "out")
    samples = read_split(tmp_path / "out/refcoco_unc/train")
    found = {target["target_id"]: target["distractors"] for key in ("55", "12") for target in samples[key]["targets"]}
    assert found == {"1": 2, "2": 0, "3": None}


def test_polygons_the_opencv_way(tmp_path: Path) -> None:
    save_refer(tmp_path, [ref(1, 1, 1)], {1: (1, [[4.6, 5.2, 20.9, 4.1, 18.3, 22.7]])})
    masks = []
    for rasteriser in ("pycocotools", "opencv"):
        convert(tmp_path, tmp_path / rasteriser, rasteriser=rasteriser)
        folder = tmp_path / rasteriser / "refcoco_unc/train"
        assert json.loads((folder / "index.json").read_text())["extra"]["rasteriser"] == rasteriser
        masks.append(mask_of(*read_split(folder)["1"]["targets"][0]["masks"]))
    expected = np.zeros((30, 40), np.uint8)
    cv2.fillPoly(expected, [np.array([[4, 5], [20, 4], [18, 22]])], 1)
    np.testing.assert_array_equal(masks[1], expected > 0)
    assert masks[0].sum() < masks[1].sum()


def test_crowds_and_lists_of_runs(tmp_path: Path) -> None:
    box = coco.frPyObjects(BOX, 30, 40)[0]
    mask = coco.decode(box) > 0
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int)])
    runs = np.diff([0, *np.flatnonzero(np.diff(flat)), mask.size]).tolist()
    crowd = {"size": [30, 40], "counts": runs}
    text = {"size": [30, 40], "counts": box["counts"].decode()}
    save_refer(tmp_path, [ref(n, n, 1) for n in (1, 2, 3)], {1: (1, crowd), 2: (1, [text]), 3: (1, [text, crowd])})
    convert(tmp_path, tmp_path / "out")
    targets = read_split(tmp_path / "out/refcoco_unc/train")["1"]["targets"]
    for target in targets:
        np.testing.assert_array_equal(mask_of(*target["masks"]), mask)


def test_empty_segmentation_and_refs_without_sentences(tmp_path: Path) -> None:
    save_refer(tmp_path, [ref(1, 1, 1), ref(2, 1, 1, sents=[]), ref(3, 1, 1, sents=["  "])], {1: (1, [])})
    (summary,) = convert(tmp_path, tmp_path / "out")
    assert summary.targets == 1
    assert summary.notes == {"refs left out for want of a sentence": 2, "targets with an empty mask": 1}
    assert read_split(tmp_path / "out/refcoco_unc/train")["1"]["targets"][0]["masks"] == []


def test_where_photos_are_found(tmp_path: Path) -> None:
    refs, masks = [ref(n, n, n) for n in (1, 2, 3)], {n: (n, BOX) for n in (1, 2, 3)}
    save_refer(tmp_path / "root", refs, masks, photos=False)
    save_photo(tmp_path / "root/train2014/COCO_train2014_000000000001.jpg", seed=1)
    save_photo(tmp_path / "root/train2017/000000000002.jpg", seed=2)  # the 2017 copy of the same picture
    save_photo(tmp_path / "mine/COCO_train2014_000000000003.jpg", seed=3)
    (summary,) = convert(tmp_path / "root", tmp_path / "out", photos=[tmp_path / "mine"])
    assert summary.images == 3
    with pytest.raises(BadSourceError) as error:
        convert(tmp_path / "root", tmp_path / "out2")
    text = str(error.value)
    assert text.startswith("1 of 3 photos of refcoco are missing: COCO_train2014_000000000003.jpg. Searched:")
    assert f"{tmp_path / 'root/images/train2014'} (no such folder)" in text
    assert f"{tmp_path / 'root/train2017'}\n" in text
    assert "--images" in text
    assert "--max-missing (now 0)" in text
    (summary,) = convert(tmp_path / "root", tmp_path / "out3", max_missing=0.34)
    assert (summary.images, summary.notes) == (2, {"refs left out because their photo is missing": 1})
    for photo in tmp_path.glob("root/train201?/*.jpg"):
        photo.unlink()
    with pytest.raises(BadSourceError, match="3 of 3 photos"):
        convert(tmp_path / "root", tmp_path / "out4", max_missing=1.0)


def test_a_file_name_leads_nowhere_else(tmp_path: Path) -> None:
    root = save_refer(tmp_path / "root", [ref(1, 1, 1)], {1: (1, BOX)})
    secret = save_photo(tmp_path / "secret.jpg")
    path = root / "refcoco/instances.json"
    content = json.loads(path.read_text())
    for name in ("../../../../../secret.jpg", str(secret)):
        content["images"][0]["file_name"] = name
        path.write_text(json.dumps(content))
        with pytest.raises(BadSourceError, match="1 of 1 photos"):
            convert(root, tmp_path / "out")


def test_photos_in_folders_below(tmp_path: Path) -> None:
    root = save_refer(tmp_path, [ref(1, 1, 1)], {1: (1, BOX)}, dataset="refclef", split_by="berkeley", photos=False)
    path = root / "refclef/instances.json"
    path.write_text(path.read_text().replace("COCO_train2014_000000000001.jpg", "00/images/25.jpg"))
    save_photo(root / "images/saiapr_tc-12/00/images/25.jpg")
    (summary,) = convert(root, tmp_path / "out", dataset="refclef", split_by="berkeley")
    assert summary.name == "refclef-berkeley-train"


def test_wrong_layouts(tmp_path: Path) -> None:
    with pytest.raises(BadSourceError, match=r"nowhere has no folder refcoco\. Expected.*datasets there: none"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    root = save_refer(tmp_path / "root", [ref(1, 1, 1)], {1: (1, BOX)})
    with pytest.raises(BadSourceError, match=r"has no folder refcocog.*datasets there: refcoco\."):
        convert(root, tmp_path / "out", dataset="refcocog")
    with pytest.raises(
        BadSourceError, match=r"no refs\(google\)\.p or refs\(google\)\.json\. --split-by values there: unc\."
    ):
        convert(root, tmp_path / "out", split_by="google")
    with pytest.raises(BadSourceError, match=r"--splits testA is not in refcoco \(unc\); splits there: train\."):
        convert(root, tmp_path / "out", splits=["train", "testA"])
    (root / "refcoco/instances.json").unlink()
    with pytest.raises(BadSourceError, match=r"instances\.json is missing"):
        convert(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"instances\.json: broken JSON at line 1 column 2"),
        ("[]", r"expected COCO's form, an object with a list 'images'"),
        ('{"images": [], "annotations": {}}', "an object with a list 'annotations'"),
        ('{"images": [{"id": "a"}], "annotations": []}', r"images\[0\] is no object with an integer 'id'"),
        ('{"images": [3], "annotations": []}', r"images\[0\] is no object"),
    ],
)
def test_bad_instances(tmp_path: Path, content: str, message: str) -> None:
    root = save_refer(tmp_path, [ref(1, 1, 1)], {1: (1, BOX)})
    (root / "refcoco/instances.json").write_text(content)
    with pytest.raises(BadSourceError, match=message):
        convert(root, tmp_path / "out")


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ({"a": 1}, "expected a list of refs, got dict"),
        ([], "expected a list of refs, got an empty list"),
        ([3], "entry 0 is no ref"),
        ([{"split": 3}], "entry 0 is no ref: expected a dict with a string 'split'"),
        ([ref(1, 1, 1, split="../../train")], r"entry 0 has the split '\.\./\.\./train', expected letters"),
    ],
)
def test_bad_refs_files(tmp_path: Path, refs: Any, message: str) -> None:
    root = save_refer(tmp_path, refs, {1: (1, BOX)})
    with pytest.raises(BadSourceError, match=message):
        convert(root, tmp_path / "out")


def test_refs_as_json(tmp_path: Path) -> None:
    root = save_refer(tmp_path, [ref(1, 1, 1)], {1: (1, BOX)})
    path = root / "refcoco/refs(unc).p"
    path.with_suffix(".json").write_text(json.dumps(pickle.loads(path.read_bytes())))
    path.unlink()
    (summary,) = convert(root, tmp_path / "out")
    assert summary.images == 1
    path.with_suffix(".json").write_text("[")
    with pytest.raises(BadSourceError, match=r"refs\(unc\)\.json: broken JSON"):
        convert(root, tmp_path / "out")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_broken_ref_is_named(tmp_path: Path, workers: int) -> None:
    def broken(number: int, **changes: Any) -> dict:
        return {**ref(number, 1, 1), **changes}

    refs = [
        ref(1, 1, 1),
        broken(2, ann_id=[1, 2]),
        broken(3, sentences="x"),
        broken(4, sentences=[{"raw": "x"}]),
        broken(1),
        broken(6, ann_id=99),
        broken(7, ann_id=2),
        ref(8, 3, 3),
        ref(9, 4, 4),
        ref(10, 5, 1),
        ref(11, 6, 77),
    ]
    masks = {1: (1, BOX), 2: (2, BOX), 3: (3, BOX), 4: (4, BOX), 5: (1, [[1, 2, 3]]), 6: (77, BOX)}
    root = save_refer(tmp_path / "root", refs, masks)
    save_photo(root / "images/mscoco/images/train2014/COCO_train2014_000000000003.jpg", height=40, width=30)
    cut = root / "images/mscoco/images/train2014/COCO_train2014_000000000004.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    path = root / "refcoco/instances.json"
    content = json.loads(path.read_text())
    content["images"] = [image for image in content["images"] if image["id"] != 77]
    path.write_text(json.dumps(content))
    with pytest.raises(BadSourceError) as error:
        convert(root, tmp_path / "out", workers=workers)
    text = str(error.value)
    for part in (
        "refcoco-unc-train: 10 of 11 refs cannot be converted",
        "malformed ref (3):",
        "ref 2: ann_id must be an integer, got [1, 2]; lists of annotations belong to gRefCOCO",
        "ref 3: 'sentences' must be a list",
        "ref 4: sentence 0 has no string 'sent'",
        "ref_id used twice (1):\n    ref 1",
        "ref 6: instances.json has no mask for ann_id 99",
        "ref 7: ann_id 2 is of image 2, not 1",
        "photo of another size (1):\n    ref 8: ",
        "40 × 30 pixels, instances.json says 30 × 40",
        "broken image (1):\n    ref 9: ",
        "image file is truncated",
        "bad mask (1):\n    ref 10 (ann_id 5): part 0 of 1: odd number of coordinates (3)",
        "ref 11: instances.json has no file_name, height and width for image 77",
        "--max-skipped 0.91",
    ):
        assert part in text
    (summary,) = convert(root, tmp_path / "out", workers=workers, max_skipped=0.91)
    assert (summary.images, summary.targets) == (1, 1)


@pytest.mark.realdata
def test_real_refs_equal_ann_to_mask(realdata: Path, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    root = realdata / "refer/with_images"
    (summary,) = convert(root, tmp_path / "out")
    assert (summary.name, summary.images, summary.targets, summary.expressions) == ("refcoco-unc-val", 1, 5, 15)
    reader = COCO(str(root / "refcoco/instances.json"))
    with (root / "refcoco/refs(unc).p").open("rb") as file:
        refs = {str(item["ref_id"]): item for item in pickle.load(file)}
    (sample,) = read_split(tmp_path / "out/refcoco_unc/val").values()
    assert len(sample["targets"]) == 5
    for target in sample["targets"]:
        expected = refs[target["target_id"]]
        np.testing.assert_array_equal(mask_of(*target["masks"]), reader.annToMask(reader.anns[expected["ann_id"]]) > 0)
        assert target["expressions"] == [sentence["sent"] for sentence in expected["sentences"]]


@pytest.mark.realdata
@pytest.mark.parametrize(("dataset", "photos"), [("refcoco", 5), ("refcoco+", 4)])
def test_real_refs_without_photos(realdata: Path, tmp_path: Path, dataset: str, photos: int) -> None:
    with pytest.raises(
        BadSourceError, match=rf"^{photos} of {photos} photos of {dataset.replace('+', '[+]')} are missing"
    ):
        convert(realdata / "refer", tmp_path / "out", dataset=dataset)


def with_drawn_photos(source: Path, root: Path) -> Path:
    """A copy of real REFER files, with photos of the right names and sizes."""
    for folder in ("refcoco", "refcoco+"):
        shutil.copytree(source / folder, root / folder)
        for image in json.loads((root / folder / "instances.json").read_text())["images"]:
            photo = root / "images/mscoco/images/train2014" / image["file_name"]
            save_photo(photo, height=image["height"], width=image["width"], seed=image["id"])
    return root


@pytest.mark.realdata
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("dataset", "split_by"), [("refcoco", "unc"), ("refcoco", "google"), ("refcoco+", "unc")])
def test_every_real_split_equals_an_independent_reader(
    realdata: Path, tmp_path: Path, dataset: str, split_by: str, workers: int
) -> None:
    from pycocotools.coco import COCO

    root = with_drawn_photos(realdata / "refer", tmp_path / "root")
    with (root / dataset / f"refs({split_by}).p").open("rb") as file:
        refs = pickle.load(file)
    reader = COCO(str(root / dataset / "instances.json"))
    options = {"dataset": dataset, "split_by": split_by, "workers": workers, "keep_leaks": split_by == "google"}
    summaries = {summary.output.name: summary for summary in convert(root, tmp_path / "out", **options)}
    assert set(summaries) == {item["split"] for item in refs}
    for split, summary in summaries.items():
        expected = [item for item in refs if item["split"] == split]
        samples = read_split(tmp_path / f"out/{dataset}_{split_by}" / split)
        assert set(samples) == {str(item["image_id"]) for item in expected}
        assert (summary.images, summary.targets) == (len(samples), len(expected))
        assert summary.expressions == sum(len(item["sentences"]) for item in expected)
        for item in expected:
            sample = samples[str(item["image_id"])]
            image = reader.imgs[item["image_id"]]
            assert (sample["file_name"], sample["height"]) == (image["file_name"], image["height"])
            (target,) = (target for target in sample["targets"] if target["target_id"] == str(item["ref_id"]))
            assert target["expressions"] == [sentence["sent"] for sentence in item["sentences"]]
            np.testing.assert_array_equal(mask_of(*target["masks"]), reader.annToMask(reader.anns[item["ann_id"]]) > 0)
    if split_by == "google":  # divides objects: the only image of train is in val and test too
        assert summaries["train"].notes["images shared with evaluation splits, kept (--keep-leaks)"] == 1
        with pytest.raises(BadSourceError, match=r"all 1 images of refcoco train are.*\(refcoco refs\(google\)\)"):
            convert(root, tmp_path / "again", **{**options, "keep_leaks": False})


@pytest.mark.realdata
def test_real_images_of_a_sibling_leave_train(realdata: Path, tmp_path: Path) -> None:
    """A photo that RefCOCO+ trains on while RefCOCO (here: its rows, renamed) evaluates on it."""
    root = with_drawn_photos(realdata / "refer", tmp_path)
    path = root / "refcoco/refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    moved = {"train": "testA", "testA": "train"}
    path.write_bytes(pickle.dumps([item | {"split": moved.get(item["split"], item["split"])} for item in refs]))
    with pytest.raises(BadSourceError, match=r"all 1 images of refcoco\+ train .*\(refcoco refs\(unc\)\)"):
        convert(root, tmp_path / "out", dataset="refcoco+")
    path.unlink()
    convert(root, tmp_path / "out", dataset="refcoco+")
