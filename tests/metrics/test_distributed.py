"""Every metric, one process against two; and the order of the examples."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPO
from tests.metrics.random_examples import every_metric, random_answer
from tests.metrics.two_processes import SHARES, measured


@pytest.mark.filterwarnings("ignore:.*before the ``update`` method.*", "ignore:SegmentationIoU has seen no example")
def test_two_processes_give_the_digits_of_one(tmp_path):
    """Uneven shares, a process without examples, no example at all, other orders and numbers of threads."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    words = [*command, "-m", "tests.metrics.two_processes", str(tmp_path)]
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for name, shares in SHARES.items():
        alone = measured(range(sum(len(share) for share in shares)))
        if name == "interleaved":
            assert all(len(scores) >= 3 for scores in alone.values())
        for rank in range(2):
            assert json.loads((tmp_path / f"{name}-{rank}.json").read_text()) == alone, (name, rank)
    # after a synchronised compute each process goes on with its own examples
    assert [json.loads((tmp_path / f"own-{rank}.json").read_text()) for rank in range(2)] == [7, 4]


@pytest.mark.parametrize("name", every_metric())
def test_order_does_not_change_one_digit(name):
    found = []
    for seeds in (range(30), reversed(range(30)), (17 * seed % 30 for seed in range(30))):
        metric = every_metric()[name]
        for seed in seeds:
            metric.take(random_answer(seed))
        found.append({key: float(value) for key, value in metric.compute().items()})
    assert found[0] == found[1] == found[2]
    assert any(0 < value < 1 for value in found[0].values())


@pytest.mark.parametrize("name", every_metric())
def test_reset_forgets(name):
    metric, other = every_metric()[name], every_metric()[name]
    for seed in range(20):
        metric.take(random_answer(seed))
    metric.reset()
    for seed in range(20, 30):
        metric.take(random_answer(seed))
        other.take(random_answer(seed))
    # spelled out, since an interval of a bucket with one example is NaN, which equals nothing
    assert repr(metric.compute()) == repr(other.compute())
