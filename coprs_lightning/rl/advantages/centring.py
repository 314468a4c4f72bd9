"""What the estimators share: rewards against their mean, free of rounding noise."""

from __future__ import annotations

import torch
from torch import Tensor

NO_SPREAD = 1e-6
"""Rewards closer together than this are equal: they differ by rounding, which must not be scaled up to a signal."""


def check_eps(owner: object, eps: float) -> None:
    """Refuse a negative ``eps``.

    Raises:
        ValueError: naming the class and the value.
    """
    if eps < 0:
        raise ValueError(
            f"{type(owner).__name__}.eps must be ≥ 0, got {eps}: added to the standard deviation, it keeps groups of "
            "nearly equal rewards from being scaled up."
        )


def wide(rewards: Tensor) -> Tensor:
    """``rewards`` in float64, where the device has it (Apple's GPUs do not)."""
    return rewards.to(torch.float32 if rewards.device.type == "mps" else torch.float64)


def centred_in_group(owner: object, rewards: Tensor) -> Tensor:
    """Rewards minus the mean of their group, exactly 0 in a group of equal rewards.

    Args:
        owner: the estimator that asks, for the message.
        rewards: (B, G).

    Returns:
        (B, G), float64 where the device has it.

    Raises:
        ValueError: for rewards of another shape, or groups of one.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"{type(owner).__name__} got rewards of shape {tuple(rewards.shape)}: it compares the completions of a "
            "prompt and needs (B, G) with G ≥ 2. Raise objective.num_generations."
        )
    values = wide(rewards)
    equal = values.amax(1, keepdim=True) - values.amin(1, keepdim=True) < NO_SPREAD
    return (values - values.mean(1, keepdim=True)).masked_fill(equal, 0.0)
