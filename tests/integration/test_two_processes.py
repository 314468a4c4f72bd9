"""`coprs fit` on two processes of one machine."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPO
from tests.tiny import tiny_config, write_config


def test_a_process_without_a_validation_batch_keeps_nobody_waiting(tiny_data: Path, tmp_path: Path) -> None:
    """Both validation examples make one batch: the second process has none. The backbone's norms have buffers."""
    content = tiny_config(tiny_data, tmp_path / "run")
    content["trainer"].update(devices=2, strategy="ddp", val_check_interval=1)
    content["data"]["init_args"]["batch_size"] = 2
    config = write_config(tmp_path / "config.yaml", content)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "coprs_lightning", "fit", "--config", str(config)],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    with (tmp_path / "run" / "logs" / "version_0" / "metrics.csv").open() as file:
        validated = [row for row in csv.DictReader(file) if row["val/n"]]
    assert [(float(row["val/n"]), row["step"]) for row in validated] == [(2.0, "0"), (2.0, "1")]
