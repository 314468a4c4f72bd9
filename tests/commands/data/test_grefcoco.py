from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data import grefcoco
from tests.datamodules.convert.read_back import mask_of, read_split
from tests.datamodules.convert.test_grefcoco import gref, save


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    grefcoco.add_arguments(parser)
    return grefcoco.run(parser.parse_args([str(word) for word in words]))


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    root = save(tmp_path / "root", [gref(5, [1, 2], 1), gref(6, [-1], 1), gref(7, [3], 2, "testA")])
    assert run("--input", root, "--output", tmp_path / "out", "--workers", "2", "--licence", "mine") == 0
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        if len(cells := line.strip("│").split("│")) == 3:
            rows[cells[0].strip()] = [cell.strip() for cell in cells[1:]]
    assert rows["targets"] == ["1", "2"]
    assert rows["targets of several objects"] == rows["targets that mean nothing in the image"] == ["0", "1"]
    index = json.loads((tmp_path / "out/grefcoco_unc/train/index.json").read_text())
    assert (index["name"], index["licence"]) == ("grefcoco-unc-train", "mine")


def test_options_reach_the_converter(tmp_path: Path) -> None:
    root = save(tmp_path / "root", [gref(5, [1], 1), gref(6, [3], 2), gref(7, [2], 1, "val")])
    areas = []
    for words in (["--rasteriser", "pycocotools"], ["--rasteriser", "opencv"]):
        run("--input", root, "--output", tmp_path / words[1], "--splits", "train", *words)
        samples = read_split(tmp_path / words[1] / "grefcoco_unc/train")
        assert set(samples) == {"2"}
        areas.append(np.count_nonzero(mask_of(*samples["2"]["targets"][0]["masks"])))
    assert areas == [10 * 12, 11 * 13]
    run("--input", root, "--output", tmp_path / "kept", "--keep-leaks")
    assert set(read_split(tmp_path / "kept/grefcoco_unc/train")) == {"1", "2"}


def test_errors_are_command_errors(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="has no folder grefcoco"):
        run("--input", tmp_path, "--output", tmp_path / "out")
    root = save(tmp_path, [gref(5, [1], 1)])
    with pytest.raises(CommandError, match=r"--splits test is not in grefcoco \(unc\); splits there: train\."):
        run("--input", root, "--output", tmp_path / "out", "--splits", "test")
