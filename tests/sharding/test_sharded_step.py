"""The benchmark of a sharded step runs and compares what it says; how fast anything is, no test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPO


@pytest.mark.slow
def test_what_was_saved_is_loaded_and_goes_on_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.sharded_step"],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["benchmark"] == "sharded_step"
    assert [(row["run"], row["step"]) for row in result["rows"]] == [("first", 1), ("first", 2), ("resumed", 2)]
    assert result["loaded_equals_saved"] is True
    assert result["loss_difference"] < 1e-6
    assert result["weight_difference"] < 1e-4
    assert result["rows"][1]["loss"] != result["rows"][0]["loss"]
