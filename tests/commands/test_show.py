"""`coprs show`: a run in a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coprs_lightning.cli import main
from coprs_lightning.commands.show import paths, rows
from tests.tiny import refused


def test_the_results_of_a_real_run(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(trained_run)]) == 0
    shown = capsys.readouterr().out
    for name in ("giou", "ciou", "heatmap_giou", "fit_seconds", "giou of 'attribute' questions"):
        assert name in shown
    assert f"checkpoint: {trained_run / 'checkpoints'}" in shown


def test_rows_are_readable() -> None:
    results = {"giou": 0.5, "n": 3, "stage": "fit", "best_score": None, "by_kind": {"position": 0.25}}
    assert rows(results) == [
        ("giou", "0.5000"),
        ("n", "3"),
        ("stage", "fit"),
        ("giou of 'position' questions", "0.2500"),
    ]


def test_the_newest_panels_are_listed(tmp_path: Path) -> None:
    import os

    for age, step in ((9, "val-step-1"), (1, "val-step-2")):
        folder = tmp_path / "logs" / "version_0" / "panels" / step
        folder.mkdir(parents=True)
        for number in range(6):
            (folder / f"{number}.png").touch()
        os.utime(folder, (1_000_000 - age, 1_000_000 - age))
    found = paths(tmp_path, {})
    assert found[0] == f"panel: {tmp_path}/logs/version_0/panels/val-step-2/0.png"
    assert len(found) == 5
    assert found[-1].startswith("  … 2 more in ")


def test_panels_of_a_run_are_found(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", str(tiny), "--callbacks.panels", "HeatmapPanels", "--callbacks.panels.num_examples", "1"])
    capsys.readouterr()
    main(["show", str(tmp_path / "run")])
    assert "panel: " in capsys.readouterr().out


def test_missing_and_broken_results_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no results.json" in refused(["show", str(tmp_path)], capsys, 1)
    (tmp_path / "results.json").write_text("{")
    assert "results.json is no JSON" in refused(["show", str(tmp_path)], capsys, 1)
    (tmp_path / "results.json").write_text(json.dumps([1]))
    assert "holds a list, not the results of a run" in refused(["show", str(tmp_path)], capsys, 1)
