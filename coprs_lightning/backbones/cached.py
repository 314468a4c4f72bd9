"""No backbone: features are read from the shards (the paper computes SAM's once for the whole dataset)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from coprs_lightning.backbones.base import ImageBackbone
from coprs_lightning.component import check_positive


class CachedBackbone(ImageBackbone):
    """Stands for a backbone where every batch has ``features``: it has no weights, and computes nothing.

    `coprs data features` computes them. So a training keeps no image encoder in memory; the defaults are those of SAM's
    features.

    Args:
        out_channels: C of the features.
        stride: frame pixels per feature cell.
        image_size: side S of the frames that the features were computed from.
        kwargs: see :class:`~coprs_lightning.component.Component`.
    """

    def __init__(self, *, out_channels: int = 256, stride: int = 16, image_size: int = 1024, **kwargs: Any) -> None:
        super().__init__(image_size=image_size, **kwargs)
        check_positive(self, out_channels=out_channels, stride=stride)
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, frames: Tensor, valid_sizes: Tensor) -> Tensor:
        """Refuse: there is nothing to compute features with.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"the model has no image backbone and the batch of {len(frames)} frames brings no features. Compute "
            "them once with `coprs data features`, or put a backbone in its place (model.backbone, for instance "
            "SamBackbone)."
        )
