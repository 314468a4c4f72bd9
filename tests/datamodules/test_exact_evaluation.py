"""Two ranks with two loader workers each, over 7 shards of unequal size, score like one process: to the last digit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.datamodules.build import make_split

REPO = Path(__file__).resolve().parents[2]


def evaluate(split, output, *, processes, workers):
    """What every rank wrote."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)][: 5 * (processes > 1)]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tests.datamodules.run_evaluation", str(split), str(output), str(workers)],
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads((output / f"{processes}-{rank}.json").read_text()) for rank in range(processes)]


def test_two_ranks_with_two_workers_score_like_one_process(tmp_path):
    split = make_split(tmp_path / "uneven", 20, targets=2, images_per_shard=3)
    assert len(list(split.glob("*.tar"))) == 7
    (alone,) = evaluate(split, tmp_path, processes=1, workers=0)
    ranks = evaluate(split, tmp_path, processes=2, workers=2)
    keys = [key for rank in ranks for batch in rank["keys"] for key in batch]
    assert sorted(keys) == sorted(f"img{number:05d}/{target}" for number in range(20) for target in "01")
    assert sorted(batch for rank in ranks for batch in rank["keys"]) == sorted(alone["keys"])  # the same batches
    assert alone["scores"] == ranks[0]["scores"] == ranks[1]["scores"]
    assert 0.1 < float.fromhex(alone["scores"]["giou"]) < 0.9
    assert float.fromhex(alone["scores"]["n"]) == 40
