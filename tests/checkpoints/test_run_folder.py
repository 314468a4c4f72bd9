"""Checkpoints of runs are found; those of DeepSpeed are told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coprs_lightning.checkpoints import load_model
from coprs_lightning.checkpoints.run_folder import find_checkpoint, run_checkpoints
from coprs_lightning.commands import CommandError


def test_deepspeeds_pieces_are_told(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt" / "checkpoint").mkdir(parents=True)
    (tmp_path / "last.ckpt" / "zero_to_fp32.py").write_text("")
    with pytest.raises(CommandError, match=r"checkpoint of DeepSpeed: .*convert_zero_checkpoint_to_fp32_state_dict"):
        find_checkpoint(tmp_path / "last.ckpt")


def test_a_device_that_is_not_there_is_told(trained_run: Path) -> None:
    with pytest.raises(CommandError, match="--device rocket: "):
        load_model(trained_run, "rocket")


def test_all_checkpoints_of_the_newest_attempt(tmp_path: Path) -> None:
    for attempt, age in (("checkpoints", 1), ("checkpoints-2", 2)):
        for name in ("step=1.ckpt", "last.ckpt"):
            file = tmp_path / attempt / name
            file.parent.mkdir(exist_ok=True)
            file.touch()
            os.utime(file, (age, age))
    newest = tmp_path / "checkpoints-2"
    assert run_checkpoints(tmp_path) == [newest / "last.ckpt", newest / "step=1.ckpt"]
    assert run_checkpoints(newest / "step=1.ckpt") == [newest / "step=1.ckpt"]
    with pytest.raises(CommandError, match="there is no checkpoint"):
        run_checkpoints(tmp_path / "gone")
