"""A light convolutional decoder that refines the heatmap with the features."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coprs_lightning.component import check_positive
from coprs_lightning.decoders.base import MaskDecoder
from coprs_lightning.decoders.prior import masked_prior

INPUT_RANGE = 10.0
"""Logits beyond it say nothing more; "nothing here" (-50) would drown the features in the first convolution."""


class ConvMaskDecoder(MaskDecoder):
    """mask = heatmap + correction(features, heatmap).

    Features and heatmap are joined on the features' grid, pass ``depth`` blocks of Conv3×3, GroupNorm and SiLU, and two
    bilinear enlargements by 2 with such a block each; a 1×1 convolution that starts at zero gives the correction. So
    training starts with the heatmap as the mask, and the mask loss reaches the heatmap from the first step.

    Args:
        hidden: channels of the blocks.
        depth: blocks on the features' grid.
        kwargs: see :class:`~coprs_lightning.decoders.base.MaskDecoder`.
    """

    def __init__(self, *, hidden: int = 64, depth: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, hidden=hidden, depth=depth)
        self.reduce = nn.Conv2d(self.in_channels, hidden, 1)
        self.blocks = nn.Sequential(_block(hidden + 1, hidden), *(_block(hidden, hidden) for _ in range(depth - 1)))
        self.upscale = nn.ModuleList(_block(hidden, hidden) for _ in range(2))
        self.head = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, heatmap_logits: Tensor, valid_sizes: Tensor, frame: int) -> Tensor:
        """See :meth:`MaskDecoder.forward`."""
        self.check_inputs(features, heatmap_logits)
        batch, count = heatmap_logits.shape[:2]
        height, width = int(features.shape[-2]), int(features.shape[-1])
        prior = masked_prior(heatmap_logits, (4 * height, 4 * width), valid_sizes, frame)
        coarse = F.avg_pool2d(prior.clamp(-INPUT_RANGE, INPUT_RANGE), 4).flatten(0, 1)[:, None]
        x = self.reduce(features).repeat_interleave(count, 0)
        x = self.blocks(torch.cat([x, coarse.to(x.dtype)], dim=1))
        for block in self.upscale:
            x = block(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        return prior + self.head(x)[:, 0].unflatten(0, (batch, count))


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.GroupNorm(math.gcd(32, after), after), nn.SiLU()
    )
