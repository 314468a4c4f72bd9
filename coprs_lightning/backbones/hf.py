"""Backbone over any vision model of transformers (DINOv3, DINOv2, SAM 2, ViT, SigLIP …)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from coprs_lightning.backbones.base import ImageBackbone
from coprs_lightning.backbones.hf_parts import declared, feature_map, load_encoder, probe, read_config

ASSETS = "backbone"
"""Folder of :meth:`HFBackbone.assets` beside a saved model: the name of the slot."""


class HFBackbone(ImageBackbone):
    """One feature grid of a transformers vision model.

    Class and register tokens are left out. SAM 2's encoder gives three grids from its feature pyramid, of strides 4, 8
    and 16; the last, of stride 16, is the one that SAM 2 itself decodes masks from. Of a model with several towers the
    vision tower alone is loaded.

    Args:
        model: folder or hub id, e.g. ``facebook/dinov3-vitb16-pretrain-lvd1689m`` or ``facebook/sam2.1-hiera-large``.
        random_weights: build the model that its ``config.json`` describes without loading weights.
        level: which of its feature grids, counted from the finest (0) or, when negative, from the last (-1); for plain
            transformers which layer's output.
        mean: of red, green and blue for pixels in [0, 1]; ``null`` takes what the model's image processor records.
        std: likewise.
        image_size: side of the frames; ``null`` takes what the model's image processor records.
        kwargs: see :class:`~coprs_lightning.component.Component`.

    Raises:
        ValueError: for a model that cannot be found, gives no feature grid, or lacks weights, and for sizes that do not
            fit.
    """

    def __init__(
        self,
        *,
        model: str,
        random_weights: bool = False,
        level: int = -1,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        config = read_config(model, level)
        self.preprocessing = declared(model, mean=mean, std=std, image_size=image_size)
        self.level = level
        found = probe(config, self.image_size, level)
        self.out_channels, self.stride = found.channels, found.stride
        self.encoder = load_encoder(model, config, random_weights)
        # what the chosen grid does not depend on would get no gradient, and stall distributed training
        for name, parameter in self.encoder.named_parameters():
            if name in found.unused:
                parameter.requires_grad_(False)

    def forward(self, frames: Tensor, valid_sizes: Tensor) -> Tensor:
        """See :meth:`ImageBackbone.forward`."""
        return feature_map(self.encoder, self.normalised(frames, valid_sizes), self.level)

    def portable_spec(self, folder: Path | None = None) -> dict[str, Any]:
        """See :meth:`Component.portable_spec`: the model's configuration lies in :meth:`assets`."""
        how = self.preprocessing
        return self.rebuilt_with(model=ASSETS, random_weights=True, mean=list(how.mean), std=list(how.std))

    def assets(self) -> dict[str, str]:
        """``config.json`` of the vision tower."""
        config = {name: value for name, value in self.encoder.config.to_dict().items() if name != "_name_or_path"}
        return {"config.json": json.dumps(config, indent=2, sort_keys=True) + "\n"}
