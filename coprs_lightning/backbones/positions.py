"""Fixed coordinate channels for backbones without absolute position."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(channels: int, size: int) -> Tensor:
    """Two-dimensional sine and cosine coordinates of a square grid.

    Frequencies are spaced geometrically between half a wave over the grid (which tells left from right and top from
    bottom) and one wave over four cells.

    Args:
        channels: number of channels, a multiple of 4: sine and cosine for x and for y.
        size: cells along one side.

    Returns:
        (channels, size, size) float32 in [-1, 1].
    """
    count = channels // 4
    centres = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    highest = max(size / 2, 1.0)
    exponents = torch.linspace(0, 1, count) if count > 1 else torch.zeros(count)
    angles = math.pi * highest ** exponents[:, None] * centres[None]
    waves = torch.cat([angles.sin(), angles.cos()])  # (2 · count, size)
    along_x = waves[:, None, :].expand(-1, size, -1)
    along_y = waves[:, :, None].expand(-1, -1, size)
    return torch.cat([along_x, along_y])
