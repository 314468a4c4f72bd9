"""gRefCOCO: several objects and none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from datamodules.convert.errors import BadSourceError
from datamodules.convert.refer import ReferOptions, plan_refer
from datamodules.convert.refer_images import convert_refer
from datamodules.convert.split import WriteOptions, write_splits
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.sources import ref, save_photo, save_refer

LEFT, RIGHT = ([[2.0, 3.0, 12.0, 3.0, 12.0, 15.0, 2.0, 15.0]], [[25.0, 8.0, 36.0, 8.0, 36.0, 25.0, 25.0, 25.0]])


def gref(ref_id: int, ann_ids: list[int], image_id: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    made = ref(ref_id, 0, image_id, split)
    return {**made, "ann_id": ann_ids, "category_id": ann_ids, "no_target": ann_ids == [-1], **changes}


def save(root: Path, refs: list[dict[str, Any]], *, crowd: int | None = None, suffix: str = ".json") -> Path:
    """A root with annotations 1 and 2 in image 1 and 3 in image 2."""
    save_refer(root, refs, {1: (1, LEFT), 2: (1, RIGHT), 3: (2, LEFT)}, dataset="grefcoco")
    (root / "grefcoco/refs(unc).p").unlink()
    if suffix == ".json":
        (root / "grefcoco/grefs(unc).json").write_text(json.dumps(refs))
    else:
        import pickle

        (root / "grefcoco/grefs(unc).p").write_bytes(pickle.dumps(refs))
    path = root / "grefcoco/instances.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["id"] == crowd)
    path.write_text(json.dumps(content))
    return root


def convert(root: Path, output: Path, *, max_skipped: float = 0.0, **options: Any) -> list:
    plans = plan_refer(ReferOptions(root, "grefcoco", "unc", **options), output)
    chosen = WriteOptions(licence="none", max_skipped=max_skipped)
    return list(write_splits(plans, convert_refer, chosen, lambda *_: lambda: None))


def decoded(polygons: list) -> np.ndarray:
    return coco.decode(coco.frPyObjects(polygons, 30, 40))[..., 0] > 0


@pytest.mark.parametrize("suffix", [".json", ".p"])
def test_one_several_and_none(tmp_path: Path, suffix: str) -> None:
    refs = [gref(5, [1], 1), gref(6, [2, 1], 1), gref(7, [-1], 1), gref(8, [2, 2], 1), gref(9, [3], 2, "testB")]
    test, train = convert(save(tmp_path, refs, suffix=suffix), tmp_path / "out")
    assert (train.images, train.targets, test.images) == (1, 4, 1)
    assert train.notes["targets of several objects"] == 1
    assert train.notes["targets that mean nothing in the image"] == 1
    targets = {t["target_id"]: t for t in read_split(tmp_path / "out/grefcoco_unc/train")["1"]["targets"]}
    assert [len(targets[name]["masks"]) for name in "5678"] == [1, 2, 0, 1]
    assert [targets[name]["distractors"] for name in "5678"] == [1, 0, None, 1]
    union = np.any([mask_of(mask) for mask in targets["6"]["masks"]], axis=0)
    np.testing.assert_array_equal(union, decoded(LEFT) | decoded(RIGHT))
    np.testing.assert_array_equal(mask_of(targets["6"]["masks"][0]), decoded(RIGHT))
    np.testing.assert_array_equal(mask_of(*targets["8"]["masks"]), decoded(RIGHT))


def test_crowds_among_several_are_left_out(tmp_path: Path) -> None:
    refs = [gref(5, [1, 2], 1), gref(6, [1], 1)]
    (train,) = convert(save(tmp_path, refs, crowd=1), tmp_path / "out")
    assert train.notes["crowd annotations left out of targets that have others"] == 1
    first, second = read_split(tmp_path / "out/grefcoco_unc/train")["1"]["targets"]
    np.testing.assert_array_equal(mask_of(*first["masks"]), decoded(RIGHT))
    np.testing.assert_array_equal(mask_of(*second["masks"]), decoded(LEFT))


def test_refs_without_a_sentence_are_counted(tmp_path: Path) -> None:
    (train,) = convert(save(tmp_path, [gref(5, [1], 1), gref(6, [2], 1, sentences=[])]), tmp_path / "out")
    assert train.notes["refs left out for want of a sentence"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ann_id": []}, r"ann_id must be an integer or a list of them, got \[\]"),
        ({"ann_id": ["1"]}, "ann_id must be an integer or a list of them"),
        ({"ann_id": [1, -1]}, r"ann_id \[1, -1\] means both none and something"),
        ({"ann_id": [-1], "no_target": False}, "means both none and something"),
        ({"ann_id": [1], "no_target": True}, r"no_target is true, but ann_id is \[1\]"),
        ({"ann_id": [3]}, "ann_id 3 is of image 2, not 1"),
        ({"ann_id": [1, 99]}, "no mask for ann_id 99"),
    ],
)
def test_bad_refs_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    import re

    root = save(tmp_path, [gref(5, [1], 1), gref(6, [1], 1, **changes)])
    (train,) = convert(root, tmp_path / "out", max_skipped=0.5)
    (details,) = train.skipped.values()
    assert re.search(message, details[0]), details


def test_a_target_of_crowds_alone_is_kept(tmp_path: Path) -> None:
    root = save(tmp_path, [gref(5, [1], 1), gref(6, [2, 1], 1)], crowd=1)
    content = json.loads((root / "grefcoco/instances.json").read_text())
    content["annotations"][1]["iscrowd"] = 1
    (root / "grefcoco/instances.json").write_text(json.dumps(content))
    (train,) = convert(root, tmp_path / "out")
    assert train.notes["targets of crowd annotations alone, kept"] == 2
    assert train.notes["crowd annotations left out of targets that have others"] == 0
    targets = read_split(tmp_path / "out/grefcoco_unc/train")["1"]["targets"]
    for target, polygons in zip(targets, ([LEFT], [RIGHT, LEFT]), strict=True):
        for rle, polygon in zip(target["masks"], polygons, strict=True):
            np.testing.assert_array_equal(mask_of(rle), decoded(polygon))


def test_an_object_without_a_pixel_is_counted(tmp_path: Path) -> None:
    root = save(tmp_path, [gref(5, [1, 2], 1), gref(6, [2], 1)])
    content = json.loads((root / "grefcoco/instances.json").read_text())
    content["annotations"][1]["segmentation"] = [[90.0, 90.0, 95.0, 90.0, 95.0, 95.0]]
    (root / "grefcoco/instances.json").write_text(json.dumps(content))
    (train,) = convert(root, tmp_path / "out")
    assert train.notes["objects without a pixel, left out of their target"] == 1
    assert train.notes["targets with an empty mask"] == 1
    first, second = read_split(tmp_path / "out/grefcoco_unc/train")["1"]["targets"]
    assert (len(first["masks"]), second["masks"]) == (1, [])


def test_a_missing_refs_file(tmp_path: Path) -> None:
    root = save(tmp_path, [gref(5, [1], 1)])
    (root / "grefcoco/grefs(unc).json").rename(root / "grefcoco/refs.json")
    with pytest.raises(
        BadSourceError, match=r"no grefs\(unc\)\.p or grefs\(unc\)\.json\. .* found instances\.json, refs"
    ):
        convert(root, tmp_path / "out")


def test_leaks_of_siblings(tmp_path: Path) -> None:
    save(tmp_path, [gref(5, [1], 1), gref(6, [3], 2)])
    save_refer(tmp_path, [ref(1, 3, 2, "testA")], {3: (2, LEFT)}, dataset="refcoco", photos=False)
    (train,) = convert(tmp_path, tmp_path / "out")
    assert train.notes["… of them in refcoco refs(unc)"] == 1
    assert set(read_split(tmp_path / "out/grefcoco_unc/train")) == {"1"}


@pytest.mark.realdata
def test_the_real_row(realdata: Path, tmp_path: Path) -> None:
    """A question about something that is not there; its photo is not part of the excerpt."""
    rows = json.loads((realdata / "grefcoco/grefs(unc).excerpt.json").read_text())
    folder = tmp_path / "grefcoco"
    folder.mkdir()
    (folder / "grefs(unc).json").write_text(json.dumps(rows))
    name = rows[0]["file_name"]
    images = [{"id": rows[0]["image_id"], "file_name": name, "height": 30, "width": 40}]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": []}))
    save_photo(tmp_path / "train2014" / name)
    (val,) = convert(tmp_path, tmp_path / "out")
    assert (val.images, val.targets, val.expressions) == (1, 1, 1)
    (sample,) = read_split(tmp_path / "out/grefcoco_unc/val").values()
    (target,) = sample["targets"]
    assert target["masks"] == []
    assert target["expressions"] == [sentence["sent"] for sentence in rows[0]["sentences"]]


@pytest.mark.realdata
def test_real_annotations(realdata: Path, tmp_path: Path) -> None:
    """Questions about several and about no objects of a real photo, against COCO's own reader."""
    from pycocotools.coco import COCO

    shutil.copytree(realdata / "refer/with_images/images", tmp_path / "images")
    shutil.copytree(realdata / "refer/with_images/refcoco", tmp_path / "grefcoco")
    reader = COCO(str(tmp_path / "grefcoco/instances.json"))
    (image_id,) = reader.imgs
    ids = sorted(reader.anns)[:3]
    (tmp_path / "grefcoco/refs(unc).p").unlink()
    refs = [gref(1, ids, image_id, "val"), gref(2, ids[:1], image_id, "val"), gref(3, [-1], image_id, "val")]
    refs[0]["file_name"] = reader.imgs[image_id]["file_name"]  # with and without the suffix of the ref
    (tmp_path / "grefcoco/grefs(unc).json").write_text(json.dumps(refs))
    (val,) = convert(tmp_path, tmp_path / "out")
    assert (val.images, val.targets) == (1, 3)
    targets = read_split(val.output)[str(image_id)]["targets"]
    for target, expected in zip(targets, (ids, ids[:1], []), strict=True):
        assert len(target["masks"]) == len(expected)
        for rle, number in zip(target["masks"], expected, strict=True):
            np.testing.assert_array_equal(mask_of(rle), reader.annToMask(reader.anns[number]) > 0)
