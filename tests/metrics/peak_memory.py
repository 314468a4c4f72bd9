"""Run in a process of its own: how far the resident memory rises while 32 answers of 640 × 480 pixels are scored."""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F

from callbacks.iou import IoUMetrics
from coprs_lightning.metrics import intersection_and_union
from coprs_lightning.structures import Completions, Example, PolicyOutput, SegmentationBatch, SegmentationOutput
from datamodules.collate import FrameCollator

FRAME = 1024
SIZE = (480, 640)


class Module(pl.LightningModule):
    """No weights: what is above the model is all there is."""

    image_size = FRAME


def example(index: int, size: tuple[int, int]) -> Example:
    """A disc on black, some pixels ignored."""
    y, x = np.ogrid[: size[0], : size[1]]
    mask = (y - size[0] // 2) ** 2 + (x - size[1] // 3) ** 2 < (size[0] // 4 + index) ** 2
    image, ignore = np.zeros((*size, 3), dtype=np.uint8), np.zeros(size, dtype=bool)
    ignore[: size[0] // 8] = True
    return Example(key=f"{index:03d}", image=image, question="Where?", mask=mask, ignore=ignore, kind="position")


def answered(count: int, size: tuple[int, int]) -> tuple[SegmentationBatch, SegmentationOutput]:
    """A batch and what a model says: 256 × 256 logits, as the paper's decoder gives."""
    batch = FrameCollator(FRAME)([example(index, size) for index in range(count)])
    y, x = torch.meshgrid(torch.linspace(0, 1, 256), torch.linspace(0, 1, 256), indexing="ij")
    logits = (0.2 - ((y - 0.4) ** 2 + (x - 0.35) ** 2).sqrt()).mul(20).expand(count, 1, 256, 256).contiguous()
    nothing, tokens = torch.zeros(count, 0, dtype=torch.bool), torch.ones(count, 5, dtype=torch.bool)
    completions = Completions(tokens.long(), tokens, ["<REF_POS>"] * count, truncated=tokens[:, 0])
    policy = PolicyOutput(torch.zeros(count, 0, 1), nothing, nothing, nothing, nothing, 0)
    return batch, SegmentationOutput(logits, logits.clone(), tokens[:, :1], policy, completions)


def whole_batch(batch: SegmentationBatch, output: SegmentationOutput) -> None:
    """What the callback must not do: bring all answers to full size together. Proves that the measurement sees it."""
    for logits in output.union():
        full = F.interpolate(logits, (FRAME, FRAME), mode="bilinear")[:, :, : FRAME * 3 // 4]
        masks = F.interpolate(full, SIZE, mode="bilinear")[:, 0] > 0
        for mask, target in zip(masks, batch.original_masks, strict=True):
            intersection_and_union(mask, target)


def resident(field: str) -> float:
    """MB of resident memory: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def main(how: str) -> None:
    """Print megabytes."""
    callback, module, trainer = IoUMetrics(), Module(), pl.Trainer(logger=False, accelerator="cpu", devices=1)
    callback.on_validation_epoch_start(trainer, module)
    callback.on_validation_batch_end(trainer, module, answered(1, (24, 32))[1], answered(1, (24, 32))[0], 0)
    batch, output = answered(32, SIZE)
    _ = batch.valid_sizes
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew from here
        before = resident("VmRSS")
    except OSError:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    if how == "one_by_one":
        callback.on_validation_batch_end(trainer, module, output, batch, 1)
        callback.scores()
    else:
        whole_batch(batch, output)
    print(json.dumps({"rise": resident("VmHWM") - before, "n": float(callback.scores()["n"])}))


if __name__ == "__main__":
    main(sys.argv[1])
