"""What rewards look at, made by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from coprs_lightning.rl.rewards import RewardInputs

GOOD = "<think> the red one </think>\nHere is the reference position: <REF_POS>"


def reward_inputs(
    texts: list[str],
    masks: Tensor | None = None,
    targets: Tensor | None = None,
    present: Tensor | None = None,
    num_tokens: int = 1,
) -> RewardInputs:
    """Inputs of ``texts``; by default with a mask of 4 × 4 pixels and a target of 8 × 8 that are half right."""
    count = len(texts)
    if masks is None:
        masks = torch.full((count, 4, 4), 0.5)
    if targets is None:
        targets = torch.ones(count, 8, 8)
    return RewardInputs(
        questions=["the red one"] * count,
        texts=texts,
        truncated=torch.zeros(count, dtype=torch.bool),
        present=torch.ones(count, dtype=torch.bool) if present is None else present,
        masks=masks,
        heatmaps=torch.zeros(count, 2, 2),
        targets=targets,
        valid_sizes=torch.full((count, 2), targets.shape[-1]),
        num_tokens=num_tokens,
    )


def square(x: int, y: int, side: int, frame: int) -> Tensor:
    """(1, frame, frame) ones in a square, zeros around it."""
    mask = torch.zeros(1, frame, frame)
    mask[:, y : y + side, x : x + side] = 1.0
    return mask
