from __future__ import annotations

import os
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from tests.datamodules.build import make_split


def test_good_splits_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    make_split(tmp_path / "data/train", 6, targets=2, expressions=3, num_shards=2)
    make_split(tmp_path / "data/val", 2)
    assert main(["data", "verify", str(tmp_path / "data"), "--deep"]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in printed.splitlines() if "│" in line]
    assert rows[0] == ["train", "2", "6", "12", "36", "12", rows[0][6], "good"]
    assert rows[1][:6] == ["val", "1", "2", "2", "2", "2"]
    assert "decoded every mask and decoded 8 images." in " ".join(printed.split())
    assert main(["data", "verify", str(tmp_path / "data/val"), "--workers", "2"]) == 0
    assert "(--deep decodes images, too)" in " ".join(capsys.readouterr().out.split())


def test_problems_are_listed_and_the_status_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    make_split(tmp_path / "train", 2)
    make_split(tmp_path / "val", 30)
    (tmp_path / "train" / "index.json").write_text("[]")
    shard = tmp_path / "val" / "00000.tar"
    size = shard.stat().st_size
    os.truncate(shard, 1000)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "verify", str(tmp_path)])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    assert "1 problem(s)" in printed
    assert f"ends inside sample 0 of 30; index.json says {size} bytes: the file is truncated" in printed
    assert "train/index.json" in printed
    assert "format version None" in printed
    assert "4 problem(s). Copy or convert what is damaged again" in printed


def test_more_problems_than_fit_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(6):
        make_split(tmp_path / f"s{number}", 20)
        shard = tmp_path / f"s{number}" / "00000.tar"
        shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(SystemExit):
        main(["data", "verify", str(tmp_path)])
    assert "… and 26 more" in capsys.readouterr().out


def test_names_from_the_data_reach_the_terminal_as_plain_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    make_split(tmp_path / "s", 1)
    (tmp_path / "s" / "[red]\x1b[2J.tar").write_bytes(b"")
    with pytest.raises(SystemExit):
        main(["data", "verify", str(tmp_path / "s")])
    printed = capsys.readouterr().out
    assert "[red]\\x1b[2J.tar" in printed
    assert "\x1b[2J" not in printed


def test_a_folder_without_splits_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "verify", str(tmp_path)])
    assert stopped.value.code == 1
    assert "holds no split" in capsys.readouterr().err
