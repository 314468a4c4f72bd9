from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from coprs_lightning.commands import CommandError
from coprs_lightning.commands.data import reasonseg
from tests.datamodules.convert.read_back import read_split
from tests.datamodules.convert.sources import SQUARE, save_lisa
from tests.datamodules.convert.test_reasonseg_rows import row, save_rows


def run(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    reasonseg.add_arguments(parser)
    return reasonseg.run(parser.parse_args([str(word) for word in words]))


def test_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    for stem in ("a", "b", "c"):
        save_lisa(tmp_path / "in", stem, text=("one", "two"), shapes=[("target", SQUARE), ("flag", [])])
    save_lisa(tmp_path / "in", "[broken]", text=())
    words = ["--input", tmp_path / "in", "--output", tmp_path / "out", "--shards", "2", "--licence", "mine"]
    assert run(*words, "--split", "val", "--max-skipped", "0.3", "--workers", "2") == 0
    printed = capsys.readouterr().out
    rows = {
        row[0].strip(): row[1].strip() for line in printed.splitlines() if len(row := line.strip("│").split("│")) == 2
    }
    assert rows["images"] == rows["targets"] == "3"
    assert (rows["expressions"], rows["shards"]) == ("6", "2")
    assert rows["mask area, % of image: 50 % quantile"] == "24"
    assert rows["skipped: bad text"] == "1"
    assert rows["shapes dropped for their label 'flag'"] == "3"
    assert rows["size"].endswith("kB")
    assert "reasonseg-val, skipped, bad text:" in printed
    assert "[broken].json: 'text' is an empty list" in printed.replace("\n", "")
    assert f"written to {tmp_path / 'out'}" in printed
    assert len(read_split(tmp_path / "out/val")) == 3
    assert '"licence": "mine"' in (tmp_path / "out/val/index.json").read_text()


def test_options_reach_the_converter(tmp_path: Path) -> None:
    save_lisa(tmp_path / "in", text=("one", "two"), shapes=[("ignore", SQUARE)])
    run("--input", tmp_path / "in", "--output", tmp_path / "out", "--ignore-as", "target", "--texts", "first")
    (sample,) = read_split(tmp_path / "out/in").values()
    (target,) = sample["targets"]
    assert target["expressions"] == ["one"]
    assert target["ignore"] is None
    assert len(target["masks"]) == 1


def test_parquet_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    save_rows(tmp_path / "ReasonSeg_val/data/test-0.parquet", [row(1), row(2)])
    words = ["--input", tmp_path / "ReasonSeg_val", "--output", tmp_path / "out"]
    assert run(*words, "--workers", "2") == 0
    assert "reasonseg-val" in capsys.readouterr().out
    assert set(read_split(tmp_path / "out/val")) == {"1_o", "2_o"}
    assert run(*words, "--ignore-as", "target") == 0
    assert "unchanged" in capsys.readouterr().out
    with pytest.raises(CommandError, match="--ignore-as ignore is not possible for the parquet rows"):
        run(*words, "--ignore-as", "ignore")


def test_errors_are_command_errors(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is no folder"):
        run("--input", tmp_path / "nowhere", "--output", tmp_path / "out")
    save_lisa(tmp_path / "in", text="no list")
    with pytest.raises(CommandError, match=r"(?s)no image is left.*'text' must be a list, got str"):
        run("--input", tmp_path / "in", "--output", tmp_path / "out")
    save_lisa(tmp_path / "in")
    run("--input", tmp_path / "in", "--output", tmp_path / "out")
    with pytest.raises(CommandError, match=r"holds 2 file.*nothing was written.*pass --overwrite to replace"):
        run("--input", tmp_path / "in", "--output", tmp_path / "out", "--texts", "first")
    run("--input", tmp_path / "in", "--output", tmp_path / "out", "--overwrite")
    with pytest.raises(CommandError, match="num_shards must be"):
        run("--input", tmp_path / "in", "--output", tmp_path / "new", "--shards", "5000")
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="file"):
        run("--input", tmp_path / "in", "--output", tmp_path / "file/out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ignore-as", "maybe"], "invalid choice: 'maybe' (choose from"),
        (["--texts", "none"], "invalid choice: 'none'"),
        (["--workers", "0"], "must be ≥ 1, got 0"),
        (["--max-skipped", "2"], "must be a share from 0 to 1, got 2"),
    ],
)
def test_option_values(words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run("--input", tmp_path, "--output", tmp_path / "out", *words)
    assert message in capsys.readouterr().err


@pytest.mark.realdata
def test_through_coprs(realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(realdata / "reasonseg/train", tmp_path / "train")
    words = ["data", "reasonseg", "--input", str(tmp_path / "train"), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    assert main(words) == 0
    assert "unchanged: made of the same source by the same options" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):
        main([*words, "--rasteriser", "pycocotools"])
    assert "coprs: error: " in (error := capsys.readouterr().err)
    assert "--overwrite" in error
