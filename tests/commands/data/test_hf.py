from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data import hf
from tests.datamodules.convert.hf_datasets import box, photo, png, save_parquet
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.test_hf import refs, row


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    hf.add_arguments(parser)
    return hf.run(parser.parse_args([str(word) for word in words]))


def test_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"photo": photo(n), "segment": png(box(n), 5) if n else None, "asked": f"q{n}", "why": "so", "part": "val"}
        for n in range(3)
    ]
    save_parquet(tmp_path / "in/a.parquet", rows)
    columns = (
        "--image-column photo --mask-column segment --text-column asked --reasoning-column why --split-column part"
    )
    words = [
        "--input",
        tmp_path / "in",
        *columns.split(),
        "--mask-value",
        "5",
        "--empty-is-no-target",
        "--name",
        "mine",
    ]
    assert run(*words, "--output", tmp_path / "out", "--workers", "2", "--licence", "mine too") == 0
    assert "found columns in 1 file(s): 3 rows about 3 images" in capsys.readouterr().out
    found = [sample["targets"][0] for sample in read_split(tmp_path / "out/val").values()]
    assert [(target["expressions"], target["reasoning"]) for target in found] == [([f"q{n}"], "so") for n in range(3)]
    assert [len(target["masks"]) for target in found] == [0, 1, 1]
    assert mask_of(*found[1]["masks"]).sum() == 54
    index = json.loads((tmp_path / "out/val/index.json").read_text())
    assert (index["name"], index["licence"]) == ("mine-val", "mine too")


def test_refs(tmp_path: Path) -> None:
    words: list[str | Path] = ["--input", refs(tmp_path), "--images", tmp_path / "photos", "--output", tmp_path / "out"]
    with pytest.raises(CommandError, match=r"2 of 5 photos are missing"):
        run(*words)
    run(*words, "--max-missing", "0.4", "--splits", "val", "--rasteriser", "opencv")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["val"]
    (sample,) = read_split(tmp_path / "out/val").values()
    assert mask_of(*sample["targets"][0]["masks"]).sum() == 289


def test_leaks_and_splits(tmp_path: Path) -> None:
    save_parquet(tmp_path / "in/train.parquet", [row(0, 0), row(1, 1)])
    save_parquet(tmp_path / "other/test.parquet", [row(2, 1)])
    words: list[str | Path] = ["--input", tmp_path / "in", "--held-out", tmp_path / "other", "--output"]
    run(*words, tmp_path / "a")
    assert list(read_split(tmp_path / "a/train")) == ["0"]
    run(*words, tmp_path / "b", "--keep-leaks")
    assert list(read_split(tmp_path / "b/train")) == ["0", "1"]
    run(*words, tmp_path / "c", "--split", "test")
    assert list(read_split(tmp_path / "c/test")) == ["0", "1"]


def test_errors_are_command_errors(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is no file, no folder, and no id of a dataset on the Hugging Face hub"):
        run("--input", tmp_path / "nowhere", "--output", tmp_path / "out")
    path = save_parquet(tmp_path / "a.parquet", [row(0, 0)])
    with pytest.raises(CommandError, match="no column 'x'"):
        run("--input", path, "--output", tmp_path / "out", "--mask-column", "x")
    with pytest.raises(CommandError, match="--revision main is of a dataset on the hub"):
        run("--input", tmp_path, "--output", tmp_path / "out", "--revision", "main")


@pytest.mark.realdata
def test_through_coprs(realdata: Path, tmp_path: Path) -> None:
    words = [
        "--input",
        str(realdata / "hf_style"),
        "--images",
        str(realdata / "refer/with_images/images/mscoco/images"),
    ]
    output = ["--output", str(tmp_path / "out")]
    assert main(["data", "hf", *words, *output, "--splits", "val", "--max-missing", "0.5"]) == 0
    assert [len(sample["targets"]) for sample in read_split(tmp_path / "out/val").values()] == [5]
