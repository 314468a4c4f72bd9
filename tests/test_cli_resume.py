"""Which checkpoint a run goes on from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from coprs_lightning.cli import main
from coprs_lightning.cli_resume import newest_checkpoint, wanted
from coprs_lightning.commands import UsageError


def save(path: Path, step: int, seconds: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"coprs_spec": {}, "global_step": step, "state_dict": {}, "pytorch-lightning_version": "2.6.0"}, path)
    os.utime(path, (seconds, seconds))
    return path


def test_the_most_steps_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "checkpoints" / "last.ckpt", 30, 3)
    newest = save(tmp_path / "checkpoints" / "preempted.ckpt", 40, 2)
    save(tmp_path / "checkpoints" / "step=10.ckpt", 10, 1)
    assert newest_checkpoint(tmp_path) == newest
    assert f"--resume auto: going on from step 40, {newest}" in capsys.readouterr().err


def test_what_is_not_whole_is_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = save(tmp_path / "checkpoints" / "step=10.ckpt", 10, 1)
    half = save(tmp_path / "checkpoints" / "last.ckpt", 30, 2)
    half.write_bytes(half.read_bytes()[:-200])
    left = whole.with_name(".preempted.ckpt.tmp")
    left.write_bytes(b"PK")
    assert newest_checkpoint(tmp_path) == whole
    told = capsys.readouterr().err
    assert f"{half} is skipped: " in told
    assert f"{left} is skipped: the run ended while it wrote it" in told


def test_only_the_newest_attempt_counts(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints" / "last.ckpt", 100, 1)
    newest = save(tmp_path / "checkpoints-2" / "last.ckpt", 10, 2)
    assert newest_checkpoint(tmp_path) == newest


def test_nothing_there_is_a_fresh_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newest_checkpoint(tmp_path / "none") is None
    assert "holds no checkpoint, so this run starts from its beginning" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert newest_checkpoint(tmp_path) is None
    assert "holds no whole checkpoint" in capsys.readouterr().err


def test_a_requeued_job_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    assert [wanted(word) for word in (None, "none", "auto")] == [False, False, True]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert [wanted(word) for word in (None, "none")] == [True, False]
    assert "SLURM has requeued this job" in capsys.readouterr().err


def test_the_folder_may_come_from_the_environment(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--config", str(tiny), "--resume", "auto", "--trainer.default_root_dir"]
    monkeypatch.setenv("RUN", str(tmp_path / "here"))
    assert main([*words, "${oc.env:RUN}"]) == 0
    assert f"{tmp_path / 'here'} holds no checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "${trainer.max_steps}"])
    assert "Write the folder itself" in capsys.readouterr().err


def test_other_words_are_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="--resume runs/old: takes auto"):
        wanted("runs/old")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tiny), "--resume", "best"])
    assert "To go on from a checkpoint of your choice: --ckpt_path best" in capsys.readouterr().err
