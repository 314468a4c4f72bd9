"""Images to feature maps, through the same geometry as in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from coprs_lightning.backbones.base import ImageBackbone
from coprs_lightning.geometry import to_frame


class Encoder:
    """Computes the maps that shards keep.

    Args:
        backbone: in eval mode, on ``device``.
        device: where it computes.
    """

    def __init__(self, backbone: ImageBackbone, device: torch.device) -> None:
        self.backbone = backbone
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(B, C, h, w) float16 maps of B images (H_i, W_i, 3) uint8; not finite where 16 bits are too few."""
        pixels = [torch.tensor(image).permute(2, 0, 1).to(self.device) for image in images]
        framed = [to_frame(image, self.backbone.image_size) for image in pixels]
        valid = torch.tensor([size for _, size in framed], device=self.device)
        maps = self.backbone(torch.stack([frame for frame, _ in framed]), valid)
        return np.asarray(maps.to(torch.float16).cpu().numpy())
