"""The learning-rate schedule: one cycle of warm-up and cosine, as in the released CoPRS code."""

from __future__ import annotations

import math


def one_cycle_factor(
    step: int, total_steps: int, *, warmup_fraction: float, start_divisor: float, final_divisor: float
) -> float:
    """Rate at a step as a share of the base rate; both slopes are half cosines.

    Unlike ``torch.optim.lr_scheduler.OneCycleLR`` it holds no number of steps as state, so a resumed run may be longer,
    and it is defined for runs of any length.

    Args:
        step: optimizer steps done; from ``total_steps - 1`` on the rate stays at its end.
        total_steps: length of the run.
        warmup_fraction: share of the run in which the rate rises.
        start_divisor: the rise begins at ``1 / start_divisor``.
        final_divisor: the fall ends at ``1 / final_divisor``.
    """
    warmup = warmup_fraction * total_steps
    if step < warmup:
        low, height = 1 / start_divisor, (1 - math.cos(math.pi * step / warmup)) / 2
    else:
        progress = min(1.0, (step - warmup) / max(1.0, total_steps - 1 - warmup))
        low, height = 1 / final_divisor, (1 + math.cos(math.pi * progress)) / 2
    return low + (1 - low) * height
