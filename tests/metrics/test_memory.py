"""Peak memory of scoring a batch at the images' own size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

LIMIT = 200
"""MB above the model for 32 examples of 640 × 480."""


def rise(how):
    words = [sys.executable, "-m", "tests.metrics.peak_memory", how]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="resident memory is read from Linux's /proc")
def test_examples_are_brought_to_full_size_one_by_one(record_property):
    found, together = rise("one_by_one"), rise("whole_batch")
    record_property("megabytes", (found["rise"], together["rise"]))
    assert found["n"] == 33
    assert together["rise"] > LIMIT  # the measurement would see it
    assert found["rise"] < LIMIT
