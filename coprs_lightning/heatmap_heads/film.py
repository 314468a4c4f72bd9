"""Heatmap head that modulates convolutions by the query (feature-wise linear modulation)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from coprs_lightning.component import check_positive
from coprs_lightning.heatmap_heads.base import HeatmapHead


class FiLMHead(HeatmapHead):
    """x ← SiLU((1 + γ) · GroupNorm(Conv3×3(x)) + β), ``depth`` times, γ and β linear in the query; then Conv1×1.

    Args:
        dim: channels of every block.
        depth: blocks.
        bias_init: first bias of the last convolution; below 0 the map starts slightly empty.
        kwargs: see :class:`~coprs_lightning.heatmap_heads.base.HeatmapHead`.
    """

    def __init__(self, *, dim: int = 256, depth: int = 2, bias_init: float = -1.8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, dim=dim, depth=depth)
        self.depth = depth
        widths = [self.in_channels] + [dim] * depth
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairwise(widths)
        )
        # without an affine map of its own: γ and β are that map
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(32, dim), dim, affine=False) for _ in range(depth))
        self.film = nn.Linear(self.query_dim, 2 * depth * dim)
        self.head = nn.Conv2d(dim, 1, 1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, bias_init)

    def forward(self, query: Tensor, features: Tensor) -> Tensor:
        """See :meth:`HeatmapHead.forward`."""
        logits = self.head(self.modulated(query, features))[:, 0].unflatten(0, query.shape[:2])
        return F.interpolate(logits, scale_factor=self.upscale, mode="bilinear", align_corners=False)

    def maps(self, query: Tensor, features: Tensor) -> dict[str, Tensor]:
        """See :meth:`HeatmapHead.maps`: channels that speak for a place and against it; with the bias, the logits."""
        weight = self.head.weight[0]  # (dim, 1, 1)
        each = self.modulated(query, features) * weight
        parts = {"evidence for": each.clamp_min(0), "evidence against": each.clamp_max(0)}
        return {name: part.sum(1).unflatten(0, query.shape[:2]) for name, part in parts.items()}

    def modulated(self, query: Tensor, features: Tensor) -> Tensor:
        """(B·K, dim, h, w) channels after the last block."""
        self.check_inputs(query, features)
        count = query.shape[1]
        film = self.film(query).flatten(0, 1)[..., None, None]
        film = film.unflatten(1, (self.depth, 2, -1))  # (B·K, depth, 2, dim, 1, 1)
        x = features
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            if index == 0:  # the first convolution sees no query: once per image is enough
                x = x.repeat_interleave(count, 0)
            x = F.silu((1 + film[:, index, 0]) * x + film[:, index, 1])
        return x
