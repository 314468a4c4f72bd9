"""Base class of the image backbones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.component import Component, check_positive


class ImageBackbone(Component, ABC):
    """Turns frames into a feature grid; owns the normalisation of the pixels.

    Attributes:
        out_channels: C of the features.
        stride: frame pixels per feature cell.
        image_size: side S of the frames it wants; the datamodule reads it.

    Args:
        image_size: side S of the frames in pixels.
        kwargs: see :class:`~coprs_lightning.component.Component`.
    """

    out_channels: int
    stride: int

    def __init__(self, *, image_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(self, image_size=image_size)
        self.image_size = image_size

    @abstractmethod
    def forward(self, frames: Tensor, valid_sizes: Tensor) -> Tensor:
        """Encode frames.

        Args:
            frames: (B, 3, S, S) uint8 RGB.
            valid_sizes: (B, 2) valid height and width in frame pixels; the rest is padding.

        Returns:
            (B, C, S / stride, S / stride) features.
        """

    def check_frames(self, frames: Tensor) -> None:
        """Refuse frames of another size than the backbone was built for, or ones that are normalised already."""
        size = self.image_size
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (3, size, size):
            raise ValueError(
                f"{type(self).__name__} was built for frames of (B, 3, {size}, {size}) and got {tuple(frames.shape)}: "
                "its features would not line up with the masks. Set model.backbone.init_args.image_size; "
                "the datamodule follows it."
            )
        if frames.dtype != torch.uint8:
            raise TypeError(
                f"{type(self).__name__} normalises the pixels itself and takes uint8 frames, got {frames.dtype}: they "
                "would be normalised twice. Give RGB values from 0 to 255."
            )
