"""What a user does first, as they do it: fit, validate, segment, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPO


def coprs(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "coprs_lightning", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_fit_then_validate_then_segment(tiny: Path, tmp_path: Path) -> None:
    fit = coprs(tmp_path, "fit", "--config", "tiny.yaml")
    assert fit.returncode == 0, fit.stderr
    assert "Traceback" not in fit.stderr
    validate = coprs(tmp_path, "validate", "--ckpt_path", "run", "--trainer.accelerator", "cpu")
    assert validate.returncode == 0, validate.stderr
    assert "val/giou" in validate.stdout
    assert "coprs: using the best checkpoint of run: run/checkpoints/step=2-giou=" in validate.stderr
    assert (tmp_path / "runs" / "validate" / "config-validate.yaml").is_file()
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    asked = ["--checkpoint", "run", "--image", "photo.jpg", "--question", "the red one", "--output", "out"]
    segment = coprs(tmp_path, "segment", *asked)
    assert segment.returncode == 0, segment.stderr
    assert json.loads((tmp_path / "out" / "result.json").read_text())["image_size"] == {"width": 30, "height": 20}
    assert Image.open(tmp_path / "out" / "mask.png").size == (30, 20)


@pytest.mark.slow
def test_mistakes_end_with_status_two_and_one_line(tiny: Path, tmp_path: Path) -> None:
    wrong = coprs(tmp_path, "fit", "--config", "tiny.yaml", "--model.heatmap_head", "FilmHead")
    assert wrong.returncode == 2
    (line,) = wrong.stderr.splitlines()
    assert line.startswith(
        "coprs: error: model.heatmap_head: no HeatmapHead is called 'FilmHead'. Did you mean FiLMHead?"
    )


@pytest.mark.slow
def test_help_takes_hardly_longer_than_importing_lightning(tmp_path: Path) -> None:
    def seconds(*command: str) -> float:
        start = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, check=True)
        return time.monotonic() - start

    lightning = min(seconds("-c", "import lightning.pytorch.cli") for _ in range(2))
    ours = min(seconds("-m", "coprs_lightning", "fit", "--help") for _ in range(2))
    assert ours < 1.4 * lightning + 0.5
