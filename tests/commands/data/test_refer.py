from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data import refer
from tests.datamodules.convert.read_back import read_split
from tests.datamodules.convert.sources import ref, save_photo, save_refer

BOX = [[2.0, 3.0, 20.0, 3.0, 20.0, 15.0, 2.0, 15.0]]


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    refer.add_arguments(parser)
    return refer.run(parser.parse_args([str(word) for word in words]))


def save(root: Path, **options) -> list[str | Path]:
    """Three images, one of them in train and val; the words that convert them."""
    refs = [ref(1, 1, 1), ref(2, 2, 2), ref(3, 2, 2, "val"), ref(4, 3, 3, "val", sents=[])]
    save_refer(root, refs, {1: (1, BOX), 2: (2, BOX), 3: (3, BOX)}, split_by="google", **options)
    return ["--input", root, "--dataset", "refcoco", "--split-by", "google", "--output", root / "out"]


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert run(*save(tmp_path), "--workers", "2") == 0
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        if len(cells := line.strip("│").split("│")) == 3:
            rows[cells[0].strip()] = [cell.strip() for cell in cells[1:]]
    assert rows["images"] == ["1", "1"]
    assert rows["images shared with evaluation splits, removed"] == ["1", "0"]
    assert rows["refs left out for want of a sentence"] == ["0", "1"]
    assert set(read_split(tmp_path / "out/refcoco_google/train")) == {"1"}


def test_options_reach_the_converter(tmp_path: Path) -> None:
    words = save(tmp_path, photos=False)
    for image_id in (1, 2):
        save_photo(tmp_path / f"mine/{image_id:012d}.jpg")
    other = save_refer(tmp_path / "other", [ref(1, 1, 1, "testB")], {1: (1, BOX)})
    held_out = other / "refcoco/refs(unc).p"
    run(*words, "--splits", "train", "--images", tmp_path / "none", tmp_path / "mine", "--keep-leaks")
    assert set(read_split(tmp_path / "out/refcoco_google/train")) == {"1", "2"}
    with pytest.raises(CommandError, match="all 2 images of refcoco train"):
        run(*words, "--splits", "train", "--images", tmp_path / "mine", "--held-out", held_out, "--overwrite")
    (tmp_path / "mine/000000000002.jpg").unlink()
    words += ["--splits", "train", "--images", tmp_path / "mine", "--keep-leaks", "--overwrite"]
    with pytest.raises(CommandError, match="1 of 2 photos"):
        run(*words)
    run(*words, "--max-missing", "0.5")
    assert set(read_split(tmp_path / "out/refcoco_google/train")) == {"1"}


def test_errors_are_command_errors(tmp_path: Path) -> None:
    words = save(tmp_path)
    with pytest.raises(CommandError, match="--splits test is not in refcoco"):
        run(*words, "--splits", "test")
    run(*words)
    with pytest.raises(CommandError, match="pass --overwrite"):
        run(*words, "--shards", "1")
    path = tmp_path / "refcoco/refs(google).p"
    path.write_bytes(b"cos\nsystem\n(S'echo ran'\ntR.")
    with pytest.raises(CommandError, match=r"asks for os\.system"):
        run(*words)


@pytest.mark.parametrize(("option", "value"), [("--dataset", "refcoco2"), ("--split-by", "me")])
def test_unknown_names(tmp_path: Path, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(*save(tmp_path), option, value)
    assert f"argument {option}: invalid choice: '{value}' (choose from" in capsys.readouterr().err


@pytest.mark.realdata
def test_through_coprs(realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = ["--dataset", "refcoco", "--split-by", "unc", "--output", str(tmp_path)]
    assert main(["data", "refer", "--input", str(realdata / "refer/with_images"), *about]) == 0
    assert "expressions" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        main(["data", "refer", "--input", str(realdata / "refer"), *about, "--overwrite"])
    assert "coprs: error: 5 of 5 photos of refcoco are missing" in capsys.readouterr().err
