from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.convert.errors import BadSourceError
from datamodules.convert.rows_splits import SplitRule
from tests.datamodules.convert.own_folders import convert, save_mask, save_rows
from tests.datamodules.convert.read_back import mask_of, read_split

BOX = [[4, 4, 20, 4, 20, 20, 4, 20]]


def test_rows_of_an_image_become_targets_of_a_sample(tmp_path: Path) -> None:
    one = save_mask(tmp_path / "in/masks/one.png", 2, 3, 10, 12)
    two = save_mask(tmp_path / "in/masks/two.png", 12, 3, 28, 30)
    save_rows(
        tmp_path / "in",
        {"image": "1.jpg", "question": "both", "mask": ["masks/one.png", "masks/two.png"], "kind": "all"},
        {"image": "0.jpg", "question": ["what?", "which?"], "mask": "masks/one.png", "ignore": "masks/two.png"},
        {"image": "./1.jpg", "question": "nothing", "no_target": True, "mask": []},
        {"image": "1.jpg", "question": "the second", "mask": "masks/two.png", "reasoning": "it is lower"},
    )
    plan, summaries = convert(tmp_path / "in", tmp_path / "out")
    samples = read_split(tmp_path / "out/train")
    assert [(key, sample["image_id"], sample["file_name"]) for key, sample in samples.items()] == [
        ("1", "1", "1.jpg"),
        ("0", "0", "0.jpg"),
    ]
    assert samples["1"]["bytes"] == (tmp_path / "in/1.jpg").read_bytes()
    first, none, third = samples["1"]["targets"]
    assert [target["target_id"] for target in samples["1"]["targets"]] == ["0", "1", "2"]
    assert (first["expressions"], first["kind"], len(first["masks"])) == (["both"], "all", 2)
    np.testing.assert_array_equal(mask_of(first["masks"][0]), one)
    np.testing.assert_array_equal(mask_of(first["masks"][1]), two)
    assert (none["masks"], none["expressions"]) == ([], ["nothing"])
    assert third["reasoning"] == "it is lower"
    (target,) = samples["0"]["targets"]
    assert target["expressions"] == ["what?", "which?"]
    np.testing.assert_array_equal(mask_of(target["ignore"]), two)
    assert plan.found == "a table of questions, questions.jsonl: 4 rows"
    assert plan.warnings == []
    assert summaries["train"].notes == {"targets with ignored pixels": 1, "targets that are not in the image": 1}
    index = json.loads((tmp_path / "out/train/index.json").read_text())
    assert index["name"] == "in-train"
    about = {"converter": "folder", "form": "table", "rasteriser": "pycocotools"}
    assert index["extra"].items() >= about.items()


def test_rows_of_a_target_become_its_expressions(tmp_path: Path) -> None:
    save_rows(
        tmp_path / "in",
        {"image": "0.jpg", "question": "a", "target": "1", "reasoning": "first"},
        {"image": "0.jpg", "question": "other", "mask": BOX},
        {"image": "0.jpg", "question": "b", "target": "1", "mask": BOX, "kind": "k", "reasoning": "second"},
        {"image": "0.jpg", "question": ["c", "d"], "target": "1", "mask": BOX},
        {"image": "1.jpg", "question": "e", "target": "1", "no_target": "yes"},
    )
    _, summaries = convert(tmp_path / "in", tmp_path / "out")
    samples = read_split(tmp_path / "out/train")
    one, other = samples["0"]["targets"]
    assert (one["target_id"], one["expressions"]) == ("1", ["a", "b", "c", "d"])
    assert (one["kind"], one["reasoning"], len(one["masks"])) == ("k", "first", 1)
    assert (other["target_id"], other["expressions"]) == ("0", ["other"])
    assert samples["1"]["targets"][0]["expressions"] == ["e"]
    assert summaries["train"].notes["thoughts left out, for their target has one already"] == 1


def test_rows_that_contradict_each_other(tmp_path: Path) -> None:
    save_mask(tmp_path / "in/m.png", 0, 0, 3, 3)
    save_rows(
        tmp_path / "in",
        {"image": "0.jpg", "question": "a", "target": "x", "mask": BOX},
        {"image": "0.jpg", "question": "b", "target": "x", "mask": "m.png"},
        {"image": "1.jpg", "question": "c", "target": "y", "mask": BOX, "ignore": "m.png"},
        {"image": "1.jpg", "question": "d", "target": "y", "ignore": "n.png"},
    )
    save_mask(tmp_path / "in/n.png", 0, 0, 3, 3)
    with pytest.raises(BadSourceError) as error:
        convert(tmp_path / "in", tmp_path / "out")
    text = str(error.value)
    assert "in-train: 2 of 4 rows cannot be converted" in text
    assert "questions.jsonl line 2: target 'x' has another mask in questions.jsonl line 1. Rows of one target" in text
    assert "questions.jsonl line 4: target 'y' has another ignore in questions.jsonl line 3" in text
    convert(tmp_path / "in", tmp_path / "out", max_skipped=0.5)
    assert read_split(tmp_path / "out/train")["0"]["targets"][0]["expressions"] == ["a"]


def test_a_mask_must_be_given_or_denied(tmp_path: Path) -> None:
    save_mask(tmp_path / "in/empty.png", 0, 0, 0, 0)
    save_rows(
        tmp_path / "in",
        {"image": "0.jpg", "question": "a", "target": "t"},
        {"image": "0.jpg", "question": "b", "target": "t", "mask": None},
        {"image": "0.jpg", "question": "c", "mask": []},
        {"image": "0.jpg", "question": "d", "mask": "empty.png"},
        {"image": "0.jpg", "question": "e", "mask": "empty.png", "no_target": True},
        {"image": "0.jpg", "question": "f", "mask": BOX, "no_target": True},
    )
    _, summaries = convert(tmp_path / "in", tmp_path / "out", max_skipped=1)
    advice = "no mask. Give one, or set no_target to true when nothing in the image is meant"
    assert summaries["train"].skipped == {
        "no mask": [
            f"questions.jsonl line 1: {advice}",
            f"questions.jsonl line 2: same target as questions.jsonl line 1: {advice}",
            f"questions.jsonl line 3: {advice}",
        ],
        "empty mask": [
            "questions.jsonl line 4: no pixel of its mask is set. Give its mask, or say that nothing in the image is "
            "meant"
        ],
        "mask of no target": ["questions.jsonl line 6: no_target is true, yet its mask is not empty"],
    }
    (target,) = read_split(tmp_path / "out/train")["0"]["targets"]
    assert target["expressions"] == ["e"]


def test_splits_of_rows_and_of_the_rule(tmp_path: Path) -> None:
    rows = [{"image": f"{number}.jpg", "question": "q", "mask": BOX} for number in range(10)]
    rows[3]["split"] = "testA"
    rows.append({"image": "3.jpg", "question": "r", "mask": BOX})  # goes with its image
    save_rows(tmp_path / "in", *rows, photos=10)
    plan, _ = convert(tmp_path / "in", tmp_path / "out", rule=SplitRule(val_fraction=0.3, seed=5), name="mine")
    assert [split.name for split in plan.plans] == ["mine-train", "mine-val", "mine-testA"]
    found = {split.output.name: read_split(split.output) for split in plan.plans}
    assert (len(found["train"]), len(found["val"]), list(found["testA"])) == (6, 3, ["3"])
    assert len(found["testA"]["3"]["targets"]) == 2
    (tmp_path / "in").rename(tmp_path / "moved")
    again, _ = convert(tmp_path / "moved", tmp_path / "out2", rule=SplitRule(val_fraction=0.3, seed=5), name="mine")
    assert read_split(tmp_path / "out2/val").keys() == found["val"].keys()
    assert again.plans[0].extra["val_fraction"] == 0.3
    assert again.plans[0].extra["seed"] == 5


def test_an_image_in_several_splits_is_named(tmp_path: Path) -> None:
    rows = [{"image": "0.jpg", "question": "q", "mask": BOX, "split": split} for split in ("train", "val")]
    save_rows(tmp_path / "in", *rows)
    plan, _ = convert(tmp_path / "in", tmp_path / "out")
    (warning,) = plan.warnings
    assert warning.startswith("1 image(s) are in several splits, so what is measured on one was seen in training.")
    assert read_split(tmp_path / "out/train").keys() == read_split(tmp_path / "out/val").keys()


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    save_rows(tmp_path / "in", {"image": "0.jpg", "question": "q", "mask": BOX, "Masks": 1, "bbox": [1]})
    plan, _ = convert(tmp_path / "in", tmp_path / "out")
    (warning,) = plan.warnings
    assert warning.startswith(
        "questions.jsonl: columns 'Masks', 'bbox' are not used; known columns are image, question,"
    )


def test_csv_and_mask_value(tmp_path: Path) -> None:
    save_rows(tmp_path / "in")
    (tmp_path / "in/questions.jsonl").unlink()
    box = save_mask(tmp_path / "in/m.png", 2, 2, 9, 9, value=4)
    (tmp_path / "in/t.csv").write_text("image;question;mask;no_target\n0.jpg;what;m.png;\n1.jpg;none;;TRUE\n")
    plan, _ = convert(tmp_path / "in", tmp_path / "out", mask_value=4)
    samples = read_split(tmp_path / "out/train")
    np.testing.assert_array_equal(mask_of(*samples["0"]["targets"][0]["masks"]), box)
    assert samples["1"]["targets"][0]["masks"] == []
    assert plan.plans[0].extra["mask_value"] == 4
    with pytest.raises(BadSourceError, match=r"t\.csv line 2: no pixel of its mask is set"):
        convert(tmp_path / "in", tmp_path / "out2", mask_value=255)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unusable_row_is_named(tmp_path: Path, workers: int) -> None:
    folder = save_rows(
        tmp_path / "in",
        {"image": "0.jpg", "question": "fine", "mask": BOX},
        {"image": "0.jpg", "question": "wrong size", "mask": "m.png"},
        {"image": "gone.jpg", "question": "q", "mask": BOX},
        {"image": "../secret.jpg", "question": "q", "mask": BOX},
        {"image": "cut.jpg", "question": "q", "mask": BOX},
        {"image": "1.jpg", "mask": BOX},
        {"image": "1.jpg", "question": "q", "mask": [[1, 2, 3, 4]]},
    )
    with (folder / "questions.jsonl").open("a") as file:
        file.write("{broken\n")
    save_mask(folder / "m.png", 0, 0, 9, 9)
    (tmp_path / "secret.jpg").write_bytes((folder / "0.jpg").read_bytes())
    (folder / "cut.jpg").write_bytes((folder / "0.jpg").read_bytes()[:-300])
    from PIL import Image

    Image.new("L", (30, 40)).save(folder / "m.png")
    with pytest.raises(BadSourceError) as error:
        convert(folder, tmp_path / "out", workers=workers)
    text = str(error.value)
    for part in (
        "in-train: 7 of 8 rows cannot be converted, so it was not written.",
        "unreadable row (1):\n    questions.jsonl line 8: broken JSON at column 2",
        "missing file (1):\n    questions.jsonl line 3: image 'gone.jpg' is not in",
        "path outside the folders (1):\n    questions.jsonl line 4: image '../secret.jpg' is",
        "bad row (1):\n    questions.jsonl line 6: column question must be a text, got nothing",
        "mask of another size (1):\n    questions.jsonl line 2, mask m.png: 40 × 30 pixels, its image 30 × 40",
        "broken image (1):\n    questions.jsonl line 5: " + str(folder / "cut.jpg"),
        "bad mask (1):\n    questions.jsonl line 7, mask: part 0 of 1: 2 point(s) enclose no area",
        "--max-skipped 0.88",
    ):
        assert part in text, text
    _, summaries = convert(folder, tmp_path / "out", workers=workers, max_skipped=0.88)
    assert (summaries["train"].images, summaries["train"].targets) == (1, 1)


def test_no_usable_row(tmp_path: Path) -> None:
    folder = save_rows(tmp_path / "in", {"image": "gone.jpg", "question": "q", "mask": BOX})
    with pytest.raises(BadSourceError, match=r"(?s)in-train: no image is left to write.*line 1: image 'gone.jpg'"):
        convert(folder, tmp_path / "out", max_skipped=1)


def test_the_result_depends_on_no_number_of_workers_and_is_kept(tmp_path: Path) -> None:
    rows = [{"image": f"{number}.jpg", "question": "q", "mask": BOX} for number in range(6)]
    folder = save_rows(tmp_path / "in", *rows, photos=6)
    for workers in (1, 2):
        convert(folder, tmp_path / str(workers), workers=workers)
    shards = [(tmp_path / name / "train/00000.tar").read_bytes() for name in ("1", "2")]
    assert shards[0] == shards[1]
    changed = (tmp_path / "1/train/00000.tar").stat().st_mtime_ns
    _, summaries = convert(folder, tmp_path / "1")
    assert any(note.startswith("unchanged") for note in summaries["train"].notes)
    assert (tmp_path / "1/train/00000.tar").stat().st_mtime_ns == changed
    save_mask(folder / "m.png", 0, 0, 5, 5)
    save_rows(folder, *rows[:-1], {"image": "5.jpg", "question": "q", "mask": "m.png"}, photos=0)
    with pytest.raises(FileExistsError):
        convert(folder, tmp_path / "1")
