"""Base class of the image backbones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.backbones.pixels import normalise
from coprs_lightning.component import Component, check_positive


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone wants to see, as its weights were trained; it normalises frames itself.

    Attributes:
        mean: of red, green and blue, for pixels in [0, 1].
        std: likewise.
        image_size: side S of the frames in pixels; the datamodule makes them.
        padding: what normalised frames hold beside the image, whatever the frames hold there; 0 looks like ``mean``.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    padding: float = 0.0


class ImageBackbone(Component, ABC):
    """Turns frames into a feature grid; declares what frames it wants, and normalises their pixels.

    Attributes:
        preprocessing: how frames are made and normalised; variants set it from what their weights' source records.
        out_channels: C of the features.
        stride: frame pixels per feature cell.

    Args:
        image_size: side S of the frames in pixels; ``null`` takes the size that the weights were trained with.
        kwargs: see :class:`~coprs_lightning.component.Component`.
    """

    preprocessing: Preprocessing
    out_channels: int
    stride: int

    def __init__(self, *, image_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if image_size is not None:
            check_positive(self, image_size=image_size)
            # pixels in [0, 1], where the variant knows nothing else
            self.preprocessing = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), image_size)

    @property
    def image_size(self) -> int:
        """Side S of the frames it wants; the datamodule reads it."""
        return self.preprocessing.image_size

    @abstractmethod
    def forward(self, frames: Tensor, valid_sizes: Tensor) -> Tensor:
        """Encode frames.

        Args:
            frames: (B, 3, S, S) uint8 RGB.
            valid_sizes: (B, 2) valid height and width in frame pixels; the rest is padding.

        Returns:
            (B, C, S / stride, S / stride) features.
        """

    def normalised(self, frames: Tensor, valid_sizes: Tensor) -> Tensor:
        """(B, 3, S, S) frames as :attr:`preprocessing` says, in the type of the backbone's weights."""
        self.check_frames(frames)
        how = self.preprocessing
        pixels = normalise(frames, valid_sizes, how.mean, how.std, how.padding)
        return pixels.to(next((p.dtype for p in self.parameters()), pixels.dtype))

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

    def rebuilt_with(self, **init_args: Any) -> dict[str, Any]:
        """This part's spec with other arguments, and the image size that it has now."""
        spec = self.spec
        arguments = {**spec["init_args"], "image_size": self.image_size, **init_args}
        return {**spec, "init_args": arguments}
