from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data import folder
from tests.datamodules.convert import test_coco, test_labelme
from tests.datamodules.convert.own_folders import save_mask, save_rows
from tests.datamodules.convert.read_back import mask_of, read_split

BOX = [[4, 4, 20, 4, 20, 20, 4, 20]]


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    folder.add_arguments(parser)
    return folder.run(parser.parse_args([str(word) for word in words]))


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    rows = [{"image": f"{n}.jpg", "question": ["a", "b"], "mask": BOX, "note": 1} for n in range(10)]
    save_rows(tmp_path / "in", *rows, {"image": "gone.jpg", "question": "q", "mask": BOX}, photos=10)
    words = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--max-skipped", "0.2", "--workers", "2"]
    assert run(*words, "--name", "mine", "--val-fraction", "0.3", "--seed", "4", "--licence", "CC0") == 0
    printed = capsys.readouterr().out
    assert "found a table of questions, questions.jsonl: 11 rows" in printed
    assert "warning: questions.jsonl: columns 'note' are not used; known columns are image, question, mask" in printed
    cells = {
        row[0].strip(): [cell.strip() for cell in row[1:]]
        for line in printed.splitlines()
        if len(row := line.strip("│").split("│")) == 3
    }
    assert cells["images"] == cells["targets"] == ["7", "3"]
    assert cells["expressions"] == ["14", "6"]
    assert cells["skipped: missing file"] == ["1", "0"]
    assert "line 11: image 'gone.jpg' is not in" in printed
    index = json.loads((tmp_path / "out/val/index.json").read_text())
    assert (index["name"], index["licence"], index["extra"]["seed"]) == ("mine-val", "CC0", 4)


def test_options_reach_the_converter(tmp_path: Path) -> None:
    save_mask(tmp_path / "more/m.png", 2, 2, 9, 9, value=3)
    save_rows(tmp_path / "in", {"image": "0.jpg", "question": "q", "mask": "m.png"})
    save_rows(tmp_path / "in", {"image": "0.jpg", "question": "q", "mask": BOX}, name="other.jsonl")
    words = ["--input", tmp_path / "in", "--split", "test"]
    run(
        *words,
        "--output",
        tmp_path / "a",
        "--table",
        "questions.jsonl",
        "--images",
        tmp_path / "more",
        "--mask-value",
        "3",
    )
    (sample,) = read_split(tmp_path / "a/test").values()
    assert mask_of(*sample["targets"][0]["masks"]).sum() == 49
    run(*words, "--output", tmp_path / "b", "--table", "other.jsonl", "--rasteriser", "opencv", "--form", "table")
    (sample,) = read_split(tmp_path / "b/test").values()
    assert mask_of(*sample["targets"][0]["masks"]).sum() == 289


def test_other_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test_coco.save(tmp_path / "coco", (0, 1, BOX), (0, 1, test_coco.OTHER))
    words = ["--split", "train", "--per-instance", "--question"]
    run("--input", tmp_path / "coco", "--output", tmp_path / "a", *words, "the {category}")
    (sample,) = read_split(tmp_path / "a/train").values()
    assert [target["expressions"] for target in sample["targets"]] == [["the cat"], ["the cat"]]
    assert "found COCO annotations" in capsys.readouterr().out
    test_labelme.save(tmp_path / "labelme", "a", test_labelme.shape("cat"))
    run("--input", tmp_path / "labelme", "--output", tmp_path / "b", *words, "the {label}")
    (sample,) = read_split(tmp_path / "b/train").values()
    assert sample["targets"][0]["expressions"] == ["the cat"]
    assert "found 1 LabelMe files" in capsys.readouterr().out


def test_errors_are_command_errors(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nowhere is no folder"):
        run("--input", tmp_path / "nowhere", "--output", tmp_path / "out")
    save_rows(tmp_path / "in", {"image": "0.jpg", "question": "q"})
    with pytest.raises(CommandError, match=r"questions.jsonl line 1: no mask\. Give one, or set no_target"):
        run("--input", tmp_path / "in", "--output", tmp_path / "out")
    with pytest.raises(CommandError, match=r"--split: the split '\.\.' cannot name a folder"):
        run("--input", tmp_path / "in", "--output", tmp_path / "out", "--split", "..")
    with pytest.raises(SystemExit):
        run("--input", tmp_path, "--output", tmp_path, "--form", "yolo")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_the_help_shows_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["data", "folder", "--help"])
    printed = capsys.readouterr().out
    for word in ("image      path of the photo", "no_target  optional", "{category}", "--val-fraction"):
        assert word in printed


@pytest.mark.realdata
def test_through_coprs(realdata: Path, tmp_path: Path) -> None:
    shutil.copytree(realdata / "coco_icevision", tmp_path / "in")
    words = ["data", "folder", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    assert [len(read_split(tmp_path / "out" / split)) for split in ("train", "val")] == [4, 1]
    assert main(["data", "inspect", str(tmp_path / "out"), "--output", str(tmp_path / "sheet.png")]) == 0
