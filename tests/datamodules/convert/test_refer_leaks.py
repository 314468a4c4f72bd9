"""Images that some split evaluates on do not stay in train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.refer_leaks import benchmark_refs
from tests.datamodules.convert.read_back import read_split
from tests.datamodules.convert.sources import ref, save_refer
from tests.datamodules.convert.test_refer import BOX, convert


def test_images_that_sibling_datasets_evaluate_on_are_left_out(tmp_path: Path) -> None:
    """Four datasets share their photos; only the splits that benchmarks use count."""
    boxes = {number: (number, BOX) for number in range(1, 8)}
    save_refer(tmp_path, [ref(n, n, n) for n in range(1, 8)] + [ref(90, 7, 7, "val")], boxes)
    save_refer(tmp_path, [ref(1, 1, 1, "testA"), ref(2, 2, 2)], boxes, dataset="refcoco+", photos=False)
    save_refer(tmp_path, [ref(1, 2, 2, "test")], boxes, dataset="refcocog", split_by="umd", photos=False)
    save_refer(tmp_path, [ref(1, 3, 3, "val")], boxes, dataset="refcocog", split_by="google", photos=False)
    save_refer(tmp_path, [ref(1, 4, 4, "val")], boxes, dataset="refclef", photos=False)
    train, _ = convert(tmp_path, tmp_path / "out")
    assert set(read_split(tmp_path / "out/refcoco_unc/train")) == {"3", "4", "5", "6"}
    assert train.notes["images shared with evaluation splits, removed"] == 3
    extra = json.loads((train.output / "index.json").read_text())["extra"]
    assert extra["shared_with"] == {"refcoco refs(unc)": 1, "refcoco+ refs(unc)": 1, "refcocog refs(umd)": 1}
    kept, _ = convert(tmp_path, tmp_path / "kept", keep_leaks=True)
    assert kept.images == 7
    assert kept.notes["… of them in refcocog refs(umd)"] == 1


def test_images_of_evaluation_splits_leave_train(tmp_path: Path) -> None:
    refs = [ref(1, 1, 1), ref(2, 2, 2), ref(3, 3, 2, "test"), ref(4, 4, 4), ref(5, 5, 5, "val")]
    masks = {1: (1, BOX), 2: (2, BOX), 3: (2, BOX), 4: (4, BOX), 5: (5, BOX)}
    root = save_refer(tmp_path / "root", refs, masks, split_by="google")
    (train,) = convert(root, tmp_path / "a", split_by="google", splits=["train"])
    assert set(read_split(train.output)) == {"1", "4"}
    source = {"… of them in refcoco refs(google)": 1}
    assert train.notes == {"images shared with evaluation splits, removed": 1, **source}
    (train,) = convert(root, tmp_path / "b", split_by="google", splits=["train"], keep_leaks=True)
    assert set(read_split(train.output)) == {"1", "2", "4"}
    assert train.notes == {"images shared with evaluation splits, kept (--keep-leaks)": 1, **source}
    assert json.loads((train.output / "index.json").read_text())["extra"]["shared_images_kept"] is True
    other = save_refer(tmp_path / "other", [ref(9, 9, 4, "testA"), ref(8, 8, 1)], {9: (4, BOX), 8: (1, BOX)})
    held_out = [other / "refcoco/refs(unc).p"]
    (train,) = convert(root, tmp_path / "c", split_by="google", splits=["train"], held_out=held_out)
    assert set(read_split(train.output)) == {"1"}
    (test,) = convert(root, tmp_path / "d", split_by="google", splits=["test"])
    assert set(read_split(test.output)) == {"2"}
    with pytest.raises(BadSourceError, match="No such file"):
        convert(root, tmp_path / "e", split_by="google", held_out=[tmp_path / "none.p"])


def test_a_train_split_of_leaks_only(tmp_path: Path) -> None:
    root = save_refer(tmp_path, [ref(1, 1, 1), ref(2, 1, 1, "val")], {1: (1, BOX)}, split_by="google")
    with pytest.raises(BadSourceError, match=r"all 1 images of refcoco train are images of evaluation.*--keep-leaks"):
        convert(root, tmp_path / "out", split_by="google")


def test_google_splits_leave_out_what_benchmarks_evaluate_on(tmp_path: Path) -> None:
    """They divide objects: their train holds images of the UMD (or UNC) val and test."""
    boxes = {number: (number, BOX) for number in range(1, 5)}
    google = {"dataset": "refcocog", "split_by": "google"}
    save_refer(tmp_path, [ref(n, n, n) for n in (1, 2, 3)] + [ref(4, 4, 4, "val")], boxes, **google)
    umd = [ref(1, 1, 1, "test"), ref(2, 2, 2, "val"), ref(3, 3, 3), ref(4, 4, 4)]
    save_refer(tmp_path, umd, boxes, dataset="refcocog", split_by="umd", photos=False)
    train, _ = convert(tmp_path, tmp_path / "out", **google)
    assert set(read_split(train.output)) == {"3"}
    assert train.notes["… of them in refcocog refs(umd)"] == 2
    _, train, _ = convert(tmp_path, tmp_path / "out", dataset="refcocog", split_by="umd")
    assert set(read_split(train.output)) == {"3", "4"}  # google's val is no benchmark


def test_files_beside_a_dataset(tmp_path: Path) -> None:
    for name in ("refcoco/refs(unc).p", "refcoco/refs(google).p", "grefcoco/grefs(unc).json", "grefcoco/grefs(unc).p"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "refclef").mkdir()
    (tmp_path / "refclef/refs(unc).p").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in benchmark_refs(tmp_path, "refcocog", "umd")]
    assert found == ["refcoco/refs(unc).p", "grefcoco/grefs(unc).p"]
    assert benchmark_refs(tmp_path, "grefcoco", "unc") == [tmp_path / "refcoco/refs(unc).p"]
    assert benchmark_refs(tmp_path, "refclef", "unc") == []  # photos of its own


def test_refs_that_are_unusable_are_evaluated_on_all_the_same(tmp_path: Path) -> None:
    boxes = {number: (number, BOX) for number in (1, 2, 3)}
    save_refer(tmp_path, [ref(n, n, n) for n in (1, 2, 3)], boxes)
    others = [{**ref(1, 1, 1, "val"), "ann_id": None}, ref(2, 2, 2, "testB", sents=[])]
    save_refer(tmp_path, others, boxes, dataset="refcoco+", photos=False)
    (train,) = convert(tmp_path, tmp_path / "out")
    assert set(read_split(train.output)) == {"3"}


def test_files_that_cannot_be_compared(tmp_path: Path) -> None:
    save_refer(tmp_path, [ref(1, 1, 1)], {1: (1, BOX)})
    broken = tmp_path / "refcoco+/refs(unc).p"
    broken.parent.mkdir()
    broken.write_bytes(b"no pickle")
    with pytest.raises(
        BadSourceError, match=r"(?s)refs\(unc\)\.p is no readable pickle.*refcoco\+ evaluates.*--keep-leaks"
    ):
        convert(tmp_path, tmp_path / "out")
    (train,) = convert(tmp_path, tmp_path / "out", keep_leaks=True)
    assert train.notes == {"… not compared, for it is unreadable: refcoco+ refs(unc)": 1}
    with pytest.raises(BadSourceError, match=r"--held-out .*refs\(unc\)\.p: its images cannot leave train"):
        convert(tmp_path, tmp_path / "out", keep_leaks=True, held_out=[broken])


def test_a_file_named_twice_is_counted_once(tmp_path: Path) -> None:
    save_refer(tmp_path, [ref(1, 1, 1), ref(2, 2, 2)], {1: (1, BOX), 2: (2, BOX)})
    save_refer(tmp_path, [ref(1, 1, 1, "val")], {1: (1, BOX)}, dataset="refcoco+", photos=False)
    (train,) = convert(tmp_path, tmp_path / "out", held_out=[tmp_path / "refcoco+/../refcoco+/refs(unc).p"])
    extra = json.loads((train.output / "index.json").read_text())["extra"]
    assert extra["shared_with"] == {"refcoco+ refs(unc)": 1}
