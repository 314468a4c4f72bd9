"""Sums over the pixels of one example, a block at a time: in float64, and alike on every device and thread count."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 18
"""Pixels in float64 at a time: 2 MiB an array."""


def check_logits(logits: Tensor, target: Tensor, ignore: Tensor | None) -> None:
    """Refuse what cannot be compared pixel by pixel.

    Args:
        logits: (H, W) float.
        target: (H, W) bool.
        ignore: (H, W) bool or ``None``.

    Raises:
        ValueError: for another dtype or different sizes.
    """
    if not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating point, got {logits.dtype}: this score looks at probabilities, not at the mask."
        )
    for name, mask in {"target": target, "ignore": ignore}.items():
        if mask is None:
            continue
        if mask.dtype != torch.bool:
            raise ValueError(f"{name} must be a bool mask, got {mask.dtype}.")
        if mask.shape != logits.shape:
            raise ValueError(
                f"{name} has size {tuple(mask.shape)}, the logits have {tuple(logits.shape)}: scores are taken at the "
                "original resolution. Bring logits there with coprs_lightning.geometry.restore first."
            )


def pixel_blocks(
    logits: Tensor, target: Tensor, ignore: Tensor | None = None, block: int = BLOCK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pixels that count, row by row.

    NumPy adds in the same order on any machine; PyTorch's sums depend on the number of threads.

    Args:
        logits: (H, W) float.
        target: (H, W) bool.
        ignore: (H, W) bool, pixels that are left out.
        block: pixels at a time.

    Yields:
        (n,) float64 logits and (n,) bool targets, n ≤ ``block``.
    """
    values = logits.detach().float().cpu().numpy().ravel()
    wanted = target.cpu().numpy().ravel()
    counted = None if ignore is None else ~ignore.cpu().numpy().ravel()
    for start in range(0, len(values), block):
        part = slice(start, start + block)
        x, t = values[part].astype(np.float64), wanted[part]
        if counted is not None:
            x, t = x[counted[part]], t[counted[part]]
        yield x, t


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    """ln(sigmoid(x)) of (n,) float64 logits, finite for all of them."""
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))
