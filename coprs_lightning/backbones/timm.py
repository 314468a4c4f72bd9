"""Backbone over any timm feature model (SAM's ViT, Hiera, DINOv3, ConvNeXt, ResNet …)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coprs_lightning.backbones.base import ImageBackbone, Preprocessing
from coprs_lightning.backbones.positions import sine_positions
from coprs_lightning.weightless import only_shapes


class TimmBackbone(ImageBackbone):
    """One feature level of a timm model.

    Args:
        model_name: timm name, e.g. ``resnet18`` or ``samvit_base_patch16.sa1b``.
        pretrained: load timm's weights for that name.
        out_index: feature level, counted by timm from the finest (0) or, when negative, from the coarsest (-1).
        model_kwargs: further arguments of ``timm.create_model``. ``img_size`` is set to ``image_size`` for models whose
            position embedding has a fixed size.
        position_channels: fixed sine and cosine coordinate channels appended to the features, a multiple of 4.
            Convolutional models do not know where they are, and "the left one" needs it; 0 appends none.
        mean: of red, green and blue for pixels in [0, 1]; ``null`` takes what timm records for the model.
        std: likewise.
        image_size: side of the frames; ``null`` takes what timm records for the model.
        kwargs: see :class:`~coprs_lightning.component.Component`.

    Raises:
        ValueError: for an unknown model name, a level it does not have, or sizes that do not fit.
    """

    def __init__(
        self,
        *,
        model_name: str,
        pretrained: bool = False,
        out_index: int = -1,
        model_kwargs: dict[str, Any] | None = None,
        position_channels: int = 0,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        image_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        own = _default_config(model_name)
        self.preprocessing = Preprocessing(
            mean=_triple(mean or own.mean), std=_triple(std or own.std), image_size=image_size or own.input_size[-1]
        )
        # models whose position embedding has a fixed size must be told ours
        sized = {"img_size": self.image_size} if own.fixed_input_size else {}
        self.encoder = _create(model_name, pretrained, out_index, {**sized, **(model_kwargs or {})})
        self.stride = int(self.encoder.feature_info.reduction()[-1])
        self.feature_channels = int(self.encoder.feature_info.channels()[-1])
        if self.image_size % self.stride:
            raise ValueError(
                f"TimmBackbone.image_size {self.image_size} is no multiple of {model_name}'s stride {self.stride} at "
                f"out_index {out_index}: cells would not line up with the masks. Use "
                f"{self.image_size // self.stride * self.stride or self.stride}, or another out_index."
            )
        if position_channels < 0 or position_channels % 4:
            raise ValueError(
                f"TimmBackbone.position_channels must be a multiple of 4 (sine and cosine, x and y) or 0, "
                f"got {position_channels}."
            )
        self.out_channels = self.feature_channels + position_channels
        grid = self.image_size // self.stride
        self.register_buffer("positions", sine_positions(position_channels, grid), persistent=False)
        self.positions: Tensor

    def forward(self, frames: Tensor, valid_sizes: Tensor) -> Tensor:
        """See :meth:`ImageBackbone.forward`."""
        features = self.encoder(self.normalised(frames, valid_sizes))[-1]
        if getattr(self.encoder, "output_fmt", "NCHW") == "NHWC":  # not every timm wrapper tells; most are NCHW
            features = features.permute(0, 3, 1, 2)
        grid = self.image_size // self.stride
        if tuple(features.shape[1:]) != (self.feature_channels, grid, grid):
            raise ValueError(
                f"TimmBackbone expected features of {(self.feature_channels, grid, grid)} by the model's feature_info "
                f"and got {tuple(features.shape[1:])}: heatmaps would not line up with the masks. Choose another "
                "model.backbone.init_args.out_index, or an image_size that is a multiple of the model's windows."
            )
        if len(self.positions):
            positions = self.positions.to(features.dtype).expand(len(features), -1, -1, -1)
            features = torch.cat([features, positions], dim=1)
        return features

    def portable_spec(self, folder: Path | None = None) -> dict[str, Any]:
        """See :meth:`Component.portable_spec`: the same timm model without its weights, and what timm records of it."""
        how = self.preprocessing
        return self.rebuilt_with(pretrained=False, mean=list(how.mean), std=list(how.std))


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _default_config(name: str) -> Any:
    """Timm's data configuration of a model (mean, std, whether its input size is fixed).

    Raises:
        ValueError: for a name that timm does not know, with close ones.
    """
    import timm  # 2.5 s to import: only where it is used
    from timm.models import PretrainedCfg

    try:
        found = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        if found is not None or timm.is_model(name):  # a user's own registered model may come without configuration
            return found or PretrainedCfg()
    except RuntimeError:  # known architecture, unknown tag of pretrained weights
        pass
    architecture = name.split(".")[0]
    known = timm.list_pretrained(f"{architecture}.*") if timm.is_model(architecture) else timm.list_models()
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    raise ValueError(
        f"TimmBackbone.model_name: timm {timm.__version__} has no model {name!r}. Close names: "
        f"{', '.join(close) or 'none'}. `timm.list_models('*part*')` lists all of them."
    )


def _create(name: str, pretrained: bool, out_index: int, arguments: dict[str, Any]) -> Any:
    """Build the timm model that gives one feature level."""
    import timm

    try:
        pretrained = pretrained and not only_shapes()
        return timm.create_model(name, pretrained=pretrained, features_only=True, out_indices=(out_index,), **arguments)
    except (AssertionError, IndexError) as error:
        raise ValueError(
            f"TimmBackbone.out_index: {name} has no feature level {out_index} ({error}). "
            "Count from 0, or from -1 backwards."
        ) from error
