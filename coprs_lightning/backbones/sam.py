"""SAM's image encoder (the paper: ViT-H, frozen, 1024 px → 256 × 64 × 64)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from coprs_lightning.backbones.base import ImageBackbone, Preprocessing
from coprs_lightning.backbones.sam_parts import (
    IMAGE_SIZE,
    PIXEL_MEAN,
    PIXEL_STD,
    VIT_B,
    SamVisionOptions,
    at_size,
    build_encoder,
    load_encoder,
)
from coprs_lightning.spec import to_plain

__all__ = ["SamBackbone", "SamVisionOptions"]


class SamBackbone(ImageBackbone):
    """SAM's image encoder, as transformers has it.

    Args:
        pretrained: hub id or folder of a transformers SAM checkpoint (``facebook/sam-vit-base``, ``-large``,
            ``-huge``), or an original file (``sam_vit_b_01ec64.pth``, ``sam_vit_l_0b3195.pth``,
            ``sam_vit_h_4b8939.pth``); loaded strictly, and the sizes come from it. ``null`` builds ``config`` with
            random weights.
        config: sizes of the encoder, used when ``pretrained`` is ``null``.
        image_size: side of the frames; ``null`` takes the checkpoint's (SAM's are 1024). Pretrained position
            embeddings are interpolated where it is another.
        kwargs: see :class:`~coprs_lightning.component.Component`.

    Raises:
        ValueError: for sizes that do not fit together, or a checkpoint that lacks weights or has others.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        config: SamVisionOptions = VIT_B,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        if pretrained is None:
            self.encoder = build_encoder(config, image_size or IMAGE_SIZE)
        else:
            self.encoder = at_size(load_encoder(pretrained), image_size)
        sizes = self.encoder.config
        self.preprocessing = Preprocessing(mean=PIXEL_MEAN, std=PIXEL_STD, image_size=int(sizes.image_size))
        self.stride = int(sizes.patch_size)
        self.out_channels = int(sizes.output_channels)

    def forward(self, frames: Tensor, valid_sizes: Tensor) -> Tensor:
        """See :meth:`ImageBackbone.forward`."""
        features: Tensor = self.encoder(self.normalised(frames, valid_sizes)).last_hidden_state
        return features

    def portable_spec(self, folder: Path | None = None) -> dict[str, Any]:
        """See :meth:`Component.portable_spec`: the sizes in place of the checkpoint that gave them."""
        return self.rebuilt_with(pretrained=None, config=to_plain(SamVisionOptions.of(self.encoder.config)))
