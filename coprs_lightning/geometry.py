"""One frame geometry for the whole project: resize the longer side to S, pad at the bottom and on the right.

This is SAM's preprocessing (paper section 3); the way back is bilinear to S, crop, bilinear to the
original size, threshold at 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def valid_size(height: int, width: int, frame: int) -> tuple[int, int]:
    """Size of an image of ``height`` × ``width`` pixels after its longer side became ``frame`` pixels."""
    scale = frame / max(height, width)
    return max(1, min(frame, int(height * scale + 0.5))), max(1, min(frame, int(width * scale + 0.5)))


def to_frame(image: Tensor, frame: int, *, mode: str = "bilinear") -> tuple[Tensor, tuple[int, int]]:
    """Resize and pad one image or mask.

    Args:
        image: (C, H, W) uint8 or float.
        frame: side S of the frame in pixels.
        mode: interpolation; ``bilinear`` is antialiased.

    Returns:
        the (C, S, S) frame in the input's dtype, and its valid (height, width).
    """
    height, width = valid_size(int(image.shape[-2]), int(image.shape[-1]), frame)
    resized = image[None].float()
    if (height, width) != tuple(image.shape[-2:]):
        if mode == "bilinear":
            resized = F.interpolate(resized, (height, width), mode=mode, align_corners=False, antialias=True)
        else:
            resized = F.interpolate(resized, (height, width), mode=mode)
    if not image.is_floating_point():
        resized = resized.round().clamp(0, 255)
    resized = F.pad(resized, (0, frame - width, 0, frame - height))
    return resized[0].to(image.dtype), (height, width)


def valid_mask(valid_sizes: Tensor, size: tuple[int, int], frame: int) -> Tensor:
    """Which cells of a grid over the frame touch the image.

    Args:
        valid_sizes: (B, 2) int, valid height and width in frame pixels.
        size: (h, w) of the grid.
        frame: S.

    Returns:
        (B, 1, h, w) bool; a cell counts as valid when any of its pixels is image (the paper's ``(h + 3) // 4``).
    """
    height, width = size
    # ceil(valid * grid / frame) in integers: no rounding surprises on large frames
    rows = -(-valid_sizes[:, 0] * height // frame)
    cols = -(-valid_sizes[:, 1] * width // frame)
    row_ok = torch.arange(height, device=valid_sizes.device)[None] < rows[:, None]
    col_ok = torch.arange(width, device=valid_sizes.device)[None] < cols[:, None]
    return (row_ok[:, :, None] & col_ok[:, None, :])[:, None]


def restore(logits: Tensor, valid: tuple[int, int], original: tuple[int, int], frame: int) -> Tensor:
    """Bring logits over a frame back to the original image.

    Args:
        logits: (K, h, w) logits over the whole frame, of any resolution.
        valid: valid (height, width) in frame pixels.
        original: (H, W) of the image.
        frame: S.

    Returns:
        (K, H, W) logits; the mask is ``> 0``.
    """
    full = F.interpolate(logits[None].float(), (frame, frame), mode="bilinear", align_corners=False)
    cropped = full[..., : valid[0], : valid[1]]
    if tuple(cropped.shape[-2:]) == tuple(original):
        return cropped[0]
    return F.interpolate(cropped, original, mode="bilinear", align_corners=False)[0]
