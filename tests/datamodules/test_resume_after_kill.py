"""A run that is killed in the middle of an epoch goes on without repeating or losing an example."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.datamodules.build import make_split
from tests.datamodules.http_server import serve

REPO = Path(__file__).resolve().parents[2]
IMAGES = 37


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """37 images in 7 shards of unequal size."""
    return make_split(tmp_path_factory.mktemp("data") / "split", IMAGES, images_per_shard=6)


def run(split, output, *, processes, workers, die_at, start="default", checkpoint=""):
    """Start the training; gives its exit status."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    arguments = [str(split), str(output), str(workers), start, str(die_at), str(checkpoint)]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.datamodules.run_killed", *arguments],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout[-3000:] + done.stderr[-6000:]


def seen(output, die_at, before=None):
    """(epoch, key) of every example; of a run that went on elsewhere only those before a step."""
    found = Counter()
    for path in output.glob(f"{die_at}-*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            if before is None or line["step"] < before:
                found.update((line["epoch"], key) for key in line["keys"])
    return found


def check(split, output, first, second, die_at):
    status, text = run(split, output, die_at=die_at, **first)
    assert status != 0, text
    last = max(output.glob("*.ckpt"), key=lambda path: int(re.search(r"step=(\d+)", path.name)[1]))
    step = int(re.search(r"step=(\d+)", last.name)[1])
    assert step <= die_at
    status, text = run(split, output, die_at=-1, checkpoint=last, **second)
    assert status == 0, text
    # steps after the checkpoint are not in its weights: the resumed run does them again
    whole = seen(output, die_at, before=step) + seen(output, -1)
    assert whole == Counter((epoch, f"img{number:05d}/0") for epoch in range(2) for number in range(IMAGES))
    return text


@pytest.mark.parametrize(
    ("processes", "workers"),
    [
        pytest.param(1, 0, marks=pytest.mark.slow),
        pytest.param(1, 2, marks=pytest.mark.slow),
        pytest.param(2, 0, marks=pytest.mark.slow),
        (2, 2),
    ],
)
def test_kill_9_and_resume(split, tmp_path, processes, workers):
    """13 steps an epoch alone, 7 with two processes: the kill hits the second epoch's middle or the first's."""
    same = {"processes": processes, "workers": workers}
    check(split, tmp_path, same, same, die_at=17 if processes == 1 else 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"processes": 1, "workers": 2}, {"processes": 1, "workers": 0}),
        ({"processes": 2, "workers": 0}, {"processes": 1, "workers": 1}),
        ({"processes": 1, "workers": 0}, {"processes": 2, "workers": 0}),
    ],
)
def test_with_other_workers_and_processes(split, tmp_path, first, second):
    text = check(split, tmp_path, first, second, die_at=5)
    assert ("the last position that all" in text) == (first["processes"] != second["processes"])


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_from_a_web_server(split, tmp_path, start):
    with serve(split.parent) as (url, trouble):
        trouble.refusals["00002.tar"] = trouble.cuts["00004.tar"] = 1
        same = {"processes": 1, "workers": 2, "start": start}
        check(f"{url}/split", tmp_path, same, same, die_at=5)
    assert {trouble.asked[f"0000{number}.tar"] for number in range(7)} == {1}  # the cache outlives the run
