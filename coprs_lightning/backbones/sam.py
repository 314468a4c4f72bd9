"""SAM's image encoder (the paper: ViT-H, frozen, 1024 px → 256 × 64 × 64)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.backbones.base import ImageBackbone
from coprs_lightning.backbones.pixels import normalise

PIXEL_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
PIXEL_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


@dataclass(frozen=True)
class SamVisionOptions:
    """Sizes of a SAM image encoder; the defaults are ViT-B.

    Attributes:
        hidden_size: width of the transformer.
        num_hidden_layers: transformer layers.
        num_attention_heads: heads of every layer.
        patch_size: pixels per cell along one side, the stride.
        output_channels: C of the features, after the neck.
        window_size: cells along one side of the windows of local attention.
        global_attn_indexes: layers that attend over the whole grid.
        mlp_dim: width of the MLPs; ``null`` is four times ``hidden_size``.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    patch_size: int = 16
    output_channels: int = 256
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    mlp_dim: int | None = None


class SamBackbone(ImageBackbone):
    """transformers' SAM image encoder.

    Args:
        pretrained: hub id or folder of a transformers SAM checkpoint (``facebook/sam-vit-base``, ``-large``,
            ``-huge``), loaded strictly; ``null`` builds ``config`` with random weights.
        config: sizes of the encoder, used when ``pretrained`` is ``null``.
        image_size: side of the frames. Pretrained position embeddings are interpolated where it is not the
            checkpoint's (1024).
        kwargs: see :class:`~coprs_lightning.component.Component`.

    Raises:
        ValueError: for sizes that do not fit together, or a checkpoint that lacks weights.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        config: SamVisionOptions = SamVisionOptions(),
        image_size: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        self.encoder = _build(config, image_size) if pretrained is None else _load(pretrained, image_size)
        self.stride = int(self.encoder.config.patch_size)
        self.out_channels = int(self.encoder.config.output_channels)

    def forward(self, frames: Tensor, valid_sizes: Tensor) -> Tensor:
        """See :meth:`ImageBackbone.forward`."""
        self.check_frames(frames)
        pixels = normalise(frames, valid_sizes, PIXEL_MEAN, PIXEL_STD).to(next(self.encoder.parameters()).dtype)
        features: Tensor = self.encoder(pixels).last_hidden_state
        return features


def _check_grid(image_size: int, patch_size: int) -> None:
    if image_size % patch_size:
        raise ValueError(
            f"SamBackbone.image_size {image_size} is no multiple of the patch size {patch_size}: the last patch would "
            f"be cut. Use {max(1, image_size // patch_size) * patch_size}."
        )


def _build(options: SamVisionOptions, image_size: int) -> Any:
    """Encoder of the given sizes with random weights."""
    from transformers import SamVisionConfig, SamVisionModel

    _check_grid(image_size, options.patch_size)
    if options.hidden_size % options.num_attention_heads:
        raise ValueError(
            f"SamBackbone.config.hidden_size {options.hidden_size} is no multiple of num_attention_heads "
            f"{options.num_attention_heads}: heads need equal width."
        )
    config = SamVisionConfig(
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_hidden_layers,
        num_attention_heads=options.num_attention_heads,
        patch_size=options.patch_size,
        output_channels=options.output_channels,
        window_size=options.window_size,
        global_attn_indexes=list(options.global_attn_indexes),
        mlp_dim=options.mlp_dim,
        image_size=image_size,
        initializer_range=0.02,  # transformers' own default, 1e-10, is for loading only: it gives constant features
    )
    return SamVisionModel(config)


def _load(pretrained: str, image_size: int) -> Any:
    """Encoder of a checkpoint, for frames of ``image_size``; a missing weight is an error, not a random number."""
    from transformers import SamVisionModel

    loaded: Any = SamVisionModel.from_pretrained(
        pretrained, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
    )
    model, info = loaded
    bad = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in info[kind])
    if bad:
        raise ValueError(
            f"SamBackbone.pretrained: {pretrained} lacks {len(bad)} weights of SAM's image encoder "
            f"({', '.join(bad[:3])} …), which would stay random. "
            "Give the folder or hub id of a SamModel, such as facebook/sam-vit-huge."
        )
    _check_grid(image_size, int(model.config.patch_size))
    return model if image_size == model.config.image_size else _resized(model, image_size)


def _resized(model: Any, image_size: int) -> Any:
    """The same encoder for frames of another size: absolute and relative positions are interpolated."""
    config = type(model.config)(**{**model.config.to_dict(), "image_size": image_size})
    resized = type(model)(config)
    shapes = {key: value.shape for key, value in resized.state_dict().items()}
    state = model.state_dict()
    for key, value in state.items():
        if value.shape == shapes[key]:
            continue
        if key.endswith("pos_embed"):  # (1, h, w, D)
            new = F.interpolate(value.permute(0, 3, 1, 2), shapes[key][1:3], mode="bicubic", align_corners=False)
            state[key] = new.permute(0, 2, 3, 1)
        else:  # rel_pos_h, rel_pos_w of the global layers: (2 h - 1, d)
            state[key] = F.interpolate(value.T[None], shapes[key][0], mode="linear", align_corners=False)[0].T
    resized.load_state_dict(state)
    return resized
