"""`coprs report`: a page about a real run, and about what is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from tests.report.build import make_run
from tests.tiny import refused


def test_a_real_run(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"{run / 'report.html'} (0.")
    page = (run / "report.html").read_text(encoding="utf-8")
    for name in ("Benchmark", "Curves", "Config", "Provenance", "Smoke check", "TimmBackbone", "train"):
        assert name in page
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_the_page_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = sorted(run.rglob("*"))
    main(["report", str(run), "--output", str(tmp_path / "pages" / "one.html")])
    assert sorted(run.rglob("*")) == before
    assert (tmp_path / "pages" / "one.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no folder" in refused(["report", str(tmp_path / "none")], capsys, 1)
    assert "holds no run: no config.yaml" in refused(["report", str(tmp_path)], capsys, 1)


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "file").touch()
    message = refused(["report", str(run), "--output", str(tmp_path / "file" / "x.html")], capsys, 1)
    assert "cannot be written" in message
    assert "Name another file with --output" in message
