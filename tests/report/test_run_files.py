"""Reading runs: one start or several, CSV or TensorBoard, whole or broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger

from coprs_lightning.report.run_files import read_run
from tests.report.build import make_run


def log(folder: Path, version: int, rows: str, stage: str | None = "fit") -> None:
    made = folder / "logs" / f"version_{version}"
    made.mkdir(parents=True)
    (made / "metrics.csv").write_text(rows)
    if stage:
        (made / "provenance.json").write_text(json.dumps({"stage": stage, "command": f"version {version}"}))


def test_a_run_is_read(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert run.config.startswith("seed_everything: 3")
    assert run.config_name == "config.yaml"
    assert run.curves["val/giou"] == ([14.0, 29.0], [0.3, 0.5])
    assert len(run.curves["train/loss"][0]) == 30
    assert run.provenance["machine"]["hostname"] == "node7"
    assert run.results["results.json"]["n"] == 40
    assert run.evaluation is not None
    assert run.smoke[0]["where"] == "first batches"
    assert [path.name for path in run.newest("correlation/train.csv")] == ["train.csv"]


def test_a_resumed_run_is_one_curve(tmp_path: Path) -> None:
    log(tmp_path, 2, "step,train/loss\n0,4\n1,3\n2,2\n3,9\n")
    log(tmp_path, 10, "step,train/loss\n3,1\n4,0.5\n")
    run = read_run(tmp_path)
    assert run.curves["train/loss"] == ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0.5])
    assert run.provenance["command"] == "version 10"


def test_another_attempt_replaces_the_first(tmp_path: Path) -> None:
    log(tmp_path, 0, "step,train/loss,old\n0,4,1\n1,3,1\n")
    log(tmp_path, 1, "step,train/loss\n0,8\n")
    (tmp_path / "config.yaml").write_text("first: 1")
    (tmp_path / "config-2.yaml").write_text("second: 1")
    run = read_run(tmp_path)
    assert run.curves == {"train/loss": ([0], [8])}
    assert run.config == "second: 1"


def test_a_later_validation_adds_nothing_to_the_curves(tmp_path: Path) -> None:
    log(tmp_path, 0, "step,train/loss,val/giou\n0,4,\n9,,0.5\n")
    log(tmp_path, 1, "step,val/giou\n0,0.4\n", stage="validate")
    run = read_run(tmp_path)
    assert run.curves["val/giou"] == ([9], [0.5])
    assert run.provenance["stage"] == "fit"


def test_curves_come_from_tensorboard_where_there_is_no_table(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path, name="logs", version=0)
    for step in range(5):
        board.log_metrics({"train/loss": 5.0 - step, "epoch": 0}, step)
    board.finalize("success")
    assert read_run(tmp_path).curves == {"train/loss": ([0, 1, 2, 3, 4], [5, 4, 3, 2, 1])}


@pytest.mark.parametrize("broken", ["{", "[1, 2]", "", '{"looks": 3, "splits": "x", "parameters": 1}'])
def test_broken_files_are_left_out(tmp_path: Path, broken: str) -> None:
    from coprs_lightning.report.page import render

    folder = make_run(tmp_path / "run")
    for file in folder.rglob("*.json"):
        file.write_text(broken)
    (folder / "evaluation" / "examples.jsonl").write_text(broken)
    (folder / "logs" / "version_0" / "correlation" / "train.csv").write_text(broken)
    run = read_run(folder)
    assert run.curves["val/giou"]
    assert "Benchmark" in render(run)


def test_an_empty_folder_is_empty(tmp_path: Path) -> None:
    (tmp_path / "something.txt").touch()
    assert read_run(tmp_path).empty
    assert not read_run(make_run(tmp_path / "run")).empty
