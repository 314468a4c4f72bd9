"""Run by torchrun: every process measures its share of the examples and writes what it got."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed

from coprs_lightning.metrics import CompletionRates, SegmentationIoU
from tests.metrics.random_examples import completion, every_metric, random_answer, random_example

SHARES = {
    "uneven": (range(7), range(7, 11)),
    "one_idle": (range(0), range(3)),
    "none": (range(0), range(0)),
    "interleaved": (range(38, -1, -2), range(1, 40, 2)),
}


def measured(seeds: range) -> dict[str, dict[str, str]]:
    """Every score of some examples, each number spelled with all its digits."""
    metric, rates, others = SegmentationIoU(), CompletionRates(), every_metric()
    for seed in seeds:
        metric.update(*random_example(seed))
        rates.update(*completion(seed))
        for other in others.values():
            other.take(random_answer(seed))
    found = {"scores": metric.compute(), "rates": rates.compute()}
    found |= {other: one.compute() for other, one in others.items()}
    return {key: {k: repr(float(v)) for k, v in sorted(scores.items())} for key, scores in found.items()}


def main(folder: Path) -> None:
    """Write ``<share>-<rank>.json`` for every share."""
    warnings.filterwarnings("ignore", message=".*before the ``update`` method.*")
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    # what depends on the number of threads would differ between the two, and from the test's own process
    torch.set_num_threads(rank + 1)
    for name, shares in SHARES.items():
        (folder / f"{name}-{rank}.json").write_text(json.dumps(measured(shares[rank])))
    metric = SegmentationIoU()
    for seed in SHARES["uneven"][rank]:
        metric.update(*random_example(seed))
    metric.compute()
    (folder / f"own-{rank}.json").write_text(json.dumps(sum(len(rows) for rows in metric.rows)))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
