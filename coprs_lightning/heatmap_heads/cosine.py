"""Heatmap head that compares the query with every cell by cosine similarity."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coprs_lightning.component import check_positive
from coprs_lightning.heatmap_heads.base import HeatmapHead

MAX_LOG_SCALE = math.log(100.0)
"""Cap of the learnable scale: beyond it a step of the optimizer turns the whole map over."""


class CosineHead(HeatmapHead):
    """H = cos(W_q q, W_k x) / temperature + bias.

    Args:
        dim: width in which query and features are compared.
        temperature: first temperature; learned as the logarithm of its inverse, and never below 0.01.
        bias_init: first bias; below 0 the map starts slightly empty.
        kwargs: see :class:`~coprs_lightning.heatmap_heads.base.HeatmapHead`.

    Raises:
        ValueError: for a temperature outside [0.01, ∞).
    """

    def __init__(self, *, dim: int = 256, temperature: float = 0.1, bias_init: float = -1.8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, dim=dim)
        if temperature < 0.01:
            raise ValueError(
                f"CosineHead.temperature must be at least 0.01, got {temperature}: the logits would explode."
            )
        self.q_proj = nn.Linear(self.query_dim, dim, bias=False)
        self.k_proj = nn.Conv2d(self.in_channels, dim, 1, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.bias = nn.Parameter(torch.tensor(float(bias_init)))

    def forward(self, query: Tensor, features: Tensor) -> Tensor:
        """See :meth:`HeatmapHead.forward`."""
        scale = self.log_scale.clamp(max=MAX_LOG_SCALE).exp()
        self.record("temperature", 1 / scale)
        logits = self.cosine(query, features) * scale + self.bias
        return F.interpolate(logits, scale_factor=self.upscale, mode="bilinear", align_corners=False)

    def cosine(self, query: Tensor, features: Tensor) -> Tensor:
        """(B, K, h, w) cosine similarities."""
        self.check_inputs(query, features)
        queries = F.normalize(self.q_proj(query), dim=-1)
        keys = F.normalize(self.k_proj(features), dim=1)
        return torch.einsum("bkd,bdhw->bkhw", queries, keys)

    def maps(self, query: Tensor, features: Tensor) -> dict[str, Tensor]:
        """See :meth:`HeatmapHead.maps`: the similarity, from -1 to 1."""
        return {"cosine": self.cosine(query, features)}
