"""Options of the array's jobs; the array itself runs in :mod:`tests.commands.test_ablate_slurm`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coprs_lightning.ablation.slurm import SlurmLauncher, _parameters, shape_of, slurm_options
from coprs_lightning.ablation.worker import as_plain, from_plain
from coprs_lightning.commands import CommandError, UsageError
from tests.ablation.build import make_run
from tests.tiny import write_config


def test_options_come_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    file = write_config(tmp_path / "jobs.yaml", {"time": "1:00:00", "partition": "cpu"})
    words = ["--trainer.max_steps", "5", "--slurm.partition", "gpu", "--slurm.mem=8GB", "--model.x", "y"]
    found, rest = slurm_options(str(file), words)
    assert found == {"time": "1:00:00", "partition": "gpu", "mem": "8GB"}
    assert rest == ["--trainer.max_steps", "5", "--model.x", "y"]


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'partitoin' \(--slurm\.partitoin\) is not known\. Did you mean partition"):
        slurm_options(None, ["--slurm.partitoin", "gpu"])
    with pytest.raises(UsageError, match=r"--slurm\.time needs a value"):
        slurm_options(None, ["--slurm.time"])
    with pytest.raises(UsageError, match=r"--slurm\.cpus_per_task must be a whole number, got 'two'"):
        _parameters({"time": 5, "cpus_per_task": "two"}, (1, 1, False))


def trainer(devices: Any, num_nodes: int = 1, accelerator: str = "cpu") -> Any:
    return SimpleNamespace(devices=devices, num_nodes=num_nodes, accelerator=accelerator)


def test_the_shape_of_a_job_is_that_of_the_trainer() -> None:
    assert shape_of({"base": trainer(1), "x": trainer("1")}) == (1, 1, False)
    assert shape_of({"base": trainer([0, 3], 2, "gpu")}) == (2, 2, True)
    with pytest.raises(UsageError, match=r"cell base: trainer\.devices is 'auto', so it is open how many tasks"):
        shape_of({"base": trainer("auto")})
    with pytest.raises(UsageError, match=r"cells differ in trainer\.num_nodes, .*base: 1 × 1, x: 2 × 8 GPUs"):
        shape_of({"base": trainer(1), "x": trainer(8, 2, "cuda")})


def test_a_job_asks_for_the_trainers_gpus() -> None:
    found = _parameters({"time": 90}, (2, 8, True))
    assert (found["nodes"], found["ntasks_per_node"], found["gpus_per_node"], found["time"]) == (2, 8, 8, 90)
    assert _parameters({"time": 90, "gpus_per_node": "4"}, (1, 8, True))["gpus_per_node"] == 4
    assert "gpus_per_node" not in _parameters({"time": 90}, (1, 1, False))
    assert _parameters({"time": 90, "cpus_per_task": 3}, (1, 1, False))["srun_args"] == ["--cpus-per-task=3"]


def test_a_run_survives_the_way_to_its_job(tmp_path: Path) -> None:
    run = make_run(tmp_path, "base", 1, ("fit", "--config", "x.yaml"))
    assert from_plain(as_plain(run)) == run


def test_a_machine_without_slurm_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="sbatch, squeue, scancel, srun not found: this machine has no SLURM"):
        SlurmLauncher(tmp_path, 1, {"time": 5}, (1, 1, False))


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SLURM's commands are found; nothing calls them."""
    for name in ("sbatch", "squeue", "scancel", "srun"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("programs")
def test_a_missing_time_limit_or_submitit_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--launcher slurm needs --slurm\.time"):
        SlurmLauncher(tmp_path, 1, {}, (1, 1, False))
    monkeypatch.setitem(sys.modules, "submitit", None)  # as Python marks what cannot be imported
    with pytest.raises(CommandError, match=r"pip install 'coprs_lightning\[slurm\]'"):
        SlurmLauncher(tmp_path, 1, {"time": 5}, (1, 1, False))
