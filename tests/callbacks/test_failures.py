"""What a failing run says first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from callbacks.failures import advice
from coprs_lightning.cli import main
from tests.conftest import REPO
from tests.preempting import Diary, Raises, as_class, diary
from tests.tiny import tiny_config, write_config


@pytest.fixture(autouse=True)
def _own_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPRS_ALLOW_IMPORTS", "tests")


def test_memory_names_the_knobs() -> None:
    for error in (torch.OutOfMemoryError("x"), RuntimeError("CUDA error: out of memory"), MemoryError()):
        told = "\n".join(advice(error, 1))
        for knob in ("gradient_checkpointing", "batch_size", "num_generations", "fsdp.yaml", "lora", "coprs estimate"):
            assert knob in told


def test_a_timeout_names_the_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FR_DUMP_TEMP_FILE", "/run/flight-recorder-")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    told = "\n".join(advice(RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), 2))
    assert "/run/flight-recorder-*; torchfrtrace --prefix /run/flight-recorder-" in told
    assert "scancel --signal=USR2 12 prints where each process is" in told


def test_a_lost_peer_points_at_the_cause() -> None:
    (told,) = advice(RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:8074"), 2)
    assert told.startswith("Another process of this run ended before")


def test_other_errors_speak_for_themselves() -> None:
    assert advice(ValueError("timed out"), 2) == []
    assert advice(RuntimeError("connection closed by peer"), 1) == []


def test_process_step_and_cause_come_first(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = tiny_config(tiny_data, tmp_path / "run")
    content["trainer"]["callbacks"] = [as_class(Raises, step=1, rank=0)]
    with pytest.raises(RuntimeError, match="a disk is full"):
        main(["fit", "--config", str(write_config(tmp_path / "config.yaml", content))])
    assert f"(pid {os.getpid()}) failed after step 1: RuntimeError: a disk is full\n" in capsys.readouterr().err


def test_a_run_tells_where_it_is(tiny_data: Path, tmp_path: Path) -> None:
    content = tiny_config(tiny_data, tmp_path / "run")
    content["trainer"]["max_steps"] = 1000
    content["trainer"]["callbacks"] = [as_class(Diary, folder=str(tmp_path / "diary"), seconds=0.5)]
    path = write_config(tmp_path / "config.yaml", content)
    command = [sys.executable, "-m", "coprs_lightning", "fit", "--config", str(path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while not diary(tmp_path / "diary"):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGUSR2)
        time.sleep(0.6)
        assert process.poll() is None  # it goes on
        process.kill()
        told = process.communicate()[1].decode()
    assert "Current thread" in told
    assert "preempting.py" in told
