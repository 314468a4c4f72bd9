"""`coprs submit` on a real cluster of two nodes; preempted jobs are in test_preemption.py."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.slurm_cluster import Cluster, require_slurm, slurm_cluster
from tests.tiny import tiny_config, write_config


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_slurm()
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as started:
        started.environment.update(PYTHONPATH=str(REPO), OMP_NUM_THREADS="1")
        yield started


def submit(cluster: Cluster, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Submit ``config.yaml`` from its folder, to two nodes without GPUs."""
    command = [sys.executable, "-m", "coprs_lightning", "submit", "--config", "config.yaml", "--cluster", "mine.yaml"]
    layout = ["--nodes", "2", "--tasks-per-node", "1", "--gpus-per-node", "0"]
    return subprocess.run(
        [*command, *layout, *words],
        cwd=folder,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def folder(tiny_data: Path, tmp_path: Path) -> Path:
    """A config with relative paths and no word of nodes and devices, and options for the cluster."""
    content = tiny_config(Path("data"), tmp_path / "unused")
    content["trainer"].pop("devices")
    content["trainer"]["strategy"] = {
        "class_path": "lightning.pytorch.strategies.DDPStrategy",
        "init_args": {"process_group_backend": "gloo"},
    }
    content["data"]["init_args"] |= {"batch_size": 2, "eval_batch_size": 1}
    write_config(tmp_path / "config.yaml", content)
    (tmp_path / "data").symlink_to(tiny_data)
    setup = ['echo "cores: $SLURM_CPUS_PER_TASK"']
    write_config(tmp_path / "mine.yaml", {"partition": "main", "time": "0:10:00", "cpus_per_task": 1, "setup": setup})
    return tmp_path


@pytest.mark.slow
def test_two_nodes_train_in_one_folder(cluster: Cluster, folder: Path) -> None:
    done = submit(cluster, folder, "--job-name", "mine", "--trainer.max_steps", "1", "--seed_everything", "3")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split("job ")[1].split(":")[0]
    assert f"job {job}: 2 node(s) × 1 process(es)" in done.stdout
    jobs = folder / "runs" / "slurm"
    log, run = jobs / f"mine-{job}.log", jobs / f"mine-{job}"
    assert f"tail -F {log}\n" in done.stdout
    end = time.monotonic() + 150
    while "JobState=COMPLETED" not in (state := cluster.run("scontrol", "show", "job", "-o", job).stdout):
        told = log.read_text() if log.exists() else cluster.logs()
        assert time.monotonic() < end, f"{state}\n{told}"
        assert "JobState=FAILED" not in state, told
        time.sleep(0.5)
    told = log.read_text()
    assert f"job {job}, start 0, on node[1-2]: {run}\n" in told
    assert "cores: 1\n" in told
    assert "0: Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/2" in told
    assert "1: Initializing distributed: GLOBAL_RANK: 1, MEMBER: 2/2" in told
    assert sorted(path.name for path in jobs.iterdir()) == [f"mine-{job}", f"mine-{job}.log", f"mine-{job}.sbatch"]
    assert (run / "checkpoints" / "last.ckpt").exists()
    assert json.loads((run / "results.json").read_text())
    assert not (folder / "unused").exists()


@pytest.mark.slow
def test_what_does_not_fit_is_not_queued(cluster: Cluster, folder: Path) -> None:
    done = submit(cluster, folder, "--trainer.num_nodes", "1")
    assert done.returncode == 2
    assert "--nodes 2, but trainer.num_nodes is 1" in done.stderr
    assert not (folder / "runs").exists()
    done = submit(cluster, folder, "--partition", "other")
    assert done.returncode == 1
    assert "sbatch refused the job: " in done.stderr
    assert "invalid partition specified: other" in done.stderr
    assert cluster.run("squeue", "-h").stdout == ""
