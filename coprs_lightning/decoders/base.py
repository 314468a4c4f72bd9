"""Base class of the mask decoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from coprs_lightning.component import CompilableComponent, check_positive


class MaskDecoder(CompilableComponent, ABC):
    """Turns features and heatmap logits into mask logits.

    Args:
        in_channels: C of the features; linked from the backbone.
        kwargs: see :class:`~coprs_lightning.component.CompilableComponent`.
    """

    def __init__(self, *, in_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, in_channels=in_channels)
        self.in_channels = in_channels

    @abstractmethod
    def forward(self, features: Tensor, heatmap_logits: Tensor, valid_sizes: Tensor, frame: int) -> Tensor:
        """Decode masks.

        Args:
            features: (B, C, h, w).
            heatmap_logits: (B, K, H', W') logits of the prior over the whole frame.
            valid_sizes: (B, 2) valid height and width in frame pixels.
            frame: side S of the frame.

        Returns:
            (B, K, 4h, 4w) mask logits over the whole frame.
        """

    def check_inputs(self, features: Tensor, heatmap_logits: Tensor) -> None:
        """Refuse features of another size than declared, or a batch that does not match the heatmap's."""
        if features.shape[1] != self.in_channels or features.shape[0] != heatmap_logits.shape[0]:
            raise ValueError(
                f"{type(self).__name__} was built for features (B, {self.in_channels}, h, w), got "
                f"{tuple(features.shape)} with heatmap logits {tuple(heatmap_logits.shape)}. Leave "
                "model.decoder.init_args.in_channels out: it follows the backbone."
            )
