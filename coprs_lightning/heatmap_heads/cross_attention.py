"""The paper's heatmap head: multi-head query-key logits, fused over the heads (paper section 3)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coprs_lightning.component import check_positive
from coprs_lightning.heatmap_heads.base import HeatmapHead


class CrossAttentionHead(HeatmapHead):
    """H = fuse([(Q W_i^Q)(K W_i^K)^T / sqrt(d)] for every head i), without softmax.

    Args:
        num_heads: attention heads n.
        dim: width of all heads together; d = dim / num_heads.
        bias_init: first bias of the last convolution; below 0 the map starts slightly empty.
        kwargs: see :class:`~coprs_lightning.heatmap_heads.base.HeatmapHead`.

    Raises:
        ValueError: when ``num_heads`` does not divide ``dim``.
    """

    def __init__(self, *, num_heads: int = 4, dim: int = 256, bias_init: float = -1.8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, num_heads=num_heads, dim=dim)
        if dim % num_heads:
            raise ValueError(
                f"{type(self).__name__}.dim {dim} is no multiple of num_heads {num_heads}: heads need equal width."
            )
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q_proj = nn.Linear(self.query_dim, dim, bias=False)
        self.k_proj = nn.Conv2d(self.in_channels, dim, 1, bias=False)
        self.fuser = self.build_fuser(num_heads)
        last: Any = self.fuser[-1]
        nn.init.constant_(last.bias, bias_init)

    @staticmethod
    def build_fuser(num_heads: int) -> nn.Sequential:
        """Layers that merge the heads' maps into one; the last one is a convolution with a bias."""
        return nn.Sequential(
            nn.Conv2d(num_heads, num_heads, 3, padding=1), nn.SiLU(), nn.Conv2d(num_heads, 1, 3, padding=1)
        )

    def forward(self, query: Tensor, features: Tensor) -> Tensor:
        """See :meth:`HeatmapHead.forward`."""
        logits = self.head_logits(query, features)
        fused = self.fuser(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])[:, :, 0]
        return F.interpolate(fused, scale_factor=self.upscale, mode="bilinear", align_corners=False)

    def head_logits(self, query: Tensor, features: Tensor) -> Tensor:
        """(B, K, n, h, w) query-key products of every head, scaled, before they are fused."""
        self.check_inputs(query, features)
        queries = self.q_proj(query).unflatten(-1, (self.num_heads, -1))  # (B, K, n, d)
        keys = self.k_proj(features).unflatten(1, (self.num_heads, -1))  # (B, n, d, h, w)
        return torch.einsum("bknd,bndhw->bknhw", queries, keys) * self.scale

    def maps(self, query: Tensor, features: Tensor) -> dict[str, Tensor]:
        """See :meth:`HeatmapHead.maps`: query · key of every head."""
        logits = self.head_logits(query, features)
        return {f"head {number}": one for number, one in enumerate(logits.unbind(2), 1)}


class LinearFuseCrossAttentionHead(CrossAttentionHead):
    """The same with one 1×1 convolution as the fuser: a weighted sum of the heads."""

    @staticmethod
    def build_fuser(num_heads: int) -> nn.Sequential:
        """One weight a head, and a bias."""
        return nn.Sequential(nn.Conv2d(num_heads, 1, 1))
