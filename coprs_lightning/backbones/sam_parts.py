"""Building, loading and resizing transformers' SAM image encoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from coprs_lightning.sam_original import (
    check_names,
    count_layers,
    dimensions,
    encoder_names,
    fill,
    is_original,
    prompt_and_decoder_names,
    read_original,
)
from coprs_lightning.weightless import only_shapes

IMAGE_SIZE = 1024
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

    @classmethod
    def of(cls, config: Any) -> SamVisionOptions:
        """The sizes in a transformers configuration."""
        given = {field.name: getattr(config, field.name) for field in fields(cls)}
        return cls(**{**given, "global_attn_indexes": tuple(config.global_attn_indexes)})


VIT_B = SamVisionOptions()


def check_grid(image_size: int, patch_size: int) -> None:
    """Refuse frames whose last patch would be cut."""
    if image_size % patch_size:
        raise ValueError(
            f"SamBackbone.image_size {image_size} is no multiple of the patch size {patch_size}: the last patch would "
            f"be cut. Use {max(1, image_size // patch_size) * patch_size}."
        )


def build_encoder(options: SamVisionOptions, image_size: int) -> Any:
    """Encoder of the given sizes with random weights."""
    from transformers import SamVisionConfig, SamVisionModel

    check_grid(image_size, options.patch_size)
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


def load_encoder(pretrained: str) -> Any:
    """Encoder of a checkpoint, original or transformers'; a missing weight is an error, not a random number."""
    return _from_original(pretrained) if is_original(pretrained) else _from_transformers(pretrained)


def _from_transformers(pretrained: str) -> Any:
    from transformers import SamConfig, SamVisionModel

    if only_shapes():
        config: Any = SamConfig.from_pretrained(pretrained)
        return SamVisionModel(config.vision_config)
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
    return model


def _from_original(file: str) -> Any:
    option = f"SamBackbone.pretrained: {file}"
    weights = read_original(file, "SamBackbone.pretrained")
    names = encoder_names(max(1, count_layers(weights, "image_encoder.blocks.")))
    other_slot = prompt_and_decoder_names(count_layers(weights, "mask_decoder.transformer.layers."))
    check_names(weights, names, other_slot, option)
    options, image_size = _sizes(weights, option)
    with torch.device("meta"):  # no memory and no time for random weights
        encoder = build_encoder(options, image_size)
    encoder.to_empty(device="cpu")
    fill(encoder, {new: weights[old] for old, new in names.items()}, {new: old for old, new in names.items()}, option)
    return encoder.eval()


def _sizes(weights: dict[str, Tensor], option: str) -> tuple[SamVisionOptions, int]:
    """Sizes of an original encoder, from the shapes of its weights alone."""
    patches = dimensions(weights, "image_encoder.patch_embed.proj.weight", 4, option)  # (D, 3, p, p)
    positions = dimensions(weights, "image_encoder.pos_embed", 4, option)  # (1, grid, grid, D)
    layers = count_layers(weights, "image_encoder.blocks.")
    relative = [f"image_encoder.blocks.{layer}.attn.rel_pos_h" for layer in range(layers)]
    spans = [dimensions(weights, name, 2, option) for name in relative]  # (2 · side - 1, width of a head)
    sides = [(span[0] + 1) // 2 for span in spans]
    grid = positions[1]
    windows = sorted({side for side in sides if side != grid})
    if len(windows) > 1:
        raise ValueError(
            f"{option} has attention windows of {windows} cells on a grid of {grid}, and SAM's encoder one size of "
            "windows. Give sam_vit_b/l/h_*.pth as they were released."
        )
    options = SamVisionOptions(
        hidden_size=patches[0],
        num_hidden_layers=layers,
        num_attention_heads=patches[0] // spans[0][1],
        patch_size=patches[2],
        output_channels=dimensions(weights, "image_encoder.neck.0.weight", 4, option)[0],
        window_size=windows[0] if windows else SamVisionOptions.window_size,
        global_attn_indexes=tuple(layer for layer, side in enumerate(sides) if side == grid),
        mlp_dim=dimensions(weights, "image_encoder.blocks.0.mlp.lin1.weight", 2, option)[0],
    )
    return options, grid * patches[2]


def at_size(model: Any, image_size: int | None) -> Any:
    """The same encoder for frames of another size: absolute and relative positions are interpolated."""
    if image_size is None or image_size == model.config.image_size:
        return model
    check_grid(image_size, int(model.config.patch_size))
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
