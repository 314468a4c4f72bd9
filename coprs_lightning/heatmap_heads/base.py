"""Base class of the heatmap heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from coprs_lightning.component import CompilableComponent, check_positive


class HeatmapHead(CompilableComponent, ABC):
    """Turns a query and image features into the logits of the positional prior.

    Attributes:
        upscale: heatmap cells per feature cell along one side (the paper: 64 → 256, so 4).

    Args:
        query_dim: Dq of the query; linked from the aggregator.
        in_channels: C of the features; linked from the backbone.
        upscale: bilinear enlargement of the fused map.
        kwargs: see :class:`~coprs_lightning.component.CompilableComponent`.
    """

    def __init__(self, *, query_dim: int, in_channels: int, upscale: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, query_dim=query_dim, in_channels=in_channels, upscale=upscale)
        self.query_dim = query_dim
        self.in_channels = in_channels
        self.upscale = upscale

    @abstractmethod
    def forward(self, query: Tensor, features: Tensor) -> Tensor:
        """Score every place of the image for every query.

        Args:
            query: (B, K, Dq).
            features: (B, C, h, w).

        Returns:
            (B, K, h · upscale, w · upscale) logits.
        """

    def maps(self, query: Tensor, features: Tensor) -> dict[str, Tensor]:
        """What the head sees on its way to the heatmap, for people who look into one answer; nothing by default.

        Args:
            query: (B, K, Dq).
            features: (B, C, h, w).

        Returns:
            (B, K, h, w) maps by name, in whatever unit the head computes them; 0 says neither yes nor no.
        """
        return {}

    def check_inputs(self, query: Tensor, features: Tensor) -> None:
        """Refuse a query or features of another size than declared."""
        if query.shape[-1] != self.query_dim or features.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} was built for query_dim {self.query_dim} and in_channels {self.in_channels}, "
                f"got a query of {query.shape[-1]} and features of {features.shape[1]}. Leave both out of "
                "model.heatmap_head.init_args: they follow the aggregator and the backbone."
            )
