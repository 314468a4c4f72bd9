"""Real jobs on two real nodes: submitted, preempted, failing; and two processes of which one hears a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO
from tests.preempting import Diary, Raises, Signal, Sleeps, as_class, diary, same_weights
from tests.slurm_cluster import Cluster, require_slurm, slurm_cluster
from tests.tiny import tiny_config, write_config

LAST = Path("checkpoints", "last.ckpt")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_slurm()
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as started:
        started.environment.update(PYTHONPATH=str(REPO), OMP_NUM_THREADS="1", COPRS_ALLOW_IMPORTS="tests")
        yield started


def config(data: Path, folder: Path, *more: dict[str, Any], steps: int = 6, workers: int = 0, **diary_is: Any) -> Path:
    """A run of both processes, two steps an epoch, validated after every third step."""
    content = tiny_config(data, folder / "run")
    content["trainer"] |= {"max_steps": steps, "val_check_interval": 3, "check_val_every_n_epoch": None}
    content["trainer"].pop("devices")
    content["trainer"]["callbacks"] = [as_class(Diary, folder=str(folder / "diary"), **diary_is), *more]
    content["data"]["init_args"] |= {"batch_size": 2, "eval_batch_size": 1, "num_workers": workers}
    folder.mkdir(exist_ok=True)
    return write_config(folder / "config.yaml", content)


def submit(cluster: Cluster, folder: Path, *words: str, nodes: int = 2) -> tuple[str, Path, Path]:
    """Number, log and run folder of a job."""
    command = [sys.executable, "-m", "coprs_lightning", "submit", "--config", str(folder / "config.yaml")]
    job = ["--nodes", str(nodes), "--tasks-per-node", "1", "--time", "10", "--output", str(folder / "jobs")]
    done = cluster.run(*command, *job, *words)
    assert done.returncode == 0, done.stderr
    number = done.stdout.split("job ")[1].split(":")[0]
    return number, folder / "jobs" / f"coprs-config-{number}.log", folder / "jobs" / f"coprs-config-{number}"


def state_of(cluster: Cluster, job: str) -> str:
    words = cluster.run("scontrol", "show", "job", "-o", job).stdout.split()
    return next((word.split("=")[1] for word in words if word.startswith("JobState=")), "GONE")


def wait(cluster: Cluster, job: str, log: Path, seconds: float = 150) -> str:
    """How a job ended."""
    end = time.monotonic() + seconds
    while (state := state_of(cluster, job)) in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"):
        assert time.monotonic() < end, f"{state}\n{log.read_text() if log.exists() else cluster.logs()}"
        time.sleep(0.5)
    return state


def wait_for_step(folder: Path, step: int, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not any(line["step"] >= step for lines in diary(folder / "diary") for line in lines):
        assert time.monotonic() < end, log.read_text() if log.exists() else "no log"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_preempted_job_ends_with_the_weights_of_one_that_was_not(
    workers: int, cluster: Cluster, tiny_data: Path, tmp_path: Path
) -> None:
    both = {"steps": 16, "workers": workers}
    config(tiny_data, tmp_path / "whole", **both)
    job, log, whole = submit(cluster, tmp_path / "whole")
    assert wait(cluster, job, log) == "COMPLETED", log.read_text()
    assert "MEMBER: 1/2" in log.read_text()
    assert "MEMBER: 2/2" in log.read_text()
    config(tiny_data, tmp_path / "cut", seconds=0.4, **both)
    job, log, cut = submit(cluster, tmp_path / "cut")
    wait_for_step(tmp_path / "cut", 5, log)
    assert cluster.run("scancel", "--signal=USR1", job).returncode == 0
    assert wait(cluster, job, log) == "COMPLETED", log.read_text()
    told = log.read_text()
    assert "SIGUSR1: saved step" in told
    assert f"requeued job {job}" in told
    assert f"job {job}, start 1" in told
    assert "going on from step" in told
    assert same_weights(whole / LAST, cut / LAST) <= 1e-6
    assert diary(tmp_path / "cut" / "diary") == diary(tmp_path / "whole" / "diary")
    assert len(list((tmp_path / "cut" / "jobs").glob("coprs-config-*.sbatch"))) == 1


@pytest.mark.slow
def test_a_process_that_fails_ends_the_job_and_is_named_first(
    cluster: Cluster, tiny_data: Path, tmp_path: Path
) -> None:
    config(tiny_data, tmp_path, as_class(Raises, step=2, rank=1), steps=400)
    job, log, _ = submit(cluster, tmp_path)
    wait_for_step(tmp_path, 2, log)
    began = time.monotonic()
    assert wait(cluster, job, log, 60) == "FAILED"
    assert time.monotonic() - began < 60
    failures = [line for line in log.read_text().splitlines() if "failed after step" in line]
    assert "1: coprs: process 1 of 2 on " in failures[0]
    assert "failed after step 2: RuntimeError: a disk is full" in failures[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "cut"), [("cpu_ddp", {"step": 2}), ("cpu_fsdp", {"step": 3, "validating": True})], ids=["DDP", "FSDP2"]
)
def test_all_processes_stop_where_one_hears_the_signal(
    trainer: str, cut: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "cut"
    words = ["--trainer", f"trainer/{trainer}.yaml"]
    status, told = fit(config(tiny_data, whole), words)
    assert status == 0, told
    status, told = fit(config(tiny_data, folder, as_class(Signal, rank=1, **cut)), words)
    assert status == 128 + signal.SIGUSR1, told
    assert f"SIGUSR1: saved step {cut['step']}" in told
    status, told = fit(config(tiny_data, folder), [*words, "--resume", "auto"])
    assert status == 0, told
    assert f"going on from step {cut['step']}" in told
    assert diary(folder / "diary") == diary(whole / "diary")


@pytest.mark.slow
def test_who_waits_for_another_says_so_after_the_timeout(tiny_data: Path, tmp_path: Path) -> None:
    path = config(tiny_data, tmp_path, as_class(Sleeps, step=1, rank=1, seconds=600.0))
    words = [
        "--trainer",
        "trainer/cpu_ddp.yaml",
        "--trainer.strategy.init_args.timeout",
        "0:00:30",
    ]  # also for the start, on a busy machine
    status, told = fit(path, words)
    assert status != 0
    assert "coprs: process 0 of 2 on " in told
    assert "This process waited for the others in the collective above until the timeout" in told
    assert "kill -USR2 PID, for each process, prints where each process is" in told
    assert "ends, because the process that started it has" in told


def fit(path: Path, words: list[str]) -> tuple[int, str]:
    """Status and output of a run in processes of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "coprs_lightning", "fit", "--config", str(path), *words],
        env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "COPRS_ALLOW_IMPORTS": "tests"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout
