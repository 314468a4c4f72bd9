"""Random masks of many sizes and completions of many lengths; the seed alone decides."""

from __future__ import annotations

import torch
from torch import Tensor

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


def completion(seed: int) -> tuple[list[str], Tensor, Tensor]:
    """A batch of one: text, presence and token mask; every third is malformed, every fourth has no token."""
    text = "<think> a thought </think>\nHere: <REF_POS>" if seed % 3 else "<REF_POS>"
    return [text], torch.tensor([[seed % 4 > 0]]), torch.arange(20)[None] <= seed
