"""The reinforcement quickstart as its make target runs it, on few examples and for two steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

pytestmark = pytest.mark.slow


def python(*words: str) -> str:
    """Run a module of the repository; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_every_variant_starts_from_the_supervised_run_and_is_compared(tmp_path: Path) -> None:
    data = tmp_path / "data"
    sizes = ["--train", "8", "--val", "2", "--test", "0", "--generalisation", "0", "--shards", "1"]
    python(
        "coprs_lightning",
        "data",
        "synthetic",
        "--output",
        str(data),
        *sizes,
        "--reinforce",
        "8",
        "--reinforce-val",
        "2",
    )

    def splits(train: str, val: str) -> list[str]:
        return [
            word for name, split in (("train", train), ("val", val)) for word in (f"--data.{name}", str(data / split))
        ]

    few = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--data.batch_size", "2"]
    start = ["--config", "configs/quickstart.yaml", "--trainer.default_root_dir", str(tmp_path / "start-7")]
    python("coprs_lightning", "fit", *start, *few, *splits("train", "val"))
    printed = python(
        "tests.benchmarks.joint_training",
        *["--output", str(tmp_path / "out"), "--start", str(tmp_path / "start-{seed}"), "--seeds", "7"],
        *["--variants", "joint", "segmentation_only", "reinforcement_only"],
        *["--", *few, "--trainer.log_every_n_steps", "1", *splits("reinforce", "reinforce_val")],
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert json.loads(printed.splitlines()[-1]) == results
    assert {"start", "end", "segmentation_only", "reward_start", "reward_end", "fit_seconds", "seed"} <= set(results)
    assert results["seed"] == 7
    assert results["steps"] == results["segmentation_only_steps"] == results["reinforcement_only_steps"] == 2
    assert "| mean |" in printed
    assert (tmp_path / "out" / "seed-7" / "joint" / "rollouts" / "completions.jsonl").is_file()
    # nobody wrote a thought for these questions
    record = next(iter((data / "reinforce").glob("*.tar")))
    assert b'"reasoning": null' in record.read_bytes() or b'"reasoning":null' in record.read_bytes()
