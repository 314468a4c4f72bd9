"""Random masks of many sizes, heatmaps and completions of many lengths; the seed alone decides."""

from __future__ import annotations

import torch
from torch import Tensor

from coprs_lightning.metrics import (
    Answer,
    Bootstrap,
    BoundaryIoU,
    BucketIoU,
    ByKind,
    ByMaskShare,
    ByMaskSize,
    ByObjects,
    ExampleMetric,
    HeatmapConcentration,
    NoTargetScores,
    SegmentationIoU,
)
from coprs_lightning.structures import NO_PRIOR_LOGIT

KINDS = ("", "position", "attribute")


def random_example(seed: int) -> tuple[Tensor, Tensor, Tensor | None, str]:
    """Prediction, truth, ignored pixels and kind of question; every fifth truth and tenth prediction is empty."""
    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(1, 14, (2,), generator=generator).tolist()
    target = torch.rand(height, width, generator=generator) > 0.5
    pred = target ^ (torch.rand(height, width, generator=generator) > 0.6 + 0.05 * (seed % 8))
    if seed % 5 == 0:
        target = torch.zeros_like(target)
    if seed % 10 == 0:
        pred = torch.zeros_like(pred)
    ignore = torch.rand(height, width, generator=generator) > 0.8 if seed % 3 == 0 else None
    return pred, target, ignore, KINDS[seed % len(KINDS)]


def completion(seed: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """A batch of one: text, presence, token mask and cut; every third is malformed, every fourth has no token."""
    text = "<think> a thought </think>\nHere: <REF_POS>" if seed % 3 else "<REF_POS>"
    return [text], torch.tensor([[seed % 4 > 0]]), torch.arange(20)[None] <= seed, torch.tensor([seed % 5 == 2])


def random_answer(seed: int) -> Answer:
    """Ellipses with ragged borders that miss each other a bit, up to 60 pixels wide; some cut off by the image.

    Every fifth has no target, every seventh no heatmap and no mask, every third pixels to ignore.
    """
    generator = torch.Generator().manual_seed(1000 + seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    height, width = torch.randint(3, 61, (2,), generator=generator).tolist()
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    center, radius = (between(0, height), between(0, width)), between(1, 30)
    ragged = torch.rand(height, width, generator=generator)
    target = (y - center[0]) ** 2 + (x - center[1]) ** 2 < radius**2 * (0.8 + 0.4 * ragged)
    shift = between(-4, 4)
    logits = radius * between(0.7, 1.2) - ((y - center[0] - shift) ** 2 + (x - center[1] + shift) ** 2).sqrt()
    logits = between(0.05, 2) * logits
    heatmap = logits * between(0.3, 1.5) + torch.randn(height, width, generator=generator)
    if seed % 7 == 3:
        logits, heatmap = torch.full_like(logits, NO_PRIOR_LOGIT), torch.full_like(logits, NO_PRIOR_LOGIT)
    if seed % 5 == 0:
        target = torch.zeros_like(target)
    ignore = torch.rand(height, width, generator=generator) > 0.9 if seed % 3 == 0 else None
    kind = KINDS[seed % len(KINDS)]
    distractors = None if seed % 3 else seed % 9
    return Answer(
        logits, heatmap, target, ignore, key=f"{seed:03d}", kind=kind, objects=seed % 4, distractors=distractors
    )


def every_metric() -> dict[str, ExampleMetric]:
    """One of each, with intervals."""
    bootstrap = Bootstrap(resamples=50, seed=3)
    by = [ByMaskSize(), ByMaskShare(), ByKind(), ByObjects()]
    return {
        "iou": SegmentationIoU(bootstrap=bootstrap),
        "boundary": BoundaryIoU(bootstrap=bootstrap),
        "no_target": NoTargetScores(min_pixels=3, bootstrap=bootstrap),
        "concentration": HeatmapConcentration(tolerance=3, bootstrap=bootstrap),
        "buckets": BucketIoU(by=by, bootstrap=bootstrap),
    }
