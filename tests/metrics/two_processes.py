"""Run by torchrun: every process measures its share of the examples and writes what it got."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from torch import distributed

from coprs_lightning.metrics import CompletionRates, SegmentationIoU
from tests.metrics.random_examples import completion, random_example

SHARES = {"uneven": (range(7), range(7, 11)), "one_idle": (range(0), range(3)), "none": (range(0), range(0))}


def main(folder: Path) -> None:
    """Write ``<share>-<rank>.json`` for every share."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    for name, shares in SHARES.items():
        metric, rates = SegmentationIoU(), CompletionRates()
        for seed in shares[rank]:
            metric.update(*random_example(seed))
            rates.update(*completion(seed))
        content = {"scores": metric.compute(), "rates": rates.compute()}
        text = json.dumps({key: {k: repr(float(v)) for k, v in d.items()} for key, d in content.items()})
        (folder / f"{name}-{rank}.json").write_text(text)
        if name == "uneven":
            (folder / f"own-{rank}.json").write_text(json.dumps(sum(len(rows) for rows in metric.rows)))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
