from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data import synthetic
from datamodules.synthetic.write import write_synthetic
from tests.datamodules.convert.read_back import read_split

FEW = ["--train", "3", "--val", "2", "--test", "0", "--generalisation", "1", "--image-size", "64", "--shards", "2"]


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    synthetic.add_arguments(parser)
    return synthetic.run(parser.parse_args([str(word) for word in words]))


def test_it_writes_what_the_function_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--output", tmp_path / "a", *FEW, "--seed", "4", "--questions-per-image", "2") == 0
    printed = capsys.readouterr().out
    assert "generalisation" in printed
    assert "questions" in printed
    write_synthetic(
        tmp_path / "b", seed=4, train=3, val=2, test=0, generalisation=1, questions_per_image=2, image_size=64, shards=2
    )
    for split in ("train", "val", "generalisation"):
        assert (tmp_path / "a" / split / "index.json").read_bytes() == (
            tmp_path / "b" / split / "index.json"
        ).read_bytes()
    assert not (tmp_path / "a/test").exists()
    sample = next(iter(read_split(tmp_path / "a/train").values()))
    assert len(sample["targets"]) == 2
    assert max(sample["height"], sample["width"]) == 64


def test_splits_without_thoughts_are_added_to_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--output", tmp_path, *FEW)
    assert not (tmp_path / "reinforce").exists()
    before = (tmp_path / "train/index.json").read_bytes()
    capsys.readouterr()
    none = [word for split in ("train", "val", "test", "generalisation") for word in (f"--{split}", "0")]
    added = [*none, "--reinforce", "3", "--reinforce-val", "2", "--image-size", "64", "--shards", "2"]
    assert run("--output", tmp_path, *added) == 0
    printed = capsys.readouterr().out
    assert "unfamiliar" in printed
    rows = [line.replace("│", " ").split() for line in printed.splitlines() if "words of a thought" in line]
    assert [row[-2:] for row in rows] == [["–", "–"], ["–", "–"]]
    assert (tmp_path / "train/index.json").read_bytes() == before
    samples = {split: read_split(tmp_path / split) for split in ("reinforce", "reinforce_val")}
    assert {split: len(found) for split, found in samples.items()} == {"reinforce": 3, "reinforce_val": 2}
    targets = [target for found in samples.values() for sample in found.values() for target in sample["targets"]]
    assert all(target["reasoning"] is None for target in targets)


def test_questions_with_several_answers_and_none_are_added_to_a_folder(tmp_path: Path) -> None:
    none = [word for split in ("train", "val", "test", "generalisation") for word in (f"--{split}", "0")]
    small = ["--image-size", "64", "--shards", "2"]
    assert run("--output", tmp_path, *none, *small, "--several", "12", "--several-val", "2") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["several", "several_val"]
    targets = [target for sample in read_split(tmp_path / "several").values() for target in sample["targets"]]
    counts = {"one": {1}, "several": {2, 3}, "none": {0}}
    assert {target["kind"] for target in targets} == set(counts)
    assert all(len(target["masks"]) in counts[target["kind"]] for target in targets)


def test_defaults_are_those_of_the_function() -> None:
    parser = argparse.ArgumentParser()
    synthetic.add_arguments(parser)
    chosen = vars(parser.parse_args(["--output", "x"]))
    declared = dict(write_synthetic.__kwdefaults__ or {})
    del declared["shares"]
    assert {name: chosen[name] for name in declared} == declared


def test_errors_are_command_errors(tmp_path: Path) -> None:
    run("--output", tmp_path, *FEW)
    with pytest.raises(CommandError, match="pass --overwrite"):
        run("--output", tmp_path, *FEW)
    run("--output", tmp_path, *FEW, "--overwrite", "--seed", "9")
    assert json.loads((tmp_path / "val/index.json").read_text())["extra"]["seed"] == 9
    with pytest.raises(CommandError, match="image_size must be ≥ 64"):
        run("--output", tmp_path / "x", "--image-size", "10")


def test_through_coprs(tmp_path: Path) -> None:
    assert main(["data", "synthetic", "--output", str(tmp_path), *FEW]) == 0
    assert len(read_split(tmp_path / "train")) == 3
