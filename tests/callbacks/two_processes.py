"""Run by torchrun: test on uneven shares, then fit with every callback; each process writes what it logged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from callbacks.heatmap_panels import HeatmapPanels
from callbacks.iou import IoUMetrics
from callbacks.nan_guard import NaNGuard
from callbacks.progress import CoprsProgressBar
from callbacks.provenance import Provenance
from callbacks.results import ResultsWriter
from callbacks.rollout_logger import RolloutLogger
from datamodules.shard_datamodule import ShardDataModule
from tests.callbacks.rollouts import Sampler, batches, record
from tests.callbacks.tiny import FRAME, TinySegmenter, loader, trainer

SHARES = (range(7), range(7, 11))


def main(folder: Path) -> None:
    """Write ``uneven-<rank>.json``, ``idle-<rank>.json`` and, below ``fit/`` and ``sampled/``, the files of a run."""
    distributed = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
    for name in ("uneven", "idle"):
        torch.manual_seed(0)
        run = trainer(folder, IoUMetrics(), **distributed)
        # one shard: the second process has nothing to test
        data = ShardDataModule(test=str(folder / "split"), batch_size=2, image_size=FRAME)
        given = {"datamodule": data} if name == "idle" else {"dataloaders": loader(SHARES[run.global_rank], 1)}
        run.test(TinySegmenter(), **given, verbose=False)
        logged = {key: repr(float(value)) for key, value in run.callback_metrics.items()}
        (folder / f"{name}-{run.global_rank}.json").write_text(json.dumps(logged))

    everything = [IoUMetrics(), HeatmapPanels(num_examples=1, num_worst=1), NaNGuard(), Provenance(), ResultsWriter()]
    options = {**distributed, "enable_progress_bar": True, "max_steps": 2}
    run = trainer(folder / "fit", *everything, CoprsProgressBar(every_n_steps=1), **options)
    run.fit(TinySegmenter(), loader(range(4)), loader(SHARES[run.global_rank], 1))

    run = trainer(folder / "sampled", RolloutLogger(prompts=1), max_steps=1, **distributed)
    run.fit(Sampler(record(1)), batches(2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
