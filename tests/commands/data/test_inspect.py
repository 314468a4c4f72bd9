from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coprs_lightning.cli import main
from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data import inspect
from tests.datamodules.build import make_split


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    return inspect.run(parser.parse_args([str(word) for word in words]))


def test_counts_and_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    make_split(tmp_path / "data/train", 5, targets=2, expressions=3)
    make_split(tmp_path / "data/val", 2)
    assert run(tmp_path / "data", "--output", tmp_path / "new/sheet.png", "--num", "5") == 0
    printed = capsys.readouterr().out
    rows = {}
    for line in printed.splitlines():
        if len(cells := line.strip("│").split("│")) == 3:
            rows[cells[0].strip()] = [cell.strip() for cell in cells[1:]]
    assert rows["images"] == ["5", "2"]
    assert rows["targets"] == ["10", "2"]
    assert rows["expressions"] == ["30", "2"]
    assert rows["no target"] == ["0 (0 %)", "0 (0 %)"]
    assert rows["kind: attribute"] == ["10 (100 %)", "2 (100 %)"]
    assert rows["words of a question"] == ["5 … 5 … 5", "5 … 5 … 5"]
    assert rows["image sizes (height × width)"] == ["24 × 32: 5", "24 × 32: 2"]
    assert rows["mask area, % of the image"][0] == "10 … 10 … 10"
    assert "first questions of val:\n  the red one, phrase 0\n" in printed
    with Image.open(tmp_path / "new/sheet.png") as sheet:
        assert f"({sheet.width} × {sheet.height} pixels)" in printed
        assert sheet.width == 4 * 352 + 12  # 5 panels: 2 of train, 3 of val's 2


def test_the_seed_changes_the_sheet(tmp_path: Path) -> None:
    make_split(tmp_path / "a", 20)
    sheets = []
    for seed in ("0", "0", "1"):
        run(tmp_path / "a", "--output", tmp_path / "sheet.png", "--num", "3", "--seed", seed)
        with Image.open(tmp_path / "sheet.png") as sheet:
            sheets.append(np.asarray(sheet))
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert sheets[0].shape != sheets[2].shape or (sheets[0] != sheets[2]).any()


def test_errors_are_command_errors(tmp_path: Path) -> None:
    output = ["--output", tmp_path / "sheet.png"]
    with pytest.raises(CommandError, match="nowhere is no folder"):
        run(tmp_path / "nowhere", *output)
    with pytest.raises(CommandError, match=r"name a file that ends in \.png, \.jpg, \.webp"):
        run(tmp_path, "--output", tmp_path / "sheet.pdf")
    folder = make_split(tmp_path / "a", 3)
    shard = folder / "00000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-700])
    with pytest.raises(CommandError, match=r"00000\.tar has \d+ bytes but index\.json says"):
        run(folder, *output)
    shard.write_bytes(data.replace(b'"height":24', b'"height":25'))
    with pytest.raises(CommandError, match="sample 'img00000'"):
        run(folder, *output)


def test_through_coprs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_split(tmp_path / "a", 2)
    assert main(["data", "inspect", str(tmp_path / "a"), "--output", str(tmp_path / "s.png")]) == 0
    with pytest.raises(SystemExit, match="1"):
        main(["data", "inspect", str(tmp_path / "b")])
    assert "coprs: error: " in capsys.readouterr().err
