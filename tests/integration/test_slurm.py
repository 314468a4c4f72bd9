"""`srun coprs fit` on a real cluster of two nodes."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPO
from tests.slurm_cluster import require_slurm, slurm_cluster
from tests.tiny import tiny_config, write_config


@pytest.mark.slow
def test_two_nodes_train_together(tiny_data: Path, tmp_path: Path) -> None:
    require_slurm()
    run = tmp_path / "run"
    content = tiny_config(tiny_data, run)
    content["trainer"].update(num_nodes=2, devices=1, strategy="ddp", limit_val_batches=1)
    # both examples make one batch: the second rank has none to validate on
    content["data"]["init_args"]["batch_size"] = 2
    config = write_config(tmp_path / "config.yaml", content)
    (tmp_path / "cluster").mkdir()
    with slurm_cluster(tmp_path / "cluster") as cluster:
        cluster.environment.update(PYTHONPATH=str(REPO), OMP_NUM_THREADS="1")
        layout = ["-N2", "--ntasks-per-node=1", "--cpus-per-task=1", "-t", "15", "--job-name=coprs", "--label"]
        command = [sys.executable, "-m", "coprs_lightning", "fit", "--config", str(config)]
        done = cluster.run("srun", *layout, *command, timeout=300)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{cluster.logs()}"
    shown = done.stdout + done.stderr
    assert "Initializing distributed: GLOBAL_RANK: 0, MEMBER: 1/2" in shown
    assert "Initializing distributed: GLOBAL_RANK: 1, MEMBER: 2/2" in shown
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert [path.name for path in run.glob("config*.yaml")] == ["config.yaml"]
    with (run / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/n"]]
    assert [float(row["val/n"]) for row in rows] == [2.0]
