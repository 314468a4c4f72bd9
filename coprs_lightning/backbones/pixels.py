"""Pixel normalisation shared by the backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coprs_lightning.geometry import valid_mask


def normalise(
    frames: Tensor, valid_sizes: Tensor, mean: Sequence[float], std: Sequence[float], padding: float = 0.0
) -> Tensor:
    """Normalise frames and set their padding afterwards, as SAM does.

    Args:
        frames: (B, 3, S, S) uint8 RGB.
        valid_sizes: (B, 2) valid height and width in pixels.
        mean: of red, green and blue, for pixels in [0, 1].
        std: likewise.
        padding: what the padding holds afterwards, whatever the frames hold there; 0 looks like the mean colour.

    Returns:
        (B, 3, S, S) float32.
    """
    size = int(frames.shape[-1])
    shift = torch.tensor(mean, dtype=torch.float32, device=frames.device)[:, None, None]
    scale = torch.tensor(std, dtype=torch.float32, device=frames.device)[:, None, None]
    pixels = (frames.float() / 255 - shift) / scale
    return pixels.masked_fill(~valid_mask(valid_sizes, (size, size), size), padding)
